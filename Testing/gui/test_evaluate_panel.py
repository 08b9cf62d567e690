import json
import os
import shutil
import sys
import tempfile
import time
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from focusnet.errors import FocusNetError

NO_CHOICES = {
    "compareFolders": False,
    "referenceName": "",
    "predictionName": "",
    "referenceFolder": "",
    "predictionFolder": "",
    "ctFolder": "",
    "spellings": "",
}
ARRAYS = {
    "Parotid_L": ((slice(2, 5), slice(4, 9), slice(20, 27)), (slice(2, 5), slice(4, 9), slice(21, 27))),
    "Struktur 7": ((slice(6, 11), slice(8, 15), slice(12, 18)), None),
    "Brainstem": (None, (slice(6, 11), slice(8, 15), slice(12, 18))),
    "Lens_R": ((slice(6, 8), slice(2, 4), slice(5, 7)), (slice(3, 4), slice(2, 4), slice(5, 7))),
}


@pytest.fixture
def patient(scene):
    """CT with manual and automatic contours; the names of one organ differ."""
    import slicer
    from focusnet.evaluation.masks import CroppedMask
    from FocusNetSegmentationLib import mrml
    from FocusNetSegmentationLib.structures import Structure, add_structures

    hu = np.full((12, 20, 30), -1000, np.int16)
    hu[1:11, 2:18, 3:28] = 40
    ct = slicer.util.addVolumeFromArray(hu, np.diag([-2.0, -2.0, 3.0, 1.0]), "Müller CT")
    grid = mrml.volume_from_node(ct).geometry
    nodes = []
    for side, name in enumerate(("manual", "automatic")):
        masks = []
        for title, places in ARRAYS.items():
            array = np.zeros(grid.shape_zyx, bool)
            if places[side] is not None:
                array[places[side]] = True
                masks.append(Structure(title, None, CroppedMask.of(array)))
        nodes.append(add_structures(name, masks, grid, ct))
    return SimpleNamespace(ct=ct, manual=nodes[0], automatic=nodes[1])


@pytest.fixture
def outside(monkeypatch, tmp_path):
    """What a test decides: answers to dialogs, and where temporary folders go; PythonSlicer is this Python."""
    import slicer

    monkeypatch.setattr(shutil, "which", lambda name: sys.executable if name == "PythonSlicer" else None)
    monkeypatch.setattr(slicer.util, "startupEnvironment", lambda: dict(os.environ), raising=False)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return SimpleNamespace(answer=True, asked=[], open_path="", save_path="", temporary=tmp_path / "temporary")


@pytest.fixture
def panel(application, standins, root, outside, monkeypatch):
    """The tab on the scene."""
    for name in ("FocusNetTrainingLib.evaluate_panel", "FocusNetTrainingLib.evaluate_services"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    from FocusNetTrainingLib.evaluate_panel import EvaluatePanel
    from FocusNetTrainingLib.evaluate_services import evaluate_services

    window = standins.load_ui(root / "FocusNetTraining" / "Resources" / "UI" / "Evaluate.ui")
    services = evaluate_services(
        confirm=lambda text: outside.asked.append(text) or outside.answer,
        ask_open=lambda title, kind: outside.open_path,
        ask_save=lambda title, kind: outside.save_path,
    )
    panel = EvaluatePanel(standins.child_widget_variables(window), services)
    panel.window = window
    panel.set_parameters(SimpleNamespace(**NO_CHOICES))
    yield panel
    panel.cleanup()


def choose(panel, reference="manual", prediction="automatic"):
    for combo, name in ((panel.ui.referenceComboBox, reference), (panel.ui.predictionComboBox, prediction)):
        combo.setCurrentIndex(combo.findText(name))


def finish(panel, seconds=120):
    end = time.monotonic() + seconds
    while panel.is_running and time.monotonic() < end:
        panel.poll()
        time.sleep(0.01)
    assert not panel.is_running


def table(widget, columns):
    return [[widget.item(r, c).text() for c in range(columns)] for r in range(widget.rowCount)]


def agreement(scene):
    import slicer

    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return [node for node in nodes if node.GetAttribute("FocusNet.Agreement") is not None]


def test_nothing_to_press_before_two_sides_are_chosen(panel, patient):
    panel.refresh()
    assert not panel.ui.computeButton.enabled
    choose(panel, prediction="manual")
    assert not panel.ui.computeButton.enabled
    choose(panel)
    assert panel.ui.computeButton.enabled
    assert not panel.ui.comparisonCollapsibleButton.isVisibleTo(panel.window)


def test_names_are_matched_and_can_be_changed(panel, patient):
    panel.refresh()
    choose(panel)
    names = panel.ui.namesTable
    assert table(names, 2) == [
        ["Struktur 7", "reference"],
        ["Parotid_L", "both"],
        ["Lens_R", "both"],
        ["Brainstem", "prediction"],
    ]
    assert names.cellWidget(0, 2).currentText == "not compared"
    assert names.cellWidget(1, 2).currentText == "Left parotid gland"
    assert panel.ui.namesCollapsibleButton.text == "Names (1 not compared)"
    combo = names.cellWidget(0, 2)
    combo.setCurrentIndex(combo.findText("Brainstem"))
    assert json.loads(panel._parameters.spellings) == {"Struktur 7": "brainstem"}


def test_compute_gives_table_plot_overlay_and_report(panel, patient, scene, outside, tmp_path):
    import slicer

    panel.refresh()
    choose(panel)
    combo = panel.ui.namesTable.cellWidget(0, 2)
    combo.setCurrentIndex(combo.findText("Brainstem"))
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    panel.ui.computeButton.click()
    assert panel.is_running
    assert panel.ui.cancelEvaluationButton.enabled
    finish(panel)
    ui = panel.ui
    assert ui.evaluateStatusLabel.text.startswith("Done"), ui.evaluateStatusLabel.text
    rows = table(ui.metricsTable, 6)
    assert [row[0] for row in rows] == ["Mean over organs", "Right eye lens", "Left parotid gland", "Brainstem"]
    parotid = 2 * 3 * 5 * 6 / (3 * 5 * 7 + 3 * 5 * 6)
    assert [row[1] for row in rows] == [f"{(1 + parotid) / 3:.3f}", "0.000", f"{parotid:.3f}", "1.000"]
    assert ui.summaryLabel.text == "Every structure of both sides was compared."

    (node,) = slicer.util.getNodesByClass("vtkMRMLTableNode")[:1]
    assert [node.GetColumnName(c) for c in range(5)] == ["Case", "Organ", "State", "DSC", "Surface DSC"]
    assert node.GetCellText(0, 0) == "Müller_CT"
    assert node.GetNumberOfRows() == 3
    (chart,) = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    assert chart.GetNumberOfPlotSeriesNodes() == 1

    (shown,) = agreement(scene)  # all organs
    ui.metricsTable.cellClicked.emit(2, 0)
    (shown,) = agreement(scene)
    assert shown.GetName() == "Agreement, Left parotid gland"
    ids = [shown.GetSegmentation().GetNthSegmentID(n) for n in range(3)]
    both, extra, missed = (slicer.util.arrayFromSegmentBinaryLabelmap(shown, own, patient.ct) for own in ids)
    assert (both.sum(), extra.sum(), missed.sum()) == (90, 0, 15)
    assert missed[2:5, 4:9, 20].all()
    assert not shown.GetDisplayNode().GetVisibility3D()
    centre = [view.GetSliceToRAS().GetElement(row, 3) for row in range(3)]
    np.testing.assert_allclose(centre, (-2 * 23, -2 * 6, 3 * 3), atol=2)
    ui.agreementCheckBox.click()
    assert agreement(scene) == []
    ui.agreementCheckBox.click()
    assert len(agreement(scene)) == 1

    outside.save_path = str(tmp_path / "Bericht")
    ui.reportButton.click()
    assert "Left parotid gland" in (tmp_path / "Bericht.html").read_text(encoding="utf-8")
    outside.save_path = str(tmp_path / "Zahlen.csv")
    ui.reportButton.click()
    assert (tmp_path / "Zahlen.csv").read_text().startswith("case,organ,state,dsc")
    assert list(outside.temporary.iterdir()) == []


def test_a_volume_that_is_no_ct_is_left_out_of_the_report(panel, patient):
    import slicer

    slicer.util.arrayFromVolume(patient.ct)[:] = 0
    panel.refresh()
    choose(panel)
    panel.ui.computeButton.click()
    finish(panel)
    assert panel.ui.evaluateStatusLabel.text.startswith("Done")
    assert "E_EMPTY_IMAGE" in panel.ui.evaluateLogTextEdit.toPlainText()


def test_no_torch_is_needed(panel, patient, monkeypatch, tmp_path):
    """Neither in this process nor in the child, and no other package that 3D Slicer does not bring."""
    blocked = ("torch", "pydantic", "typer", "rich", "safetensors", "jinja2", "matplotlib", "highdicom")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {blocked!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, package=None: None if name in {blocked!r} else find(name, package)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    panel.refresh()
    choose(panel)
    panel.ui.computeButton.click()
    finish(panel)
    assert panel.ui.evaluateStatusLabel.text.startswith("Done"), panel.ui.evaluateStatusLabel.text
    assert panel.ui.metricsTable.rowCount == 3
    assert "jinja2" in panel.ui.evaluateLogTextEdit.toPlainText()
    panel.ui.reportButton.click()
    assert panel.ui.evaluateStatusLabel.text == "Press Compute again to make the report."


def test_folders_are_compared_and_unknown_names_asked_for(panel, tmp_path, scene):
    import slicer
    from focusnet.geometry import Geometry
    from focusnet.io.segmentation import Segment, Segmentation, write_segmentation

    grid = Geometry.from_parts((12, 20, 30), (2, 2, 3))
    for side, folder in enumerate(("Referenz", "Vorhersage")):
        for case in ("pt_1", "pt_2"):
            segments = []
            for title, places in ARRAYS.items():
                if places[side] is not None:
                    array = np.zeros(grid.shape_zyx, np.uint8)
                    array[places[side]] = 1
                    segments.append(Segment(title, array))
            (tmp_path / folder).mkdir(exist_ok=True)
            write_segmentation(Segmentation(grid, segments), tmp_path / folder / f"{case}.seg.nrrd")
    ui = panel.ui
    ui.kindComboBox.setCurrentIndex(1)
    ui.referencePathEdit.currentPath = str(tmp_path / "Referenz")
    assert not ui.computeButton.enabled
    ui.predictionPathEdit.currentPath = str(tmp_path / "Vorhersage")
    ui.computeButton.click()
    finish(panel)
    assert [row[0] for row in table(ui.metricsTable, 1)] == ["Mean over organs", "Right eye lens", "Left parotid gland"]
    assert "Names without an organ: Struktur 7" in ui.summaryLabel.text
    assert not ui.agreementCheckBox.enabled
    assert table(ui.namesTable, 1) == [["Struktur 7"]]
    combo = ui.namesTable.cellWidget(0, 2)
    combo.setCurrentIndex(combo.findText("Brainstem"))
    ui.computeButton.click()
    finish(panel)
    assert [row[0] for row in table(ui.metricsTable, 1)][-1] == "Brainstem"
    charts = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    assert charts[-1].GetNumberOfPlotSeriesNodes() == 5  # bar and four points of a box plot


def test_cancel_at_each_stage(panel, patient, scene, outside):
    panel.refresh()
    choose(panel)
    before = scene.GetNumberOfNodes()
    for polls in (0, 1, 2, 4, 8):
        panel.ui.computeButton.click()
        for _ in range(polls):
            panel.poll()
        panel.ui.cancelEvaluationButton.click()
        assert panel.ui.evaluateStatusLabel.text == "Cancelled."
        assert panel.ui.computeButton.enabled
        assert scene.GetNumberOfNodes() == before
        assert list(outside.temporary.iterdir()) == []


def test_refusals_are_told(panel, patient, scene, outside, tmp_path):
    ui = panel.ui
    ui.kindComboBox.setCurrentIndex(1)
    ui.referencePathEdit.currentPath = str(tmp_path / "no such folder")
    ui.predictionPathEdit.currentPath = str(tmp_path)
    ui.computeButton.click()
    finish(panel)
    assert ui.evaluateStatusLabel.text.startswith("E_NO_CASES")
    assert list(outside.temporary.iterdir()) == []


def test_a_segmentation_that_disappears_is_told(panel, patient, scene, outside):
    panel.refresh()
    choose(panel)
    panel.ui.computeButton.click()
    scene.RemoveNode(patient.automatic)
    finish(panel)
    assert panel.ui.evaluateStatusLabel.text.startswith("E_VOLUME_GONE")
    assert list(outside.temporary.iterdir()) == []


def test_closing_the_scene_stops_and_forgets(panel, patient, scene, outside):
    panel.refresh()
    choose(panel)
    panel.ui.computeButton.click()
    panel.poll()
    panel.scene_closes()
    assert not panel.is_running
    assert list(outside.temporary.iterdir()) == []
    scene.Clear(0)
    panel.set_parameters(SimpleNamespace(**NO_CHOICES))
    assert panel.ui.referenceComboBox.count == 1
    assert not panel.ui.computeButton.enabled


def test_choices_come_back_with_the_scene(panel, patient):
    kept = SimpleNamespace(**NO_CHOICES)
    panel.set_parameters(kept)
    choose(panel)
    panel.ui.ctPathEdit.currentPath = "CTs"
    panel.set_parameters(None)
    panel.ui.kindComboBox.setCurrentIndex(1)
    panel.set_parameters(kept)
    assert panel.ui.kindComboBox.currentIndex == 0
    assert panel.ui.referenceComboBox.currentText == "manual"
    assert panel.ui.predictionComboBox.currentText == "automatic"
    assert panel.ui.ctPathEdit.currentPath == "CTs"
    assert kept.predictionName == "automatic"


def test_choices_outlast_segmentations_that_come_later(panel, patient, scene):
    """While a scene is loaded its parameter node is there before its segmentations."""
    kept = SimpleNamespace(**{**NO_CHOICES, "referenceName": "planning", "predictionName": "automatic"})
    panel.set_parameters(kept)
    panel.refresh()
    assert (kept.referenceName, kept.predictionName) == ("planning", "automatic")
    scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "planning")
    panel.set_parameters(kept)
    assert panel.ui.referenceComboBox.currentText == "planning"
    panel.ui.referenceComboBox.setCurrentIndex(0)
    assert kept.referenceName == ""  # the user's own choice


def test_compare_from_segmentation_selects_result_and_the_only_other(panel, patient):
    panel.ui.kindComboBox.setCurrentIndex(1)
    panel.compare([patient.automatic])
    assert panel.ui.kindComboBox.currentIndex == 0
    assert panel.ui.predictionComboBox.currentText == "automatic"
    assert panel.ui.referenceComboBox.currentText == "manual"
    assert panel.ui.computeButton.enabled


def test_manual_contours_from_a_structure_set(panel, patient, outside, monkeypatch, scene):
    import FocusNetSegmentationLib.dicom_exchange as exchange

    panel.ui.loadStructuresButton.click()
    assert "prediction first" in panel.ui.evaluateStatusLabel.text
    panel.refresh()
    choose(panel, reference="Select...")
    asked = []

    def load(path, volume):
        if path.name == "bad.dcm":
            raise FocusNetError("E_NOT_RTSTRUCT", "no structure set")
        asked.append((path, volume))
        return scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "planning")

    monkeypatch.setattr(exchange, "load_rtstruct", load)
    panel.ui.loadStructuresButton.click()
    assert asked == []
    outside.open_path = "bad.dcm"
    panel.ui.loadStructuresButton.click()
    assert panel.ui.evaluateStatusLabel.text == "E_NOT_RTSTRUCT: no structure set"
    outside.open_path = "rs.dcm"
    panel.ui.loadStructuresButton.click()
    assert asked == [(Path("rs.dcm"), patient.ct)]
    assert panel.ui.referenceComboBox.currentText == "planning"


def test_in_the_application_table_and_plot_come_into_view(panel, patient, monkeypatch):
    import slicer

    shown = []
    selection = SimpleNamespace(SetActiveTableID=lambda node: shown.append(node))
    logic = SimpleNamespace(GetSelectionNode=lambda: selection, PropagateTableSelection=lambda: shown.append("shown"))
    monkeypatch.setattr(slicer.app, "applicationLogic", lambda: logic, raising=False)
    plots = types.SimpleNamespace(logic=lambda: SimpleNamespace(ShowChartInLayout=shown.append))
    monkeypatch.setattr(slicer.modules, "plots", plots, raising=False)
    from focusnet.evaluation.case import Row
    from FocusNetTrainingLib.evaluate_services import show_result

    show_result([Row("a", "lens_l", "missed", dsc=0.0)], "x")
    (table_node,) = [n for n in slicer.util.getNodesByClass("vtkMRMLTableNode") if n.GetName() == "x"]
    (chart,) = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    assert shown == [table_node.GetID(), "shown", chart]


def test_the_module_hosts_the_tab(training_module, outside, monkeypatch, patient):
    import slicer

    monkeypatch.setattr(slicer.app, "settings", lambda: None, raising=False)
    widget = training_module.FocusNetTrainingWidget()
    widget.setup()
    assert [widget.ui.tabWidget.tabText(n) for n in range(2)] == ["Train", "Evaluate"]
    widget.compare([patient.automatic])
    assert widget.ui.tabWidget.currentIndex == 1
    assert widget.evaluateUi.predictionComboBox.currentText == "automatic"
    node = widget.logic.getParameterNode()
    assert node.predictionName == "automatic"
    assert node.referenceName == "manual"
    widget.enter()
    assert widget.evaluateUi.predictionComboBox.currentText == "automatic"
    slicer.mrmlScene.Clear(0)
    assert widget.evaluateUi.predictionComboBox.currentText == "Select..."
    widget.cleanup()
