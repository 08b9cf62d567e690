import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from focusnet.errors import FocusNetError


def nodes(scene):
    return scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")


def table(ui):
    return [[ui.resultTable.item(r, c).text() for c in range(4)] for r in range(ui.resultTable.rowCount)]


def test_what_a_user_sees_first(widget, scene):
    ui = widget.ui
    assert ui.inputVolumeSelector.currentNode().GetName() == "CT"
    assert ui.modelComboBox.currentText == "openkbp7"
    assert ui.modelInfoLabel.text == "4 organs. Seven organs."
    assert ui.outputComboBox.currentText == "One segmentation per organ, in a folder"
    assert ui.segmentButton.enabled
    assert not ui.cancelButton.enabled
    assert not ui.resultCollapsibleButton.isVisibleTo(widget.parent)
    assert ui.advancedCollapsibleButton.collapsed
    assert "Research use only" in ui.disclaimerLabel.text


def test_without_a_ct_there_is_nothing_to_press(widget, scene):
    import slicer

    for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
        scene.RemoveNode(node)
    assert not widget.ui.segmentButton.enabled


def test_click_segments_and_shows_flagged_organs_first(widget, outside, scene):
    ui = widget.ui
    ui.segmentButton.click()
    (child,) = outside.children
    assert not ui.segmentButton.enabled
    assert ui.cancelButton.enabled
    child.say(kind="progress", stage="segmenting", share=0.42, seconds_left=75.0)
    child.lines.append("a library talks")
    widget.panel.poll()
    assert ui.progressBar.value == 42
    assert ui.statusLabel.text == "Segmenting: 42%, about 1:15 min left"
    assert ui.logTextEdit.toPlainText() == "a library talks"
    child.finish()
    widget.panel.poll()
    assert nodes(scene) == 3
    assert [row[0] for row in table(ui)] == [
        "Brainstem",
        "Left parotid gland",
        "Right parotid gland",
        "Left eye lens",
    ]
    assert table(ui)[0] == ["Brainstem", "1.50", "0.90", "odd."]
    assert table(ui)[3][1] == "not found"
    assert ui.flagsLabel.text.startswith("WARNING: The scan is short.\n3 of 4 organs in 12 s; 1 to look at")
    assert ui.segmentButton.enabled
    assert not ui.cancelButton.enabled
    assert ui.exportButton.enabled
    assert "memory was short" in ui.logTextEdit.toPlainText()
    assert list(outside.temporary.iterdir()) == []


def test_choices_reach_the_job(widget, outside, scene):
    ui = widget.ui
    ui.outputComboBox.setCurrentIndex(1)
    ui.deviceComboBox.setCurrentIndex(1)
    ui.precisionComboBox.setCurrentIndex(1)
    ui.fastCheckBox.click()
    ui.uncertaintyCheckBox.click()
    import qt

    ui.organsList.item(3).setCheckState(qt.Qt.Unchecked)
    ui.segmentButton.click()
    request = json.loads((outside.children[0].folder / "request.json").read_text())
    assert request["model"] == "openkbp7"
    assert request["organs"] == ["parotid_l", "parotid_r", "brainstem"]
    assert (request["device"], request["precision"], request["fast"]) == ("cpu", "fp32", True)
    assert request["uncertainty"] is True
    outside.children[0].finish()
    widget.panel.poll()
    assert nodes(scene) == 1


def test_replacing_is_a_choice(widget, segment, scene):
    segment()
    segment()
    assert nodes(scene) == 6
    widget.ui.replaceCheckBox.click()
    segment()
    assert nodes(scene) == 3


def test_several_volumes_in_sequence(widget, outside, scene, add_ct):
    second = add_ct("CT 2")
    widget.ui.segmentButton.click()
    outside.children[-1].finish()
    widget.panel.poll()
    widget.ui.inputVolumeSelector.setCurrentNode(second)
    widget.ui.segmentButton.click()
    assert widget.ui.resultTable.rowCount == 0
    outside.children[-1].finish()
    widget.panel.poll()
    from FocusNetSegmentationLib import mrml

    assert len(mrml.results_on(second)) == 3


def test_cancel(widget, outside, scene):
    before = scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode")
    widget.ui.uncertaintyCheckBox.click()
    widget.ui.segmentButton.click()
    widget.ui.cancelButton.click()
    assert outside.children[0].ended
    assert widget.ui.statusLabel.text == "Cancelled; the scene is as it was."
    assert widget.ui.segmentButton.enabled
    assert nodes(scene) == 0
    assert scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == before
    assert list(outside.temporary.iterdir()) == []


def test_failure_shows_its_cause(widget, outside, scene):
    widget.ui.segmentButton.click()
    outside.children[0].say(kind="error", code="E_NOT_HU", message="The values are no HU.")
    outside.children[0].code = 2
    widget.panel.poll()
    assert widget.ui.statusLabel.text == "E_NOT_HU: The values are no HU."
    assert widget.ui.segmentButton.enabled
    assert nodes(scene) == 0


def test_timer_asks_the_child(widget, outside, application):
    import time

    from PySide6.QtWidgets import QApplication

    widget.ui.segmentButton.click()
    outside.children[0].finish()
    end = time.monotonic() + 30
    while widget.panel.is_running and time.monotonic() < end:
        QApplication.processEvents()
    assert widget.ui.statusLabel.text.startswith("Done")


def test_closing_the_scene_stops_and_forgets(widget, outside, scene, add_ct):
    widget.ui.segmentButton.click()
    outside.children[0].finish()
    widget.panel.poll()
    widget.ui.segmentButton.click()
    scene.Clear(0)
    assert outside.children[1].ended
    assert not widget.panel.is_running
    assert not widget.ui.exportButton.enabled
    assert not widget.ui.segmentButton.enabled
    add_ct("next")
    widget.enter()
    widget.ui.segmentButton.click()
    assert len(outside.children) == 3


def test_removing_the_ct_mid_run_is_told(widget, outside, scene):
    import slicer

    widget.ui.segmentButton.click()
    scene.RemoveNode(slicer.util.getNode("CT"))
    widget.panel.poll()
    assert outside.children[0].ended
    assert widget.ui.statusLabel.text.startswith("E_VOLUME_GONE")


def test_choices_stay_with_the_scene(widget, outside, scene, tmp_path):
    import qt
    from FocusNetSegmentationLib.storage import save_scene

    widget.ui.outputComboBox.setCurrentIndex(1)
    widget.ui.fastCheckBox.click()
    widget.ui.uncertaintyCheckBox.click()
    widget.ui.organsList.item(0).setCheckState(qt.Qt.Unchecked)
    save_scene(tmp_path / "s.mrb")
    scene.Clear(1)
    widget.enter()
    assert widget.ui.outputComboBox.currentIndex == 0
    assert not widget.ui.fastCheckBox.checked
    assert not widget.ui.uncertaintyCheckBox.checked
    scene.Clear(1)
    assert scene.ReadFromMRB(str(tmp_path / "s.mrb"))
    widget.enter()
    assert widget.ui.outputComboBox.currentIndex == 1
    assert widget.ui.fastCheckBox.checked
    assert widget.ui.uncertaintyCheckBox.checked
    states = [widget.ui.organsList.item(n).checkState() == qt.Qt.Checked for n in range(4)]
    assert states == [False, True, True, True]


def test_choices_outlast_a_look_at_another_module(widget):
    ui = widget.ui
    widget.enter()
    for combo in (ui.outputComboBox, ui.deviceComboBox, ui.precisionComboBox):
        combo.setCurrentIndex(1)
    widget.enter()
    shown = [combo.currentIndex for combo in (ui.outputComboBox, ui.deviceComboBox, ui.precisionComboBox)]
    kept = widget.logic.getParameterNode()
    assert shown == [1, 1, 1]
    assert (kept.output, kept.device, kept.precision) == (ui.outputComboBox.currentText, "cpu", "fp32")


def test_a_scene_that_is_loaded_shows_its_choices_and_runs_them(widget, outside, scene, add_ct, tmp_path):
    import qt
    from FocusNetSegmentationLib.storage import save_scene

    ui = widget.ui
    ui.modelComboBox.setCurrentIndex(1)
    ui.organsList.item(0).setCheckState(qt.Qt.Unchecked)
    save_scene(tmp_path / "s.mrb")
    scene.Clear(0)
    assert ui.modelComboBox.currentText == "openkbp7"
    assert scene.ReadFromMRB(str(tmp_path / "s.mrb"))  # with the panel open
    assert ui.modelComboBox.currentText == "phantom22"
    assert [ui.organsList.item(n).checkState() == qt.Qt.Checked for n in range(2)] == [False, True]
    assert ui.inputVolumeSelector.currentNode().GetName() == "CT"
    ui.segmentButton.click()
    request = json.loads((outside.children[0].folder / "request.json").read_text())
    assert (request["model"], request["organs"]) == ("phantom22", ["eye_r"])


def test_what_runs_is_what_is_shown(widget, outside):
    widget.logic.getParameterNode().model = "phantom22"  # by a script; the panel shows another
    widget.ui.segmentButton.click()
    request = json.loads((outside.children[0].folder / "request.json").read_text())
    assert request["model"] == widget.ui.modelComboBox.currentText == "openkbp7"


def test_models(widget, outside):
    import qt

    ui = widget.ui
    ui.organsList.item(0).setCheckState(qt.Qt.Unchecked)
    ui.modelComboBox.setCurrentIndex(1)
    assert ui.modelInfoLabel.text == "2 organs. All organs."
    assert [ui.organsList.item(n).checkState() for n in range(2)] == [qt.Qt.Checked] * 2
    ui.modelComboBox.setCurrentIndex(2)
    assert ui.modelInfoLabel.text == "E_BUNDLE_SCHEMA: damaged."


def test_no_organ_ticked_is_said(widget, outside):
    import qt

    for n in range(4):
        widget.ui.organsList.item(n).setCheckState(qt.Qt.Unchecked)
    widget.ui.segmentButton.click()
    assert outside.children == []
    assert "tick at least one" in widget.ui.statusLabel.text
    widget.enter()
    assert widget.ui.organsList.item(0).checkState() == qt.Qt.Unchecked


def test_packages_are_installed_only_when_the_user_agrees(module, outside, add_ct, scene, tmp_path):
    add_ct()
    outside.missing = ["torch>=2.4"]
    widget = module.FocusNetSegmentationWidget()
    widget.setup()
    assert widget.ui.modelComboBox.count == 0
    outside.answer = False
    widget.ui.segmentButton.click()
    assert outside.children == outside.installed == []
    assert "torch>=2.4" in outside.asked[0]
    outside.answer = True
    widget.ui.wheelsPathEdit.currentPath = str(tmp_path)
    widget.ui.segmentButton.click()
    assert outside.installed == [(["torch>=2.4"], tmp_path)]
    assert widget.ui.modelComboBox.currentText == "openkbp7"
    assert len(outside.children) == 1
    widget.cleanup()
    assert outside.children[0].ended


def test_no_installation_is_offered_where_none_can_be(widget, outside, monkeypatch):
    import platform
    import sys

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    outside.missing = ["torch>=2.4", "typer>=0.12"]
    widget.ui.segmentButton.click()
    assert widget.ui.statusLabel.text.startswith("E_PACKAGE: There is no torch>=2.4 for 3D Slicer on macOS")
    assert outside.asked == outside.installed == outside.children == []


def test_failed_installation_is_told(widget, outside, monkeypatch):
    outside.missing = ["torch>=2.4"]

    def fail(missing, wheels):
        raise FocusNetError("E_PACKAGE", "no disk")

    monkeypatch.setattr(widget.panel, "_services", replace(widget.panel._services, install_packages=fail))
    widget.ui.segmentButton.click()
    assert widget.ui.statusLabel.text == "E_PACKAGE: no disk"
    assert outside.children == []


def test_install_a_model_from_a_file(widget, outside):
    widget.ui.installModelButton.click()
    assert widget.ui.modelComboBox.currentText == "openkbp7"
    outside.open_path = "model.zip"
    widget.ui.installModelButton.click()
    assert widget.ui.modelComboBox.currentText == "phantom22"
    outside.open_path = "bad.zip"
    widget.ui.installModelButton.click()
    assert widget.ui.statusLabel.text == "E_BUNDLE_FORMAT: no bundle"


def test_code_and_ui_file_name_the_same_widgets(root, module):
    house = root / "FocusNetSegmentation"
    text = (house / "Resources/UI/FocusNetSegmentation.ui").read_text()
    names = set(re.findall(r'<widget class="\w+" name="(\w+)"', text))
    code = (house / "FocusNetSegmentationLib/panel.py").read_text() + (house / "FocusNetSegmentation.py").read_text()
    assert set(re.findall(r"\bui\.(\w+)", code)) <= names
    bound = set(re.findall(r'"SlicerParameterName"[^>]*>\s*<string[^>]*>(\w+)<', text))
    assert bound == {"inputVolume", "output", "device", "precision", "fast", "uncertainty", "replace"}
    for name in bound:
        assert hasattr(module.FocusNetSegmentationParameterNode, name)


def test_module_introduces_itself(module, application, scene):
    import types

    parent = types.SimpleNamespace()
    module.FocusNetSegmentation(parent)
    assert parent.title == "FocusNet Segmentation"
    assert parent.categories == ["Segmentation"]
    assert "Research use only" in parent.helpText
    assert "Medical Image Analysis" in parent.acknowledgementText
    assert {signal for signal, _ in application.started} == {"startupCompleted()"}
    for _, slot in application.started:
        slot()
    import SampleData

    (source,) = SampleData.SampleDataLogic.sources
    assert (source["category"], source["sampleName"]) == ("FocusNet", "Synthetic head and neck CT")
    assert source["uris"] == ""  # nothing is downloaded
    assert Path(source["thumbnailFileName"]).is_file()
    node = source["customDownloader"]("source")
    assert node.GetName() == "FocusNetPhantom"
    assert node.GetSpacing() == pytest.approx((2.0, 2.0, 3.0))
    assert node.GetImageData().GetScalarRange()[0] < -900


def test_self_test_of_the_module_passes(module, scene):
    module.FocusNetSegmentationTest().runTest()


def test_logic_segments_from_the_console(module, monkeypatch, add_ct):
    import FocusNetSegmentationLib.logic as library

    calls = []

    class Logic:
        def segment(self, *arguments):
            calls.append(arguments)
            return "outcome"

    monkeypatch.setattr(library, "SegmentationLogic", Logic)
    logic, ct = module.FocusNetSegmentationLogic(), add_ct()
    assert logic.segment(ct, model="m", perOrganNodes=False) == "outcome"
    assert logic.segment(ct, uncertainty=True) == "outcome"
    assert calls == [(ct, "m", None, "auto", None, False, False), (ct, None, None, "auto", None, True, True)]


def test_models_of_this_computer(module, monkeypatch, tmp_path):
    from FocusNetSegmentationLib import packages

    broken = tmp_path / "models" / "broken"
    broken.mkdir(parents=True)
    (broken / "bundle.json").write_text("{}")
    monkeypatch.setenv("FOCUSNET_MODELS", str(tmp_path / "models"))
    choices = {choice.name: choice for choice in module.FocusNetSegmentationLogic.models()}
    assert "E_BUNDLE_SCHEMA" in choices["broken"].problem
    monkeypatch.setattr(packages, "missing_packages", lambda: ["pydantic>=2.7"])
    assert module.FocusNetSegmentationLogic.models() == []


def test_stand_ins_are_as_strict_as_pythonqt(widget):
    with pytest.raises(AttributeError, match="unknown attribute"):
        widget.ui.segmentButton.colour = "red"
    with pytest.raises(ValueError, match="no signal"):
        widget.ui.segmentButton.connect("pushed()", print)
    with pytest.raises(TypeError):
        widget.ui.segmentButton.text()
