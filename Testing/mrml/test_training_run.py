"""A training in a process of its own, found, paused, stopped and resumed through its run folder."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from focusnet.errors import FocusNetError
from FocusNetSegmentationLib.process import is_running
from FocusNetTrainingLib.run_folder import RunFolder, TrainingRequest
from FocusNetTrainingLib.run_lock import RunLock, is_locked
from FocusNetTrainingLib.training_run import TrainingRun

CONFIG = """
name = "blobs"
seed = 3
[network]
widths = [4, 4, 4]
growth = 2
dilations = [2, 3]
roi_shape_zyx = [8, 8, 8]
[data]
spacing_xyz = [4.0, 4.0, 4.0]
chunk_zyx = [16, 24, 24]
small_voxels = 60
[augmentation]
scale = [0.9, 1.1]
field_of_view_cut = 0.0
[[stages]]
name = "snet"
steps = 6
validate_every = 2
learning_rate = 1e-2
[[stages]]
name = "sol"
steps = 2
validate_every = 2
"""


@pytest.fixture
def request_of(small_dataset, tmp_path):
    """Makes requests for tiny runs; a folder with a space and an umlaut in its name."""

    def make(**changes):
        config = tmp_path / "Konfiguration für Test.toml"
        config.write_text(CONFIG)
        values = {"data": str(small_dataset), "preset": str(config), "name": "tiny", "device": "cpu"}
        return TrainingRequest(**{**values, **changes})

    return make


@pytest.fixture
def make_run(tmp_path):
    """Makes runs, and ends what they leave."""
    runs = []

    def make(path=None):
        runs.append(TrainingRun(path or tmp_path / "Läufe hier" / "run"))
        return runs[-1]

    yield make
    for run in runs:
        run.stop()


def wait_for(run, *states, seconds=600.0):
    end = time.monotonic() + seconds
    while run.poll().state not in states and time.monotonic() < end:
        time.sleep(0.02)
    assert run.status.state in states, (run.status, run.log)
    return run.status


def test_a_run_from_start_to_finish(make_run, request_of):
    run = make_run()
    assert run.status.state == "new"
    run.start(request_of())
    assert run.status.state == "starting"
    with pytest.raises(FocusNetError, match="E_RUN_BUSY"):
        run.start(request_of())
    status = wait_for(run, "finished")
    assert (status.steps_done, status.steps_total, status.share) == (8, 8, 1.0)
    assert [(r["stage"], r["step"]) for r in run.rows] == [("snet", 2), ("snet", 4), ("snet", 6), ("sol", 2)]
    assert json.loads((run.folder.path / "config.json").read_text())["name"] == "tiny"
    assert any("Reading the data set" in line for line in run.log)
    assert TrainingRun(run.folder.path).status == status  # as another session finds it


def test_pause_resume_and_stop_by_another_session(make_run, request_of):
    first = make_run()
    endless = request_of(settings=("stages.snet.steps=4000", "stages.snet.validate_every=2000"))
    first.start(endless)
    status = wait_for(first, "training")
    assert status.steps_total == 4002
    first.pause()
    assert first.status.state == "pausing"
    status = wait_for(first, "paused")
    assert status.resumable
    assert 0 < status.steps_done < 4000
    first.start(endless)
    assert not first.folder.pause_asked()
    wait_for(first, "training")
    assert first.status.steps_done >= status.steps_done
    process = first._started
    found = TrainingRun(first.folder.path)
    assert found.status.state == "training"
    with pytest.raises(FocusNetError, match="E_RUN_BUSY"):
        found.start(endless)
    found.stop()
    assert wait_for(found, "interrupted", seconds=60).resumable
    assert process.wait(60) == -signal.SIGKILL
    assert not is_running(process.pid)


def test_a_killed_process_is_told_and_resumed(make_run, request_of):
    run = make_run()
    long = request_of(settings=("stages.snet.steps=40", "stages.snet.validate_every=10"))
    run.start(long)
    end = time.monotonic() + 600
    while not run.poll().resumable and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(run._started.pid, signal.SIGKILL)
    status = wait_for(run, "failed", seconds=60)
    assert status.error.code == "E_CHILD"
    assert "memory" in status.error.message
    assert status.resumable
    assert run.poll() == status  # and it stays told
    assert TrainingRun(run.folder.path).status.state == "interrupted"
    run.start(long)
    wait_for(run, "finished")
    steps = [(r["stage"], r["step"]) for r in run.rows]
    assert len(steps) == len(set(steps))
    assert ("snet", 40) in steps


def test_refusals_reach_the_panel(make_run, request_of, tmp_path):
    run = make_run()
    run.start(request_of(data=str(tmp_path / "nothing")))
    status = wait_for(run, "failed")
    assert status.error.code == "E_DATASET"
    assert not status.resumable
    assert any(line.startswith("E_DATASET") for line in run.log)
    assert TrainingRun(run.folder.path).status.error.code == "E_DATASET"


def test_two_processes_do_not_train_into_one_folder(tmp_path, request_of):
    folder = RunFolder(tmp_path / "run")
    folder.write_request(request_of())
    lock = folder.lock
    assert lock.acquire()
    command = [sys.executable, "-m", "FocusNetTrainingLib.train_worker", str(folder.path)]
    paths = os.pathsep.join(sys.path)
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 2
    assert "Another process" in done.stdout
    assert not (folder.path / "config.json").exists()
    lock.release()


def test_a_folder_that_cannot_be_written_is_told(make_run, request_of, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FocusNetError, match="E_START"):
        make_run(tmp_path / "file" / "run").start(request_of())


def test_a_run_of_the_command_line_is_shown_and_paused(tmp_path):
    def tell(**status):
        (tmp_path / "status.json").write_text(json.dumps({"steps_done": 5, "steps_total": 20, **status}))

    tell(state="training", stage="snet", seconds_left=30.0)
    lock = RunLock(tmp_path / "lock")
    assert lock.acquire()
    run = TrainingRun(tmp_path)
    assert (run.status.state, run.status.stage, run.status.share, run.status.seconds_left) == (
        "training", "snet", 0.25, 30.0
    )  # fmt: skip
    run.stop()  # its process is not ours to kill
    assert run.status.state == "pausing"
    assert (tmp_path / "stop").exists()
    lock.release()
    tell(state="paused", stage="snet")
    assert run.poll().state == "paused"
    tell(state="failed", message="E_OUTPUT_WRITE: Can't write last.pt; free space, then resume.")
    assert run.poll().error.code == "E_OUTPUT_WRITE"


def test_half_written_and_damaged_files_are_survived(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b'{"stage": "snet", "step": 2}\nnonsense\n{"stage": "sn')
    (tmp_path / "status.json").write_text("{half")
    (tmp_path / "request.json").write_text("[1]")
    (tmp_path / "worker.log").write_bytes(b"\xff\xfe odd\n@focusnet {half\n")
    folder = RunFolder(tmp_path)
    assert folder.refresh().state == "new"
    assert folder.rows == [{"stage": "snet", "step": 2}]
    assert folder.read_request() is None
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('et", "step": 4}\n{"stage": "snet", "step": 2, "score": 1}\n')
    folder.refresh()
    assert [row["step"] for row in folder.rows] == [2, 4, 2]
    (tmp_path / "log.jsonl").write_text("")
    folder.refresh()
    assert folder.rows == []


def test_the_lock_goes_with_its_process(tmp_path):
    path = tmp_path / "lock"
    code = f"import sys; sys.path[:0] = {sys.path!r}\n" + (
        "from pathlib import Path\nfrom FocusNetTrainingLib.run_lock import RunLock\n"
        f"lock = RunLock(Path({str(path)!r})); print(lock.acquire(), flush=True); input()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline().strip() == "True"
    assert is_locked(path)
    assert not RunLock(path).acquire(0.1)
    child.kill()
    child.wait()
    assert not is_locked(path)
    assert not is_locked(Path(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_lock_that_cannot_be_opened_is_no_obstacle_to_looking(tmp_path, monkeypatch):
    (tmp_path / "worker.lock").mkdir()
    assert not is_locked(tmp_path / "worker.lock")
    assert TrainingRun(tmp_path).status.state == "new"

    path, real = tmp_path / "lock", Path.open
    lock = RunLock(path)
    assert lock.acquire()

    def read_only(self, mode="r", *more, **options):
        if self == path and mode != "rb":
            raise PermissionError(13, "Permission denied")
        return real(self, mode, *more, **options)

    monkeypatch.setattr(Path, "open", read_only)
    assert is_locked(path)  # a colleague's run
    lock.release()
    assert not is_locked(path)


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    run = TrainingRun(tmp_path)

    def refused(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(RunFolder, "refresh", refused)
    for act in (run.poll, run.pause, run.stop, lambda: TrainingRun(tmp_path)):
        with pytest.raises(FocusNetError, match=r"E_RUN: .*Permission denied"):
            act()


@pytest.mark.parametrize(("hours", "budget"), [(0.0, math.inf), (-2.0, math.inf), (1.5, 1.5)])
def test_a_time_budget_is_none_or_positive(request_of, tmp_path, monkeypatch, hours, budget):
    import focusnet_training.runs
    from FocusNetTrainingLib import train_worker

    asked = []

    def train(config, data, folder, options, **_):
        asked.append(options.max_hours)
        return True

    monkeypatch.setattr(focusnet_training.runs, "train", train)
    folder = RunFolder(tmp_path / "run")
    folder.write_request(request_of(hours=hours))
    assert train_worker.main(folder.path) == 0
    assert asked == [budget]
