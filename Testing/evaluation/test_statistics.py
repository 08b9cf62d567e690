"""Paired tests against scipy and answers worked out by hand."""

import numpy as np
import pytest
from focusnet.evaluation.case import Row
from focusnet.evaluation.statistics import (
    POOLED,
    bootstrap_interval,
    compare_methods,
    holm,
    rank_biserial,
    summarise,
    wilcoxon,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats


def row(case, organ, dsc, state="ok", **measures):
    return Row(case, organ, state, dsc=dsc, **measures)


def test_summary_counts_only_defined_values():
    summary = summarise([1.0, None, 2.0, 6.0])
    assert (summary.n, summary.mean, summary.median) == (3, 3.0, 2.0)
    assert summary.sd == pytest.approx(np.sqrt(7))
    assert (summary.minimum, summary.lower_quartile, summary.upper_quartile, summary.maximum) == (1.0, 1.5, 4.0, 6.0)
    assert summarise([None]) is None
    assert summarise([4.0]).sd is None


@pytest.mark.parametrize("n", [1, 4, 9, 25])
def test_wilcoxon_equals_scipy_where_scipy_is_exact(n):
    differences = np.random.default_rng(n).normal(0.3, 1.0, size=n)
    assert wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, rel=1e-12)


def test_wilcoxon_by_hand():
    assert wilcoxon([0.1, 0.2, 0.3]) == 0.25  # all three positive: 2 of 8 sign patterns
    assert wilcoxon([1.0, 1.0, -1.0]) == 1.0  # three tied ranks
    assert wilcoxon([2.0, 2.0, 2.0, 2.0, 2.0, 2.0]) == 2 / 64
    assert wilcoxon([0.0, 0.0]) == wilcoxon([]) == 1.0
    assert wilcoxon([0.0, 0.1, 0.2, 0.3]) == 0.25  # a zero says nothing


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_wilcoxon_with_ties_counts_all_sign_patterns(values):
    assume(any(values))
    differences = np.array(values, dtype=float)
    moved = differences[differences != 0]
    ranks = stats.rankdata(np.abs(moved))
    sums, observed = np.array(list(np.ndindex(*[2] * len(moved)))) @ ranks, ranks[moved > 0].sum()
    expected = min(1.0, 2 * min((sums <= observed).mean(), (sums >= observed).mean()))
    assert wilcoxon(differences) == pytest.approx(expected)
    assert wilcoxon(-differences) == pytest.approx(expected)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_rank_biserial_by_hand():
    assert rank_biserial([1.0, 2.0, 3.0]) == 1.0
    assert rank_biserial([1.0, 2.0, -3.0]) == 0.0  # ranks 1 + 2 against 3
    assert rank_biserial([-1.0, 2.0]) == pytest.approx(1 / 3)
    assert rank_biserial([0.0]) == 0.0


def test_bootstrap_interval_is_seeded_and_covers_the_mean():
    differences = np.random.default_rng(3).normal(0.5, 1.0, size=40)
    low, high = bootstrap_interval(differences, seed=1)
    assert (low, high) == bootstrap_interval(differences, seed=1) != bootstrap_interval(differences, seed=2)
    half = 1.96 * differences.std() / np.sqrt(40)
    assert low == pytest.approx(differences.mean() - half, abs=0.03)
    assert high == pytest.approx(differences.mean() + half, abs=0.03)
    assert bootstrap_interval([0.25, 0.25], seed=0) == (0.25, 0.25)


def test_comparison_per_organ_and_pooled():
    cases = ["a", "b", "c", "d"]
    first = [row(c, "brainstem", 0.9) for c in cases] + [row(c, "lens_l", 0.6 + 0.01 * i) for i, c in enumerate(cases)]
    second = [row(c, "brainstem", 0.8) for c in cases] + [row(c, "lens_l", 0.6) for c in cases]
    brainstem, lens, pooled = compare_methods({"A": first, "B": second}, "dsc", higher_is_better=True)
    assert brainstem.contest == ("brainstem", "dsc", "A", "B")
    assert (brainstem.n, brainstem.wins, brainstem.ties, brainstem.losses) == (4, 4, 0, 0)
    assert brainstem.difference == pytest.approx(0.1)
    assert brainstem.interval == pytest.approx((0.1, 0.1))
    assert brainstem.p_value == 2 / 16
    assert brainstem.p_holm == 4 / 16  # two organs
    assert (lens.wins, lens.ties, lens.losses) == (3, 1, 0)
    assert lens.p_holm == lens.p_value == 0.25
    assert pooled.contest.organ == POOLED
    assert pooled.mean_first - pooled.mean_second == pytest.approx(pooled.difference)
    assert pooled.difference == pytest.approx((4 * 0.1 + 0.06) / 8)
    assert pooled.p_holm == pooled.p_value == 2 / 16


def test_a_lower_distance_wins():
    first = [row(c, "brainstem", 0.9, hd95_max_mm=2.0) for c in "abc"]
    second = [row(c, "brainstem", 0.9, hd95_max_mm=3.0) for c in "abc"]
    test, _ = compare_methods({"A": first, "B": second}, "hd95_max_mm", higher_is_better=False)
    assert (test.wins, test.losses, test.effect, test.difference) == (3, 0, 1.0, -1.0)


def test_missed_organs_count_for_dsc_and_are_left_out_of_distances():
    first = [row("a", "brainstem", 0.9, hd95_max_mm=2.0), row("b", "brainstem", 0.8, hd95_max_mm=2.0)]
    second = [row("a", "brainstem", 0.0, "missed"), row("b", "brainstem", 0.7, hd95_max_mm=4.0)]
    rows = {"A": first, "B": second}
    assert compare_methods(rows, "dsc", higher_is_better=True)[0].n == 2
    distance = compare_methods(rows, "hd95_max_mm", higher_is_better=False)[0]
    assert (distance.n, distance.left_out) == (1, 1)


def test_extra_and_empty_organs_are_not_compared():
    rows = {name: [row("a", "lens_l", None, "extra"), row("b", "lens_l", None, "both_empty")] for name in "AB"}
    assert compare_methods(rows, "dsc", higher_is_better=True) == []


def test_scans_of_one_patient_count_once():
    first = [row("p1", "brainstem", 0.9), row("p1b", "brainstem", 0.7), row("p2", "brainstem", 0.9)]
    second = [row("p1", "brainstem", 0.8), row("p1b", "brainstem", 0.8), row("p2", "brainstem", 0.8)]
    rows, patients = {"A": first, "B": second}, {"p1b": "p1"}
    test, pooled = compare_methods(rows, "dsc", higher_is_better=True, patients=patients)
    assert (test.n, test.wins, test.ties) == (2, 1, 1)
    assert test.difference == pytest.approx(0.05)
    assert pooled.n == 2


def test_a_method_gains_nothing_by_missing_the_hard_scan():
    """Two scans a patient: in the common one the first is better (2 to 3 mm), in the other the second found nothing."""
    patients = {f"{p}{scan}": p for p in "abcdef" for scan in (1, 2)}
    first = [row(f"{p}{scan}", "lens_l", 0.5, hd95_max_mm=mm) for p in "abcdef" for scan, mm in ((1, 2.0), (2, 20.0))]
    second = [row(f"{p}1", "lens_l", 0.5, hd95_max_mm=3.0) for p in "abcdef"]
    second += [row(f"{p}2", "lens_l", 0.0, "missed") for p in "abcdef"]
    methods = {"first": first, "second": second}
    test, pooled = compare_methods(methods, "hd95_max_mm", higher_is_better=False, patients=patients)
    for found in (test, pooled):
        assert (found.n, found.mean_first, found.mean_second, found.wins) == (6, 2.0, 3.0, 6)


def test_patients_without_a_common_value_are_counted():
    first = [row(p, "lens_l", 0.5, hd95_max_mm=2.0) for p in "abc"]
    second = [row(p, "lens_l", 0.5, hd95_max_mm=3.0) for p in "ab"] + [row("c", "lens_l", 0.0, "missed")]
    tests = compare_methods({"first": first, "second": second}, "hd95_max_mm", higher_is_better=False)
    assert [(t.contest.organ, t.n, t.left_out) for t in tests] == [("lens_l", 2, 1), (POOLED, 2, 1)]


def test_equal_differences_are_ties_whatever_their_rounding():
    """HD95 in steps of 0.9 mm: differences of two pixels are equal, of six patients, before they are rounded."""
    first, second = np.array([3, 4, 5, 2, 1, 7, 3]) * 0.9, np.array([1, 2, 3, 4, 3, 5, 4]) * 0.9
    steps = np.array([2.0, 2.0, 2.0, -2.0, -2.0, 2.0, -1.0])
    assert len(set(np.abs(first - second))) > 2  # the trap
    assert wilcoxon(first - second) == wilcoxon(steps) == 0.6875
    assert rank_biserial(first - second) == rank_biserial(steps) == pytest.approx(8 / 28)


def test_one_patient_has_no_interval():
    assert bootstrap_interval([0.3], 0) is None
    (test, _) = compare_methods(
        {"first": [row("a", "lens_l", 0.5)], "second": [row("a", "lens_l", 0.4)]}, "dsc", higher_is_better=True
    )
    assert (test.n, test.interval) == (1, None)


def test_more_than_two_methods_share_one_correction():
    values = {"A": 0.9, "B": 0.8, "C": 0.7}
    rows = {name: [row(case, "brainstem", value) for case in "abcdef"] for name, value in values.items()}
    tests = compare_methods(rows, "dsc", higher_is_better=True)
    assert [t.contest[2:] for t in tests] == [("A", "B"), ("A", "C"), ("B", "C")] * 2
    assert {t.p_value for t in tests} == {2 / 64}
    assert {t.p_holm for t in tests} == {6 / 64}
