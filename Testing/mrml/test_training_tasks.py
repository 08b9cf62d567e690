"""Work for the Train tab in a child process: a data set of the scene, its check, and what is left behind."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from focusnet.errors import FocusNetError
from focusnet.geometry import from_sitk
from focusnet_training.datasets import read_case, read_dataset

TILT = np.array([[1.0, 0, 0, 0], [0, 1, 0.2, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
FLIPPED = np.array([[2.0, 0, 0, -39], [0, 2.2, 0, -38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
LPS_GRID = np.array([[-2.0, 0, 0, 39], [0, -2.2, 0, 38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
SHAPE = (30, 36, 40)


class Child:
    """Stands for the child process."""

    def __init__(self, arguments):
        self.module, self.folder = arguments[1], Path(arguments[2])
        self.lines, self.code, self.ended = [], None, False

    def poll(self):
        return self.lines, self.code

    def end(self):
        self.ended = True


@pytest.fixture
def children(monkeypatch, tmp_path):
    """Children that were started, and where they have their folders."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    started = []
    started_folder = tmp_path / "temporary"
    return started, (lambda arguments: started.append(Child(arguments)) or started[-1]), started_folder


@pytest.fixture
def patients(scene, ct_node, balls, transform_node):
    """Two CTs with organs: one upright, one in another axis order under a shearing transform."""
    from focusnet.geometry import LabelMap
    from FocusNetSegmentationLib import mrml

    nodes = [ct_node(LPS_GRID, SHAPE), ct_node(FLIPPED, SHAPE, transform_node(TILT), TILT)]
    for node in nodes:
        volume = mrml.volume_from_node(node)
        labels = balls(volume.geometry)
        # Heads in air, so that they pass as CTs: the balls are what is drawn on them.
        head = np.where(labels.array > 0, 60, np.where(np.indices(SHAPE)[1] % 30 > 4, 20, -1000)).astype(np.int16)
        import slicer

        slicer.util.updateVolumeFromArray(node, head)
        organs = {value: key for value, key in labels.organs.items() if key != "lens_l"}
        kept = np.where(np.isin(labels.array, list(organs)), labels.array, 0).astype(np.uint8)
        mrml.segmentations_from_labelmap(LabelMap(kept, volume.geometry, organs), node)
    return nodes


def mark_completed(*names):
    """As a user does in the Segment Editor, for all segments of these names or for all."""
    import slicer

    for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
        segmentation = node.GetSegmentation()
        for number in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegment(number)
            if not names or segment.GetName() in names:
                slicer.vtkSlicerSegmentationsModuleLogic.SetSegmentStatus(segment, 2)


def test_what_nobody_has_reviewed_is_no_truth(patients, tmp_path):
    from FocusNetTrainingLib.scene_cases import scene_cases, take_cases
    from FocusNetTrainingLib.task_worker import WORK

    assert [(len(case.segmentation_nodes), case.left_out) for case in scene_cases()] == [(0, 3), (0, 3)]
    mark_completed("Parotid_L")
    cases = scene_cases()
    assert [(len(case.segmentation_nodes), case.left_out) for case in cases] == [(1, 2), (1, 2)]
    work = tmp_path / "work"
    work.mkdir()
    list(take_cases(cases, work))
    result = WORK["import"](work, None, str(tmp_path / "out"), "reviewed")
    assert set(result["organs"]) == {"parotid_l"}


def test_of_a_result_in_one_node_only_completed_segments_are_taken(patients, balls, scene, tmp_path):
    from FocusNetSegmentationLib import mrml
    from FocusNetTrainingLib.scene_cases import scene_cases, take_cases
    from FocusNetTrainingLib.task_worker import WORK

    for node in patients:
        options = mrml.ResultOptions(per_organ=False, existing="replace")
        mrml.segmentations_from_labelmap(balls(mrml.volume_from_node(node).geometry), node, options)
    mark_completed("Parotid_R")
    work = tmp_path / "work"
    work.mkdir()
    list(take_cases(scene_cases(), work))
    assert set(WORK["import"](work, None, str(tmp_path / "out"), "reviewed")["organs"]) == {"parotid_r"}


def test_the_scene_becomes_a_data_set_with_every_side_in_its_place(patients, balls, tmp_path):
    from FocusNetTrainingLib.scene_cases import scene_cases, take_cases
    from FocusNetTrainingLib.task_worker import WORK

    mark_completed()
    cases = scene_cases()
    assert [case.volume_node for case in cases] == patients
    assert [len(case.segmentation_nodes) for case in cases] == [3, 3]
    work = tmp_path / "work"
    work.mkdir()
    shares = [progress.share for progress in take_cases(cases, work)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    out = tmp_path / "Datensatz für Test"
    result = WORK["import"](work, None, str(out), "two patients")
    assert (result["scans"], result["patients"]) == (2, 2), result
    assert set(result["organs"]) == {"parotid_l", "parotid_r", "brainstem"}
    dataset = read_dataset(out)
    for name in dataset.cases:
        image, labels = read_case(dataset, name)
        truth = balls(image.geometry)
        for key in ("parotid_l", "parotid_r", "brainstem"):
            points = [m.geometry.index_to_world(np.argwhere(m.mask(key))).mean(0) for m in (labels, truth)]
            np.testing.assert_allclose(points[0], points[1], atol=1.2)
        centre = labels.geometry.index_to_world(np.argwhere(labels.mask("parotid_l"))).mean(0)
        assert centre[0] > 20  # left is +x in LPS
    report = WORK["check"](tmp_path, str(out), str(tmp_path / "run"))
    assert report["training"] + report["validation"] == 2
    assert not [f for f in report["findings"] if f["code"] == "sides_swapped"]
    assert (tmp_path / "run" / "integrity.json").exists()
    assert report["drawn"] == {"brainstem": 2, "parotid_l": 2, "parotid_r": 2}
    assert report["proposed_spacing_xyz"][2] >= 2.5


def test_a_folder_becomes_a_data_set_and_what_fails_is_listed(tmp_path, small_dataset):
    from FocusNetTrainingLib.task_worker import WORK
    from FocusNetTrainingLib.texts import import_headline

    source = tmp_path / "patients"
    for number in range(2):
        folder = source / f"patient {number}"
        folder.mkdir(parents=True)
        image = sitk.ReadImage(str(small_dataset / f"imagesTr/blob_{number}_0000.nrrd"))
        sitk.WriteImage(image, str(folder / "ct.nrrd"))
        labels = from_sitk(sitk.ReadImage(str(small_dataset / f"labelsTr/blob_{number}.nrrd")))
        from focusnet.geometry import LabelMap
        from focusnet.io.segmentation import write_segmentation

        organs = {1: "brainstem", 2: "parotid_l"}
        kept = np.where(labels.array <= 2, labels.array, 0).astype(np.uint8)
        write_segmentation(LabelMap(kept, labels.geometry, organs), folder / "organs.seg.nrrd")
    (source / "patient 9").mkdir()
    (source / "patient 9" / "ct.nrrd").write_text("no image")
    result = WORK["import"](tmp_path, str(source), str(tmp_path / "out"), "from files")
    assert result["scans"] == 2
    assert [f["case"] for f in result["findings"] if f["severity"] == "error"] == ["patient 9"]
    assert import_headline(result) == (
        "Made a data set of 2 scans of 2 patients with 2 organs. 1 scan could not be used."
    )


def test_a_task_prepares_works_and_leaves_nothing(children):
    from FocusNetSegmentationLib.protocol import Progress
    from FocusNetTrainingLib.tasks import Task

    started, start, temporary = children

    def prepare(folder):
        (folder / "ct.npy").write_text("a patient")
        yield Progress("taking", 0.5)

    task = Task("import", {"source": None}, prepare, start)
    assert task.poll()
    assert task.progress.share == 0.5
    assert started == []
    assert task.poll()
    (child,) = started
    assert child.module == "FocusNetTrainingLib.task_worker"
    request = json.loads((child.folder / "request.json").read_text())
    assert request == {"kind": "import", "arguments": {"source": None}}
    child.lines = ['@focusnet {"kind": "progress", "stage": "reading", "share": 0.25, "seconds_left": 9}']
    assert task.poll()
    assert (task.progress.stage, task.progress.share, task.progress.seconds_left) == ("reading", 0.25, 9)
    (child.folder / "result.json").write_text('{"scans": 1}')
    child.lines, child.code = [], 0
    assert not task.poll()
    assert task.result == {"scans": 1}
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("when", ["preparing", "working"])
def test_cancel_and_failure_leave_nothing(children, when):
    from FocusNetSegmentationLib.protocol import Progress
    from FocusNetTrainingLib.tasks import Task

    started, start, temporary = children

    def prepare(folder):
        (folder / "ct.npy").write_text("a patient")
        yield Progress("taking", 0.5)
        if when == "preparing":
            raise FocusNetError("E_VOLUME_GONE", "gone")

    failing = Task("import", {}, prepare, start)
    assert failing.poll()
    running = failing.poll()
    if when == "working":
        assert running
        started[0].lines = ['@focusnet {"kind": "error", "code": "E_NO_CASES", "message": "None."}']
        started[0].code = 2
        assert not failing.poll()
        assert failing.error.code == "E_NO_CASES"
    else:
        assert not running
        assert failing.error.code == "E_VOLUME_GONE"
    assert list(temporary.iterdir()) == []
    cancelled = Task("import", {}, prepare, start)
    cancelled.poll()
    if when == "working":
        cancelled.poll()
    cancelled.cancel()
    assert cancelled.error.code == "E_CANCELLED"
    assert list(temporary.iterdir()) == []
    if when == "working":
        assert started[1].ended


def test_a_node_that_is_removed_meanwhile_is_told(patients, scene, tmp_path):
    from FocusNetTrainingLib.scene_cases import scene_cases, take_cases

    mark_completed()
    steps = take_cases(scene_cases(), tmp_path)
    next(steps)
    scene.Clear(0)
    with pytest.raises(FocusNetError, match="E_VOLUME_GONE"):
        list(steps)


def test_two_scans_of_one_patient_of_the_hierarchy_stay_together(patients, tmp_path):
    import slicer
    from FocusNetTrainingLib.scene_cases import scene_cases, take_cases
    from FocusNetTrainingLib.task_worker import WORK

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient")
    for number, node in enumerate(patients):
        study = hierarchy.CreateStudyItem(patient, f"study {number}")
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
    mark_completed()
    cases = scene_cases()
    assert [case.patient for case in cases] == [1, 1]
    work = tmp_path / "work"
    work.mkdir()
    list(take_cases(cases, work))
    result = WORK["import"](work, None, str(tmp_path / "out"), "one patient")
    assert (result["scans"], result["patients"]) == (2, 1)
