import sys
import types
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pydicom
import pytest
from focusnet.errors import FocusNetError
from focusnet.geometry import LabelMap
from focusnet.io.dicom import read_series

MARKER_LPS = (22.0, -14.0, 9.0)


@pytest.fixture(scope="module")
def dicom_writer(root):
    """Writes synthetic CT series."""
    path = root / "Testing" / "unit" / "io" / "conftest.py"
    spec = spec_from_file_location("synthetic_dicom", path)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module.CTSeries
    del sys.modules[spec.name]


@pytest.fixture
def loaded(scene, dicom_writer, tmp_path):
    """CT node as Slicer leaves it after loading a series, and its folder; ``attach`` says how it knows its files."""
    import slicer
    from FocusNetSegmentationLib import mrml

    def load(attach="storage", **options):
        folder = dicom_writer(**options).write(tmp_path / "Köpfe und Hälse")
        volume = read_series(folder)
        node = mrml.volume_to_node(volume, "CT")
        files = sorted(folder.iterdir())
        if attach == "storage":
            storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
            storage.SetFileName(str(files[0]))
            for file in files[1:]:
                storage.AddFileName(str(file))
            scene.AddNode(storage)
            node.SetAndObserveStorageNodeID(storage.GetID())
        return node, volume, files

    return load


def result_of(node, volume):
    """The marker, which lies on the patient's left, as a parotid; each organ in a node of its own."""
    from FocusNetSegmentationLib import mrml

    labels = LabelMap((volume.array > 500).astype(np.uint8), volume.geometry, {1: "parotid_l"})
    labels.array[2:4, 40:60, 20:40] = 2
    stamp = {"model": "m", "model_created": "2026", "weights_sha256": "0" * 64}
    both = LabelMap(labels.array, labels.geometry, {1: "parotid_l", 2: "mandible"})
    return mrml.segmentations_from_labelmap(both, node, mrml.ResultOptions(stamp=stamp)).unique_nodes, both


def test_result_becomes_a_structure_set_of_the_same_patient(loaded, tmp_path):
    from focusnet.io.rtstruct import read_rtstruct
    from FocusNetSegmentationLib.dicom_exchange import save_rtstruct

    node, volume, _ = loaded()
    nodes, labels = result_of(node, volume)
    save_rtstruct(nodes, node, tmp_path / "rs.dcm")
    dataset = pydicom.dcmread(tmp_path / "rs.dcm")
    assert (dataset.PatientName, dataset.PatientID) == ("Secret^Person", "SECRET-ID")
    assert dataset.ApprovalStatus == "UNAPPROVED"
    assert [roi.ROIName for roi in dataset.StructureSetROISequence] == ["Parotid_L", "Bone_Mandible"]
    assert dataset.StructureSetROISequence[0].ROIGenerationDescription.startswith("m 2026")
    back = read_rtstruct(tmp_path / "rs.dcm", volume.geometry)
    np.testing.assert_array_equal(back.find("parotid_l").mask, labels.mask("parotid_l"))
    np.testing.assert_array_equal(back.find("mandible").mask, labels.mask("mandible"))
    points = np.reshape(dataset.ROIContourSequence[0].ContourSequence[0].ContourData, (-1, 3)).astype(float)
    assert points[:, 0].mean() == pytest.approx(MARKER_LPS[0], abs=1)  # left is +x


def test_edited_contours_are_what_is_exported(loaded, tmp_path):
    import slicer
    from focusnet.io.rtstruct import read_rtstruct
    from FocusNetSegmentationLib.dicom_exchange import save_rtstruct

    node, volume, _ = loaded()
    nodes, _ = result_of(node, volume)
    edited = np.zeros(volume.array.shape, np.uint8)
    edited[5:7, 30:50, 60:90] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(edited, nodes[0], "Parotid_L", node)
    save_rtstruct(nodes[:1], node, tmp_path / "rs.dcm")
    back = read_rtstruct(tmp_path / "rs.dcm", volume.geometry)
    np.testing.assert_array_equal(back.find("parotid_l").mask, edited > 0)


def test_database_of_slicer_is_asked_for_the_files(loaded, tmp_path, monkeypatch):
    import slicer
    from FocusNetSegmentationLib.dicom_exchange import series_reference

    node, _, files = loaded(attach="nothing")
    with pytest.raises(FocusNetError, match="E_NO_DICOM"):
        series_reference(node)
    by_uid = {str(pydicom.dcmread(file).SOPInstanceUID): str(file) for file in files}
    node.SetAttribute("DICOM.instanceUIDs", " ".join(by_uid))
    database = types.SimpleNamespace(fileForInstance=lambda uid: by_uid.get(uid, ""))
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    reference = series_reference(node)
    assert {s.sop_instance_uid for s in reference.slices} == set(by_uid)
    for file in files:
        file.unlink()
    with pytest.raises(FocusNetError, match=r"E_NO_DICOM.*still there"):
        series_reference(node)


def test_other_files_in_the_folder_are_no_obstacle(loaded, tmp_path):
    from FocusNetSegmentationLib.dicom_exchange import save_rtstruct

    node, volume, files = loaded()
    nodes, _ = result_of(node, volume)
    content = files[0].read_bytes()
    truncated = content[: content.index(b"\x20\x00\x0e\x00")]  # before the UID of the series
    (files[0].parent / "another patient.dcm").write_bytes(truncated)
    summary = save_rtstruct(nodes, node, tmp_path / "rs.dcm")
    assert summary is not None
    referenced = pydicom.dcmread(tmp_path / "rs.dcm").ReferencedFrameOfReferenceSequence[0]
    series = referenced.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert len(series.ContourImageSequence) == len(files)


def about(point_ras, matrix):
    """A 3 x 3 matrix applied round a point."""
    full = np.eye(4)
    full[:3, :3] = matrix
    full[:3, 3] = point_ras - np.asarray(matrix) @ point_ras
    return full


MOVES = {
    "shifted": lambda middle: np.array([[1, 0, 0, 12.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    "shifted by part of a voxel": lambda middle: np.array([[1, 0, 0, 0.9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    "left for right": lambda middle: about(middle, np.diag([-1.0, 1, 1])),
    "turned by 180 degrees": lambda middle: about(middle, np.diag([-1.0, -1, 1])),
    "upside down": lambda middle: about(middle, np.diag([1.0, -1, -1])),
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_a_moved_ct_is_not_exported(loaded, transform_node, tmp_path, move):
    from FocusNetSegmentationLib.dicom_exchange import load_rtstruct, save_rtstruct

    node, volume, _ = loaded()
    nodes, _ = result_of(node, volume)
    save_rtstruct(nodes, node, tmp_path / "rs.dcm")
    bounds = np.zeros(6)
    node.GetRASBounds(bounds)
    transform = transform_node(move(bounds.reshape(3, 2).mean(1)))
    for moved in (node, *nodes):
        moved.SetAndObserveTransformNodeID(transform.GetID())
    for act in (
        lambda: save_rtstruct(nodes, node, tmp_path / "x.dcm"),
        lambda: load_rtstruct(tmp_path / "rs.dcm", node),
    ):
        with pytest.raises(FocusNetError, match="E_FRAME_OF_REFERENCE"):
            act()
    assert not (tmp_path / "x.dcm").exists()


def test_structure_set_comes_back_into_the_scene(loaded, scene, tmp_path, segment_points):
    from focusnet.organs import organ
    from focusnet.terminology import terminology_string
    from FocusNetSegmentationLib.dicom_exchange import load_rtstruct, save_rtstruct
    from FocusNetSegmentationLib.masks import labels_from_segmentation

    node, volume, _ = loaded()
    nodes, labels = result_of(node, volume)
    save_rtstruct(nodes, node, tmp_path / "rs.dcm")
    manual = load_rtstruct(tmp_path / "rs.dcm", node)
    assert manual.GetName() == "FocusNet"
    read = labels_from_segmentation(manual)
    np.testing.assert_array_equal(read["Parotid_L"].mask, labels.mask("parotid_l"))
    segment = manual.GetSegmentation().GetNthSegment(0)
    assert segment.GetTerminology() == terminology_string(organ("parotid_l"))
    points = segment_points(manual, manual.GetSegmentation().GetNthSegmentID(0))
    np.testing.assert_allclose(points.mean(axis=0), MARKER_LPS, atol=1.0)


def test_structures_of_another_patient_are_refused(loaded, dicom_writer, scene, tmp_path):
    from FocusNetSegmentationLib.dicom_exchange import load_rtstruct, save_rtstruct

    node, volume, files = loaded()
    nodes, _ = result_of(node, volume)
    save_rtstruct(nodes, node, tmp_path / "rs.dcm")
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.FrameOfReferenceUID = "1.2.3"
        dataset.save_as(file)
    before = scene.GetNumberOfNodes()
    with pytest.raises(FocusNetError, match="E_FRAME_OF_REFERENCE"):
        load_rtstruct(tmp_path / "rs.dcm", node)
    assert scene.GetNumberOfNodes() == before


@pytest.mark.parametrize("makes_a_node", [True, False])
def test_slicer_rt_reads_first_where_it_is_installed(loaded, scene, tmp_path, monkeypatch, makes_a_node):
    import slicer
    from FocusNetSegmentationLib.dicom_exchange import load_rtstruct, save_rtstruct

    node, volume, _ = loaded()
    nodes, _ = result_of(node, volume)
    save_rtstruct(nodes, node, tmp_path / "rs.dcm")
    asked = []

    class Plugin:
        def examineForImport(self, lists):  # noqa: N802 - SlicerRT's name
            asked.append(lists)
            return ["loadable"]

        def load(self, loadable):
            if makes_a_node:
                scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "from SlicerRT")

    monkeypatch.setattr(slicer.modules, "dicomPlugins", {"DicomRtImportExportPlugin": Plugin}, raising=False)
    found = load_rtstruct(tmp_path / "rs.dcm", node)
    assert asked == [[[str(tmp_path / "rs.dcm")]]]
    assert found.GetName() == ("from SlicerRT" if makes_a_node else "FocusNet")


def test_structures_under_any_parent_transform(scene, ct_node, transform_node, balls, segment_points):
    from focusnet.evaluation.masks import CroppedMask
    from focusnet.geometry import Geometry
    from FocusNetSegmentationLib import mrml
    from FocusNetSegmentationLib.structures import Structure, add_structures, masks_of_nodes, volume_of

    grid = np.array([[-2.0, 0, 0, 39], [0, -2.2, 0, 38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
    shear = np.eye(4)
    shear[1, 2] = 0.2
    ct = ct_node(grid, (30, 36, 40), transform_node(shear), shear)
    straight = Geometry.from_parts((45, 45, 45), (1.5, 1.5, 1.5), (-33, -33, -33))
    for world in (mrml.volume_from_node(ct).geometry, straight):
        labels = balls(world)
        named = [
            Structure(name, None, CroppedMask.of(labels.mask(key)))
            for name, key in (("Ohrspeicheldrüse", "parotid_l"), ("lens_l", "lens_l"))
        ]
        node = add_structures("manual", [*named, Structure("nothing", (1, 2, 3), None)], world, ct)
        assert volume_of([node]) is ct
        segmentation = node.GetSegmentation()
        assert [segmentation.GetNthSegment(n).GetName() for n in range(3)] == ["Ohrspeicheldrüse", "lens_l", "nothing"]
        points = segment_points(node, segmentation.GetNthSegmentID(0))
        np.testing.assert_allclose(points.mean(axis=0), (28.0, -6.0, 4.0), atol=1.5)
        _, back = masks_of_nodes([node], world if world.is_orthogonal else None)
        assert [s.mask is None for s in back] == [False, False, True]


def test_groups_are_result_folders_and_single_nodes(scene, ct_node, balls):
    from FocusNetSegmentationLib import mrml
    from FocusNetSegmentationLib.structures import segmentation_groups

    grid = np.array([[-2.0, 0, 0, 39], [0, -2.2, 0, 38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
    ct = ct_node(grid, (30, 36, 40))
    labels = balls(mrml.volume_from_node(ct).geometry)
    scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "manual")
    mrml.segmentations_from_labelmap(labels, ct)
    mrml.segmentations_from_labelmap(labels, ct)
    groups = segmentation_groups()
    assert [(name, len(nodes)) for name, nodes in groups] == [
        ("manual", 1),
        ("CT organs at risk", 4),
        ("CT organs at risk (2)", 4),
    ]
