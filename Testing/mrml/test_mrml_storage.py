import numpy as np
import pytest
import SimpleITK as sitk
from focusnet.errors import FocusNetError
from focusnet.organs import organ
from focusnet.terminology import terminology_string

LPS_GRID = np.array([[-2.0, 0, 0, 39], [0, -2.2, 0, 38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
SHAPE = (30, 36, 40)
SHIFT = np.array([[1, 0, 0, 4], [0, 1, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1.0]])


@pytest.fixture
def result(ct_node, transform_node, balls):
    """CT under a transform, with one node per organ and with one node for all."""
    from FocusNetSegmentationLib import mrml

    ct = ct_node(LPS_GRID, SHAPE, transform_node(SHIFT), SHIFT)
    labelmap = balls(mrml.volume_from_node(ct).geometry)
    stamp = {"Model": "openkbp7", "Weights": "ab|c:d"}
    per_organ = mrml.segmentations_from_labelmap(labelmap, ct, mrml.ResultOptions(stamp=stamp))
    whole = mrml.segmentations_from_labelmap(labelmap, ct, mrml.ResultOptions(per_organ=False, stamp=stamp))
    return labelmap, per_organ, whole


def check_segment(node, key):
    o = organ(key)
    segment = node.GetSegmentation().GetSegment(o.tg263)
    assert segment.GetName() == o.tg263
    np.testing.assert_allclose(np.array(segment.GetColor()) * 255, o.colour, atol=0.01)
    assert segment.GetTerminology() == terminology_string(o)


def test_seg_nrrd_keeps_names_colours_codes_geometry_and_voxels(scene, result, tmp_path):
    import slicer
    from FocusNetSegmentationLib import storage

    labelmap, _, whole = result
    path = tmp_path / "Ergebnis für Müller 1.seg.nrrd"
    storage.save_segmentation(whole.unique_nodes[0], path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    reader = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    reader.SetFileName(str(path))
    assert reader.ReadData(node)
    original = whole.unique_nodes[0].GetSegmentation()
    assert node.GetSegmentation().GetNumberOfSegments() == 4
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    numbers = [
        [float(n) for n in s.GetConversionParameter(parameter).split(";") if n]
        for s in (node.GetSegmentation(), original)
    ]
    np.testing.assert_allclose(*numbers, atol=1e-6)
    for key in labelmap.organs.values():
        check_segment(node, key)

    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    np.testing.assert_array_equal(array, labelmap.array)
    # The file lies on the CT as it is stored, without the parent transform.
    np.testing.assert_allclose(image.GetOrigin(), [-39, -38, -34], atol=1e-6)
    header = {image.GetMetaData(k) for k in image.GetMetaDataKeys() if k.endswith("_Tags")}
    assert len(header) == 4
    assert all("FocusNet:UNREVIEWED; Model=openkbp7; Weights=ab/c-d|" in tags for tags in header)


def test_file_of_one_organ_covers_the_whole_ct(result, tmp_path):
    from FocusNetSegmentationLib import storage

    labelmap, per_organ, _ = result
    storage.save_segmentation(per_organ.nodes["lens_l"], tmp_path / "lens.seg.nrrd")
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "lens.seg.nrrd")))
    np.testing.assert_array_equal(array, labelmap.mask("lens_l"))


def test_nodes_of_one_organ_each_go_into_one_file(scene, result, tmp_path):
    from FocusNetSegmentationLib import storage

    labelmap, per_organ, _ = result
    before = scene.GetNumberOfNodes()
    path = tmp_path / "all.seg.nrrd"
    storage.save_organs(per_organ.unique_nodes, path)
    assert scene.GetNumberOfNodes() == before
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    reader = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    reader.SetFileName(str(path))
    assert reader.ReadData(node)
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert array.shape == SHAPE
    for key in labelmap.organs.values():
        check_segment(node, key)
        value = node.GetSegmentation().GetSegment(organ(key).tg263).GetLabelValue()
        np.testing.assert_array_equal(array == value, labelmap.mask(key))


def test_scene_bundle_brings_everything_back(scene, result, segment_points, tmp_path):
    from FocusNetSegmentationLib import mrml, storage

    labelmap, per_organ, _ = result
    expected = {key: segment_points(node, organ(key).tg263).mean(axis=0) for key, node in per_organ.nodes.items()}
    path = tmp_path / "scène 1.mrb"
    storage.save_scene(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    scene.Clear(0)
    assert scene.ReadFromMRB(str(path))

    ct = scene.GetFirstNodeByName("CT")
    np.testing.assert_allclose(mrml.volume_from_node(ct).geometry.affine, labelmap.geometry.affine, atol=1e-6)
    nodes = mrml.results_on(ct)
    assert len(nodes) == 5
    for key, centroid in expected.items():
        for node in (n for n in nodes if n.GetSegmentation().GetSegment(organ(key).tg263)):
            check_segment(node, key)
            np.testing.assert_allclose(segment_points(node, organ(key).tg263).mean(axis=0), centroid, atol=1e-3)
            assert node.GetAttribute("FocusNet.Result") == "UNREVIEWED"
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    folder = hierarchy.GetItemByName("CT organs at risk")
    assert hierarchy.GetItemLevel(folder) == "Folder"
    assert hierarchy.GetNumberOfItemChildren(folder) == 4


@pytest.mark.parametrize("name", ["scene.mrb", "labels.seg.nrrd"])
def test_existing_files_are_kept_unless_overwriting_is_allowed(result, tmp_path, name):
    from FocusNetSegmentationLib import storage

    _, _, whole = result

    def save(overwrite):
        if name.endswith(".mrb"):
            storage.save_scene(tmp_path / name, overwrite=overwrite)
        else:
            storage.save_segmentation(whole.unique_nodes[0], tmp_path / name, overwrite=overwrite)

    (tmp_path / name).write_text("old")
    with pytest.raises(FocusNetError, match="E_OUTPUT_EXISTS"):
        save(False)
    assert (tmp_path / name).read_text() == "old"
    save(True)
    assert (tmp_path / name).stat().st_size > 1000
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_other_endings_are_refused(result, tmp_path):
    from FocusNetSegmentationLib import storage

    _, _, whole = result
    with pytest.raises(FocusNetError, match="E_OUTPUT_FORMAT"):
        storage.save_scene(tmp_path / "scene.zip")
    with pytest.raises(FocusNetError, match="E_OUTPUT_FORMAT"):
        storage.save_segmentation(whole.unique_nodes[0], tmp_path / "labels.nrrd")
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file_and_no_other(result, tmp_path, monkeypatch):
    import slicer
    from FocusNetSegmentationLib import storage

    _, _, whole = result
    path = tmp_path / "labels.seg.nrrd"
    path.write_text("old")

    class Broken(slicer.vtkMRMLSegmentationStorageNode):
        def WriteData(self, node):  # noqa: N802
            return 0

    monkeypatch.setattr(slicer, "vtkMRMLSegmentationStorageNode", Broken)
    with pytest.raises(FocusNetError, match="E_OUTPUT_WRITE"):
        storage.save_segmentation(whole.unique_nodes[0], path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
