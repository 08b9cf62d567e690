import itertools

import numpy as np
import pytest
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, Volume

FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (9, 20, 16)


def grid_transform(scene, volume_node, displacement_of_slice):
    """Parent transform as Slicer's DICOM reader makes it: one displacement (RAS mm) per corner of each slice."""
    import slicer
    import vtk

    columns, rows, slices = volume_node.GetImageData().GetDimensions()
    spacing = volume_node.GetSpacing()
    grid = vtk.vtkImageData()
    grid.SetOrigin(volume_node.GetOrigin())
    grid.SetDimensions(2, 2, slices)
    grid.SetSpacing(spacing[0] * columns, spacing[1] * rows, spacing[2])
    grid.AllocateScalars(vtk.VTK_DOUBLE, 3)
    transform = slicer.vtkOrientedGridTransform()
    direction = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASDirectionMatrix(direction)
    transform.SetGridDirectionMatrix(direction)
    transform.SetDisplacementGridData(grid)
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode")
    node.SetAndObserveTransformToParent(transform)
    array = slicer.util.arrayFromGridTransform(node)
    for index in range(slices):
        array[index] = displacement_of_slice(index)
    slicer.util.arrayFromGridTransformModified(node)
    volume_node.SetAndObserveTransformNodeID(node.GetID())
    return node


def signed_permutations():
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(order), range(3)] = signs
            yield matrix


def test_all_48_axis_orders_keep_voxels_in_their_place(scene, ct_node, balls):
    from FocusNetSegmentationLib import mrml

    for direction in signed_permutations():
        matrix = np.eye(4)
        matrix[:3, :3] = direction * (2.0, 2.5, 3.0)
        matrix[:3, 3] = -matrix[:3, :3] @ (np.array([40, 36, 30]) - 1) / 2
        node = ct_node(matrix, (30, 36, 40))
        volume = mrml.volume_from_node(node)
        np.testing.assert_allclose(volume.geometry.affine, FLIP @ matrix, atol=1e-9)
        np.testing.assert_array_equal(volume.array, balls(volume.geometry).array * np.int16(100))
        scene.Clear(0)


def test_left_of_the_patient_is_positive_x(scene):
    import slicer
    from FocusNetSegmentationLib import mrml

    array = np.zeros(SHAPE, np.int16)
    array[0, 0, 15] = 7  # greatest RAS x: the patient's right
    node = slicer.util.addVolumeFromArray(array, np.diag([2.0, 2.0, 3.0, 1.0]), "CT")
    volume = mrml.volume_from_node(node)
    marked = volume.geometry.index_to_world(np.argwhere(volume.array == 7)[0])
    np.testing.assert_allclose(marked, [-30.0, 0.0, 0.0])
    assert volume.geometry.axis_codes == "RAS"


def test_volume_becomes_a_node_in_its_place(scene):
    import slicer
    import vtk
    from FocusNetSegmentationLib import mrml

    geometry = Geometry.from_parts(SHAPE, (1.0, 2.0, 3.0), (10.0, 20.0, 30.0), [[0, 1, 0], [1, 0, 0], [0, 0, -1]])
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    node = mrml.volume_to_node(Volume(array, geometry), "Kopf é")
    assert node.GetName() == "Kopf é"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), array)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    expected = [[0, -2, 0, -10], [-1, 0, 0, -20], [0, 0, -3, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix), expected, atol=1e-12)


def test_linear_transforms_go_into_the_geometry(scene, ct_node, transform_node):
    from FocusNetSegmentationLib import mrml

    shift = np.eye(4)
    shift[:3, 3] = (5, -7, 11)
    shear = np.eye(4)
    shear[1, 2] = 0.3
    shear[0, 0] = 1.5
    outer = transform_node(shift)
    inner = transform_node(shear, parent=outer)
    own = np.array([[0, -2.0, 0, 4], [1.5, 0, 0, -9], [0, 0, 3.0, 2], [0, 0, 0, 1]])
    node = ct_node(own, SHAPE, inner, shift @ shear)
    volume = mrml.volume_from_node(node)
    np.testing.assert_allclose(volume.geometry.affine, FLIP @ shift @ shear @ own, atol=1e-12)


def test_voxels_are_a_read_only_view(scene, ct_node):
    import slicer
    from FocusNetSegmentationLib import mrml

    node = ct_node(np.eye(4), SHAPE)
    volume = mrml.volume_from_node(node)
    with pytest.raises(ValueError, match="read-only"):
        volume.array[0, 0, 0] = 1
    slicer.util.arrayFromVolume(node)[0, 0, 0] = 42
    assert volume.array[0, 0, 0] == 42


def test_gantry_tilt_of_the_dicom_reader_needs_no_resampling(scene, ct_node):
    from FocusNetSegmentationLib import mrml

    node = ct_node(np.diag([-1.0, -1.0, 3.0, 1.0]), (20, 24, 28))
    step = np.array([0.0, np.tan(np.radians(15)) * 3, 0.0])
    grid_transform(scene, node, lambda index: index * step)
    volume = mrml.volume_from_node(node)
    import slicer

    assert np.shares_memory(volume.array, slicer.util.arrayFromVolume(node))
    for z, y, x in ((0, 0, 0), (19, 23, 27), (7, 3, 20)):
        ras = np.array([-x, -y, 3.0 * z]) + z * step
        np.testing.assert_allclose(volume.geometry.index_to_world((z, y, x)), FLIP[:3, :3] @ ras, atol=1e-3)


def test_tilted_stack_with_a_linear_parent_above_the_grid_transform(scene, ct_node, transform_node):
    from FocusNetSegmentationLib import mrml

    node = ct_node(np.diag([-1.0, -1.0, 3.0, 1.0]), (12, 14, 16))
    grid = grid_transform(scene, node, lambda index: (0.0, 0.5 * index, 0.0))
    shift = np.eye(4)
    shift[:3, 3] = (10, 20, 30)
    grid.SetAndObserveTransformNodeID(transform_node(shift).GetID())
    volume = mrml.volume_from_node(node)
    np.testing.assert_allclose(volume.geometry.index_to_world((4, 0, 0)), [-10, -22, 42], atol=1e-3)


def test_uneven_slices_are_resampled_where_the_transform_puts_them(scene):
    from FocusNetSegmentationLib import mrml

    # Slices 2 mm apart below, 4 mm above, stored as if 2 mm apart; the values are a plane in the world, which linear
    # interpolation keeps exactly.
    positions = np.r_[np.arange(-30.0, 0, 2), np.arange(0.0, 40, 4)]
    plane = np.array([3.0, -2.0, 5.0])
    z, y, x = np.meshgrid(positions, np.arange(24) - 12.0, np.arange(30) - 15.0, indexing="ij")
    array = (np.stack([x, y, z], axis=-1) @ plane).astype(np.float32)
    stored = Geometry.from_parts(array.shape, (1.0, 1.0, 2.0), (-15.0, -12.0, -30.0))
    node = mrml.volume_to_node(Volume(array, stored), "CT")
    grid_transform(scene, node, lambda index: (0, 0, positions[index] - (-30 + 2 * index)))
    volume = mrml.volume_from_node(node)
    assert volume.geometry.is_orthogonal
    assert volume.geometry.axis_codes == "LPS"
    low, high = (volume.geometry.index_to_world(i) for i in ((0, 0, 0), np.array(volume.array.shape) - 1))
    np.testing.assert_allclose(low, [-15, -12, -30], atol=1e-3)
    np.testing.assert_allclose(high[:2], [14, 11], atol=1e-3)
    assert 36 <= high[2] < 40
    world = volume.geometry.index_to_world(np.moveaxis(np.indices(volume.array.shape), 0, -1))
    inside = (world[..., 2] <= 36) & (volume.array > -1000)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(volume.array[inside], (world @ plane)[inside], atol=0.02)


def test_volume_without_voxels_or_with_colours_is_refused(scene):
    import vtk
    from FocusNetSegmentationLib import mrml

    with pytest.raises(FocusNetError, match="E_EMPTY_IMAGE"):
        mrml.volume_from_node(None)
    with pytest.raises(FocusNetError, match="E_EMPTY_IMAGE"):
        mrml.volume_from_node(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"))
    colour = scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    colour.SetAndObserveImageData(image)
    with pytest.raises(FocusNetError, match="E_NOT_3D"):
        mrml.volume_from_node(colour)
