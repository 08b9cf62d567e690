"""What the models see of a CT under a transform: a patient who lies as in the scanner, and left stays left."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

LPS_GRID = np.array([[-2.0, 0, 0, 39], [0, -2.2, 0, 38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
SHAPE = (30, 36, 40)


def rigid(angles_deg, offset=(30.0, -20.0, 5.0)):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    matrix[:3, 3] = offset
    return matrix


def tilt(factor):
    matrix = np.eye(4)
    matrix[1, 2] = factor
    return matrix


MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


@pytest.mark.parametrize(
    "matrix",
    [rigid((4, 3, -5)), rigid((10, -20, 40)), rigid((0, 0, 180)), rigid((0, 90, 0)), MIRROR, MIRROR @ rigid((5, 0, 9))],
)
def test_a_turn_or_a_mirror_image_does_not_turn_the_patient(ct_node, transform_node, matrix):
    from FocusNetSegmentationLib import mrml

    ct = ct_node(LPS_GRID, SHAPE, transform_node(matrix), matrix)
    seen = mrml.patient_from_node(ct)
    expected = mrml.volume_from_node(ct_node(LPS_GRID, SHAPE)).geometry
    np.testing.assert_allclose(seen.geometry.affine[:3, :3], expected.affine[:3, :3], atol=1e-9)
    np.testing.assert_array_equal(seen.array, mrml.volume_from_node(ct).array)


@pytest.mark.parametrize("factor", [0.1, -0.25, 0.45])
def test_a_corrected_gantry_tilt_is_kept(ct_node, transform_node, factor):
    from FocusNetSegmentationLib import mrml

    ct = ct_node(LPS_GRID, SHAPE, transform_node(tilt(factor)), tilt(factor))
    seen = mrml.patient_from_node(ct).geometry
    np.testing.assert_array_equal(seen.affine, mrml.volume_from_node(ct).geometry.affine)


def test_a_stretched_and_turned_ct_keeps_its_stretch_alone(ct_node, transform_node):
    from FocusNetSegmentationLib import mrml

    stretch = np.diag([1.1, 0.9, 1.05, 1.0])
    matrix = rigid((0, 0, 180)) @ stretch
    seen = mrml.patient_from_node(ct_node(LPS_GRID, SHAPE, transform_node(matrix), matrix)).geometry
    np.testing.assert_allclose(seen.spacing_xyz, (2.2, 1.98, 2.52), atol=1e-9)
    expected = mrml.volume_from_node(ct_node(LPS_GRID, SHAPE)).geometry.affine[:3, :3]
    np.testing.assert_array_equal(np.sign(seen.affine[:3, :3].round(9)), np.sign(expected))


def test_a_transform_that_brings_an_oblique_grid_straight_is_believed(ct_node, transform_node):
    from FocusNetSegmentationLib import mrml

    matrix = rigid((25, -10, 40))
    seen = mrml.patient_from_node(ct_node(np.linalg.inv(matrix) @ LPS_GRID, SHAPE, transform_node(matrix), matrix))
    expected = mrml.volume_from_node(ct_node(LPS_GRID, SHAPE)).geometry
    np.testing.assert_allclose(seen.geometry.affine, expected.affine, atol=1e-9)


def test_without_a_transform_nothing_is_turned(ct_node):
    from FocusNetSegmentationLib import mrml

    ct = ct_node(rigid((15, 8, -20)) @ LPS_GRID, SHAPE)
    np.testing.assert_array_equal(mrml.patient_from_node(ct).geometry.affine, mrml.volume_from_node(ct).geometry.affine)
