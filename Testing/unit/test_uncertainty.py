"""Expected DSC of an organ and uncertainty of its voxels."""

import numpy as np
import pytest
from focusnet.geometry import Geometry, Volume
from focusnet.uncertainty import (
    MIN_CASES,
    PRIOR_CASES,
    expected_dsc,
    fit_expectation,
    uncertainty_percent,
)


def test_the_slope_is_shrunk_by_the_prior_cases():
    x = np.linspace(0.7, 0.9, 12)
    line = fit_expectation(x, 0.1 + 0.8 * x)
    slope = 0.8 * 12 / (12 + PRIOR_CASES)
    assert line == pytest.approx((0.74 - slope * 0.8, slope), abs=1e-4)
    assert expected_dsc(0.8, line) == pytest.approx(0.74, abs=1e-3)


def test_a_falling_line_is_flat_and_few_cases_give_none():
    x = np.linspace(0.7, 0.9, 10)
    assert fit_expectation(x, 1 - x) == pytest.approx((0.2, 0.0))
    assert fit_expectation(x[: MIN_CASES - 1], x[: MIN_CASES - 1]) is None
    assert fit_expectation([0.8] * 9, [0.5, 0.7] * 4 + [0.6]) == pytest.approx((0.6, 0.0))


def test_expectation_stays_between_zero_and_one():
    assert expected_dsc(0.0, (-0.5, 1.0)) == 0.0
    assert expected_dsc(1.0, (0.5, 1.0)) == 1.0


def test_uncertainty_is_what_certainty_leaves():
    geometry = Geometry.from_parts((1, 1, 3))
    got = uncertainty_percent(Volume(np.array([[[0, 51, 255]]], np.uint8), geometry))
    assert got.array.ravel().tolist() == [100, 80, 0]
    assert got.geometry is geometry
