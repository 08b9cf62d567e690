import numpy as np
import pytest
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, LabelMap
from focusnet.organs import organ
from focusnet.terminology import terminology_string

LPS_GRID = np.array([[-2.0, 0, 0, 39], [0, -2.2, 0, 38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
SHAPE = (30, 36, 40)
TURN = np.array([[0.8, -0.6, 0.1, 4], [0.6, 0.8, 0, -3], [0, 0, 1, 2], [0, 0, 0, 1.0]])


@pytest.fixture
def case(ct_node, transform_node, balls):
    """CT under a sheared rotation and its labels in the world."""
    from FocusNetSegmentationLib import mrml

    ct = ct_node(LPS_GRID, SHAPE, transform_node(TURN), TURN)
    return ct, balls(mrml.volume_from_node(ct).geometry)


@pytest.mark.parametrize("per_organ", [True, False])
def test_what_was_written_comes_back(case, per_organ):
    from FocusNetSegmentationLib import masks, mrml

    ct, labelmap = case
    result = mrml.segmentations_from_labelmap(labelmap, ct, mrml.ResultOptions(per_organ))
    for node in result.unique_nodes:
        back = masks.labels_from_segmentation(node)
        assert back.geometry.is_close(labelmap.geometry)
        for segment in back.segments:
            key = next(k for k in labelmap.organs.values() if organ(k).tg263 == segment.name)
            np.testing.assert_array_equal(segment.mask, labelmap.mask(key))
            assert segment.colour == organ(key).colour
            assert segment.terminology == terminology_string(organ(key))
    assert sum(len(masks.labels_from_segmentation(n).segments) for n in result.unique_nodes) == 4


def test_overlapping_segments_stay_whole(case):
    import slicer
    from FocusNetSegmentationLib import masks, mrml

    ct, labelmap = case
    node = mrml.segmentations_from_labelmap(labelmap, ct, mrml.ResultOptions(per_organ=False)).unique_nodes[0]
    wide = np.zeros(SHAPE, np.uint8)
    wide[3:20, 4:30, 5:38] = 1
    node.GetSegmentation().AddEmptySegment("Wide", "Wide")
    slicer.util.updateSegmentBinaryLabelmapFromArray(wide, node, "Wide", ct)
    back = masks.labels_from_segmentation(node)
    np.testing.assert_array_equal(back["Wide"].mask, wide > 0)
    np.testing.assert_array_equal(back["Brainstem"].mask, labelmap.mask("brainstem"))
    assert back["Wide"].array is not back["Brainstem"].array
    assert back["Parotid_L"].array is back["Brainstem"].array


def test_empty_segment_has_an_empty_mask(case):
    from FocusNetSegmentationLib import masks, mrml

    ct, labelmap = case
    node = mrml.segmentations_from_labelmap(labelmap, ct, mrml.ResultOptions(per_organ=False)).unique_nodes[0]
    node.GetSegmentation().AddEmptySegment("Nothing", "Nothing")
    assert not masks.labels_from_segmentation(node)["Nothing"].mask.any()


def test_surfaces_are_converted_on_a_copy(case):
    from FocusNetSegmentationLib import masks, mrml

    ct, labelmap = case
    node = mrml.segmentations_from_labelmap(labelmap, ct, mrml.ResultOptions(per_organ=False)).unique_nodes[0]
    node.GetSegmentation().SetConversionParameter("Smoothing factor", "0.0")
    assert node.CreateClosedSurfaceRepresentation()
    node.SetSourceRepresentationToClosedSurface()
    node.RemoveBinaryLabelmapRepresentation()
    back = masks.labels_from_segmentation(node)
    assert not node.GetSegmentation().ContainsRepresentation(masks.LABELMAP)
    for key in ("parotid_l", "brainstem"):
        truth, found = labelmap.mask(key), back[organ(key).tg263].mask
        assert back.geometry.shape_zyx == truth.shape
        assert 2 * (truth & found).sum() / (truth.sum() + found.sum()) > 0.9


def test_segments_on_a_finer_grid_are_resampled(scene, balls):
    from focusnet.geometry import Volume
    from FocusNetSegmentationLib import masks, mrml

    coarse = Geometry.from_parts((20, 24, 26), (3.0, 3.0, 3.0), (-38.0, -36.0, -28.0))
    fine = Geometry.from_parts((58, 70, 76), (1.0, 1.0, 1.0), (-38.3, -36.2, -28.4))
    ct = mrml.volume_to_node(Volume(np.zeros(coarse.shape_zyx, np.int16), coarse), "CT")
    node = mrml.segmentations_from_labelmap(balls(fine), ct).nodes["brainstem"]
    back = masks.labels_from_segmentation(node)
    assert back.geometry.spacing_xyz == pytest.approx((1.0, 1.0, 1.0))
    middle = back.geometry.index_to_world(np.argwhere(back["Brainstem"].mask)).mean(axis=0)
    np.testing.assert_allclose(middle, (1, 12, 14), atol=0.6)
    volume_ml = back["Brainstem"].mask.sum() * back.geometry.voxel_volume_ml
    assert volume_ml == pytest.approx(4 / 3 * np.pi * 8**3 / 1000, rel=0.05)


def test_segment_beyond_the_ct_enlarges_the_grid(scene, balls):
    from focusnet.geometry import Box, Volume
    from FocusNetSegmentationLib import masks, mrml

    whole = Geometry.from_parts((40, 40, 44), (2.0, 2.0, 2.0), (-44.0, -40.0, -40.0))
    part = whole.crop(Box((0, 0, 0), (26, 40, 44)))
    ct = mrml.volume_to_node(Volume(np.zeros(part.shape_zyx, np.int16), part), "CT")
    labelmap = balls(whole)
    node = mrml.segmentations_from_labelmap(labelmap, ct).nodes["brainstem"]
    back = masks.labels_from_segmentation(node)
    assert back.geometry.shape_zyx[0] > 26
    expected = whole.index_to_world(np.argwhere(labelmap.mask("brainstem")))
    found = back.geometry.index_to_world(np.argwhere(back["Brainstem"].mask))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_curved_parent_transform_gives_a_straight_grid(scene, ct_node, segment_points):
    import vtk
    from FocusNetSegmentationLib import masks, mrml

    ct = ct_node(LPS_GRID, SHAPE)
    keys = {1: "parotid_l", 2: "parotid_r", 3: "brainstem", 4: "lens_l"}
    volume = mrml.volume_from_node(ct)
    labels = LabelMap((volume.array // 100).astype(np.uint8), volume.geometry, keys)
    node = mrml.segmentations_from_labelmap(labels, ct).nodes["brainstem"]
    warp = vtk.vtkThinPlateSplineTransform()
    warp.SetBasisToR()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in [(x, y, z) for x in (-60, 60) for y in (-60, 60) for z in (-60, 60)] + [(-1, -12, 14)]:
        source.InsertNextPoint(point)
        target.InsertNextPoint(point if point != (-1, -12, 14) else (4, -7, 20))
    warp.SetSourceLandmarks(source)
    warp.SetTargetLandmarks(target)
    parent = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    parent.SetAndObserveTransformToParent(warp)
    node.SetAndObserveTransformNodeID(parent.GetID())
    back = masks.labels_from_segmentation(node)
    assert back.geometry.axis_codes == "LPS"
    moved = segment_points(node, "Brainstem")
    np.testing.assert_allclose(moved[np.linalg.norm(moved - (-4, 7, 20), axis=1).argmin()], (-4, 7, 20), atol=1.5)
    mask = back["Brainstem"].mask
    inside = mask[tuple(np.rint(back.geometry.world_to_index(moved)).astype(int).T)]
    assert inside.mean() > 0.97
    assert mask.sum() < 2 * len(moved)


def test_nothing_to_read_is_refused(scene):
    from FocusNetSegmentationLib import masks

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Empty")
    with pytest.raises(FocusNetError, match="E_EMPTY_SEGMENTATION"):
        masks.labels_from_segmentation(node)
