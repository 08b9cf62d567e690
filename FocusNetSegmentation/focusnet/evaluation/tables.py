"""Tables for a paper: organs × methods with DSC and HD95, as FocusNetv2 and its peers print them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from focusnet import organs
from focusnet.evaluation.case import Row
from focusnet.evaluation.definitions import METRICS
from focusnet.evaluation.statistics import PairedTest, Summary
from focusnet.evaluation.summary import OrganSummary, mean_over_organs, summarise_rows

SIGNIFICANT = 0.05
MEASURES = ("dsc", "surface_dsc", "hd95_max_mm", "hd95_mean_mm", "msd_mm", "centroid_shift_mm", "apl_relative")
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
            for field, digits, factor in (("dsc", 1, 100.0), ("hd95_mean_mm", 2, 1.0)):
                measure = of_method[key].measures.get(field) if key in of_method else None
                star = "*" if (method, key, field) in marked else ""
                cells.append(_spread(measure, digits, factor) + star)
        counts = [_scored(of_method[key]) if key in of_method else 0 for of_method in summaries.values()]
        same = len(set(counts)) == 1
        lines.append([organs.organ(key).name, str(counts[0]) if same else " / ".join(map(str, counts)), *cells])
    lines.append(["Mean", "", *_means(summaries, lambda summary: True)])
    if any(s.is_small for of_method in summaries.values() for s in of_method.values()):
        lines.append(["Mean of small organs", "", *_means(summaries, lambda summary: summary.is_small)])
    return lines


def measures_table(rows: Sequence[Row], fields: Sequence[str] = MEASURES) -> list[list[str]]:
    """Heading and lines of a table of one method: organ, n, mean ± standard deviation of each measure, volume bias.

    Args:
        rows: Rows of the method.
        fields: Measures, as fields of :class:`focusnet.evaluation.case.Row`.

    Returns:
        Cells as text; the last lines are means over organs.
    """
    summaries = summarise_rows(rows)
    lines = [["Organ", "n", *(METRICS[field].heading for field in fields), "Volume bias (ml)"]]
    for summary in summaries:
        cells = [_spread(summary.measures.get(field), METRICS[field].decimals) for field in fields]
        bias = "–" if summary.volumes_ml is None else f"{summary.volumes_ml.bias:+.3g}"
        lines.append([organs.organ(summary.organ).name, str(_scored(summary)), *cells, bias])
    small = [summary for summary in summaries if summary.is_small]
    for name, group in (("Mean", summaries), ("Mean of small organs", small)):
        if group:
            means = [mean_over_organs(group, field) for field in fields]
            cells = [f"{m[0]:.{METRICS[f].decimals}f}" if m else "–" for f, m in zip(fields, means, strict=True)]
            lines.append([name, "", *cells, ""])
    return lines


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    heading, *lines = ["| " + " | ".join(line) + " |" for line in table]
    return "\n".join([heading, "|---|" + "---:|" * (len(table[0]) - 1), *lines, ""])


def markdown_tables(rows: Mapping[str, Sequence[Row]], tests: Sequence[PairedTest] = ()) -> str:
    """The paper's table with its caption, then all measures of each method."""
    paper = paper_table(rows, tests)
    parts = [markdown(paper), caption(paper) + "\n"]
    for method, of_method in rows.items():
        parts += [f"{method}, all measures:\n", markdown(measures_table(of_method))]
    return "\n".join(parts)


def latex(table: Sequence[Sequence[str]]) -> str:
    """The table in LaTeX (package ``booktabs``), with its caption."""
    heading, *lines = [" & ".join(_escape(cell) for cell in line) + r" \\" for line in table]
    means = sum(line[1] == "" for line in table[1:])
    body = [*lines[: len(lines) - means], r"\midrule", *lines[len(lines) - means :]]
    columns = "l" + "r" * (len(table[0]) - 1)
    opening = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", heading, r"\midrule"]
    ending = [r"\bottomrule", r"\end{tabular}", rf"\caption{{{_escape(caption(table))}}}", r"\end{table}", ""]
    return "\n".join([*opening, *body, *ending])


def caption(table: Sequence[Sequence[str]]) -> str:
    """What the cells of :func:`paper_table` mean."""
    return f"{CAPTION} {STAR}" if any(cell.endswith("*") for line in table for cell in line) else CAPTION


def _scored(summary: OrganSummary) -> int:
    return summary.states.get("ok", 0) + summary.states.get("missed", 0)


def _spread(summary: Summary | None, digits: int, factor: float = 1.0) -> str:
    if summary is None:
        return "–"
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
