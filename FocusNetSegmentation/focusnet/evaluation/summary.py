"""What the rows of one method say, organ by organ and over all organs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from focusnet import organs
from focusnet.evaluation.case import Row
from focusnet.evaluation.definitions import METRICS
from focusnet.evaluation.localisation import Localisation, summarise_localisation
from focusnet.evaluation.statistics import Summary, summarise

SMALL_ML = 3.0
AGREEMENT_SDS = 1.96


class Agreement(NamedTuple):
    """Bland-Altman agreement of volumes: mean difference and limits of agreement (Lancet 327, 1986).

    Attributes:
        n: Number of pairs.
        bias: Mean of prediction minus reference.
        low: Bias minus 1.96 standard deviations; None for a single pair.
        high: Bias plus 1.96 standard deviations; None for a single pair.
    """

    n: int
    bias: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class OrganSummary:
    """One organ over all cases.

    Attributes:
        organ: Organ key.
        states: Number of cases by state.
        measures: Distribution by field, over the cases where it is defined.
        volumes_ml: Agreement of volumes in ml, where both masks hold voxels.
        localisation: Of the centroids; None where the reference never holds the organ.
    """

    organ: str
    states: Mapping[str, int]
    measures: Mapping[str, Summary]
    volumes_ml: Agreement | None
    localisation: Localisation | None

    @property
    def is_small(self) -> bool:
        """Whether the reference's mean volume is below 3 ml, 1000 voxels of 1 x 1 x 3 mm (FocusNet, MICCAI 2019)."""
        volume = self.measures.get("volume_reference_ml")
        return volume is not None and volume.mean < SMALL_ML


def summarise_rows(rows: Sequence[Row]) -> list[OrganSummary]:
    """One summary per organ, in the order of the catalogue; ``extra`` and ``both_empty`` rows are only counted."""
    by_organ: dict[str, list[Row]] = {}
    for row in rows:
        by_organ.setdefault(row.organ, []).append(row)
    return [_summary(organ, by_organ[organ]) for organ in organs.CATALOGUE if organ in by_organ]


def mean_over_organs(summaries: Iterable[OrganSummary], field: str) -> tuple[float, int] | None:
    """Mean of the organs' means and the number of organs; each organ weighs the same. None where there is none."""
    means = [summary.measures[field].mean for summary in summaries if field in summary.measures]
    return (float(np.mean(means)), len(means)) if means else None


def agreement(reference: Sequence[float], prediction: Sequence[float]) -> Agreement | None:
    """Bland-Altman agreement of paired values; None where there is none."""
    if not reference:
        return None
    differences = np.subtract(prediction, reference)
    bias = float(differences.mean())
    if len(differences) < 2:
        return Agreement(1, bias, None, None)
    spread = AGREEMENT_SDS * float(differences.std(ddof=1))
    return Agreement(len(differences), bias, bias - spread, bias + spread)


def worst_rows(rows: Iterable[Row], count: int, per_organ: int = 2) -> list[Row]:
    """Rows to look at first: lowest surface DSC, which measures every organ by its own tolerance.

    Args:
        rows: Rows of one method.
        count: Number of rows wanted.
        per_organ: At most so many of one organ.
    """
    taken: Counter[str] = Counter()
    chosen: list[Row] = []
    for row in sorted((r for r in rows if r.surface_dsc is not None), key=lambda r: (r.surface_dsc, r.dsc or 0.0)):
        if taken[row.organ] < per_organ and len(chosen) < count:
            taken[row.organ] += 1
            chosen.append(row)
    return chosen


def _summary(organ: str, rows: Sequence[Row]) -> OrganSummary:
    scored = [row for row in rows if row.state in ("ok", "missed")]
    both = [row for row in rows if row.state == "ok"]
    measures = {field: summarise(getattr(row, field) for row in scored) for field in METRICS}
    return OrganSummary(
        organ,
        Counter(row.state for row in rows),
        {field: summary for field, summary in measures.items() if summary is not None},
        agreement([r.volume_reference_ml or 0.0 for r in both], [r.volume_prediction_ml or 0.0 for r in both]),
        summarise_localisation([row.centroid_shift_mm for row in scored]) if scored else None,
    )
