"""Summaries over cases, and paired comparison of methods with the patient as the unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from focusnet.evaluation.case import Row

POOLED = "all organs"
RESAMPLES = 10_000
CONFIDENCE = 0.95
TIE = 1e-12
DIGITS = 9  # values equal to so many decimals are equal, whatever the rounding of their sums


@dataclass(frozen=True)
class Summary:
    """Distribution of one measure over cases."""

    n: int
    mean: float
    sd: float | None
    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float
    maximum: float


class Contest(NamedTuple):
    """What is compared: one organ (or all) by one measure, the first method against the second."""

    organ: str
    metric: str
    first: str
    second: str


@dataclass(frozen=True)
class PairedTest:
    """Two methods on the same patients; differences are first minus second.

    Attributes:
        contest: Organ, or ``all organs`` for the mean over each patient's organs, measure and methods.
        n: Patients with a value from both.
        left_out: Patients without a value from one of them, such as distances of a missed organ.
        mean_first: Mean over those patients.
        mean_second: Mean over those patients.
        difference: Mean difference.
        interval: Bootstrap 95 % interval of the mean difference; None for a single patient.
        p_value: Two-sided Wilcoxon signed-rank test, exact.
        p_holm: The same after Holm's correction over the organs and pairs of methods of this measure; the pooled line
            is corrected over the pairs of methods.
        effect: Matched-pairs rank-biserial correlation, -1 to 1; positive when the first method is better.
        wins: Patients for whom the first method is better.
        ties: Patients with equal values.
        losses: Patients for whom the second method is better.
    """

    contest: Contest
    n: int
    left_out: int
    mean_first: float
    mean_second: float
    difference: float
    interval: tuple[float, float] | None
    p_value: float
    p_holm: float
    effect: float
    wins: int
    ties: int
    losses: int


def summarise(values: Iterable[float | None]) -> Summary | None:
    """Distribution of the defined values; None where there is none.

    The standard deviation is that of a sample (n - 1), undefined for a single value.
    """
    defined = np.array([value for value in values if value is not None], dtype=np.float64)
    if defined.size == 0:
        return None
    low, q1, median, q3, high = np.percentile(defined, [0, 25, 50, 75, 100]).tolist()
    sd = float(defined.std(ddof=1)) if defined.size > 1 else None
    return Summary(defined.size, float(defined.mean()), sd, low, q1, median, q3, high)


def wilcoxon(differences: ArrayLike) -> float:
    """Two-sided p-value of the Wilcoxon signed-rank test (Wilcoxon, Biometrics Bulletin 1, 1945).

    Zeros are left out. The null distribution is exact, equal absolute differences included: every assignment of signs
    to the observed mid-ranks is equally likely.

    Args:
        differences: ``(n,)``.

    Returns:
        p-value; 1 when all differences are zero or there is none.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[np.abs(values) > TIE]
    if values.size == 0:
        return 1.0
    ranks = np.rint(2 * rankdata(np.round(np.abs(values), DIGITS))).astype(int)  # doubled: mid-ranks are whole
    chance = np.zeros(ranks.sum() + 1)
    chance[0] = 1.0
    for rank in ranks:
        shifted = np.zeros_like(chance)
        shifted[rank:] = chance[:-rank]
        chance = (chance + shifted) / 2
    observed = int(ranks[values > 0].sum())
    return float(min(1.0, 2 * min(chance[: observed + 1].sum(), chance[observed:].sum())))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values after Holm's step-down correction (Holm, Scand J Statist 6, 1979), in the order given."""
    count = len(p_values)
    corrected = [0.0] * count
    running = 0.0
    for position, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (count - position) * p_values[index]))
        corrected[index] = running
    return corrected


def bootstrap_interval(differences: ArrayLike, seed: int) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the mean.

    Args:
        differences: ``(n,)``, one value per patient, not empty.
        seed: Seed of the resampling.

    Returns:
        Lower and upper end; None for a single value, which tells nothing of its spread.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.size < 2:
        return None
    picks = np.random.default_rng(seed).integers(0, values.size, size=(RESAMPLES, values.size))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values[picks].mean(axis=1), [tail, 100 - tail]).tolist()
    return low, high


def rank_biserial(differences: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation (Kerby, Comprehensive Psychology 3, 2014); 0 when all are zero."""
    values = np.asarray(differences, dtype=np.float64)
    values = values[np.abs(values) > TIE]
    if values.size == 0:
        return 0.0
    ranks = rankdata(np.round(np.abs(values), DIGITS))
    return float((ranks * np.sign(values)).sum() / ranks.sum())


def compare_methods(
    rows: Mapping[str, Sequence[Row]],
    metric: str,
    *,
    higher_is_better: bool,
    patients: Mapping[str, str] | None = None,
    seed: int = 0,
) -> list[PairedTest]:
    """Paired comparison of every pair of methods, organ by organ and pooled.

    Several scans of one patient are averaged first, those for which both methods have a value: else a method would gain
    by missing the hard one. Pooled, each patient counts once, with the mean over the organs that both have a value for.

    Args:
        rows: Rows of each method by its name, at least two.
        metric: Field of :class:`focusnet.evaluation.case.Row`.
        higher_is_better: Direction of the measure.
        patients: Patient of each case, where a patient has several.
        seed: Seed of the bootstrap.

    Returns:
        For each pair of methods the organs in their order of appearance, then the pooled lines of all pairs; what has
        no common value is left out.
    """
    values = {name: _by_organ(of_method, metric) for name, of_method in rows.items()}
    organs = list(dict.fromkeys(row.organ for of_method in rows.values() for row in of_method))
    sign = 1.0 if higher_is_better else -1.0
    per_organ, pooled = [], []
    for first, second in combinations(rows, 2):
        of_patient: dict[str, list[NDArray[np.float64]]] = {}
        compared: set[str] = set()
        for organ in organs:
            pairs = _pairs(values[first].get(organ, {}), values[second].get(organ, {}), patients or {})
            compared |= pairs.keys()
            means = {patient: np.mean(scans, axis=0) for patient, scans in pairs.items() if scans}
            for patient, mean in means.items():
                of_patient.setdefault(patient, []).append(mean)
            if means:
                test = _paired(Contest(organ, metric, first, second), list(means.values()), sign, seed)
                per_organ.append(replace(test, left_out=len(pairs) - len(means)))
        if of_patient:
            pooled_means = [np.mean(of_organs, axis=0) for of_organs in of_patient.values()]
            test = _paired(Contest(POOLED, metric, first, second), pooled_means, sign, seed)
            pooled.append(replace(test, left_out=len(compared) - len(of_patient)))
    return [*_holm_corrected(per_organ), *_holm_corrected(pooled)]


def _by_organ(rows: Sequence[Row], metric: str) -> dict[str, dict[str, float | None]]:
    """Value of each organ and case; None where the organ was compared but the measure is undefined."""
    found: dict[str, dict[str, float | None]] = {}
    for row in rows:
        if row.state in ("ok", "missed"):
            found.setdefault(row.organ, {})[row.case] = getattr(row, metric)
    return found


def _pairs(
    first: Mapping[str, float | None], second: Mapping[str, float | None], patients: Mapping[str, str]
) -> dict[str, list[tuple[float, float]]]:
    """Values of both methods in each scan that has them, by patient; empty where a patient has none."""
    found: dict[str, list[tuple[float, float]]] = {}
    for case in first:
        if case in second:
            scans = found.setdefault(patients.get(case, case), [])
            a, b = first[case], second[case]
            if a is not None and b is not None:
                scans.append((a, b))
    return found


def _paired(contest: Contest, pairs: Sequence[ArrayLike], sign: float, seed: int) -> PairedTest:
    table = np.asarray(pairs, dtype=np.float64)
    difference = table[:, 0] - table[:, 1]
    gain = sign * difference
    wins, losses = int((gain > TIE).sum()), int((gain < -TIE).sum())
    p_value = wilcoxon(difference)
    mean_first, mean_second = table.mean(axis=0).tolist()
    return PairedTest(
        contest=contest,
        n=len(table),
        left_out=0,
        mean_first=mean_first,
        mean_second=mean_second,
        difference=float(difference.mean()),
        interval=bootstrap_interval(difference, seed),
        p_value=p_value,
        p_holm=p_value,
        effect=rank_biserial(gain),
        wins=wins,
        ties=len(table) - wins - losses,
        losses=losses,
    )


def _holm_corrected(tests: Sequence[PairedTest]) -> list[PairedTest]:
    return [replace(t, p_holm=p) for t, p in zip(tests, holm([t.p_value for t in tests]), strict=True)]
