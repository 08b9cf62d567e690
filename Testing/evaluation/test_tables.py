"""Tables in the layout of the papers."""

import pytest
from focusnet.evaluation.case import Row
from focusnet.evaluation.statistics import compare_methods
from focusnet.evaluation.summary import agreement, mean_over_organs, summarise_rows, worst_rows
from focusnet.evaluation.tables import latex, markdown, markdown_tables, measures_table, paper_table


def row(case, organ, dsc, volume=30.0, state="ok", **measures):
    return Row(case, organ, state, dsc=dsc, volume_reference_ml=volume, volume_prediction_ml=volume, **measures)


@pytest.fixture
def rows():
    cases = [f"p{i}" for i in range(6)]
    large = [row(c, "brainstem", 0.9, hd95_mean_mm=2.0) for c in cases]
    small = [row(c, "lens_l", 0.7, 0.2, hd95_mean_mm=1.0) for c in cases[:-1]]
    return [*large, *small, row("p5", "lens_l", 0.0, 0.2, "missed")]


def test_lines_of_the_table(rows):
    heading, brainstem, lens, mean, small = paper_table({"ours": rows})
    assert heading == ["Organ", "n", "ours, DSC %", "ours, HD95 mm"]
    assert brainstem == ["Brainstem", "6", "90.0 ± 0.0", "2.00 ± 0.00"]
    assert lens == ["Left eye lens", "6", "58.3 ± 28.6", "1.00 ± 0.00"]  # the missed one counts with DSC 0
    assert mean == ["Mean", "", "74.2", "1.50"]
    assert small == ["Mean of small organs", "", "58.3", "1.00"]


def test_methods_side_by_side_with_marks_of_significance(rows):
    worse = [row(r.case, r.organ, r.dsc - 0.1, hd95_mean_mm=r.hd95_mean_mm) for r in rows if r.organ == "brainstem"]
    methods = {"ours": rows, "theirs": worse}
    tests = compare_methods(methods, "dsc", higher_is_better=True)
    table = paper_table(methods, tests)
    assert table[1] == ["Brainstem", "6", "90.0 ± 0.0", "2.00 ± 0.00", "80.0 ± 0.0*", "2.00 ± 0.00"]
    assert (table[2][1], table[2][4:]) == ("6 / 0", ["–", "–"])  # theirs has no lens
    assert "* differs from the first method" in markdown_tables(methods, tests)
    assert "* differs" not in markdown_tables(methods)


def test_markdown_and_latex(rows):
    table = paper_table({"ours": rows})
    lines = markdown(table).splitlines()
    assert lines[:3] == [
        "| Organ | n | ours, DSC % | ours, HD95 mm |",
        "|---|---:|---:|---:|",
        "| Brainstem | 6 | 90.0 ± 0.0 | 2.00 ± 0.00 |",
    ]
    text = latex(paper_table({"a_b & c": rows}))
    assert r"\begin{tabular}{lrrr}" in text
    assert r"Organ & n & a\_b \& c, DSC \% & a\_b \& c, HD95 mm \\" in text
    assert r"Brainstem & 6 & 90.0 $\pm$ 0.0 & 2.00 $\pm$ 0.00 \\" in text
    assert text.index(r"\midrule" + "\nMean &") > text.index("Left eye lens")
    assert text.count("{") == text.count("}")


def test_means_over_organs_weigh_organs_equally(rows):
    summaries = summarise_rows(rows)
    assert mean_over_organs(summaries, "dsc") == (pytest.approx((0.9 + 0.7 * 5 / 6) / 2), 2)
    assert mean_over_organs(summaries, "hd_mm") is None
    assert [summary.is_small for summary in summaries] == [False, True]
    assert summaries[1].states == {"ok": 5, "missed": 1}


def test_extra_and_empty_rows_are_counted_and_not_averaged():
    rows = [
        row("a", "lens_l", 0.8),
        Row("b", "lens_l", "extra", volume_prediction_ml=9.0),
        Row("c", "lens_l", "both_empty"),
    ]
    (summary,) = summarise_rows(rows)
    assert summary.states == {"ok": 1, "extra": 1, "both_empty": 1}
    assert summary.measures["dsc"].n == 1
    assert summary.volumes_ml.n == 1


def test_agreement_by_hand():
    result = agreement([10.0, 20.0, 30.0], [11.0, 22.0, 33.0])
    assert (result.n, result.bias) == (3, 2.0)
    assert (result.low, result.high) == pytest.approx((2 - 1.96, 2 + 1.96))
    assert agreement([5.0], [4.0]) == (1, -1.0, None, None)
    assert agreement([], []) is None


def test_worst_rows_are_varied():
    rows = [row(f"p{i}", "lens_l", 0.1 * i, surface_dsc=0.1 * i) for i in range(5)]
    rows += [row("p9", "brainstem", 0.9, surface_dsc=0.95), Row("p9", "lens_r", "extra")]
    assert [(r.case, r.organ) for r in worst_rows(rows, 3)] == [("p0", "lens_l"), ("p1", "lens_l"), ("p9", "brainstem")]


def test_table_of_all_measures(rows):
    table = measures_table(rows, ("dsc", "hd95_mean_mm"))
    assert table == [
        ["Organ", "n", "DSC", "HD95 mean (mm)", "Volume bias (ml)"],
        ["Brainstem", "6", "0.900 ± 0.000", "2.00 ± 0.00", "+0"],
        ["Left eye lens", "6", "0.583 ± 0.286", "1.00 ± 0.00", "+0"],
        ["Mean", "", "0.742", "1.50", ""],
        ["Mean of small organs", "", "0.583", "1.00", ""],
    ]
