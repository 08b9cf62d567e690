import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from focusnet.errors import Cancelled, FocusNetError
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
def outside(training_module, monkeypatch, tmp_path):
    """What lies outside of the panel, to be changed by a test."""
    from FocusNetTrainingLib.presets import PresetChoice

    world = SimpleNamespace(missing=[], installed=[], asked=[], answer=True, open_path="", folder="", charts=[])
    world.settings = {"run": ""}
    world.tasks, world.cases = [], []
    world.presets = [
        PresetChoice("phantom22", "phantom22", "All organs.", ("snet", "sol", "sos")),
        PresetChoice("openkbp", "openkbp", "Seven organs.", ("snet",)),
    ]

    def install(missing, wheels):
        world.installed.append((list(missing), wheels))
        world.missing = []

    real = training_module.FocusNetTrainingLogic.trainServices
    monkeypatch.setattr(
        training_module.FocusNetTrainingLogic,
        "trainServices",
        lambda self: replace(
            real(self),
            presets=lambda: [] if world.missing else world.presets,
            missing_packages=lambda: world.missing,
            install_packages=install,
            start_task=lambda *given: world.tasks.append(Task(*given)) or world.tasks[-1],
            scene_cases=lambda: world.cases,
            show_chart=world.charts.append,
            confirm=lambda text: world.asked.append(text) or world.answer,
            ask_open=lambda title, kind: world.open_path,
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


def test_what_a_user_sees_first(widget):
    ui = widget.ui
    assert ui.tabWidget.tabText(0) == "Train"
    assert ui.presetComboBox.currentText == "phantom22"
    assert ui.presetInfoLabel.text == "All organs."
    stages = [ui.lastStageComboBox.itemText(n) for n in range(ui.lastStageComboBox.count)]
    assert stages == ["All", "up to S-Net", "up to SOL-Net", "up to SOS-Net"]
    assert ui.startButton.text == "Start"
    for button in (ui.startButton, ui.pauseButton, ui.stopButton, ui.checkButton, ui.installButton):
        assert not button.enabled
    assert not ui.curvesCollapsibleButton.isVisibleTo(widget.parent)
    assert "Research use only" in ui.disclaimerLabel.text


def test_module_introduces_itself(training_module):
    parent = SimpleNamespace()
    training_module.FocusNetTraining(parent)
    assert parent.title == "FocusNet Training"
    assert parent.categories == ["Segmentation"]
    assert "FocusNetSegmentation" in parent.dependencies
    assert "Research use only" in parent.helpText
    assert "Medical Image Analysis" in parent.acknowledgementText


def test_self_test_of_the_module_passes(training_module, scene):
    training_module.FocusNetTrainingTest().runTest()


def test_code_and_ui_file_name_the_same_widgets(root, training_module):
    house = root / "FocusNetTraining"
    text = (house / "Resources/UI/FocusNetTraining.ui").read_text()
    names = set(re.findall(r'<widget class="\w+" name="(\w+)"', text))
    files = [house / "FocusNetTraining.py", *(house / f"FocusNetTrainingLib/{n}_panel.py" for n in ("train", "data"))]
    code = "".join(path.read_text() for path in files)
    assert set(re.findall(r"\bui\.(\w+)", code)) <= names
    bound = set(re.findall(r'"SlicerParameterName"[^>]*>\s*<string[^>]*>(\w+)<', text))
    assert bound == {"device", "hours"}
    for name in bound:
        assert hasattr(training_module.FocusNetTrainingParameterNode, name)


ROWS = [
    {"stage": "snet", "step": 50, "score": 0.4, "loss_dice": 0.9, "dsc_brainstem": 0.85, "dsc_lens_l": 0.3},
    {"stage": "snet", "step": 100, "score": 0.6, "loss_dice": 0.5, "dsc_brainstem": 0.8, "dsc_lens_l": 0.4},
    {"stage": "sol", "step": 20, "score": -0.02, "loss_heatmap": 0.2, "error_mm_lens_l": 2.25},
    {"stage": "aae", "step": 20, "score": 0.99, "loss_shape": 0.2, "dsc_lens_l": 0.99},
]


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


def table(widget):
    return [[widget.item(r, c).text() for c in range(widget.columnCount)] for r in range(widget.rowCount)]


def test_a_data_set_proposes_a_run_folder(widget, workers, small_dataset, tmp_path):
    ui = widget.ui
    ui.dataPathEdit.currentPath = str(tmp_path)
    assert "no dataset.json" in ui.dataSummaryLabel.text
    assert not ui.startButton.enabled
    ui.dataPathEdit.currentPath = str(small_dataset)
    assert ui.runPathEdit.currentPath == str(small_dataset.parent / "FocusNet runs" / "phantom22")
    assert ui.startButton.enabled
    assert ui.checkButton.enabled


def test_from_start_to_finish(ready, workers, outside, scene):
    ui = ready.ui
    ui.startButton.click()
    (worker,) = workers.all
    assert not ui.startButton.enabled
    assert ui.pauseButton.enabled
    assert ui.stopButton.enabled
    assert not ui.presetComboBox.enabled
    assert ui.statusLabel.text.startswith("Starting")
    worker.train(ROWS)
    ready.panel.poll()
    assert ui.statusLabel.text.startswith(
        "Training. adversarial autoencoder: step 120 of 400 (30%), about 1 h 7 min left"
    )
    assert ui.progressBar.value == 30
    assert table(ui.organsTable) == [["Brainstem", "0.800", "0.850", ""], ["Left eye lens", "0.400", "0.400", "2.2"]]
    worker.end(kind="outcome", state="finished")
    ready.panel.poll()
    assert ui.statusLabel.text.startswith("Finished")
    assert not ui.startButton.enabled
    assert ui.installButton.enabled
    assert outside.settings["run"] == ui.runPathEdit.currentPath
    ui.lastStageComboBox.setCurrentIndex(1)
    assert ui.startButton.enabled  # other stages than the finished ones may be asked for


def test_curves_are_plot_nodes(ready, workers, outside, scene):
    import slicer

    ready.ui.startButton.click()
    workers.all[0].train(ROWS[:1])
    ready.panel.poll()
    workers.all[0].train(ROWS)
    ready.panel.poll()
    ready.ui.showDscButton.click()
    ready.ui.showLossButton.click()
    dsc, loss = outside.charts
    assert dsc.GetTitle() == "Validation DSC"
    names = [dsc.GetNthPlotSeriesNode(n).GetName() for n in range(dsc.GetNumberOfPlotSeriesNodes())]
    assert names == ["mean (S-Net)", "Brainstem (S-Net)", "Left eye lens (S-Net)"]
    series = dsc.GetNthPlotSeriesNode(1)
    table = series.GetTableNode().GetTable()
    assert [table.GetColumnByName("step").GetValue(n) for n in range(2)] == [50, 100]
    assert [table.GetColumnByName(series.GetYColumnName()).GetValue(n) for n in range(2)] == [0.85, 0.8]
    assert loss.GetNumberOfPlotSeriesNodes() == 3
    tables = [node.GetTable() for node in slicer.util.getNodesByClass("vtkMRMLTableNode")]
    assert len(tables) == 3
    assert tables[1].GetColumnByName("step").GetValue(0) == 120  # S-Net's 100 steps come before


def test_choices_reach_the_run(ready, workers):
    ui = ready.ui
    ui.modelNameEdit.text = "mine"
    ui.smallOrgansEdit.text = "Lens_L, OpticNrv_R"
    ui.lastStageComboBox.setCurrentIndex(2)
    ui.deviceComboBox.setCurrentIndex(1)
    ui.hoursSpinBox.value = 2.5
    ui.startButton.click()
    request = RunFolder(workers.all[0].folder).read_request()
    assert (request.preset, request.name, request.until) == ("phantom22", "mine", "sol")
    assert request.settings == ('data.small_organs=["lens_l", "optic_nerve_r"]',)
    assert (request.device, request.hours) == ("cpu", 2.5)


def test_wrong_names_are_refused(ready, workers):
    ui = ready.ui
    ui.modelNameEdit.text = "../evil"
    ui.startButton.click()
    assert ui.statusLabel.text.startswith("E_USAGE: '../evil'")
    ui.modelNameEdit.text = ""
    ui.smallOrgansEdit.text = "spleen"
    ui.startButton.click()
    assert ui.statusLabel.text.startswith("E_UNKNOWN_ORGAN")
    assert workers.all == []
    ui.smallOrgansEdit.text = ""
    ui.startButton.click()
    assert RunFolder(workers.all[0].folder).read_request().name == "my-run"


def test_pause_and_resume(ready, workers):
    ui = ready.ui
    ui.startButton.click()
    workers.all[0].train(ROWS[:2])
    ui.pauseButton.click()
    assert ui.statusLabel.text.startswith("Pausing")
    assert not ui.pauseButton.enabled
    workers.all[0].end(kind="outcome", state="paused")
    ready.panel.poll()
    assert ui.statusLabel.text.startswith("Paused at step 120 of 400")
    assert ui.startButton.text == "Resume"
    assert not ui.presetComboBox.enabled
    ui.hoursSpinBox.value = 1.0
    ui.startButton.click()
    assert len(workers.all) == 2
    request = RunFolder(workers.all[1].folder).read_request()
    assert (request.preset, request.hours) == ("phantom22", 1.0)


def test_stop_asks_and_ends_the_whole_tree(ready, workers, outside):
    ui = ready.ui
    ui.startButton.click()
    workers.all[0].train(ROWS[:2])
    ready.panel.poll()
    outside.answer = False
    ui.stopButton.click()
    assert workers.ended == []
    outside.answer = True
    ui.stopButton.click()
    assert workers.ended == [Worker.pid]
    ready.panel.poll()
    assert ui.statusLabel.text.startswith("Ended at step 120 of 400 (30%); the last checkpoint is kept")
    assert ui.startButton.text == "Resume"
    assert ui.startButton.enabled


def test_a_killed_child_and_a_refusal_show_their_cause(ready, workers):
    ui = ready.ui
    ui.startButton.click()
    workers.all[0].end(2, kind="error", code="E_DATASET", message="Label values [9] are not defined.")
    ready.panel.poll()
    assert ui.statusLabel.text.startswith("E_DATASET: Label values [9] are not defined.")
    assert "E_DATASET" in ui.logTextEdit.toPlainText()
    ui.startButton.click()
    workers.all[1].end(-9)
    ready.panel.poll()
    assert "for lack of memory" in ui.statusLabel.text
    assert ui.startButton.enabled


def test_closing_the_scene_leaves_the_run_alone(ready, workers, outside, scene):
    import slicer

    ui = ready.ui
    ui.startButton.click()
    workers.all[0].train(ROWS[:1])
    ready.panel.poll()
    assert slicer.util.getNodesByClass("vtkMRMLTableNode")
    scene.Clear(0)
    assert workers.ended == []
    assert ui.runPathEdit.currentPath == str(workers.all[0].folder)  # by the setting of this computer
    workers.all[0].train(ROWS[:2])
    ready.panel.poll()
    assert ui.statusLabel.text.startswith("Training")
    (table_node,) = slicer.util.getNodesByClass("vtkMRMLTableNode")
    assert table_node.GetTable().GetNumberOfRows() == 2


def test_a_later_session_finds_the_run(training_module, ready, workers, scene):
    ready.ui.startButton.click()
    workers.all[0].train(ROWS[:2])
    ready.cleanup()
    assert workers.ended == []
    scene.Clear(1)
    later = training_module.FocusNetTrainingWidget()
    later.setup()
    assert later.ui.runPathEdit.currentPath == str(workers.all[0].folder)
    assert later.ui.dataPathEdit.currentPath == ready.ui.dataPathEdit.currentPath
    assert later.ui.statusLabel.text.startswith("Training")
    assert later.ui.stopButton.enabled
    assert later.ui.organsTable.rowCount == 2
    later.cleanup()


def test_choices_stay_with_the_scene(ready, workers, scene, tmp_path, outside):
    from FocusNetSegmentationLib.storage import save_scene

    ui = ready.ui
    run, data = ui.runPathEdit.currentPath, ui.dataPathEdit.currentPath
    ui.presetComboBox.setCurrentIndex(1)
    ui.lastStageComboBox.setCurrentIndex(1)
    ui.modelNameEdit.text = "mine"
    ui.modelNameEdit.editingFinished.emit()
    ui.smallOrgansEdit.text = "lens_l"
    ui.smallOrgansEdit.editingFinished.emit()
    ui.deviceComboBox.setCurrentIndex(2)
    ui.hoursSpinBox.value = 3.0
    save_scene(tmp_path / "s.mrb")
    scene.Clear(1)
    ready.enter()
    assert (ui.presetComboBox.currentIndex, ui.runPathEdit.currentPath, ui.hoursSpinBox.value) == (0, "", 0.0)
    scene.Clear(1)
    assert scene.ReadFromMRB(str(tmp_path / "s.mrb"))
    ready.enter()
    assert (ui.runPathEdit.currentPath, ui.dataPathEdit.currentPath) == (run, data)
    assert (ui.presetComboBox.currentText, ui.lastStageComboBox.currentText) == ("openkbp", "up to S-Net")
    assert (ui.modelNameEdit.text, ui.smallOrgansEdit.text) == ("mine", "lens_l")
    assert (ui.deviceComboBox.currentText, ui.hoursSpinBox.value) == ("cuda", 3.0)


def test_own_configuration(ready, outside, workers, tmp_path):
    ui = ready.ui
    ui.presetComboBox.setCurrentIndex(2)
    assert ui.presetComboBox.currentText == "phantom22"  # nothing chosen in the dialog
    bad, good = tmp_path / "bad.toml", tmp_path / "own.toml"
    bad.write_text("name = 3")
    good.write_text('name = "own"\n[[stages]]\nname = "snet"\nsteps = 5')
    outside.open_path = str(bad)
    ui.presetComboBox.setCurrentIndex(2)
    assert ui.statusLabel.text.startswith("E_CONFIG")
    outside.open_path = str(good)
    ui.presetComboBox.setCurrentIndex(2)
    assert ui.presetComboBox.currentText == "own.toml"
    assert ui.presetInfoLabel.text.endswith("Steps: S-Net 5.")
    ui.startButton.click()
    assert RunFolder(workers.all[0].folder).read_request().preset == str(good)


def test_packages_are_installed_only_when_the_user_agrees(ready, outside, workers, tmp_path):
    outside.missing, outside.answer = ["torch>=2.4"], False
    ready.ui.startButton.click()
    assert workers.all == outside.installed == []
    assert "torch>=2.4" in outside.asked[0]
    outside.answer = True
    ready.ui.wheelsPathEdit.currentPath = str(tmp_path)
    ready.ui.startButton.click()
    assert outside.installed == [(["torch>=2.4"], tmp_path)]
    assert len(workers.all) == 1


FINDINGS = [
    {"case": "a", "severity": "warning", "message": "Lens: no voxel.", "code": "empty_organ"},
    {"case": "b", "severity": "error", "message": "Sides swapped.", "code": "sides_swapped"},
]


def test_the_check_shows_errors_first(ready, outside):
    ui = ready.ui
    ui.checkButton.click()
    (task,) = outside.tasks
    assert task.arguments == {"data": ui.dataPathEdit.currentPath, "run": ui.runPathEdit.currentPath}
    assert ui.dataSummaryLabel.text == "Reading: 25%, about 1 min left"
    assert ui.checkButton.text == "Cancel"
    assert not ui.fromFolderButton.enabled
    task.result = {
        "organs": ["lens_l"], "training": 8, "validation": 1, "excluded": ["b"], "findings": FINDINGS, "cases": 9,
        "spacing_xyz": [0.9766, 0.9766, 3.0], "proposed_spacing_xyz": [1.0, 1.0, 3.0], "proposed_small": ["lens_l"],
        "drawn": {"lens_l": 7},
    }  # fmt: skip
    ready.panel.poll()
    assert ui.dataSummaryLabel.text == (
        "1 organ; 8 cases to train, 1 case to validate. 1 case is left out of the training; 1 more to look at.\n"
        "Voxels 0.9766 × 0.9766 × 3 mm (median); proposed grid 1 × 1 × 3 mm, small organs: left eye lens.\n"
        "Drawn in some cases only: Left eye lens (7 of 9)."
    )
    assert table(ui.findingsTable) == [["b", "Sides swapped."], ["a", "Lens: no voxel."]]
    assert ui.findingsTable.isVisibleTo(ready.parent)
    ui.checkButton.click()
    ui.checkButton.click()
    assert ui.dataSummaryLabel.text == "Cancelled."
    ui.checkButton.click()
    outside.tasks[-1].error = FocusNetError("E_DATASET", "No cases.")
    ready.panel.poll()
    assert ui.dataSummaryLabel.text == "E_DATASET: No cases."


def test_a_data_set_of_a_folder(ready, outside, tmp_path, small_dataset):
    ui = ready.ui
    ui.fromFolderButton.click()
    assert outside.tasks == []
    (tmp_path / "patients").mkdir()
    (tmp_path / "patients data set").mkdir()
    outside.folder = str(tmp_path / "patients")
    ui.fromFolderButton.click()
    (task,) = outside.tasks
    assert task.kind == "import"
    assert task.arguments["source"] == outside.folder
    assert task.arguments["out"] == str(tmp_path / "patients data set 2")
    assert "names and dates of patients are left out" in outside.asked[0]
    task.result = {"folder": str(small_dataset), "scans": 2, "patients": 2, "organs": ["a"], "findings": FINDINGS[1:]}
    ready.panel.poll()
    assert ui.dataPathEdit.currentPath == str(small_dataset)
    assert ui.dataSummaryLabel.text.endswith("1 scan could not be used.")
    assert ui.findingsTable.rowCount == 1


def test_a_data_set_of_the_scene(ready, outside, tmp_path):
    ui = ready.ui
    ui.fromSceneButton.click()
    assert "No CT in the scene" in ui.dataSummaryLabel.text
    outside.cases, outside.folder = ["case"], str(tmp_path)
    ui.fromSceneButton.click()
    (task,) = outside.tasks
    assert task.arguments == {"source": None, "out": str(tmp_path / "FocusNet data set"), "name": "FocusNet data set"}
    assert task.prepare is not None
    ready.ui.tabWidget.setCurrentIndex(1)
    ready.panel.scene_closes()
    assert isinstance(task.error, Cancelled)


def test_install_asks_before_it_replaces(ready, workers, outside):
    ui = ready.ui
    ui.startButton.click()
    workers.all[0].train(ROWS)
    workers.all[0].end(kind="outcome", state="finished")
    ready.panel.poll()
    ui.installButton.click()
    assert outside.tasks[0].arguments == {"run": ui.runPathEdit.currentPath, "overwrite": False}
    assert ui.statusLabel.text.startswith("Reading: 25%")
    outside.tasks[0].error = FocusNetError("E_OUTPUT_EXISTS", "there")
    ready.panel.poll()
    assert "Replace it" in outside.asked[-1]
    assert outside.tasks[1].arguments["overwrite"]
    outside.tasks[1].result = {"name": "mine", "mean_dsc": 0.8125}
    ready.panel.poll()
    assert ui.statusLabel.text.startswith("Installed model mine, mean validation DSC 0.812.")
