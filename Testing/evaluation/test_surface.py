"""Surface elements and distances: closed forms, invariances and a search over all pairs as oracle."""

from itertools import permutations, product

import numpy as np
import pytest
from focusnet.evaluation import surface
from focusnet.evaluation.surface import (
    SurfaceDistances,
    border_distances,
    hausdorff_mm,
    hausdorff_percentile_mm,
    mean_surface_distance_mm,
    surface_dice,
    surface_distances,
    surface_element_areas,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.spatial.distance import cdist

AXIS_PERMUTATIONS = list(product(permutations(range(3)), product((False, True), repeat=3)))


def permuted(mask, axes, flips):
    return np.flip(mask.transpose(axes), [axis for axis, flip in enumerate(flips) if flip])


def ball(radius, shape=(41, 41, 41), centre=(20, 20, 20), spacing=(1.0, 1.0, 1.0)):
    grid = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return ((grid * np.reshape(spacing, (3, 1, 1, 1))) ** 2).sum(axis=0) <= radius**2


def voxel(*places, shape=(3, 3, 8)):
    mask = np.zeros(shape, dtype=bool)
    for place in places:
        mask[place] = True
    return mask


def measures(a, b, spacing):
    elements, border = surface_distances(a, b, spacing), border_distances(a, b, spacing)
    return np.array(
        [hausdorff_percentile_mm(d, c) for d in (elements, border) for c in ("max", "mean", "pooled")]
        + [hausdorff_mm(elements), hausdorff_mm(border), surface_dice(elements, 1.0)]
        + [mean_surface_distance_mm(elements), mean_surface_distance_mm(border)]
    )


def test_areas_of_simple_configurations():
    areas = surface_element_areas((2.0, 3.0, 5.0))
    assert areas[0] == areas[255] == 0
    assert areas[0b00001111] == pytest.approx(3 * 5)  # the lower two slices apart: one voxel face across z
    assert areas[0b00110011] == pytest.approx(2 * 5)  # across y
    assert areas[0b01010101] == pytest.approx(2 * 3)  # across x
    # One corner: the triangle through three edge middles, half the length of the cross product of its sides.
    assert areas[0b00000001] == pytest.approx(np.linalg.norm(np.cross([-1.0, 1.5, 0.0], [-1.0, 0.0, 2.5])) / 2)
    # An edge along x: a rectangle as long as a voxel and as wide as half the diagonal of its y-z face.
    assert areas[0b00000011] == pytest.approx(5 * np.hypot(2, 3) / 2)


def test_areas_are_symmetric_under_permutation_and_exchange_of_inside_and_outside():
    spacing = np.array([2.5, 1.0, 1.3])
    areas = surface_element_areas(tuple(spacing))
    weights = 1 << np.arange(8).reshape(2, 2, 2)
    for code in range(256):
        inside = (code & weights) > 0
        assert areas[code] == pytest.approx(areas[255 - code])
        for axes, flips in AXIS_PERMUTATIONS:
            turned = int(weights[permuted(inside, axes, flips)].sum())
            assert surface_element_areas(tuple(spacing[list(axes)]))[turned] == pytest.approx(areas[code])


def test_two_voxels_side_by_side():
    # Corner points of the first voxel lie at x = 0 and 1, of the second at x = 1 and 2, all of equal area.
    d = surface_distances(voxel((1, 1, 1)), voxel((1, 1, 2)), (1.0, 1.0, 1.0))
    np.testing.assert_allclose(np.sort(d.reference_mm), [0, 0, 0, 0, 1, 1, 1, 1])
    assert mean_surface_distance_mm(d) == pytest.approx(0.5)
    assert hausdorff_percentile_mm(d, "max") == hausdorff_percentile_mm(d, "pooled") == hausdorff_mm(d) == 1.0
    assert hausdorff_percentile_mm(d, "max", percent=50.0) == 0.0
    assert surface_dice(d, 0.0) == pytest.approx(0.5)
    assert surface_dice(d, 1.0) == 1.0


def test_two_voxels_apart_on_an_anisotropic_grid():
    # Spacing 3 mm along x: points at 0 and 3 against 9 and 12.
    d = surface_distances(voxel((1, 1, 1)), voxel((1, 1, 4)), (1.0, 1.0, 3.0))
    np.testing.assert_allclose(np.sort(d.reference_mm), [6] * 4 + [9] * 4)
    assert mean_surface_distance_mm(d) == pytest.approx(7.5)
    border = border_distances(voxel((1, 1, 1)), voxel((1, 1, 4)), (1.0, 1.0, 3.0))
    assert hausdorff_mm(border) == mean_surface_distance_mm(border) == 9.0


def test_conventions_differ_when_the_directions_differ():
    distances = SurfaceDistances(np.zeros(30), np.array([4.0] * 10), np.ones(30), np.ones(10))
    assert hausdorff_percentile_mm(distances, "max") == 4.0
    assert hausdorff_percentile_mm(distances, "mean") == 2.0
    assert hausdorff_percentile_mm(distances, "pooled") == 4.0
    assert hausdorff_percentile_mm(distances, "pooled", percent=75.0) == 0.0  # 30 of 40 are zero: reached exactly
    assert mean_surface_distance_mm(distances) == 1.0


def test_shifted_cube():
    cube = np.zeros((20, 20, 30), dtype=bool)
    cube[4:16, 4:16, 4:16] = True
    for shift in (1, 3, 5):
        moved = np.roll(cube, shift, axis=2)
        for distances in (surface_distances, border_distances):
            d = distances(cube, moved, (2.0, 1.0, 0.5))
            assert hausdorff_mm(d) == pytest.approx(0.5 * shift)
            assert hausdorff_percentile_mm(d, "max") == hausdorff_percentile_mm(d, "mean") == 0.5 * shift
            assert hausdorff_percentile_mm(d, "pooled") == 0.5 * shift


def test_concentric_spheres_are_their_difference_in_radius_apart():
    inner, outer = ball(10.0), ball(15.0)
    d = surface_distances(inner, outer, (1.0, 1.0, 1.0))
    assert hausdorff_mm(d) == pytest.approx(5.0, abs=1.0)
    assert hausdorff_percentile_mm(d, "max") == pytest.approx(5.0, abs=0.7)
    assert mean_surface_distance_mm(border_distances(inner, outer, (1.0, 1.0, 1.0))) == pytest.approx(5.0, abs=0.25)
    # Corner points lie on both sides of the true surface and the nearest is taken: half a voxel too low.
    assert mean_surface_distance_mm(d) == pytest.approx(4.5, abs=0.1)
    assert surface_dice(d, 3.0) == 0.0
    assert surface_dice(d, 6.5) == 1.0


def test_area_of_a_sphere_on_an_anisotropic_grid():
    sphere = ball(16.0, shape=(25, 41, 41), centre=(12, 20, 20), spacing=(2.0, 1.0, 1.0))
    d = surface_distances(sphere, sphere, (2.0, 1.0, 1.0))
    # Steps of whole voxels make the surface of marching cubes some ten per cent larger than the true one.
    assert d.reference_mm2.sum() == pytest.approx(4 * np.pi * 16**2, rel=0.12)
    assert hausdorff_mm(d) == 0.0
    assert surface_dice(d, 0.0) == 1.0


def test_all_48_axis_permutations_give_the_same_numbers():
    rng = np.random.default_rng(7)
    field = ndimage.gaussian_filter(rng.normal(size=(2, 14, 18, 22)), (0, 2, 2, 2))
    a, b = field[0] > 0.02, field[1] > 0.02
    spacing = (3.0, 0.9, 1.1)
    expected = measures(a, b, spacing)
    for axes, flips in AXIS_PERMUTATIONS:
        turned = measures(permuted(a, axes, flips), permuted(b, axes, flips), tuple(np.array(spacing)[list(axes)]))
        np.testing.assert_allclose(turned, expected, rtol=1e-12, err_msg=f"{axes} {flips}")


def test_touching_the_edge_of_the_image_changes_nothing():
    a = np.zeros((6, 7, 8), dtype=bool)
    a[:4, :5, 2:] = True
    b = np.zeros_like(a)
    b[1:, 1:6, :5] = True
    spacing = (2.0, 1.0, 1.5)
    np.testing.assert_allclose(measures(np.pad(a, 3), np.pad(b, 3), spacing), measures(a, b, spacing))


def test_a_distance_equal_to_the_tolerance_is_within_it():
    # 0.98 mm pixels and the published tolerance of the lens, 0.98 mm; three pixels sum up to rounding noise.
    d = surface_distances(voxel((1, 1, 1)), voxel((1, 1, 2)), (2.5, 0.98, 0.98))
    assert surface_dice(d, 0.98) == 1.0
    d = surface_distances(voxel((1, 1, 1)), voxel((1, 1, 4)), (2.5, 0.1, 0.1))
    assert surface_dice(d, 0.3) == 1.0


def test_empty_masks_are_refused():
    mask = voxel((1, 1, 1))
    for distances in (surface_distances, border_distances):
        with pytest.raises(ValueError, match="empty"):
            distances(mask, np.zeros_like(mask), (1.0, 1.0, 1.0))
        with pytest.raises(ValueError, match="empty"):
            distances(np.zeros_like(mask), mask, (1.0, 1.0, 1.0))


def test_surface_dice_needs_areas():
    mask = voxel((1, 1, 1))
    with pytest.raises(ValueError, match="areas"):
        surface_dice(border_distances(mask, mask, (1.0, 1.0, 1.0)), 1.0)


def all_pairs(a, b, spacing):
    """Distances and areas by going through every corner of the grid and every pair of points."""
    areas = surface_element_areas(spacing)

    def points(mask):
        padded, found, sizes = np.pad(mask, 1), [], []
        for corner in np.ndindex(*(n + 1 for n in mask.shape)):
            z, y, x = corner
            code = sum(int(v) << i for i, v in enumerate(padded[z : z + 2, y : y + 2, x : x + 2].ravel()))
            if 0 < code < 255:
                found.append(np.multiply(corner, spacing))
                sizes.append(areas[code])
        return np.array(found), np.array(sizes)

    (one, one_areas), (two, two_areas) = points(a), points(b)
    apart = cdist(one, two)
    return apart.min(axis=1), one_areas, apart.min(axis=0), two_areas


masks = arrays(bool, (3, 4, 4), elements=st.booleans())
spacings = st.tuples(*[st.sampled_from([0.5, 1.0, 2.5])] * 3)


@given(masks, masks, spacings)
def test_distances_agree_with_a_search_over_all_pairs(a, b, spacing):
    assume(a.any() and b.any())
    d = surface_distances(a, b, spacing)
    there, there_areas, back, back_areas = all_pairs(a, b, spacing)
    np.testing.assert_allclose(d.reference_mm, there)
    np.testing.assert_allclose(d.prediction_mm, back)
    np.testing.assert_allclose(d.reference_mm2, there_areas)
    np.testing.assert_allclose(d.prediction_mm2, back_areas)


@given(masks, masks, spacings)
def test_border_distances_agree_with_erosion_and_a_search_over_all_pairs(a, b, spacing):
    assume(a.any() and b.any())
    one, two = (np.argwhere(m & ~ndimage.binary_erosion(m)) * np.asarray(spacing) for m in (a, b))
    d = border_distances(a, b, spacing)
    np.testing.assert_allclose(d.reference_mm, cdist(one, two).min(axis=1))
    np.testing.assert_allclose(d.prediction_mm, cdist(one, two).min(axis=0))


@given(masks, masks, spacings)
def test_measures_are_symmetric_and_bounded(a, b, spacing):
    assume(a.any() and b.any())
    np.testing.assert_allclose(measures(a, b, spacing), measures(b, a, spacing), rtol=1e-12)
    d = surface_distances(a, b, spacing)
    pooled, highest = hausdorff_percentile_mm(d, "pooled"), hausdorff_percentile_mm(d, "max")
    assert hausdorff_percentile_mm(d, "mean") <= highest <= hausdorff_mm(d)
    assert pooled <= highest
    assert 0.0 <= surface_dice(d, 0.5) <= surface_dice(d, 1.5) <= surface_dice(d, 100.0) == pytest.approx(1.0)


def test_the_table_of_areas_is_computed_once():
    assert surface._element_vectors() is surface._element_vectors()
