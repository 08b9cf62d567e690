"""Working grid, body box, HU window and labels on another grid."""

import itertools

import numpy as np
import pytest
from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry, LabelMap, Volume, resample
from focusnet.preprocessing import (
    Intensity,
    body_box,
    labels_to_grid,
    patient_on_working_grid,
    to_working_grid,
    working_geometry,
)
from scipy.spatial.transform import Rotation

SPACING = (3.0, 3.0, 3.0)


@pytest.fixture
def patient():
    """A body with a dense mark on the left, a couch below it, on a 2 x 2 x 3 mm LPS grid."""
    geometry = Geometry.from_parts((30, 80, 100), (2, 2, 3), (-99, -79, -43.5))
    _, y, x = np.indices(geometry.shape_zyx)
    ct = np.full(geometry.shape_zyx, -1000.0, np.float32)
    ct[((y - 36) / 26) ** 2 + ((x - 50) / 34) ** 2 < 1] = 40
    ct[10:16, 30:40, 66:74] = 900
    ct[:, 70:72, 5:95] = 200  # couch, 16 mm away
    return Volume(ct, geometry)


def permuted(volume, axes, signs):
    """The same anatomy in another axis order."""
    array = volume.array.transpose(axes)[tuple(slice(None, None, s) for s in signs)]
    corners = []
    for index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        old = [0, 0, 0]
        for new, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
            old[axis] = index[new] if sign > 0 else volume.array.shape[axis] - 1 - index[new]
        corners.append(volume.geometry.index_to_world(old))
    affine = np.eye(4)
    affine[:3, 3] = corners[0]
    for column, corner in enumerate(corners[:0:-1]):
        affine[:3, column] = corner - corners[0]
    return Volume(np.ascontiguousarray(array), Geometry(array.shape, affine))


def test_working_grid_covers_the_scan_along_the_patient_s_axes():
    native = Geometry.from_parts((10, 20, 30), (1, 2, 4), (5, 6, 7))
    working = working_geometry(native, (3, 3, 3))
    assert working.axis_codes == "LPS"
    assert working.spacing_xyz == (3, 3, 3)
    assert working.shape_zyx == (14, 14, 10)  # 40 mm, 40 mm, 30 mm
    low, high = native.world_bounds()
    working_low, working_high = working.world_bounds()
    np.testing.assert_allclose(working_low, low)
    assert (working_high >= high - 1e-6).all()
    assert (working_high - high < 3).all()


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_the_input_of_the_networks_does_not_depend_on_the_axis_order(patient, axes, signs):
    expected = to_working_grid(patient, SPACING)
    got = to_working_grid(permuted(patient, axes, signs), SPACING)
    assert got.geometry.is_close(expected.geometry)
    np.testing.assert_allclose(got.array, expected.array, atol=0.01)


def test_an_oblique_copy_shows_the_same_patient(patient):
    rotation = Rotation.from_euler("xyz", (12, -8, 20), degrees=True).as_matrix()
    grid = Geometry.from_parts(
        (80, 120, 120), (2, 2, 2), patient.geometry.center_mm - rotation @ (119, 119, 79), rotation
    )
    oblique = to_working_grid(resample(patient, grid, fill=-1000), SPACING)
    mark = np.argwhere(oblique.array > 600)
    centre = oblique.geometry.index_to_world(mark).mean(0)
    expected = patient.geometry.index_to_world(np.argwhere(patient.array > 600)).mean(0)
    assert np.linalg.norm(centre - expected) < 1.0
    assert centre[0] > patient.geometry.center_mm[0]


def test_a_scan_on_the_working_grid_is_copied_exactly():
    rng = np.random.default_rng(0)
    array = rng.integers(-1500, 4000, (8, 9, 10)).astype(np.int16)
    volume = Volume(array, Geometry.from_parts((8, 9, 10), (3, 3, 3), (1.5, 1.5, 1.5)))
    working = to_working_grid(volume, SPACING)
    np.testing.assert_array_equal(working.array, np.clip(array, -1024, 3071))


MULTIPLE = (2, 4, 4)


def on_grid(volume):
    return patient_on_working_grid(volume, SPACING, MULTIPLE)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_the_patient_lies_the_same_way_in_any_axis_order(patient, axes, signs):
    expected, got = on_grid(patient), on_grid(permuted(patient, axes, signs))
    assert got.geometry.is_close(expected.geometry)
    np.testing.assert_allclose(got.array, expected.array, atol=0.01)


def test_the_patient_is_cut_out_in_blocks_with_air_where_the_scan_ends(patient):
    got = on_grid(patient)
    assert got.geometry.axis_codes == "LPS"
    assert all(n % m == 0 for n, m in zip(got.array.shape, MULTIPLE, strict=True))
    low, high = got.geometry.world_bounds()
    # The body: x from -67 to 67, y from -58 to 44, z from -45 to 45 mm; couch from y = 60. 4 mm in plane, none in z.
    assert (low <= (-71, -62, -45)).all()
    assert (low > (-71 - 15, -62 - 15, -45 - 8)).all()
    assert (high >= (71, 48, 45)).all()
    assert (high < (71 + 15, 48 + 15, 45 + 8)).all()
    tight = patient.crop(Box((0, 0, 30), (30, 80, 100)))  # the right side of the body is not in the scan
    assert on_grid(tight).array[:, :, 0].max() == -1024


def test_more_air_round_the_scan_changes_nothing(patient):
    wide = patient.geometry.pad((7, 9, 3), (2, 4, 11))
    array = np.pad(patient.array, ((7, 2), (9, 4), (3, 11)), constant_values=-1024)
    expected, got = on_grid(patient), on_grid(Volume(array, wide))
    # Where the scan ends within a working voxel, that voxel is tissue; where air follows, it is a part of both.
    inner = [v.crop(Box((4, 0, 0), (v.array.shape[0] - 4, *v.array.shape[1:]))) for v in (expected, got)]
    first, last = (v.geometry.world_bounds() for v in inner)
    apart = np.subtract(first, last) / np.multiply(SPACING, MULTIPLE[::-1])
    assert np.abs(apart - np.round(apart)).max() < 1e-4
    low, high = np.maximum(first[0], last[0]), np.minimum(first[1], last[1])
    assert (high - low > (130, 90, 50)).all()
    boxes = [v.geometry.world_to_index([low + 1.5, high + 1.5]).round().astype(int) for v in inner]
    arrays = [
        v.array[tuple(slice(a, b) for a, b in zip(*box, strict=True))] for v, box in zip(inner, boxes, strict=True)
    ]
    np.testing.assert_allclose(arrays[1], arrays[0], atol=0.5)


def test_organs_reach_to_the_end_of_a_scan(patient):
    """Wherever the working slices lie, every native voxel of tissue is inside one of tissue."""
    for slices in range(20, 30):
        cut = patient.crop(Box((0, 0, 0), (slices, 80, 100)))
        got = on_grid(cut)
        tissue = cut.geometry.index_to_world(np.argwhere(cut.array[[0, -1]] == 40) * (slices - 1, 1, 1))
        index = np.round(got.geometry.world_to_index(tissue)).astype(int)
        values = got.array[tuple(index.T)]
        assert np.median(values) > 30
        assert (values > -300).mean() > 0.95  # the rest is skin


@pytest.mark.parametrize("slices", range(60, 67))
def test_a_thin_slice_at_the_end_of_a_scan_is_not_air(slices):
    """Also where the working voxel that holds it has its middle outside the scan."""
    geometry = Geometry.from_parts((slices, 80, 100), (2, 2, 1), (-99, -79, 0))
    _, y, x = np.indices(geometry.shape_zyx)
    ct = np.where(((y - 36) / 26) ** 2 + ((x - 50) / 34) ** 2 < 1, 40, -1000).astype(np.int16)
    got = on_grid(Volume(ct, geometry))
    ends = geometry.index_to_world([(0, 36, 50), (slices - 1, 36, 50)])
    index = np.round(got.geometry.world_to_index(ends)).astype(int)
    np.testing.assert_allclose(got.array[tuple(index.T)], 40, atol=0.1)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
def test_voxels_of_the_working_spacing_are_kept(axes, signs):
    array = np.random.default_rng(0).integers(-200, 900, (21, 40, 46)).astype(np.int16)
    native = Volume(array, Geometry.from_parts(array.shape, (2.5, 2.5, 4.0), (-50.3, 17.9, -811.7)))
    got = patient_on_working_grid(permuted(native, axes, signs), (2.5, 2.5, 4.0), MULTIPLE)
    world = native.geometry.index_to_world(np.stack(np.indices(array.shape), -1))
    index = got.geometry.world_to_index(world)
    np.testing.assert_allclose(index, np.round(index), atol=1e-6)
    np.testing.assert_allclose(got.array[tuple(np.moveaxis(np.round(index).astype(int), -1, 0))], array, atol=0.01)


@pytest.mark.parametrize("spacing", [SPACING, (2.0, 2.0, 3.0)])
def test_a_moved_grid_shows_the_same_patient_half_a_voxel_on(patient, spacing):
    straight = patient_on_working_grid(patient, spacing, MULTIPLE)
    moved = patient_on_working_grid(patient, spacing, MULTIPLE, (0.5, 0.0, -0.5))
    apart = np.subtract(moved.geometry.origin_xyz, straight.geometry.origin_xyz) / spacing
    np.testing.assert_allclose(np.mod(apart, MULTIPLE[::-1]), (0.5, 0.0, 1.5), atol=1e-6)
    marks = [v.geometry.index_to_world(np.argwhere(v.array > 600)).mean(0) for v in (straight, moved)]
    assert np.linalg.norm(marks[1] - marks[0]) < 1.0
    assert marks[1][0] > patient.geometry.center_mm[0]  # the mark is on the left


def test_a_moved_patient_gives_the_same_input(patient):
    move = np.eye(4)
    move[:3, 3] = (11.37, -4.71, 100.13)
    moved = on_grid(Volume(patient.array, patient.geometry.transformed(move)))
    expected = on_grid(patient)
    np.testing.assert_allclose(moved.geometry.origin_xyz, np.add(expected.geometry.origin_xyz, move[:3, 3]), atol=1e-3)
    np.testing.assert_allclose(moved.array, expected.array, atol=0.5)


@pytest.mark.parametrize("angles", [(10, -6, 14), (5, -14, 9), (20, 0, 0)])
def test_a_turned_and_interpolated_copy_puts_the_same_voxels_into_the_same_blocks(patient, angles):
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    shape, spacing = (100, 150, 160), np.array((1.6, 1.7, 1.3))
    origin = patient.geometry.center_mm - rotation @ ((np.array(shape[::-1]) - 1) / 2 * spacing)
    copy = resample(patient, Geometry.from_parts(shape, spacing, origin, rotation), fill=-1000)
    expected, got = on_grid(patient), on_grid(copy)
    block = np.asarray(SPACING) * MULTIPLE[::-1]
    apart = np.subtract(got.geometry.origin_xyz, expected.geometry.origin_xyz) / block
    assert np.abs(apart - np.round(apart)).max() * block.max() < 0.5  # mm
    mark = got.geometry.index_to_world(np.argwhere(got.array > 600)).mean(0)
    assert np.linalg.norm(mark - patient.geometry.index_to_world(np.argwhere(patient.array > 600)).mean(0)) < 1.0
    assert mark[0] > patient.geometry.center_mm[0]  # the mark is on the left


def test_a_scan_of_air_has_no_patient():
    with pytest.raises(FocusNetError) as caught:
        on_grid(Volume(np.full((10, 40, 40), -1000.0, np.float32), Geometry.from_parts((10, 40, 40), (2, 2, 3))))
    assert caught.value.code == "E_NOT_CT"


def test_body_box_leaves_the_couch_out(patient):
    box = body_box(patient, margin_mm=10)
    z, y, x = zip(box.start_zyx, box.stop_zyx, strict=True)
    assert z == (0, 30)
    assert y == (6, 67)  # rows 11 to 61 and 5 voxels of margin: the couch begins at row 70
    assert x == (12, 89)


def test_an_image_without_a_body_is_refused():
    geometry = Geometry.from_parts((10, 40, 40), (2, 2, 3))
    with pytest.raises(FocusNetError) as caught:
        body_box(Volume(np.full(geometry.shape_zyx, -1000.0, np.float32), geometry))
    assert caught.value.code == "E_NOT_CT"


def test_window_maps_its_ends_to_one():
    hu = np.array([-3000.0, -200, 400, 1000, 3000])
    np.testing.assert_allclose(Intensity((-200, 1000))(hu), [-1, -1, 0, 1, 1])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 3.0, 3.0), (2.5, 2.5, 5.0)])
def test_labels_keep_volume_place_and_side_on_another_grid(spacing):
    geometry = Geometry.from_parts((30, 40, 40), (2, 2, 2), (-39, -39, -29))
    z, y, x = np.indices(geometry.shape_zyx)
    labels = np.zeros(geometry.shape_zyx, np.uint8)
    labels[(z - 15) ** 2 + (y - 20) ** 2 + (x - 28) ** 2 < 49] = 1
    labels[(z - 15) ** 2 + (y - 20) ** 2 + (x - 12) ** 2 < 36] = 2
    labels[labels == 0] = np.where((x < 20) & (z < 10), 3, 0)[labels == 0]
    source = LabelMap(labels, geometry, {1: "parotid_l", 2: "parotid_r", 3: "brain"})
    target = working_geometry(geometry, spacing)
    got = labels_to_grid(source, target)
    for organ in source.organs.values():
        before, after = source.mask(organ), got.mask(organ)
        ratio = after.sum() * target.voxel_volume_ml / (before.sum() * geometry.voxel_volume_ml)
        assert 0.93 < ratio < 1.07, organ
        shift = target.index_to_world(np.argwhere(after)).mean(0) - geometry.index_to_world(np.argwhere(before)).mean(0)
        assert np.abs(shift).max() < 0.75, organ
    left, right = (target.index_to_world(np.argwhere(got.mask(o))).mean(0)[0] for o in ("parotid_l", "parotid_r"))
    assert left > right


@pytest.mark.parametrize("source", [(1.0, 1.0, 1.5), (0.5, 0.5, 1.5), (0.5, 0.5, 3.0)])
@pytest.mark.parametrize("flipped", [False, True])
def test_small_organs_keep_their_volume_where_voxels_divide_evenly(source, flipped):
    """The middles of the working voxels lie half way between those of the scan: every voxel of a border is a tie."""
    rng = np.random.default_rng(0)
    shape = tuple(int(60 / s) for s in source[::-1])
    direction = np.diag([1.0, -1, -1]) if flipped else np.eye(3)
    first = [-30 + s / 2 for s in source]
    geometry = Geometry.from_parts(shape, source, direction @ first, direction)
    world = geometry.index_to_world(np.stack(np.indices(shape), -1))
    target = working_geometry(geometry, (1.0, 1.0, 3.0))
    ratios, shifts = [], []
    for _ in range(12):
        centre = rng.uniform(-3, 3, 3)
        labels = ((((world - centre) / (7, 4, 2)) ** 2).sum(-1) < 1).astype(np.uint8)  # a chiasm, 4 mm high
        got = labels_to_grid(LabelMap(labels, geometry, {1: "optic_chiasm"}), target)
        assert got.array.any()
        ratios.append(got.array.sum() * target.voxel_volume_ml / (labels.sum() * geometry.voxel_volume_ml))
        shifts.append(target.index_to_world(np.argwhere(got.array)).mean(0) - centre)
    np.testing.assert_allclose(ratios, 1, atol=0.03)
    assert (np.abs(shifts) < (0.6, 0.6, 1.5)).all()  # half a working voxel, where two places are equally near
    assert (np.abs(np.mean(shifts, axis=0)) < (0.3, 0.3, 0.75)).all()


def test_labels_on_their_own_grid_are_untouched():
    geometry = Geometry.from_parts((4, 5, 6))
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    source = LabelMap(labels, geometry, {1: "lens_l", 2: "lens_r"})
    assert labels_to_grid(source, geometry).array is labels
