"""How far a label can be trusted: the uncertainty of each voxel, and the agreement to expect of each organ.

The mean probability inside an organ's label is no DSC: networks are sure of organs they draw too small, and unsure
along the long border of a thin one. How it translates differs from organ to organ, so each model carries a line per
organ, fitted on its validation patients: expected DSC = offset + slope * mean probability.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from focusnet.geometry import Volume

Line = tuple[float, float]
"""Offset and slope of the expected DSC over the mean probability."""

MIN_CASES = 8
PRIOR_CASES = 20.0


def fit_expectation(certainties: Sequence[float], scores: Sequence[float]) -> Line | None:
    """Line through one organ's validation cases; None where there are too few to say.

    The slope is shrunk as if `PRIOR_CASES` further cases had shown none, and is never negative: with few patients a
    steep line is chance more often than not.

    Args:
        certainties: Mean probability of each case's label, in [0, 1].
        scores: DSC of each case.
    """
    if len(scores) < MIN_CASES:
        return None
    x, y = np.asarray(certainties, float), np.asarray(scores, float)
    deviation = x - x.mean()
    spread = float(deviation @ deviation)
    prior = PRIOR_CASES * float(np.var(x))
    slope = max(float(deviation @ y) / (spread + prior), 0.0) if spread > 0 else 0.0
    return round(float(y.mean() - slope * x.mean()), 4), round(slope, 4)


def expected_dsc(certainty: float, line: Line) -> float:
    """DSC to expect of an organ whose label has this mean probability, in [0, 1]."""
    return float(np.clip(line[0] + line[1] * certainty, 0.0, 1.0))


def uncertainty_percent(certainty: Volume) -> Volume:
    """Percent by which the label of each voxel may be another, 0 to 100, from its probability in 255ths; uint8."""
    percent = (100 - np.arange(256) * (100 / 255)).round().astype(np.uint8)
    return certainty.with_array(percent[certainty.array])
