"""Rows of one case: states and hand-worked answers for everything that goes wrong with contours."""

from itertools import permutations, product

import numpy as np
import pytest
from focusnet import organs
from focusnet.errors import FocusNetError
from focusnet.evaluation.case import CSV_COLUMNS, CaseSettings, axial_axis, evaluate_case
from focusnet.geometry import Box, Geometry, LabelMap
from focusnet.io.segmentation import Segment, Segmentation

DISTANCES = ("hd95_max_mm", "hd95_mean_mm", "hd95_pooled_mm", "hd_mm", "msd_mm", "hd95_max_voxel_mm", "msd_voxel_mm")
CSV_CONTRACT = (
    "case, organ, state, dsc, surface_dsc, tolerance_mm, hd95_max_mm, hd95_mean_mm, hd95_pooled_mm, hd_mm, msd_mm, "
    "hd95_max_voxel_mm, hd95_mean_voxel_mm, msd_voxel_mm, volume_reference_ml, volume_prediction_ml, "
    "centroid_shift_mm, apl_mm, apl_relative, worst_slice, worst_slice_dsc"
)


def one(reference, prediction, settings=None):
    (row,) = evaluate_case(reference, prediction, "case", settings)
    return row


def test_columns_are_those_of_the_contract():
    assert tuple(CSV_CONTRACT.split(", ")) == CSV_COLUMNS


def test_equal_contours(blocks):
    labels = blocks({"brainstem": np.s_[2:6, 3:7, 4:9]})
    row = one(labels, labels)
    assert (row.case, row.organ, row.state) == ("case", "brainstem", "ok")
    assert row.dsc == row.surface_dsc == row.worst_slice_dsc == 1.0
    assert [getattr(row, name) for name in DISTANCES] == [0.0] * len(DISTANCES)
    assert row.volume_reference_ml == row.volume_prediction_ml == pytest.approx(4 * 4 * 5 * 2 / 1000)
    assert row.centroid_shift_mm == row.apl_mm == row.apl_relative == 0.0
    assert row.tolerance_mm == organs.organ("brainstem").tolerance_mm


def test_a_shift_along_each_axis(blocks):
    # Spacing x 1, y 1, z 2 mm. The block is 4 slices x 4 rows x 5 columns.
    reference = blocks({"brainstem": np.s_[2:6, 3:7, 4:9]})
    left = one(reference, blocks({"brainstem": np.s_[2:6, 3:7, 5:10]}))
    assert left.dsc == 0.8
    assert (left.shift_left_mm, left.shift_posterior_mm, left.shift_superior_mm) == pytest.approx((1.0, 0.0, 0.0))
    assert left.hd_mm == left.hd95_max_mm == left.hd95_mean_mm == 1.0
    back = one(reference, blocks({"brainstem": np.s_[2:6, 4:8, 4:9]}))
    assert back.dsc == 0.75
    assert (back.shift_left_mm, back.shift_posterior_mm, back.shift_superior_mm) == pytest.approx((0.0, 1.0, 0.0))
    up = one(reference, blocks({"brainstem": np.s_[3:7, 3:7, 4:9]}))
    assert up.dsc == 0.75
    assert (up.shift_left_mm, up.shift_posterior_mm, up.shift_superior_mm) == pytest.approx((0.0, 0.0, 2.0))
    assert up.hd_mm == 2.0
    # Slices 2 and 6 hold one contour each: the first of two equal ones. One slice of four must be drawn anew.
    assert (up.worst_slice, up.worst_slice_dsc, up.apl_relative) == (2, 0.0, 0.25)
    assert up.apl_mm == 14.0  # 4 x 5 pixels without the inner 2 x 3, of 1 mm


def test_disjoint_contours(blocks):
    row = one(blocks({"lens_l": np.s_[2, 3, 4]}), blocks({"lens_l": np.s_[2, 3, 10]}))
    assert (row.state, row.dsc, row.surface_dsc) == ("ok", 0.0, 0.0)
    # Corner points at x 3.5 and 4.5 against 9.5 and 10.5: distances 6 and 5 to the nearer face.
    assert (row.hd_mm, row.hd95_max_mm, row.msd_mm) == (6.0, 6.0, pytest.approx(5.5))
    assert row.hd95_max_voxel_mm == row.msd_voxel_mm == row.centroid_shift_mm == 6.0


def test_missed_organ(blocks):
    row = one(blocks({"lens_l": np.s_[4:6, 3:6, 4:7]}), blocks({"lens_l": None}))
    assert (row.state, row.dsc, row.surface_dsc) == ("missed", 0.0, 0.0)
    assert all(getattr(row, name) is None for name in (*DISTANCES, "centroid_shift_mm", "shift_left_mm"))
    assert (row.volume_reference_ml, row.volume_prediction_ml) == (pytest.approx(0.036), 0.0)
    assert (row.apl_mm, row.apl_relative) == (16.0, 1.0)  # the whole path: 8 contour pixels on 2 slices
    assert (row.worst_slice, row.worst_slice_dsc) == (4, 0.0)


def test_extra_organ(blocks):
    row = one(blocks({"lens_l": None}), blocks({"lens_l": np.s_[2, 3, 4]}))
    assert row.state == "extra"
    assert (row.volume_reference_ml, row.volume_prediction_ml) == (0.0, pytest.approx(0.002))
    assert all(getattr(row, name) is None for name in (*DISTANCES, "dsc", "surface_dsc", "apl_mm", "worst_slice"))


def test_both_empty(blocks):
    row = one(blocks({"lens_l": None}), blocks({"lens_l": None}))
    assert (row.state, row.dsc, row.volume_reference_ml) == ("both_empty", None, 0.0)


def test_an_organ_that_one_side_does_not_name(blocks):
    reference = blocks({"brainstem": np.s_[2:6, 3:7, 4:9], "lens_l": np.s_[8, 3, 4]})
    prediction = blocks({"brainstem": np.s_[2:6, 3:7, 4:9], "lens_r": np.s_[8, 3, 10]})
    states = {row.organ: row.state for row in evaluate_case(reference, prediction, "case")}
    assert states == {"brainstem": "ok", "lens_l": "missed", "lens_r": "extra"}
    chosen = evaluate_case(reference, prediction, "case", CaseSettings(organs=("brain", "lens_r")))
    assert {row.organ: row.state for row in chosen} == {"brain": "both_empty", "lens_r": "extra"}


def test_sides_swapped(blocks):
    # +x is the patient's left. Both lenses are 1 voxel, 8 mm apart; the prediction has them exchanged.
    right, left = np.s_[5, 3, 2], np.s_[5, 3, 10]
    rows = evaluate_case(blocks({"lens_l": left, "lens_r": right}), blocks({"lens_l": right, "lens_r": left}), "case")
    assert [(row.organ, row.dsc, row.centroid_shift_mm, row.shift_left_mm) for row in rows] == [
        ("lens_l", 0.0, 8.0, -8.0),
        ("lens_r", 0.0, 8.0, 8.0),
    ]


def test_overlapping_organs_are_measured_whole():
    geometry = Geometry.from_parts((6, 6, 6))
    eye, lens = np.zeros((6, 6, 6), dtype=bool), np.zeros((6, 6, 6), dtype=bool)
    eye[1:5, 1:5, 1:5] = True
    lens[2, 2, 2:4] = True
    reference = Segmentation(geometry, [Segment("Eye_L", eye), Segment("Lens_L", lens)])
    prediction = Segmentation(geometry, [Segment("Eye_L", eye & ~lens), Segment("Lens_L", lens)])
    rows = {row.organ: row for row in evaluate_case(reference, prediction, "case")}
    assert rows["lens_l"].dsc == 1.0
    assert rows["eye_l"].dsc == 2 * 62 / (64 + 62)


def test_touching_the_edge_of_the_image(blocks):
    reference = blocks({"brain": np.s_[:, :, :]})
    prediction = blocks({"brain": np.s_[:, :, 2:]})
    row = one(reference, prediction)
    assert row.dsc == 2 * 12 / (14 + 12)
    assert row.hd_mm == 2.0
    # Both again inside a larger image: nothing changes.
    wide = Geometry.from_parts((20, 22, 24), (1.0, 1.0, 2.0), (-5.0, -5.0, -10.0))
    big = [np.pad(labels.array, 5) for labels in (reference, prediction)]
    padded = one(*(LabelMap(array, wide, {1: "brain"}) for array in big))
    for name in CSV_COLUMNS[3:-2]:
        assert getattr(padded, name) == pytest.approx(getattr(row, name)), name
    assert padded.worst_slice == row.worst_slice + 5


def test_tolerances_can_be_given(blocks):
    reference, prediction = blocks({"lens_l": np.s_[2, 3, 4]}), blocks({"lens_l": np.s_[2, 3, 5]})
    assert one(reference, prediction, CaseSettings(tolerances_mm={"lens_l": 0.5})).surface_dsc == pytest.approx(0.5)
    row = one(reference, prediction, CaseSettings(tolerances_mm={"lens_l": 1.0}, apl_tolerance_mm=1.0))
    assert (row.surface_dsc, row.tolerance_mm, row.apl_mm) == (1.0, 1.0, 0.0)


def test_published_tolerance_of_the_lens_and_pixels_of_its_size(blocks):
    parts = {"spacing_xyz": (0.98, 0.98, 2.5)}
    row = one(blocks({"lens_l": np.s_[2, 3, 4]}, **parts), blocks({"lens_l": np.s_[2, 3, 5]}, **parts))
    assert (row.tolerance_mm, row.surface_dsc) == (0.98, 1.0)


def test_all_48_orders_of_the_axes_give_the_same_row(blocks):
    rng = np.random.default_rng(11)
    reference = blocks({"brainstem": np.s_[2:8, 3:9, 4:12]}, spacing_xyz=(0.9, 1.1, 2.5))
    arrays = [reference.array * (rng.random(reference.array.shape) > 0.15) for _ in range(2)]
    expected = one(*(LabelMap(a, reference.geometry, {1: "brainstem"}) for a in arrays))
    for axes, flips in product(permutations(range(3)), product((False, True), repeat=3)):
        turned = [np.flip(a.transpose(axes), [i for i, flip in enumerate(flips) if flip]) for a in arrays]
        ends = [n - 1 if flip else 0 for n, flip in zip(turned[0].shape, flips, strict=True)]
        # Affine of the turned array: where its voxel (0, 0, 0) came from, and the steps of its axes.
        matrix = np.eye(4)
        for new_axis, old_axis in enumerate(axes):
            step = reference.geometry.affine[:3, 2 - old_axis] * (-1 if flips[new_axis] else 1)
            matrix[:3, 2 - new_axis] = step
        start = np.zeros(3)
        for new_axis, old_axis in enumerate(axes):
            start[old_axis] = ends[new_axis]
        matrix[:3, 3] = reference.geometry.index_to_world(start)
        geometry = Geometry(turned[0].shape, matrix)
        row = one(*(LabelMap(np.ascontiguousarray(a), geometry, {1: "brainstem"}) for a in turned))
        for name in (*CSV_COLUMNS[3:-2], "worst_slice_dsc", "shift_left_mm", "shift_posterior_mm"):
            assert getattr(row, name) == pytest.approx(getattr(expected, name), rel=1e-9, abs=1e-9), (name, axes, flips)
        axis = axial_axis(geometry)
        place = ends[axis] - row.worst_slice if flips[axis] else row.worst_slice
        assert place == expected.worst_slice


def test_different_grids_are_compared_on_the_finer_one(blocks):
    coarse = blocks({"brainstem": np.s_[2:6, 3:7, 4:9]}, spacing_xyz=(2.0, 2.0, 4.0))
    shape = (40, 24, 28)
    fine = np.zeros(shape, dtype=np.uint8)
    fine[8:24, 6:14, 8:18] = 1
    geometry = Geometry.from_parts(shape, (1.0, 1.0, 1.0), (-0.5, -0.5, -1.5))
    other = LabelMap(fine, geometry, {1: "brainstem"})
    for row in (one(coarse, other), one(other, coarse)):
        assert (row.dsc, row.hd_mm, row.surface_dsc) == (1.0, 0.0, 1.0)
        assert [row.volume_reference_ml, row.volume_prediction_ml] == pytest.approx([1.28, 1.28])
        assert row.centroid_shift_mm == pytest.approx(0.0, abs=1e-9)


def test_a_cropped_grid_gives_the_same_row(blocks):
    reference = blocks({"brainstem": np.s_[2:6, 3:7, 4:9]}, origin_xyz=(-20.0, 5.0, 100.0))
    prediction = blocks({"brainstem": np.s_[3:6, 3:7, 5:9]}, origin_xyz=(-20.0, 5.0, 100.0))
    assert one(reference, prediction.crop(Box((1, 2, 3), (9, 11, 13)))) == one(reference, prediction)


def test_another_frame_of_reference_is_refused(blocks):
    reference = blocks({"lens_l": np.s_[2, 3, 4]}, frame_of_reference="1.2.3")
    with pytest.raises(FocusNetError) as error:
        one(reference, blocks({"lens_l": np.s_[2, 3, 4]}, frame_of_reference="1.2.4"))
    assert error.value.code == "E_FRAME_OF_REFERENCE"


def test_an_unknown_organ_is_refused(blocks):
    labels = blocks({"lens_l": np.s_[2, 3, 4]})
    with pytest.raises(FocusNetError) as error:
        one(labels, labels, CaseSettings(organs=("flux_capacitor",)))
    assert error.value.code == "E_UNKNOWN_ORGAN"
