"""Geometry, boxes and resampling: closed forms, all 48 signed axis permutations, oblique and sheared grids, sides."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry, LabelMap, Volume, bounding_box, from_sitk, resample, to_sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

SIGNED_PERMUTATIONS = [
    (axes, signs) for axes in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)
]


def reorder(volume, axes, signs):
    """The same anatomy with its array axes permuted and flipped, and the header to match."""
    array = volume.array.transpose(axes)[tuple(slice(None, None, s) for s in signs)]
    index = np.eye(4)  # new (z, y, x) index -> old
    index[:3, :3] = 0
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        index[old, new] = sign
        index[old, 3] = 0 if sign > 0 else volume.array.shape[old] - 1
    flip = np.eye(4)[[2, 1, 0, 3]]
    return Volume(np.ascontiguousarray(array), Geometry(array.shape, volume.geometry.affine @ flip @ index @ flip))


def centroid_mm(volume):
    index = np.argwhere(volume.array > 0.5)
    return volume.geometry.index_to_world(index).mean(axis=0)


@pytest.fixture
def marked():
    """A block on the patient's left, to the front and the head, on an anisotropic LPS grid."""
    geometry = Geometry.from_parts((20, 24, 28), (1.5, 2.0, 3.0), (-20.0, -23.0, -28.0))
    array = np.zeros(geometry.shape_zyx, np.float32)
    array[12:17, 4:9, 17:23] = 1
    return Volume(array, geometry)


def test_from_parts_has_the_textbook_affine():
    geometry = Geometry.from_parts((4, 5, 6), (1, 2, 3), (10, 20, 30))
    np.testing.assert_allclose(geometry.index_to_world((1, 2, 3)), (10 + 3 * 1, 20 + 2 * 2, 30 + 1 * 3))
    np.testing.assert_allclose(geometry.world_to_index((13, 24, 33)), (1, 2, 3))
    assert geometry.spacing_xyz == (1, 2, 3)
    assert geometry.spacing_zyx == (3, 2, 1)
    assert geometry.voxel_volume_ml == pytest.approx(0.006)
    assert geometry.axis_codes == "LPS"
    low, high = geometry.world_bounds()
    np.testing.assert_allclose(low, (9.5, 19, 28.5))
    np.testing.assert_allclose(high, (15.5, 29, 40.5))


@pytest.mark.parametrize(("axes", "signs"), SIGNED_PERMUTATIONS)
def test_every_axis_order_has_its_code_and_keeps_the_mark_in_place(marked, axes, signs):
    other = reorder(marked, axes, signs)
    np.testing.assert_allclose(centroid_mm(other), centroid_mm(marked), atol=1e-9)
    letters = {0: "SI", 1: "PA", 2: "LR"}
    expected = "".join(letters[axes[a]][0 if signs[a] > 0 else 1] for a in (2, 1, 0))
    assert other.geometry.axis_codes == expected
    back = resample(other, marked.geometry, fill=0, order="nearest")
    np.testing.assert_array_equal(back.array, marked.array)


@pytest.mark.parametrize(("axes", "signs"), SIGNED_PERMUTATIONS[::5])
@pytest.mark.parametrize("angles", [(15, 0, 0), (0, -20, 0), (10, 25, 40)])
def test_oblique_grids_keep_the_mark_in_place_and_on_the_left(marked, axes, signs, angles):
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    target = Geometry.from_parts(
        (60, 60, 60), (1.1, 1.2, 1.3), marked.geometry.center_mm - rotation @ (33, 36, 39), rotation
    )
    oblique = reorder(resample(marked, target, fill=0), axes, signs)
    assert np.linalg.norm(centroid_mm(oblique) - centroid_mm(marked)) < 0.5
    back = resample(oblique, marked.geometry, fill=0)
    assert np.linalg.norm(centroid_mm(back) - centroid_mm(marked)) < 0.5
    assert centroid_mm(back)[0] > marked.geometry.center_mm[0]


def test_sheared_grid_is_resampled_but_not_stored(marked):
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.radians(15))
    sheared = Volume(marked.array, marked.geometry.transformed(shear))
    assert not sheared.geometry.is_orthogonal
    assert sheared.geometry.voxel_volume_ml == pytest.approx(marked.geometry.voxel_volume_ml)
    straight = resample(sheared, Geometry.from_parts((40, 60, 40), (1.5, 1.5, 1.5), (-20, -40, -28)), fill=0)
    expected = (shear @ np.append(centroid_mm(marked), 1))[:3]
    assert np.linalg.norm(centroid_mm(straight) - expected) < 0.5
    with pytest.raises(FocusNetError, match="E_BAD_GEOMETRY"):
        to_sitk(sheared)


def test_resample_agrees_with_simpleitk_on_physical_grids():
    rng = np.random.default_rng(0)
    direction = Rotation.from_euler("zyx", (20, 10, -30), degrees=True).as_matrix()
    source = Volume(
        rng.normal(size=(9, 10, 11)).astype(np.float32),
        Geometry.from_parts((9, 10, 11), (1, 1.5, 2), (3, 4, 5), direction),
    )
    target = Geometry.from_parts((8, 12, 10), (1.2, 1.1, 1.7), (2, 5, 4))
    reference = to_sitk(Volume(np.zeros(target.shape_zyx, np.float32), target))
    expected = sitk.Resample(to_sitk(source), reference, sitk.Transform(), sitk.sitkLinear, -7.0)
    ours = resample(source, target, fill=-7.0, antialias=False)
    np.testing.assert_allclose(ours.array, sitk.GetArrayFromImage(expected), atol=1e-5)


def test_antialiasing_removes_what_the_coarse_grid_cannot_hold():
    checker = np.indices((48, 48, 48)).sum(axis=0) % 2
    fine = Volume(checker.astype(np.float32) * 1000, Geometry.from_parts((48, 48, 48)))
    coarse = Geometry.from_parts((11, 11, 11), (4, 4, 4), (4, 4, 4))
    assert resample(fine, coarse, fill=0).array.std() < 1
    assert resample(fine, coarse, fill=0).array.mean() == pytest.approx(500, abs=1)


def test_a_linear_ramp_survives_resampling_exactly():
    geometry = Geometry.from_parts((20, 20, 20), (2, 2, 2))
    ramp = Volume(geometry.index_to_world(np.moveaxis(np.indices(geometry.shape_zyx), 0, -1))[..., 0], geometry)
    target = Geometry.from_parts((5, 5, 5), (3.0, 3.0, 3.0), (10.3, 10.1, 9.7))
    expected = target.index_to_world(np.moveaxis(np.indices(target.shape_zyx), 0, -1))[..., 0]
    np.testing.assert_allclose(resample(ramp, target, fill=0).array, expected, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_crop_and_paste_are_inverse_and_keep_world_positions(data):
    shape = tuple(data.draw(st.integers(2, 12)) for _ in range(3))
    start = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, shape, strict=True))
    box = Box(start, stop)
    direction = Rotation.from_euler("xyz", data.draw(st.tuples(*[st.floats(-180, 180)] * 3)), degrees=True).as_matrix()
    geometry = Geometry.from_parts(shape, (0.7, 1.3, 2.9), (5, -6, 7), direction, "1.2.3")
    volume = Volume(np.arange(np.prod(shape)).reshape(shape), geometry)
    part = volume.crop(box)
    pasted = np.full(shape, -1)
    pasted[box.slices] = part.array
    assert (pasted[box.slices] == volume.array[box.slices]).all()
    assert (pasted == -1).sum() == np.prod(shape) - np.prod(box.shape_zyx)
    np.testing.assert_allclose(part.geometry.index_to_world((0, 0, 0)), geometry.index_to_world(start), atol=1e-9)
    before = box.start_zyx
    after = tuple(n - b for n, b in zip(shape, stop, strict=True))
    restored = part.geometry.pad(before, after)
    assert restored.is_close(geometry, 1e-9)
    assert restored.frame_of_reference == "1.2.3"


def test_bounding_box_by_hand():
    mask = np.zeros((5, 6, 7), bool)
    assert bounding_box(mask) is None
    mask[1, 2, 3] = mask[3, 2, 6] = True
    box = bounding_box(mask)
    assert box == Box((1, 2, 3), (4, 3, 7))
    assert box.expand((2, 2, 2), mask.shape) == Box((0, 0, 1), (5, 5, 7))
    assert box.intersection(Box((3, 0, 0), (5, 6, 4))) == Box((3, 2, 3), (4, 3, 4))
    assert box.intersection(Box((4, 0, 0), (5, 6, 4))) is None
    assert box.union(Box((4, 5, 0), (5, 6, 1))) == Box((1, 2, 0), (5, 6, 7))


def test_sitk_round_trip_keeps_voxels_and_geometry():
    direction = Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix()
    geometry = Geometry.from_parts((3, 4, 5), (0.9, 1.1, 2.5), (1, 2, 3), direction)
    volume = Volume(np.arange(60, dtype=np.int16).reshape(3, 4, 5), geometry)
    back = from_sitk(to_sitk(volume))
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.array.dtype == np.int16
    assert back.geometry.is_close(geometry, 1e-9)
    with pytest.raises(FocusNetError, match="E_NOT_3D"):
        from_sitk(sitk.Image([4, 4], sitk.sitkInt16))
    with pytest.raises(FocusNetError, match="E_NOT_3D"):
        from_sitk(sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 3))


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((0, 3, 3), np.eye(4)),
        ((3, 3), np.eye(4)),
        ((3, 3, 3), np.diag([1, 1, 0, 1])),
        ((3, 3, 3), np.full((4, 4), np.nan)),
        ((3, 3, 3), np.ones((3, 3))),
    ],
)
def test_bad_geometry_is_refused(shape, affine):
    with pytest.raises(FocusNetError, match="E_BAD_GEOMETRY"):
        Geometry(shape, affine)


def test_label_map_knows_its_organs():
    geometry = Geometry.from_parts((2, 2, 2))
    array = np.zeros((2, 2, 2), np.uint8)
    array[0, 1, 1] = 3
    labels = LabelMap(array, geometry, {3: "lens_l"})
    assert labels.mask("lens_l").sum() == 1
    with pytest.raises(FocusNetError, match="E_UNKNOWN_ORGAN"):
        labels.mask("lens_r")
    with pytest.raises(TypeError):
        LabelMap(array.astype(np.int16), geometry, {3: "lens_l"})
    with pytest.raises(ValueError, match="one label"):
        LabelMap(array, geometry, {3: "lens_l", 4: "lens_l"})
    with pytest.raises(FocusNetError, match="E_BAD_GEOMETRY"):
        LabelMap(array[:1], geometry, {3: "lens_l"})
