"""What a finished segmentation leaves in the scene and in the panel."""

from types import SimpleNamespace

import numpy as np
import SimpleITK as sitk


def maps(scene):
    return [node for node in scene.GetNodesByClass("vtkMRMLScalarVolumeNode") if "uncertainty" in node.GetName()]


def test_uncertainty_map_is_a_choice_and_is_replaced_with_its_result(widget, segment, scene):
    import slicer

    segment()
    assert maps(scene) == []
    widget.ui.replaceCheckBox.click()
    widget.ui.uncertaintyCheckBox.click()
    segment()
    (first,) = maps(scene)
    assert first.GetName() == "CT uncertainty (%)"
    ct = slicer.util.arrayFromVolume(slicer.util.getNode("CT"))
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(first), ct // 10)
    assert widget.ui.inputVolumeSelector.currentNode().GetName() == "CT"
    segment()
    (second,) = maps(scene)
    assert second is not first
    widget.ui.uncertaintyCheckBox.click()
    segment()
    assert maps(scene) == []


def test_uncertainty_map_is_not_taken_for_a_ct(module, outside, add_ct, scene):
    from FocusNetSegmentationLib.results import RESULT_ATTRIBUTE

    add_ct("CT uncertainty (%)").SetAttribute(RESULT_ATTRIBUTE, "UNREVIEWED")
    add_ct("CT 2")
    widget = module.FocusNetSegmentationWidget()
    widget.setup()
    assert widget.ui.inputVolumeSelector.currentNode().GetName() == "CT 2"
    widget.cleanup()


def test_click_on_a_row_jumps_to_the_organ(widget, outside, scene):
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    widget.ui.segmentButton.click()
    outside.children[0].finish()
    widget.panel.poll()
    widget.ui.resultTable.cellClicked.emit(0, 0)
    assert widget.ui.statusLabel.text == "Brainstem: odd."
    matrix = view.GetSliceToRAS()
    centre = [matrix.GetElement(row, 3) for row in range(3)]
    np.testing.assert_allclose(centre, (-2 * 14.5, -2 * 11, 3 * 8), atol=3)
    widget.ui.resultTable.cellClicked.emit(3, 0)  # not found: no jump, no error
    assert [view.GetSliceToRAS().GetElement(row, 3) for row in range(3)] == centre


def test_save_writes_the_organs_as_they_are(widget, outside, scene, tmp_path):
    widget.ui.segmentButton.click()
    outside.children[0].finish()
    widget.panel.poll()
    outside.save_path = ""
    widget.ui.exportButton.click()
    outside.save_path = str(tmp_path / "Organe für RT")
    widget.ui.exportButton.click()
    assert widget.ui.statusLabel.text == "Exported Organe für RT.seg.nrrd; the contours are not reviewed."
    # The dialog asked about the name as it was typed, not about the file that it becomes.
    kept = (tmp_path / "Organe für RT.seg.nrrd").read_bytes()
    outside.answer = False
    (tmp_path / "Organe für RT.seg.nrrd").write_bytes(b"edited elsewhere")
    widget.ui.exportButton.click()
    assert (tmp_path / "Organe für RT.seg.nrrd").read_bytes() == b"edited elsewhere"
    outside.answer = True
    widget.ui.exportButton.click()
    assert (tmp_path / "Organe für RT.seg.nrrd").read_bytes() == kept
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "Organe für RT.seg.nrrd")))
    assert np.unique(array).size == 4
    scene.Clear(0)


def test_saving_a_removed_result_is_refused(widget, outside, scene, tmp_path):
    import slicer

    widget.ui.segmentButton.click()
    outside.children[0].finish()
    widget.panel.poll()
    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        scene.RemoveNode(node)
    outside.save_path = str(tmp_path / "x.seg.nrrd")
    widget.ui.exportButton.click()
    assert "removed" in widget.ui.statusLabel.text
    assert not (tmp_path / "x.seg.nrrd").exists()


def test_compare_opens_the_evaluation_with_the_result(widget, outside, monkeypatch):
    import slicer

    opened = []
    other = SimpleNamespace(compare=lambda nodes: opened.append(nodes))
    monkeypatch.setattr(slicer.util, "selectModule", opened.append)
    monkeypatch.setattr(slicer.util, "getModuleWidget", lambda name: other)
    assert not widget.ui.compareButton.enabled
    widget.ui.segmentButton.click()
    outside.children[0].finish()
    widget.panel.poll()
    widget.ui.compareButton.click()
    assert opened[0] == "FocusNetTraining"
    assert [node.GetName() for node in opened[1]] == ["Parotid_L", "Parotid_R", "Brainstem"]


def test_structure_set_needs_a_ct_from_dicom(widget, outside, tmp_path):
    widget.ui.segmentButton.click()
    outside.children[0].finish()
    widget.panel.poll()
    outside.save_path = str(tmp_path / "plan.dcm")
    widget.ui.exportButton.click()
    assert widget.ui.statusLabel.text.startswith("E_NO_DICOM: 'CT' was not loaded from DICOM")
    assert not (tmp_path / "plan.dcm").exists()
