import itertools

import numpy as np
import pytest
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, LabelMap
from focusnet.organs import organ
from focusnet.terminology import terminology_string

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (30, 36, 40)


def rotation(axis, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    a, b = [i for i in range(3) if i != axis]
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def centred(linear, spacing=(2.0, 2.2, 2.4), shape=SHAPE):
    """RAS matrix of a grid with these axes and spacings whose middle is the world's origin."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear[:3, :3] * spacing
    matrix[:3, 3] = -matrix[:3, :3] @ (np.array(shape[::-1]) - 1) / 2
    return matrix


SHEAR = np.array([[1, 0.1, 0, 3], [0, 1, 0.25, -4], [0, 0, 1.1, 5], [0, 0, 0, 1.0]])
TRANSFORMS = {
    "none": None,
    "shift": np.array([[1, 0, 0, 4], [0, 1, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1.0]]),
    "rotation": rotation(0, 20) @ rotation(2, -13),
    "shear": SHEAR,
    "mirror": np.diag([-1.0, 1.0, 1.0, 1.0]),
}
GRIDS = {
    "lps": centred(np.diag([-1.0, -1.0, 1.0])),
    "ras": centred(np.eye(3)),
    "oblique": centred(rotation(1, 24) @ rotation(0, 10)),
    "sagittal": centred(np.array([[0, 0, -1.0], [1, 0, 0], [0, 1, 0]])),
}


def bring_back(ct_node, transform_node, grid, matrix, shape=SHAPE):
    """CT node, and the labels of its voxels on the geometry that `volume_from_node` gives."""
    from FocusNetSegmentationLib import mrml

    parent = None if matrix is None else transform_node(matrix)
    node = ct_node(grid, shape, parent, matrix)
    volume = mrml.volume_from_node(node)
    keys = ("parotid_l", "parotid_r", "brainstem", "lens_l")
    return node, LabelMap((volume.array // 100).astype(np.uint8), volume.geometry, dict(enumerate(keys, start=1)))


def check_on_ct(result, labelmap, ct, segment_points):
    """Voxels lie on the CT's voxels (by Slicer's own resampling) and at the world positions of the labels."""
    import slicer

    for key in labelmap.organs.values():
        node, segment_id = result.nodes[key], organ(key).tg263
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, ct)
        np.testing.assert_array_equal(mask > 0, labelmap.mask(key))
        expected = labelmap.geometry.index_to_world(np.argwhere(labelmap.mask(key))).mean(axis=0)
        found = segment_points(node, segment_id).mean(axis=0)
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("per_organ", [True, False], ids=["node-per-organ", "one-node"])
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("grid", GRIDS)
def test_segments_lie_exactly_on_the_ct(ct_node, transform_node, segment_points, grid, transform, per_organ):
    from FocusNetSegmentationLib import mrml

    ct, labelmap = bring_back(ct_node, transform_node, GRIDS[grid], TRANSFORMS[transform])
    result = mrml.segmentations_from_labelmap(labelmap, ct, mrml.ResultOptions(per_organ=per_organ))
    assert not result.missing
    check_on_ct(result, labelmap, ct, segment_points)
    left = segment_points(result.nodes["parotid_l"], "Parotid_L")[:, 0].mean()
    right = segment_points(result.nodes["parotid_r"], "Parotid_R")[:, 0].mean()
    assert left > 15 > -15 > right


def test_all_48_axis_orders(scene, ct_node, transform_node, segment_points):
    from FocusNetSegmentationLib import mrml

    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            direction = np.zeros((3, 3))
            direction[list(order), range(3)] = signs
            sizes = np.array([76, 80, 72])[list(order)] / (2.0, 2.5, 3.0)
            shape = tuple(int(n) for n in sizes[::-1])
            grid = centred(direction, (2.0, 2.5, 3.0), shape)
            ct, labelmap = bring_back(ct_node, transform_node, grid, SHEAR, shape)
            result = mrml.segmentations_from_labelmap(labelmap, ct)
            check_on_ct(result, labelmap, ct, segment_points)
            assert segment_points(result.nodes["parotid_l"], "Parotid_L")[:, 0].min() > 0
            scene.Clear(0)


def test_moving_the_transform_moves_ct_and_result_together(ct_node, transform_node, segment_points):
    from FocusNetSegmentationLib import mrml

    ct, labelmap = bring_back(ct_node, transform_node, GRIDS["oblique"], TRANSFORMS["shift"])
    result = mrml.segmentations_from_labelmap(labelmap, ct)
    node = result.nodes["brainstem"]
    before = segment_points(node, "Brainstem")
    import slicer

    moved = rotation(2, 40) @ TRANSFORMS["shift"]
    ct.GetParentTransformNode().SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(moved))
    expected = before @ (FLIP @ rotation(2, 40) @ FLIP)[:3, :3].T
    np.testing.assert_allclose(segment_points(node, "Brainstem"), expected, atol=1e-3)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, "Brainstem", ct)
    np.testing.assert_array_equal(mask > 0, labelmap.mask("brainstem"))


def test_labels_on_another_grid(ct_node, transform_node, balls, segment_points):
    from FocusNetSegmentationLib import mrml

    other = Geometry.from_parts((60, 70, 76), (1.1, 1.0, 1.3), (-42.0, -36.0, -38.0))
    labelmap = balls(other)
    for transform in ("none", "rotation", "shear"):
        ct, _ = bring_back(ct_node, transform_node, GRIDS["oblique"], TRANSFORMS[transform])
        result = mrml.segmentations_from_labelmap(labelmap, ct)
        for key in ("parotid_l", "parotid_r", "brainstem"):
            expected = other.index_to_world(np.argwhere(labelmap.mask(key))).mean(axis=0)
            found = segment_points(result.nodes[key], organ(key).tg263).mean(axis=0)
            np.testing.assert_allclose(found, expected, atol=0.25)


def test_result_under_a_curved_transform_takes_the_cts_grid(scene, ct_node, balls):
    import slicer
    import vtk
    from FocusNetSegmentationLib import mrml

    ct = ct_node(GRIDS["ras"], SHAPE)
    warp = vtk.vtkThinPlateSplineTransform()
    warp.SetBasisToR()
    corners = [(x, y, z) for x in (-60, 60) for y in (-60, 60) for z in (-60, 60)]
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in [*corners, (0, 0, 0)]:
        source.InsertNextPoint(point)
        target.InsertNextPoint(point if point != (0, 0, 0) else (4, 3, 5))
    warp.SetSourceLandmarks(source)
    warp.SetTargetLandmarks(target)
    parent = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    parent.SetAndObserveTransformToParent(warp)
    ct.SetAndObserveTransformNodeID(parent.GetID())
    volume = mrml.volume_from_node(ct)
    assert volume.geometry.axis_codes == "LPS"
    labelmap = balls(volume.geometry)
    result = mrml.segmentations_from_labelmap(labelmap, ct)
    assert result.nodes["parotid_l"].GetParentTransformNode() is parent
    half_voxel = np.linalg.norm(volume.geometry.spacing_xyz) / 2
    indices = np.argwhere(np.ones(SHAPE, bool))
    world, positions = [0.0, 0.0, 0.0], []
    for point in (np.c_[indices[:, ::-1], np.ones(len(indices))] @ GRIDS["ras"].T)[:, :3]:
        ct.TransformPointToWorld(point, world)
        positions.append((-world[0], -world[1], world[2]))
    for key, (centre, radius) in {"parotid_l": ((28, -6, 4), 9), "brainstem": ((1, 12, 14), 8)}.items():
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(result.nodes[key], organ(key).tg263, ct)[tuple(indices.T)] > 0
        distance = np.linalg.norm(np.array(positions) - centre, axis=1)
        assert mask[distance < radius - half_voxel].all()
        assert not mask[distance > radius + half_voxel].any()
        assert mask.sum() > 50


def test_names_colours_codes_and_review_state(ct_node, transform_node):
    import slicer
    from FocusNetSegmentationLib import mrml

    ct, labelmap = bring_back(ct_node, transform_node, GRIDS["lps"], None)
    stamp = {"Model": "openkbp7", "Weights": "ab|c:d"}
    for per_organ in (True, False):
        result = mrml.segmentations_from_labelmap(labelmap, ct, mrml.ResultOptions(per_organ, stamp=stamp))
        for key in labelmap.organs.values():
            o, node = organ(key), result.nodes[key]
            segment = node.GetSegmentation().GetSegment(o.tg263)
            assert segment.GetName() == o.tg263
            np.testing.assert_allclose(np.array(segment.GetColor()) * 255, o.colour, atol=1e-6)
            assert segment.GetTerminology() == terminology_string(o)
            assert not segment.GetNameAutoGenerated()
            assert not segment.GetColorAutoGenerated()
            logic = slicer.vtkSlicerSegmentationsModuleLogic
            assert logic.GetSegmentStatus(segment) == logic.InProgress
            assert node.GetAttribute("FocusNet.Result") == "UNREVIEWED"
            assert node.GetAttribute("FocusNet.Model") == "openkbp7"
        assert len(result.unique_nodes) == (4 if per_organ else 1)
        assert result.unique_nodes[0].GetSegmentation().GetNumberOfLayers() == 1


def test_terminology_is_known_to_the_selectors(scene):
    import slicer

    logic = slicer.modules.terminologies.logic()
    entry = slicer.vtkSlicerTerminologyEntry()
    assert logic.DeserializeTerminologyEntry(terminology_string(organ("lens_l")), entry)
    assert entry.GetTypeObject().GetCodeMeaning() == organ("lens_l").snomed_meaning
    assert entry.GetTypeModifierObject().GetCodeMeaning() == "Left"
    assert logic.IsTerminologyContextLoaded(entry.GetTerminologyContextName())


def hierarchy_of(scene):
    import slicer

    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)


def test_result_folder_stands_beside_the_ct(scene, ct_node, transform_node):
    from FocusNetSegmentationLib import mrml

    ct, labelmap = bring_back(ct_node, transform_node, GRIDS["lps"], None)
    hierarchy = hierarchy_of(scene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "someone")
    study = hierarchy.CreateStudyItem(patient, "planning")
    hierarchy.CreateItem(study, ct)
    result = mrml.segmentations_from_labelmap(labelmap, ct)
    assert hierarchy.GetItemParent(result.folder) == study
    assert hierarchy.GetItemName(result.folder) == "CT organs at risk"
    for node in result.unique_nodes:
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == result.folder
    single = mrml.segmentations_from_labelmap(labelmap, ct, mrml.ResultOptions(per_organ=False))
    assert single.folder is None
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(single.unique_nodes[0])) == study


def test_missing_organs_get_no_segment(ct_node, transform_node):
    from FocusNetSegmentationLib import mrml

    ct, labelmap = bring_back(ct_node, transform_node, GRIDS["lps"], None)
    array = np.where(labelmap.array == 4, 0, labelmap.array)
    result = mrml.segmentations_from_labelmap(LabelMap(array, labelmap.geometry, labelmap.organs), ct)
    assert result.missing == ("lens_l",)
    assert "lens_l" not in result.nodes


def test_labels_without_an_organ_stay_out(ct_node, transform_node):
    import slicer
    from FocusNetSegmentationLib import mrml

    ct, labelmap = bring_back(ct_node, transform_node, GRIDS["lps"], None)
    partial = LabelMap(labelmap.array, labelmap.geometry, {1: "parotid_l", 3: "brainstem"})
    result = mrml.segmentations_from_labelmap(partial, ct, mrml.ResultOptions(per_organ=False))
    inner = slicer.util.arrayFromSegmentInternalBinaryLabelmap(result.unique_nodes[0], "Parotid_L")
    assert set(np.unique(inner)) == {0, 1, 3}


def nodes_of(scene):
    return {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}


@pytest.mark.parametrize("per_organ", [True, False])
def test_nothing_stays_behind_after_a_failure(scene, ct_node, transform_node, monkeypatch, per_organ):
    from FocusNetSegmentationLib import mrml

    ct, labelmap = bring_back(ct_node, transform_node, GRIDS["lps"], None)
    kept = mrml.segmentations_from_labelmap(labelmap, ct)
    before, items = nodes_of(scene), hierarchy_of(scene).GetNumberOfItems()
    calls = []

    def fail_late(organ):
        calls.append(organ)
        if len(calls) == 3:
            raise MemoryError
        return terminology_string(organ)

    monkeypatch.setattr(mrml, "terminology_string", fail_late)
    with pytest.raises(MemoryError):
        mrml.segmentations_from_labelmap(labelmap, ct, mrml.ResultOptions(per_organ, "replace"))
    assert nodes_of(scene) == before
    assert hierarchy_of(scene).GetNumberOfItems() == items
    assert kept.nodes["brainstem"].GetScene() is scene


def test_unknown_organ_is_refused_before_anything_is_made(scene, ct_node, transform_node):
    from FocusNetSegmentationLib import mrml

    ct, labelmap = bring_back(ct_node, transform_node, GRIDS["lps"], None)
    before = nodes_of(scene)
    with pytest.raises(FocusNetError, match="E_UNKNOWN_ORGAN"):
        mrml.segmentations_from_labelmap(LabelMap(labelmap.array, labelmap.geometry, {1: "tail"}), ct)
    assert nodes_of(scene) == before


def test_new_result_replaces_only_results_on_the_same_ct(scene, ct_node, transform_node):
    from FocusNetSegmentationLib import mrml

    first, labelmap = bring_back(ct_node, transform_node, GRIDS["lps"], None)
    second, _ = bring_back(ct_node, transform_node, GRIDS["lps"], None)
    manual = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Manual")
    manual.SetReferenceImageGeometryParameterFromVolumeNode(first)
    other = mrml.segmentations_from_labelmap(labelmap, second)
    old = mrml.segmentations_from_labelmap(labelmap, first)
    keep = mrml.segmentations_from_labelmap(labelmap, first, mrml.ResultOptions(per_organ=False))
    assert len(mrml.results_on(first)) == 5
    items = hierarchy_of(scene).GetNumberOfItems()
    new = mrml.segmentations_from_labelmap(labelmap, first, mrml.ResultOptions(existing="replace"))
    assert mrml.results_on(first) == new.unique_nodes
    assert hierarchy_of(scene).GetNumberOfItems() == items - 1  # the one node of all organs
    assert not hierarchy_of(scene).GetItemName(old.folder)
    assert keep.unique_nodes[0].GetScene() is None
    assert manual.GetScene() is scene
    assert mrml.results_on(second) == other.unique_nodes
    assert new.nodes["parotid_l"].GetName() == "Parotid_L"
