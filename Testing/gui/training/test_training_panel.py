import re
from types import SimpleNamespace

from focusnet.errors import Cancelled, FocusNetError
from FocusNetTrainingLib.run_folder import RunFolder
from FocusNetTrainingLib.scene_cases import SceneCase


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


def test_device_outlasts_a_look_at_another_module(ready):
    ready.enter()
    ready.ui.deviceComboBox.setCurrentIndex(2)
    ready.enter()
    assert ready.ui.deviceComboBox.currentText == ready.logic.getParameterNode().device == "cuda"


def test_time_budget_is_none_or_positive(ready, workers):
    spin = ready.ui.hoursSpinBox
    assert spin.textFromValue(spin.value) == "0.0"
    assert spin.lineEdit().text() == "none"
    spin.value = -3.0
    assert spin.value == 0.0
    spin.value = 5000.0
    assert spin.value == 1000.0
    assert spin.lineEdit().text() == "1000.0 h"


def test_a_scene_that_is_loaded_shows_its_choices(ready, scene, tmp_path, outside):
    from FocusNetSegmentationLib.storage import save_scene

    ui, evaluate = ready.ui, ready.evaluateUi
    data, run = ui.dataPathEdit.currentPath, ui.runPathEdit.currentPath
    ui.modelNameEdit.text = "mine"
    ui.modelNameEdit.editingFinished.emit()
    evaluate.kindComboBox.setCurrentIndex(1)
    evaluate.referencePathEdit.currentPath = "Referenz"
    save_scene(tmp_path / "s.mrb")
    scene.Clear(0)
    assert (ui.modelNameEdit.text, evaluate.referencePathEdit.currentPath) == ("", "")
    assert scene.ReadFromMRB(str(tmp_path / "s.mrb"))  # with the panel open
    ready.evaluatePanel.refresh()  # as its timer does
    assert (ui.dataPathEdit.currentPath, ui.runPathEdit.currentPath) == (data, run)
    assert ui.modelNameEdit.text == "mine"
    assert evaluate.kindComboBox.currentIndex == 1
    assert evaluate.referencePathEdit.currentPath == "Referenz"
    kept = ready.logic.getParameterNode()
    assert (kept.compareFolders, kept.referenceFolder, kept.modelName) == (True, "Referenz", "mine")


def test_folders_are_browsed_for(widget):
    import ctk

    edits = [widget.ui.dataPathEdit, widget.ui.runPathEdit, widget.ui.wheelsPathEdit]
    evaluate = widget.evaluateUi
    edits += [evaluate.referencePathEdit, evaluate.predictionPathEdit, evaluate.ctPathEdit]
    assert [edit.filters for edit in edits] == [ctk.ctkPathLineEdit.Dirs] * 6


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
    outside.cases, outside.folder = [SceneCase(None, [], 1, left_out=7)], str(tmp_path)
    outside.answer = True
    ui.fromSceneButton.click()
    assert "No CT in the scene" in ui.dataSummaryLabel.text
    outside.cases = [SceneCase(None, ["drawn"], 1, left_out=7)]
    outside.answer = False
    ui.fromSceneButton.click()
    assert not outside.tasks
    outside.answer = True
    ui.fromSceneButton.click()
    (task,) = outside.tasks
    assert task.arguments == {"source": None, "out": str(tmp_path / "FocusNet data set"), "name": "FocusNet data set"}
    assert task.prepare is not None
    ready.ui.tabWidget.setCurrentIndex(1)
    ready.panel.scene_closes()
    assert isinstance(task.error, Cancelled)
