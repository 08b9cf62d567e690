"""Organ masks of one scan, and how they come onto another grid."""

import numpy as np
import pytest
from focusnet.errors import FocusNetError
from focusnet.evaluation.masks import CroppedMask, OrganMasks, check_comparable, finer, keys_of_names
from focusnet.geometry import Box, Geometry, LabelMap, Volume, resample
from focusnet.io.segmentation import Segment, Segmentation
from scipy.spatial.transform import Rotation


def block(shape, *slices):
    mask = np.zeros(shape, dtype=bool)
    mask[slices] = True
    return mask


def test_masks_of_a_label_map_are_cropped(blocks):
    masks = OrganMasks.of_labelmap(
        blocks({"brainstem": np.s_[2:4, 3:6, 1:9], "lens_l": None, "brain": np.s_[5:, :, :]})
    )
    assert masks.masks["brainstem"].box == Box((2, 3, 1), (4, 6, 9))
    assert masks.masks["brainstem"].array.all()
    assert masks.masks["lens_l"] is None
    assert masks.volume_ml("brainstem") == pytest.approx(2 * 3 * 8 * 2.0 / 1000)
    assert masks.volume_ml("lens_l") == masks.volume_ml("lens_r") == 0.0


def test_overlapping_segments_stay_whole():
    geometry = Geometry.from_parts((4, 5, 6))
    eye, lens = block((4, 5, 6), slice(0, 3)), block((4, 5, 6), 1, 2, slice(2, 4))
    shared = np.where(eye, 1, 0).astype(np.uint8)
    shared[3] = 2
    segments = [
        Segment("Orbit-Lt", shared, label=1),
        Segment("Brainstem", shared, label=2),
        Segment("Lens-Lt", lens),
        Segment("GTV primary", lens),
    ]
    masks = OrganMasks.of_segmentation(Segmentation(geometry, segments))
    assert list(masks.masks) == ["eye_l", "brainstem", "lens_l"]
    assert masks.unmapped == ("GTV primary",)
    np.testing.assert_array_equal(masks.masks["eye_l"].on(Box((0, 0, 0), (4, 5, 6))), eye)
    np.testing.assert_array_equal(masks.masks["lens_l"].on(Box((0, 0, 0), (4, 5, 6))), lens)
    assert masks.masks["brainstem"].box.start_zyx == (3, 0, 0)


def test_a_segment_without_a_label_value_is_empty():
    labels = np.zeros((3, 3, 3), dtype=np.uint8)
    labels[1, 1, 1] = 5
    segments = [Segment("Lens_L", labels, label=0), Segment("Lens_R", labels, label=5)]
    masks = OrganMasks.of_segmentation(Segmentation(Geometry.from_parts((3, 3, 3)), segments))
    assert masks.masks["lens_l"] is None
    assert masks.masks["lens_r"].box == Box((1, 1, 1), (2, 2, 2))


def test_label_map_keeps_the_smaller_of_two_overlapping_organs():
    geometry = Geometry.from_parts((4, 4, 4))
    segments = [Segment("Lens_L", block((4, 4, 4), 1, 1, 1)), Segment("Eye_L", block((4, 4, 4), slice(0, 3)))]
    labelmap = OrganMasks.of_segmentation(Segmentation(geometry, segments)).to_labelmap()
    assert labelmap.mask("lens_l").sum() == 1
    assert labelmap.mask("eye_l").sum() == 47


def test_two_names_of_one_organ_are_refused():
    with pytest.raises(FocusNetError) as error:
        keys_of_names(["Parotid_L", "left parotid"])
    assert error.value.code == "E_AMBIGUOUS_ORGAN"
    assert keys_of_names(["Parotid_L", "GTV", "my gland"], {"my gland": "parotid_r"}) == {
        "Parotid_L": "parotid_l",
        "my gland": "parotid_r",
    }


def test_part_of_a_mask_on_any_box():
    mask = CroppedMask(np.arange(27).reshape(3, 3, 3) % 2 == 0, Box((2, 2, 2), (5, 5, 5)))
    whole = mask.on(Box((0, 0, 0), (8, 8, 8)))
    for box in (Box((3, 0, 1), (9, 4, 4)), Box((4, 4, 4), (5, 5, 5)), Box((6, 6, 6), (8, 8, 8))):
        padded = np.pad(whole, 4)
        expected = padded[tuple(slice(a + 4, b + 4) for a, b in zip(box.start_zyx, box.stop_zyx, strict=True))]
        np.testing.assert_array_equal(mask.on(box), expected)


def test_a_crop_of_the_same_lattice_only_moves_the_box(blocks):
    labelmap = blocks({"brainstem": np.s_[3:5, 4:8, 5:9]}, origin_xyz=(-40.0, 3.0, 77.0))
    masks = OrganMasks.of_labelmap(labelmap)
    cropped = labelmap.crop(Box((3, 2, 4), (9, 10, 12)))
    moved = masks.mask_on(cropped.geometry, "brainstem")
    assert moved.box == Box((0, 2, 1), (2, 6, 5))
    np.testing.assert_array_equal(moved.array, OrganMasks.of_labelmap(cropped).masks["brainstem"].array)
    beyond = masks.mask_on(labelmap.crop(Box((4, 0, 0), (9, 9, 9))).geometry, "brainstem")
    assert beyond.box.start_zyx == (-1, 4, 5)  # the organ reaches out of that grid and stays whole


def test_resampling_onto_a_finer_grid_keeps_the_volume(blocks):
    labelmap = blocks({"brainstem": np.s_[2:7, 3:9, 4:12]}, spacing_xyz=(2.0, 2.0, 4.0))
    masks = OrganMasks.of_labelmap(labelmap)
    fine = Geometry.from_parts((40, 24, 28), (1.0, 1.0, 1.0), (-0.5, -0.5, -1.5))
    moved = masks.mask_on(fine, "brainstem")
    assert np.count_nonzero(moved.array) * fine.voxel_volume_ml == pytest.approx(masks.volume_ml("brainstem"))
    assert moved.box == Box((8, 6, 8), (28, 18, 24))


def test_resampling_agrees_with_resampling_the_whole_label_map():
    rng = np.random.default_rng(5)
    source = Geometry.from_parts((9, 10, 11), (1.5, 1.2, 3.0), (4.0, -3.0, 2.0))
    array = (rng.random((9, 10, 11)) > 0.6).astype(np.uint8)
    direction = Rotation.from_euler("xyz", [12, -7, 25], degrees=True).as_matrix()
    target = Geometry.from_parts((40, 40, 40), (0.9, 1.0, 1.1), (-10.0, -12.0, -8.0), direction)
    masks = OrganMasks.of_labelmap(LabelMap(array, source, {1: "brainstem"}))
    moved = masks.mask_on(target, "brainstem").on(Box((0, 0, 0), target.shape_zyx))
    expected = resample(Volume(array, source), target, fill=0, order="nearest").array
    np.testing.assert_array_equal(moved, expected.astype(bool))


def test_a_voxel_that_falls_between_the_target_voxels_is_not_lost(blocks):
    thin = OrganMasks.of_labelmap(blocks({"lens_l": np.s_[5, 6, 7]}, spacing_xyz=(0.5, 0.5, 9.0)))
    coarse = Geometry.from_parts((90, 3, 3), (2.5, 2.5, 1.0), (0.0, 0.0, 0.0))
    moved = thin.mask_on(coarse, "lens_l")
    assert moved.array.any()
    centre = coarse.index_to_world(np.add(moved.box.start_zyx, moved.box.stop_zyx) / 2 - 0.5)
    np.testing.assert_allclose(centre, thin.centroid_mm("lens_l"), atol=1.3)


def test_the_finer_grid_is_chosen_and_the_reference_among_equals():
    fine, coarse = Geometry.from_parts((4, 4, 4)), Geometry.from_parts((4, 4, 4), (1.0, 1.0, 1.2))
    assert finer(coarse, fine) is fine
    assert finer(fine, coarse) is fine
    other = Geometry.from_parts((4, 4, 4), (1.0, 1.0, 0.999))
    assert finer(fine, other) is fine


@pytest.mark.parametrize(
    ("prediction", "code"),
    [
        (Geometry.from_parts((4, 4, 4), frame_of_reference="1.2.4"), "E_FRAME_OF_REFERENCE"),
        (Geometry.from_parts((4, 4, 4), origin_xyz=(500.0, 0.0, 0.0)), "E_BAD_GEOMETRY"),
        (Geometry((4, 4, 4), np.array([[1, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])), "E_BAD_GEOMETRY"),
    ],
)
def test_grids_that_do_not_belong_together_are_refused(prediction, code):
    reference = Geometry.from_parts((4, 4, 4), frame_of_reference="1.2.3")
    with pytest.raises(FocusNetError) as error:
        check_comparable(reference, prediction)
    assert error.value.code == code


def test_an_unknown_frame_of_reference_is_no_obstacle():
    check_comparable(Geometry.from_parts((4, 4, 4), frame_of_reference="1.2.3"), Geometry.from_parts((4, 4, 4)))
