"""Tables for a paper: organs × methods with DSC and HD95, as FocusNetv2 and its peers print them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from focusnet import organs
from focusnet.evaluation.case import Row
from focusnet.evaluation.statistics import PairedTest, Summary
from focusnet.evaluation.summary import OrganSummary, mean_over_organs, summarise_rows

SIGNIFICANT = 0.05
CAPTION = (
    "DSC in percent and HD95 in mm (mean of the two directed 95th percentiles, surface elements), mean ± standard "
    "deviation over cases; n: cases with the organ in the reference. Missed organs count with DSC 0 and have no HD95. "
    "The last lines are means over organs; small organs have a mean volume below 3 ml."
)
STAR = "* differs from the first method, Wilcoxon signed-rank test with Holm correction, p < 0.05."


def paper_table(rows: Mapping[str, Sequence[Row]], tests: Sequence[PairedTest] = ()) -> list[list[str]]:
    """Heading and lines of the table: organ, n, then DSC and HD95 of each method.

    Args:
        rows: Rows by method.
        tests: Paired comparisons, for the marks of significance.

    Returns:
        Cells as text; the first line is the heading.
    """
    summaries = {method: {s.organ: s for s in summarise_rows(of_method)} for method, of_method in rows.items()}
    keys = [key for key in organs.CATALOGUE if any(key in of_method for of_method in summaries.values())]
    marked = {
        (t.contest.second, t.contest.organ, t.contest.metric)
        for t in tests
        if t.contest.first == next(iter(rows)) and t.p_holm < SIGNIFICANT
    }
    lines = [["Organ", "n", *(f"{method}, {measure}" for method in rows for measure in ("DSC %", "HD95 mm"))]]
    for key in keys:
        cells = []
        for method, of_method in summaries.items():
            for field, factor in (("dsc", 100.0), ("hd95_mean_mm", 1.0)):
                measure = of_method[key].measures.get(field) if key in of_method else None
                cells.append(_cell(measure, factor) + ("*" if (method, key, field) in marked else ""))
        counts = [_scored(of_method[key]) for of_method in summaries.values() if key in of_method]
        lines.append([organs.organ(key).name, str(max(counts)), *cells])
    lines.append(["Mean", "", *_means(summaries, lambda summary: True)])
    if any(s.is_small for of_method in summaries.values() for s in of_method.values()):
        lines.append(["Mean of small organs", "", *_means(summaries, lambda summary: summary.is_small)])
    return lines


def markdown(table: Sequence[Sequence[str]]) -> str:
    """The table in Markdown, with its caption."""
    heading, *lines = ["| " + " | ".join(line) + " |" for line in table]
    rule = "|---|" + "---:|" * (len(table[0]) - 1)
    return "\n".join([heading, rule, *lines, "", _caption(table), ""])


def latex(table: Sequence[Sequence[str]]) -> str:
    """The table in LaTeX (package ``booktabs``), with its caption."""
    heading, *lines = [" & ".join(_escape(cell) for cell in line) + r" \\" for line in table]
    means = sum(line[1] == "" for line in table[1:])
    body = [*lines[: len(lines) - means], r"\midrule", *lines[len(lines) - means :]]
    columns = "l" + "r" * (len(table[0]) - 1)
    opening = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", heading, r"\midrule"]
    ending = [r"\bottomrule", r"\end{tabular}", rf"\caption{{{_escape(_caption(table))}}}", r"\end{table}", ""]
    return "\n".join([*opening, *body, *ending])


def _caption(table: Sequence[Sequence[str]]) -> str:
    return f"{CAPTION} {STAR}" if any(cell.endswith("*") for line in table for cell in line) else CAPTION


def _scored(summary: OrganSummary) -> int:
    return summary.states.get("ok", 0) + summary.states.get("missed", 0)


def _cell(summary: Summary | None, factor: float) -> str:
    if summary is None:
        return "–"
    digits = 1 if factor == 100.0 else 2
    spread = "" if summary.sd is None else f" ± {factor * summary.sd:.{digits}f}"
    return f"{factor * summary.mean:.{digits}f}{spread}"


def _means(summaries: Mapping[str, Mapping[str, OrganSummary]], wanted: Callable[[OrganSummary], bool]) -> list[str]:
    cells = []
    for of_method in summaries.values():
        chosen = [summary for summary in of_method.values() if wanted(summary)]
        dsc, hd95 = mean_over_organs(chosen, "dsc"), mean_over_organs(chosen, "hd95_mean_mm")
        cells += ["–" if dsc is None else f"{100 * dsc[0]:.1f}", "–" if hd95 is None else f"{hd95[0]:.2f}"]
    return cells


def _escape(text: str) -> str:
    for sign, replacement in (("%", r"\%"), ("_", r"\_"), ("&", r"\&"), ("#", r"\#"), ("±", r"$\pm$"), ("<", "$<$")):
        text = text.replace(sign, replacement)
    return text.replace("–", "--")
