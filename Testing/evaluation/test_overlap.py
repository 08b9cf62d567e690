"""Dice, slices and added path length, against answers worked out by hand."""

import numpy as np
import pytest
from focusnet.evaluation.overlap import added_path_length, dice, slice_dice, worst_slice
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays


def block(shape, *slices):
    mask = np.zeros(shape, dtype=bool)
    mask[slices] = True
    return mask


def test_dice_of_a_shifted_cube():
    a = block((12, 12, 12), slice(1, 9), slice(2, 10), slice(1, 9))
    for shift in range(4):
        assert dice(a, np.roll(a, shift, axis=2)) == (8 - shift) / 8


def test_dice_of_disjoint_masks_is_zero_and_of_one_empty_mask_too():
    a = block((4, 4, 4), 0)
    assert dice(a, ~a & block((4, 4, 4), 3)) == 0.0
    assert dice(a, np.zeros_like(a)) == 0.0


def test_dice_of_two_empty_masks_is_refused():
    empty = np.zeros((2, 2, 2), dtype=bool)
    with pytest.raises(ValueError, match="undefined"):
        dice(empty, empty)


@given(arrays(bool, (3, 4, 5)), arrays(bool, (3, 4, 5)))
def test_dice_is_symmetric_and_agrees_with_its_definition(a, b):
    if not (a.any() or b.any()):
        return
    one, two = {tuple(p) for p in np.argwhere(a)}, {tuple(p) for p in np.argwhere(b)}
    assert dice(a, b) == dice(b, a) == 2 * len(one & two) / (len(one) + len(two))


def test_slice_dice_is_undefined_only_where_both_are_empty():
    a = block((4, 2, 2), slice(0, 2))
    b = block((4, 2, 2), slice(1, 3))
    np.testing.assert_array_equal(slice_dice(a, b), [0.0, 1.0, 0.0, np.nan])


def test_worst_slice_prefers_the_larger_difference_among_equals():
    reference = np.zeros((5, 4, 4), dtype=bool)
    reference[1:4] = True
    prediction = reference.copy()
    prediction[1, 1:] = False  # DSC 2 * 4 / 20 = 0.4
    assert worst_slice(reference, prediction) == (1, pytest.approx(0.4))
    prediction[0, 0, 0] = True  # slice 0: one stray voxel, DSC 0
    assert worst_slice(reference, prediction) == (0, 0.0)
    prediction[3] = False  # slice 3: 16 voxels missing, DSC 0 as well
    assert worst_slice(reference, prediction) == (3, 0.0)


def test_worst_slice_of_nothing_is_refused():
    empty = np.zeros((2, 2, 2), dtype=bool)
    with pytest.raises(ValueError, match="no worst slice"):
        worst_slice(empty, empty)


def test_added_path_of_a_square_shifted_by_one_pixel():
    reference = block((1, 6, 6), 0, slice(1, 5), slice(1, 5))
    prediction = np.roll(reference, 1, axis=2)
    # Of the square's 12 contour pixels, its first column (4) and the two inner pixels of its last are not drawn.
    path = added_path_length(reference, prediction, (2.0, 2.0))
    assert path == (12.0, 24.0)
    assert path.relative == 0.5
    assert added_path_length(reference, prediction, (2.0, 2.0), tolerance_mm=1.9).added_mm == 12.0
    assert added_path_length(reference, prediction, (2.0, 2.0), tolerance_mm=2.0).added_mm == 0.0


def test_added_path_counts_only_contours_of_the_same_slice():
    reference = block((3, 5, 5), 1, slice(1, 4), slice(1, 4))
    above = np.roll(reference, 1, axis=0)
    assert added_path_length(reference, above, (1.0, 1.0), tolerance_mm=50.0) == (8.0, 8.0)


def test_added_path_of_equal_masks_is_zero_and_of_an_empty_prediction_whole():
    mask = block((3, 5, 5), slice(0, 2), slice(0, 3), slice(0, 3))  # touches the edge: 8 contour pixels a slice
    assert added_path_length(mask, mask, (1.0, 1.0)) == (0.0, 16.0)
    assert added_path_length(mask, np.zeros_like(mask), (1.0, 1.0), tolerance_mm=3.0) == (16.0, 16.0)


def test_added_path_uses_the_pixel_size():
    mask = block((1, 5, 5), 0, 2, 2)
    assert added_path_length(mask, np.zeros_like(mask), (4.0, 9.0)).added_mm == 6.0


@given(arrays(bool, (2, 5, 6)), arrays(bool, (2, 5, 6)), st.floats(0.0, 4.0))
def test_added_path_agrees_with_a_search_over_all_pairs(reference, prediction, tolerance):
    def contour(mask):
        points = set()
        for z, y, x in np.argwhere(mask):
            beside = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
            if not all(0 <= j < 5 and 0 <= i < 6 and mask[z, j, i] for j, i in beside):
                points.add((z, y, x))
        return points

    wanted, drawn = contour(reference), contour(prediction)
    added = [
        (z, y, x)
        for z, y, x in wanted
        if not any(z == k and np.hypot(y - j, 1.5 * (x - i)) <= tolerance + 1e-6 for k, j, i in drawn)
    ]
    path = added_path_length(reference, prediction, (1.0, 1.5), tolerance)
    assert path.added_mm == pytest.approx(len(added) * np.sqrt(1.5))
    assert path.reference_mm == pytest.approx(len(wanted) * np.sqrt(1.5))
