"""Contours in the plane and in stacks: closed forms, round trips, every orientation, gaps."""

import itertools

import numpy as np
import pytest
from focusnet.geometry import Geometry
from focusnet.io.contour_stack import Filled, Spacing, common_gap_mm, fill_contours, slice_contours
from focusnet.io.contours import area_coverage, centres_inside, even_odd_area, nesting_depths, rasterise, signed_area
from focusnet.io.tracing import simplify, trace, with_keyholes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

TURN = np.linspace(0, 2 * np.pi, 120, endpoint=False)
masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


def rectangle(y0, x0, y1, x1):
    return np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]], dtype=float)


def circle(y, x, radius, count=240):
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([y + radius * np.sin(turn), x + radius * np.cos(turn)], axis=1)


def rotation(axis, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    matrix[[first, first, second, second], [first, second, first, second]] = c, -s, s, c
    return matrix


# --- polygons to pixels -----------------------------------------------------------------------------------------------


def test_coverage_of_a_rectangle_is_the_product_of_its_overlaps():
    covered = area_coverage([rectangle(0.5, 0.75, 2.5, 2.25)], (4, 4))
    rows, columns = [0, 1, 1, 0], [0, 0.75, 0.75, 0]
    np.testing.assert_allclose(covered, np.outer(rows, columns), atol=1e-12)


def test_coverage_in_y_is_exact_to_the_scan_lines():
    covered = area_coverage([rectangle(-0.25, -0.5, 0.125, 0.5)], (2, 1))
    np.testing.assert_allclose(covered, [[0.375], [0.0]], atol=1e-12)


@pytest.mark.parametrize("radius", [0.8, 3.0, 11.3])
def test_coverage_sums_to_the_area_of_a_circle(radius):
    covered = area_coverage([circle(14.2, 13.7, radius)], (30, 30))
    assert covered.sum() == pytest.approx(np.pi * radius**2, rel=0.01)
    assert covered.min() >= -1e-9
    assert covered.max() <= 1 + 1e-9


def test_holes_and_islands_follow_the_even_odd_rule():
    nested = [rectangle(0.5, 0.5, 8.5, 8.5), rectangle(2.5, 2.5, 6.5, 6.5), rectangle(3.5, 3.5, 5.5, 5.5)]
    mask = rasterise(nested, (10, 10))
    assert mask.sum() == 64 - 16 + 4
    assert mask[4, 4]
    assert not mask[3, 3]
    assert nesting_depths(nested) == [0, 1, 2]
    assert even_odd_area(nested) == pytest.approx(64 - 16 + 4)


def test_figure_of_eight_keeps_both_lobes():
    eight = np.array([[0.5, 0.5], [8.5, 8.5], [8.5, 0.5], [0.5, 8.5]])
    assert signed_area(eight) == pytest.approx(0)
    assert area_coverage([eight], (10, 10)).sum() == pytest.approx(32, rel=0.01)


def test_polygons_are_cut_at_the_image_and_far_vertices_do_no_harm():
    assert rasterise([rectangle(-50, -50, 1.5, 1.5)], (4, 4)).sum() == 4
    assert rasterise([rectangle(-1e9, -1e9, 1e9, 1e9)], (4, 4)).all()
    assert not rasterise([rectangle(20, 20, 30, 30)], (4, 4)).any()
    assert not rasterise([], (4, 4)).any()


def test_a_tie_goes_by_the_centre():
    diamond = np.array([[2, 1.5], [1.5, 2], [2, 2.5], [2.5, 2]])
    around = rectangle(0.5, 0.5, 3.5, 3.5)
    assert rasterise([diamond], (5, 5)).sum() == 1
    assert rasterise([around, diamond], (5, 5)).sum() == 8


def test_coverage_and_centres_agree_with_a_brute_force_count():
    polygon = np.array([[0.3, 1.2], [2.1, 7.7], [7.6, 5.1], [5.2, 3.9], [8.4, 0.6]])
    steps = (np.arange(32) + 0.5) / 32 - 0.5
    fine = np.stack(np.meshgrid(*[np.add.outer(np.arange(10), steps).ravel()] * 2, indexing="ij"), axis=-1)
    inside = winding_parity(polygon, fine)
    expected = inside.reshape(10, 32, 10, 32).mean(axis=(1, 3))
    np.testing.assert_allclose(area_coverage([polygon], (10, 10)), expected, atol=0.03)
    centres = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0), indexing="ij"), axis=-1)
    np.testing.assert_array_equal(centres_inside([polygon], (10, 10)), winding_parity(polygon, centres))


def winding_parity(polygon, points):
    """Parity of the turns of the polygon round each point, from the angles its edges subtend."""
    start = polygon - points[..., None, :]
    stop = np.roll(polygon, -1, axis=0) - points[..., None, :]
    cross = start[..., 0] * stop[..., 1] - start[..., 1] * stop[..., 0]
    turns = np.arctan2(cross, (start * stop).sum(axis=-1)).sum(axis=-1) / (2 * np.pi)
    return np.rint(turns).astype(int) % 2 == 1


# --- pixels to polygons -----------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(mask=masks, tolerance=st.sampled_from([0.0, 0.1, 0.25]))
def test_traced_contours_give_the_mask_again(mask, tolerance):
    contours = trace(mask)
    for polygons in (contours, simplify(contours, tolerance), with_keyholes(simplify(contours, tolerance))):
        np.testing.assert_array_equal(rasterise(polygons, mask.shape), mask)


@settings(max_examples=50, deadline=None)
@given(mask=masks)
def test_outlines_are_positive_holes_negative_and_keyholes_keep_the_area(mask):
    contours = trace(mask)
    depths = nesting_depths(contours)
    assert all((signed_area(c) > 0) == (depth % 2 == 0) for c, depth in zip(contours, depths, strict=True))
    joined = with_keyholes(contours)
    assert len(joined) == sum(depth % 2 == 0 for depth in depths)
    assert sum(map(signed_area, joined)) == pytest.approx(sum(map(signed_area, contours)))


def test_contour_runs_half_way_between_centres_and_cuts_corners():
    (contour,) = trace(np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=bool))
    assert sorted(map(tuple, contour.tolist())) == [(0.5, 1.0), (1.0, 0.5), (1.0, 1.5), (1.5, 1.0)]


def test_pixels_that_touch_at_a_corner_are_kept_apart():
    assert len(trace(np.eye(4, dtype=bool))) == 4


def test_soft_membership_gives_the_contour_between_pixels():
    y, x = np.indices((40, 40))
    membership = np.clip(0.5 + (11.37 - np.hypot(y - 19.3, x - 20.6)) / 4, 0, 1)
    (contour,) = trace(membership)
    radius = np.hypot(contour[:, 0] - 19.3, contour[:, 1] - 20.6)
    np.testing.assert_allclose(radius, 11.37, atol=0.02)


def test_contours_close_at_the_image_edge():
    (contour,) = trace(np.ones((3, 4), dtype=bool))
    assert contour.min(axis=0).tolist() == [-0.5, -0.5]
    assert contour.max(axis=0).tolist() == [2.5, 3.5]


@pytest.mark.parametrize("tolerance", [0.02, 0.2, 1.0])
def test_simplified_contours_stay_within_the_tolerance(tolerance):
    y, x = np.indices((60, 60))
    original = trace((np.hypot(y - 30, (x - 28) / 1.3) < 20) & (np.hypot(y - 35, x - 20) > 6))
    shorter = simplify(original, tolerance)
    for before, after in zip(original, shorter, strict=True):
        assert len(after) < len(before)
        assert farthest(before, after) <= tolerance + 1e-6
        assert farthest(after, before) <= tolerance + 1e-6


def farthest(polygon, other):
    """Greatest distance of a densely sampled polygon from another one."""
    stop = np.roll(polygon, -1, axis=0)
    points = np.concatenate([polygon + s * (stop - polygon) for s in np.linspace(0, 1, 9)])
    start, along = other, np.roll(other, -1, axis=0) - other
    relative = points[:, None] - start
    share = np.clip((relative * along).sum(axis=-1) / (along**2).sum(axis=-1), 0, 1)
    return np.linalg.norm(relative - share[..., None] * along, axis=-1).min(axis=1).max()


def test_straight_edges_keep_their_corners_only():
    (contour,) = simplify(trace(np.ones((5, 7), dtype=bool)), 0.0)
    assert len(contour) == 8


def test_keyholes_join_several_holes_to_one_outline_without_touching_another():
    mask = np.zeros((9, 20), dtype=bool)
    mask[1:8, 1:12] = True
    mask[3:6, 3] = mask[3:6, 5] = mask[4, 8] = False
    mask[2:7, 14:19] = True
    mask[4, 16] = False
    joined = with_keyholes(trace(mask))
    assert len(joined) == 2
    np.testing.assert_array_equal(rasterise(joined, mask.shape), mask)


# --- stacks -----------------------------------------------------------------------------------------------------------


def rings(radius_at, heights, centre=(0.0, 0.0, 0.0), turn=None):
    """Circles in planes along z, turned about their centre, as world points.

    Radii or centres in whole pixels would make many voxels flip together; the tests avoid them.
    """
    points = [
        np.stack([radius_at(z) * np.cos(TURN), radius_at(z) * np.sin(TURN), np.full(TURN.shape, z)], axis=1)
        for z in heights
        if radius_at(z) > 0
    ]
    turn = np.eye(3) if turn is None else turn
    return [p @ turn.T + np.asarray(centre) for p in points]


def sphere_radius(radius):
    return lambda z: np.sqrt(max(radius**2 - z**2, 0.0))


def volume_ml(filled: Filled, geometry: Geometry) -> float:
    return filled.mask.sum() * geometry.voxel_volume_ml


def centroid(filled: Filled, geometry: Geometry) -> np.ndarray:
    return geometry.index_to_world(np.argwhere(filled.mask) + filled.box.start_zyx).mean(axis=0)


@pytest.mark.parametrize(
    ("spacing", "radius"), [((1, 1, 1), 6.21), ((0.98, 0.98, 2.5), 10.61), ((1, 1, 3), 19.3), ((0.5, 0.7, 1.5), 8.0)]
)
@pytest.mark.parametrize("shift", [0.0, 0.31, 0.5])
def test_spheres_have_their_volume(spacing, radius, shift):
    geometry = Geometry.from_parts((40, 90, 90), spacing, np.multiply(spacing, (-45, -45, -20)))
    heights = (np.arange(-20, 20) - shift) * spacing[2]
    filled = fill_contours(rings(sphere_radius(radius), heights, (0.3, -0.2, shift * spacing[2])), geometry)
    assert volume_ml(filled, geometry) == pytest.approx(4e-3 / 3 * np.pi * radius**3, rel=0.02)
    assert filled.notes == ()


@pytest.mark.parametrize(("volume", "step_mm"), [(1.0, 2.5), (1.0, 3.0), (5.0, 3.0)])
def test_what_small_structures_lose_is_in_their_contours_not_in_the_filling(volume, step_mm):
    """Circles of the exact sphere, each as thick as a slice, hold up to 4 % more or less than the sphere; the mask
    holds what the circles hold, and no offset is left over all places of the sphere between the slices."""
    radius = (volume * 3e3 / 4 / np.pi) ** (1 / 3)
    geometry = Geometry.from_parts((15, 40, 40), (1, 1, step_mm), (-19.3, -20.4, -7 * step_mm))
    errors = []
    for shift in np.linspace(0, 1, 20, endpoint=False):
        heights = (np.arange(-7, 8) - shift) * step_mm
        filled = fill_contours(rings(sphere_radius(radius), heights, (0, 0, shift * step_mm)), geometry)
        slabs = sum(np.pi * sphere_radius(radius)(z) ** 2 for z in heights) * step_mm / 1000
        assert filled.contour_volume_ml == pytest.approx(slabs, rel=0.005)
        assert volume_ml(filled, geometry) == pytest.approx(slabs, rel=0.02)
        errors.append(volume_ml(filled, geometry) / volume - 1)
    assert abs(np.mean(errors)) < 0.005
    assert np.abs(errors).max() < (0.06 if volume < 2 else 0.03)


def test_cylinder_tube_and_cone_have_their_volumes():
    geometry = Geometry.from_parts((40, 60, 60), (0.9, 0.9, 2.0), (-27, -27, -40))
    planes = np.arange(-10, 10) * 2.0
    outer, inner = rings(lambda z: 12.0, planes), rings(lambda z: 7.0, planes)
    tube = fill_contours([*outer, *inner], geometry)
    cone = fill_contours(rings(lambda z: 0.55 * (z + 21), planes), geometry)
    assert volume_ml(fill_contours(outer, geometry), geometry) == pytest.approx(np.pi * 144 * 40e-3, rel=0.01)
    assert volume_ml(tube, geometry) == pytest.approx(np.pi * (144 - 49) * 40e-3, rel=0.02)
    assert volume_ml(cone, geometry) == pytest.approx(np.pi * (0.55 * 40) ** 2 * 40e-3 / 3, rel=0.02)
    assert tube.contour_volume_ml == pytest.approx(np.pi * (144 - 49) * 40e-3, rel=0.005)


@pytest.mark.parametrize("degrees", [4, 20, 45, 90])
@pytest.mark.parametrize("axis", [0, 1])
def test_axial_contours_on_an_oblique_grid(axis, degrees):
    turn = rotation(axis, degrees)
    geometry = Geometry.from_parts((40, 52, 52), (1, 1, 1.5), turn @ [-26, -26, -30], turn)
    centre = np.array([0.4, 0.3, 0.2])
    filled = fill_contours(rings(sphere_radius(13.0), np.arange(-10, 10) * 1.5, centre), geometry, Spacing(1.5))
    assert volume_ml(filled, geometry) == pytest.approx(4e-3 / 3 * np.pi * 13.0**3, rel=0.02)
    assert np.linalg.norm(centroid(filled, geometry) - centre) < 0.2
    assert any("across" in note for note in filled.notes)


def test_sagittal_contours_on_an_axial_grid():
    geometry = Geometry.from_parts((30, 60, 60), (1, 1, 2), (-30, -30, -30))
    to_sagittal = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=float)
    filled = fill_contours(rings(sphere_radius(12.0), np.arange(-11.5, 12, 1.0), (5, 2, 3), to_sagittal), geometry)
    assert volume_ml(filled, geometry) == pytest.approx(4e-3 / 3 * np.pi * 12.0**3, rel=0.02)
    np.testing.assert_allclose(centroid(filled, geometry), (5, 2, 3), atol=0.3)


def test_mixed_orientations_are_united_and_said():
    geometry = Geometry.from_parts((30, 60, 60), (1, 1, 2), (-30, -30, -30))
    to_sagittal = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], dtype=float)
    axial = rings(lambda z: 8.0, np.arange(-8, 9, 2.0), (-15.3, 0.2, 0))
    sagittal = rings(lambda z: 8.0, np.arange(-8, 9, 2.0), (12.3, 0.2, 0.1), to_sagittal)
    filled = fill_contours([*axial, *sagittal], geometry)
    assert volume_ml(filled, geometry) == pytest.approx(2 * np.pi * 64 * 18e-3, rel=0.02)
    assert "contours of more than one orientation were united" in filled.notes


def all_grids():
    for permutation, signs in itertools.product(itertools.permutations(range(3)), itertools.product([1, -1], repeat=3)):
        yield np.eye(3)[:, list(permutation)] * signs


def test_every_axis_order_and_flip_gives_one_mask_on_the_right_side():
    """A left-sided body: all 48 grids must put the same voxels at the same places of the world."""
    heights = np.arange(-6, 7, 3.0)
    body = rings(lambda z: 6.0 - abs(z) / 3, heights, (14, 4, 0))
    found = set()
    for direction in all_grids():
        spacing = np.abs(direction.T) @ [1.0, 1.0, 3.0]
        shape = tuple(int(n) for n in (np.abs(direction.T) @ [36, 24, 7])[::-1])
        corner = -direction @ (spacing * (np.array(shape[::-1]) - 1) / 2)
        geometry = Geometry.from_parts(shape, spacing, corner, direction)
        filled = fill_contours(body, geometry, Spacing(3.0))
        points = geometry.index_to_world(np.argwhere(filled.mask) + filled.box.start_zyx)
        assert points[:, 0].min() > 0
        if abs(direction[2, 2]) == 1:
            found.add(frozenset(map(tuple, np.round(points, 3).tolist())))
        np.testing.assert_allclose(points.mean(axis=0), (14, 4, 0), atol=0.35)
    assert len(found) == 1


def test_slices_between_planes_are_interpolated_without_shift():
    geometry = Geometry.from_parts((30, 50, 50), (1, 1, 1), (-25, -25, -15))
    heights = np.arange(-12.4, 12.5, 2.4)
    filled = fill_contours(rings(sphere_radius(12.0), heights), geometry)
    assert volume_ml(filled, geometry) == pytest.approx(4e-3 / 3 * np.pi * 12.0**3, rel=0.02)
    np.testing.assert_allclose(centroid(filled, geometry), 0, atol=0.15)
    assert filled.notes == ()


def test_parts_that_do_not_overlap_keep_their_area_on_the_way():
    geometry = Geometry.from_parts((9, 40, 40), (1, 1, 1), (0, 0, 0))
    discs = rings(lambda z: 4.0, [2.0], (10.3, 20.2, 0)) + rings(lambda z: 4.0, [6.0], (24.3, 20.2, 0))
    filled = fill_contours(discs, geometry, Spacing(4.0))
    areas = filled.mask.sum(axis=(1, 2))
    assert len(areas) == 8
    np.testing.assert_allclose(areas, np.pi * 16, rtol=0.05)
    middle = np.argwhere(filled.mask[4]).mean(axis=0) + filled.box.start_zyx[1:]
    np.testing.assert_allclose(middle, (20.2, 17.3), atol=0.5)


def test_a_missing_slice_stays_empty_and_is_said_unless_bridged():
    geometry = Geometry.from_parts((20, 30, 30), (1, 1, 2.5), (-15, -15, 0))
    planes = [5.0, 7.5, 10.0, 17.5, 20.0, 22.5]
    parted = fill_contours(rings(lambda z: 8.0, planes), geometry)
    bridged = fill_contours(rings(lambda z: 8.0, planes), geometry, Spacing(bridge_mm=8.0))
    assert parted.mask.any(axis=(1, 2)).tolist() == [True] * 3 + [False] * 2 + [True] * 3
    assert parted.notes == ("no contour on 2 slice(s) between slices 4 and 7; left empty",)
    assert bridged.mask.any(axis=(1, 2)).all()
    assert bridged.notes == ()


@pytest.mark.parametrize(("planes", "slices"), [([5.0, 10.0, 15.0], 6), ([5.0, 10.0, 15.0, 20.0], 8)])
def test_a_small_structure_on_every_other_slice_of_a_dense_set_is_whole(planes, slices):
    geometry = Geometry.from_parts((20, 30, 30), (1, 1, 2.5), (-15, -15, 0))
    filled = fill_contours(rings(lambda z: 8.0, planes), geometry, Spacing(planes_mm=2.5))
    assert filled.mask.any(axis=(1, 2)).sum() in (slices, slices - 1)  # the ends reach half a gap on
    assert filled.mask.any(axis=(1, 2)).all()
    assert filled.notes == ()
    assert volume_ml(filled, geometry) == pytest.approx(np.pi * 64 * 5e-3 * len(planes), rel=0.2)
    apart = fill_contours(rings(lambda z: 8.0, [5.0, 15.0, 25.0]), geometry, Spacing(planes_mm=2.5))
    assert len(apart.notes) == 2  # three slices missing between are a gap


def test_structures_drawn_on_every_other_slice_are_filled():
    geometry = Geometry.from_parts((30, 30, 30), (1, 1, 2.5), (-15, -15, -37.5))
    filled = fill_contours(rings(lambda z: 9.0, np.arange(-20, 21, 5.0), (0.3, 0.2, 0)), geometry)
    assert volume_ml(filled, geometry) == pytest.approx(np.pi * 81 * 45e-3, rel=0.01)


def test_single_plane_fills_one_slice():
    geometry = Geometry.from_parts((9, 30, 30), (1, 1, 2.5), (-15, -15, -10))
    filled = fill_contours(rings(lambda z: 5.0, [0.04]), geometry)
    assert filled.box.start_zyx[0] == 4
    assert filled.mask.shape[0] == 1
    assert filled.contour_volume_ml == pytest.approx(np.pi * 25 * 2.5e-3, rel=0.01)


def test_contours_outside_cut_or_in_no_plane_are_counted():
    geometry = Geometry.from_parts((10, 30, 30), (1, 1, 1), (-15, -15, 0))
    crumpled = rings(lambda z: 6.0, [5.0])[0]
    crumpled[::2, 2] += 3.0
    discs = rings(lambda z: 6.0, [3.0, 4.0], (-15, 0, 0)) + rings(lambda z: 6.0, [40.0])
    filled = fill_contours([*discs, crumpled], geometry)
    assert filled.outside == (2,)
    assert filled.not_planar == (3,)
    assert any("2 contour(s) reach outside the image" in note for note in filled.notes)
    assert volume_ml(filled, geometry) == pytest.approx(np.pi * 36 * 2e-3 / 2, rel=0.1)


def test_nothing_on_the_grid_gives_an_empty_mask():
    geometry = Geometry.from_parts((10, 30, 30))
    filled = fill_contours(rings(lambda z: 6.0, [400.0]), geometry)
    assert filled.box is None
    assert filled.contour_volume_ml == 0.0


def test_usual_gap_needs_four_planes():
    geometry = Geometry.from_parts((10, 30, 30))
    assert common_gap_mm(rings(lambda z: 5.0, [0, 2.5, 5, 10, 12.5]), geometry) == pytest.approx(2.5)
    assert common_gap_mm(rings(lambda z: 5.0, [0, 2.5, 5]), geometry) is None


@pytest.mark.parametrize("keyholes", [True, False])
@pytest.mark.parametrize("turn", [np.eye(3), rotation(0, 17) @ rotation(2, 31)], ids=["straight", "oblique"])
def test_contours_of_a_mask_give_the_mask_again(turn, keyholes):
    geometry = Geometry.from_parts((8, 40, 44), (0.97, 1.2, 3.0), (-80, 33, 12), turn)
    rng = np.random.default_rng(4)
    z, y, x = np.indices(geometry.shape_zyx)
    mask = (((y - 19) / 15) ** 2 + ((x - 22) / 18) ** 2 + ((z - 4) / 4) ** 2 < 1) & (np.hypot(y - 19, x - 25) > 4)
    mask |= rng.random(mask.shape) < 0.01
    stack = slice_contours(mask, geometry, tolerance_mm=0.05, keyholes=keyholes)
    contours = [points for _, planes in stack for points in planes]
    filled = fill_contours(contours, geometry, Spacing(3.0))
    back = np.zeros_like(mask)
    back[filled.box.slices] = filled.mask
    np.testing.assert_array_equal(back, mask)
