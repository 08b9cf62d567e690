"""Centroids and localisation rates."""

import numpy as np
import pytest
from focusnet.evaluation.localisation import centroid_mm, centroid_shift, summarise_localisation
from focusnet.geometry import Geometry
from scipy.spatial.transform import Rotation


def test_centroid_of_two_voxels_on_an_oblique_grid():
    direction = Rotation.from_euler("zyx", [20, -10, 30], degrees=True).as_matrix()
    geometry = Geometry.from_parts((4, 5, 6), (0.9, 1.1, 2.5), (-30.0, 12.0, 700.0), direction)
    mask = np.zeros((4, 5, 6), dtype=bool)
    mask[1, 2, 3] = mask[3, 4, 0] = True
    expected = (geometry.index_to_world((1, 2, 3)) + geometry.index_to_world((3, 4, 0))) / 2
    np.testing.assert_allclose(centroid_mm(mask, geometry), expected)


def test_shift_has_signs_of_the_patient():
    shift = centroid_shift(np.array([10.0, 20.0, 30.0]), np.array([13.0, 16.0, 42.0]))
    assert shift == (3.0, -4.0, 12.0)  # to the left, to the front, to the head
    assert shift.distance_mm == 13.0


def test_empty_mask_has_no_centroid():
    with pytest.raises(ValueError, match="no centroid"):
        centroid_mm(np.zeros((2, 2, 2), dtype=bool), Geometry.from_parts((2, 2, 2)))


def test_missed_organs_are_within_no_distance():
    found = summarise_localisation([1.0, 3.0, 4.5, 8.0, None])
    assert (found.found, found.missed, found.mean_error_mm) == (4, 1, 4.125)
    assert found.rates == (0.4, 0.4, 0.6)
    nothing = summarise_localisation([None, None])
    assert (nothing.mean_error_mm, nothing.rates) == (None, (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="undefined"):
        summarise_localisation([])
