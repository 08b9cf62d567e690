"""The tab Train with processes that a test plays."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from focusnet.errors import Cancelled
from FocusNetTrainingLib.run_folder import RunFolder


class Task:
    """Stands for work in a child process."""

    def __init__(self, kind, arguments, prepare):
        from FocusNetSegmentationLib.protocol import Progress

        self.kind, self.arguments, self.prepare = kind, arguments, prepare
        self.progress, self.result, self.error = Progress("reading", 0.25, 65.0), None, None

    def poll(self):
        return self.result is None and self.error is None

    def cancel(self):
        self.error = Cancelled()


@pytest.fixture
def outside(training_module, world, monkeypatch):
    """What lies outside of the panel, to be changed by a test."""
    from FocusNetTrainingLib.presets import PresetChoice

    world.folder, world.charts = "", []
    world.settings = {"run": ""}
    world.tasks, world.cases = [], []
    world.presets = [
        PresetChoice("phantom22", "phantom22", "All organs.", ("snet", "sol", "sos")),
        PresetChoice("openkbp", "openkbp", "Seven organs.", ("snet",)),
    ]

    real = training_module.FocusNetTrainingLogic.trainServices
    monkeypatch.setattr(
        training_module.FocusNetTrainingLogic,
        "trainServices",
        lambda self: replace(
            real(self),
            **world.services(),
            presets=lambda: [] if world.missing else world.presets,
            start_task=lambda *given: world.tasks.append(Task(*given)) or world.tasks[-1],
            scene_cases=lambda: world.cases,
            show_chart=world.charts.append,
            ask_folder=lambda title: world.folder,
            recall_run=lambda: world.settings["run"],
            remember_run=lambda path: world.settings.update(run=path),
        ),
    )
    return world


@pytest.fixture
def widget(training_module, outside, workers):
    widget = training_module.FocusNetTrainingWidget()
    widget.setup()
    yield widget
    widget.cleanup()


class Worker:
    """Stands for the training process: speaks through the run folder, as the real one does."""

    pid = 4711

    def __init__(self, arguments, log):
        self.folder, self.log, self.code = Path(arguments[2]), log, None
        self.lock = RunFolder(self.folder).lock
        assert self.lock.acquire()
        self.say(kind="started", group=self.pid)

    def poll(self):
        return self.code

    def say(self, **message):
        with self.log.open("a") as file:
            file.write(f"\n@focusnet {json.dumps(message)}\n")

    def train(self, rows, done=120, total=400, left=4000.0):
        self.say(kind="training")
        (self.folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (self.folder / "last.pt").touch()
        status = {"state": "training", "steps_done": done, "steps_total": total, "seconds_left": left, **rows[-1]}
        (self.folder / "status.json").write_text(json.dumps(status))

    def end(self, exit_code=0, **message):
        if message:
            self.say(**message)
        self.lock.release()
        self.code = exit_code


@pytest.fixture
def workers(outside, monkeypatch, training_module):
    """Training processes that were started; ``ended`` lists the groups that were ended."""
    from FocusNetTrainingLib.training_run import TrainingRun

    started = SimpleNamespace(all=[], ended=[])

    def start(arguments, log):
        started.all.append(Worker(arguments, log))
        return started.all[-1]

    def end(group):
        started.ended.append(group)
        started.all[-1].end(-9)

    monkeypatch.setattr(
        training_module.FocusNetTrainingLogic, "openRun", staticmethod(lambda path: TrainingRun(path, start, end))
    )
    yield started
    for worker in started.all:
        worker.lock.release()


@pytest.fixture
def ready(widget, workers, small_dataset, tmp_path):
    """The panel with a data set and a run folder chosen."""
    widget.ui.dataPathEdit.currentPath = str(small_dataset)
    widget.ui.runPathEdit.currentPath = str(tmp_path / "Läufe" / "my run")
    widget.panel = widget.panels[0]
    return widget
