import numpy as np
import pytest
from focusnet.geometry import Geometry, LabelMap, Volume

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (30, 36, 40)
CENTRES = {10: (28, -6, 4), 20: (-28, -6, 4), 30: (1, 12, 14)}
LPS = np.array([[-2.0, 0, 0, 39], [0, -2.2, 0, 38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
RAS = np.array([[2.0, 0, 0, -39], [0, 2.2, 0, -38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
SAGITTAL = np.array([[0, 0, -2.4, 34], [2.0, 0, 0, -39], [0, 2.2, 0, -38], [0, 0, 0, 1.0]])
SHEAR = np.array([[1, 0.1, 0, 3], [0, 1, 0.25, -4], [0, 0, 1.1, 5], [0, 0, 0, 1.0]])
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


def bring_back(ct, per_organ=True, existing="keep"):
    """Put labels and percents that follow the voxels of the CT into the scene."""
    from FocusNetSegmentationLib import mrml

    volume = mrml.volume_from_node(ct)
    keys = dict(enumerate(("parotid_l", "parotid_r", "brainstem", "lens_l"), start=1))
    labels = LabelMap((volume.array // 100).astype(np.uint8), volume.geometry, keys)
    percent = Volume((volume.array // 10).astype(np.uint8), volume.geometry)
    options = mrml.ResultOptions(per_organ, existing, {"model": "m"})
    return mrml.segmentations_from_labelmap(labels, ct, options, percent)


def centre_of(node, value):
    """World LPS centre of the voxels of a value, by MRML's own matrices and transforms."""
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    index = np.argwhere(slicer.util.arrayFromVolume(node) == value)[:, ::-1]
    points, world = (np.c_[index, np.ones(len(index))] @ slicer.util.arrayFromVTKMatrix(matrix).T)[:, :3], [0.0] * 3
    moved = []
    for point in points:
        node.TransformPointToWorld(point, world)
        moved.append((-world[0], -world[1], world[2]))
    return np.mean(moved, axis=0)


def all_of(scene):
    from FocusNetSegmentationLib import mrml

    hierarchy = mrml._hierarchy()
    return {scene.GetNthNode(i).GetID() for i in range(scene.GetNumberOfNodes())}, hierarchy.GetNumberOfItems()


def maps(scene):
    return [node for node in scene.GetNodesByClass("vtkMRMLScalarVolumeNode") if "uncertainty" in node.GetName()]


@pytest.mark.parametrize("matrix", [None, SHEAR, MIRROR], ids=["none", "shear", "mirror"])
@pytest.mark.parametrize("grid", [LPS, RAS, SAGITTAL], ids=["lps", "ras", "sagittal"])
def test_map_lies_voxel_by_voxel_on_its_ct(scene, ct_node, transform_node, grid, matrix):
    import slicer

    parent = None if matrix is None else transform_node(matrix)
    ct = ct_node(grid, SHAPE, parent, matrix)
    node = bring_back(ct).uncertainty
    assert node.GetName() == "CT uncertainty (%)"
    assert node.GetParentTransformNode() is parent
    array = slicer.util.arrayFromVolume(node)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, slicer.util.arrayFromVolume(ct) // 10)
    for value, centre in CENTRES.items():
        np.testing.assert_allclose(centre_of(node, value), centre, atol=1.5)  # the grid's edge may cut a ball
    if parent is not None:
        parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.eye(4)))
        np.testing.assert_allclose(centre_of(node, 10), centre_of(ct, 100), atol=1e-6)


def test_map_under_a_curved_transform_takes_the_cts_grid(scene, ct_node, balls):
    import vtk
    from FocusNetSegmentationLib import mrml
    from FocusNetSegmentationLib.uncertainty_node import add_uncertainty

    ct = ct_node(RAS, SHAPE)
    warp = vtk.vtkThinPlateSplineTransform()
    warp.SetBasisToR()
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for corner in np.ndindex(2, 2, 2):
        point = 120.0 * np.array(corner) - 60
        source.InsertNextPoint(point)
        target.InsertNextPoint(point)
    source.InsertNextPoint(0, 0, 0)
    target.InsertNextPoint(4, 3, 5)
    warp.SetSourceLandmarks(source)
    warp.SetTargetLandmarks(target)
    parent = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    parent.SetAndObserveTransformToParent(warp)
    ct.SetAndObserveTransformNodeID(parent.GetID())
    world = mrml.volume_from_node(ct).geometry
    node = add_uncertainty(Volume(balls(world).array * np.uint8(10), world), ct)
    assert node.GetParentTransformNode() is parent
    assert node.GetImageData().GetDimensions() == SHAPE[::-1]
    for value, centre in CENTRES.items():
        np.testing.assert_allclose(centre_of(node, value), centre, atol=1.0)


def test_map_on_another_grid_is_brought_to_the_ct(ct_node, transform_node, balls):
    from FocusNetSegmentationLib.uncertainty_node import add_uncertainty

    finer = Geometry.from_parts((60, 70, 76), (1.1, 1.0, 1.3), (-42.0, -36.0, -38.0))
    percent = Volume(balls(finer).array * np.uint8(10), finer)
    node = add_uncertainty(percent, ct_node(LPS, SHAPE, transform_node(SHEAR), SHEAR))
    assert node.GetImageData().GetDimensions() == SHAPE[::-1]
    for value, centre in CENTRES.items():
        np.testing.assert_allclose(centre_of(node, value), centre, atol=0.5)


def test_colours_come_back_to_a_scene_that_lost_them_and_only_once(scene, ct_node):
    for table in list(scene.GetNodesByClass("vtkMRMLColorNode")):
        scene.RemoveNode(table)
    node = bring_back(ct_node(LPS, SHAPE)).uncertainty
    assert node.GetDisplayNode().GetColorNode().GetName() == "Iron"
    tables = scene.GetNumberOfNodesByClass("vtkMRMLColorNode")
    assert bring_back(ct_node(LPS, SHAPE)).uncertainty.GetDisplayNode().GetColorNode().GetName() == "Iron"
    assert scene.GetNumberOfNodesByClass("vtkMRMLColorNode") == tables


def test_certain_voxels_are_transparent_and_the_window_is_all_percents(scene, ct_node):
    node = bring_back(ct_node(LPS, SHAPE)).uncertainty
    display = node.GetDisplayNode()
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 100)
    assert not display.GetAutoWindowLevel()
    assert display.GetColorNode().GetName() == "Iron"
    import slicer
    from vtk.util.numpy_support import vtk_to_numpy

    percent = slicer.util.arrayFromVolume(node)
    display.GetImageDataConnection().GetProducer().Update()
    colours = display.GetImageDataConnection().GetProducer().GetOutputDataObject(0).GetPointData().GetScalars()
    opacity = vtk_to_numpy(colours).reshape(*SHAPE, -1)[..., -1]
    np.testing.assert_array_equal(opacity > 0, percent > 0)


@pytest.mark.parametrize("per_organ", [True, False])
def test_map_lies_beside_the_segmentations(scene, ct_node, per_organ):
    from FocusNetSegmentationLib import mrml

    hierarchy = mrml._hierarchy()
    ct = ct_node(LPS, SHAPE)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "someone")
    hierarchy.CreateItem(patient, ct)
    result = bring_back(ct, per_organ)
    places = {
        hierarchy.GetItemParent(hierarchy.GetItemByDataNode(n)) for n in [*result.unique_nodes, result.uncertainty]
    }
    assert places == {result.folder if per_organ else patient}
    assert result.uncertainty.GetAttribute("FocusNet.model") == "m"


def test_new_result_replaces_the_map_with_its_segmentations(scene, ct_node):
    first, second = ct_node(LPS, SHAPE), ct_node(LPS, SHAPE)
    old, other = bring_back(first), bring_back(second)
    before, items = all_of(scene)
    new = bring_back(first, existing="replace")
    assert old.uncertainty.GetScene() is None
    assert set(maps(scene)) == {new.uncertainty, other.uncertainty}
    after, new_items = all_of(scene)
    assert (len(after), new_items) == (len(before), items)
    bring_back(first)
    assert len(maps(scene)) == 3


@pytest.mark.parametrize("per_organ", [True, False])
def test_nothing_stays_behind_when_the_map_fails(scene, ct_node, monkeypatch, per_organ):
    from FocusNetSegmentationLib import mrml

    ct = ct_node(LPS, SHAPE)
    kept = bring_back(ct)
    before = all_of(scene)
    real = mrml.add_uncertainty

    def fail(*arguments):
        real(*arguments)
        raise MemoryError

    monkeypatch.setattr(mrml, "add_uncertainty", fail)
    with pytest.raises(MemoryError):
        bring_back(ct, per_organ, "replace")
    assert all_of(scene) == before
    assert kept.uncertainty.GetScene() is scene


def test_map_is_saved_with_the_scene_and_still_belongs_to_its_ct(scene, ct_node, tmp_path):
    import slicer
    from FocusNetSegmentationLib import mrml
    from FocusNetSegmentationLib.storage import save_scene

    expected = slicer.util.arrayFromVolume(bring_back(ct_node(LPS, SHAPE)).uncertainty).copy()
    save_scene(tmp_path / "s.mrb")
    scene.Clear(0)
    assert scene.ReadFromMRB(str(tmp_path / "s.mrb"))
    (node,) = maps(scene)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), expected)
    assert node.GetDisplayNode().GetColorNode().GetName() == "Iron"
    assert node.GetDisplayNode().GetApplyThreshold()
    ct = slicer.util.getNode("CT")
    assert node in mrml.results_on(ct)
    bring_back(ct, existing="replace")
    assert node.GetScene() is None
