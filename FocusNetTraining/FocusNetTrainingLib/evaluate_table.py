"""The result table of the tab *Evaluate* as plain values: the worst organ first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from focusnet.evaluation.case import Row
from focusnet.evaluation.definitions import METRICS, STATES
from focusnet.evaluation.summary import OrganSummary, mean_over_organs, summarise_rows
from focusnet.organs import organ

FIELDS = ("dsc", "surface_dsc", "hd95_max_mm", "msd_mm")
ALL = "Mean over organs"
UNDEFINED = "–"


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        organs: Keys of the organs that it stands for.
        cells: Organ, the measures of :data:`FIELDS`, and what is missing.
        hint: What the states mean, for a tool tip.
        is_poor: Whether an organ was missed or is there on one side only.
    """

    organs: tuple[str, ...]
    cells: tuple[str, ...]
    hint: str
    is_poor: bool


def table_lines(rows: Sequence[Row]) -> list[Line]:
    """The mean over all organs, then each organ, lowest surface DSC first; over several cases the mean of the cases."""
    summaries = summarise_rows(rows)
    if not summaries:
        return []
    means = [mean_over_organs(summaries, field) for field in FIELDS]
    cells = [UNDEFINED if mean is None else _number(field, mean[0]) for field, mean in zip(FIELDS, means, strict=True)]
    first = Line(tuple(s.organ for s in summaries), (ALL, *cells, ""), "Each organ weighs the same.", False)
    return [first, *(_line(summary) for summary in sorted(summaries, key=_order))]


def _line(summary: OrganSummary) -> Line:
    found = (summary.measures.get(field) for field in FIELDS)
    cells = [UNDEFINED if m is None else _number(field, m.mean) for field, m in zip(FIELDS, found, strict=True)]
    states = {state: count for state, count in summary.states.items() if state != "ok" and count}
    cases = sum(summary.states.values())
    shown = [state.replace("_", " ") + (f" in {n} of {cases}" if cases > 1 else "") for state, n in states.items()]
    name = organ(summary.organ).name
    hint = "; ".join(STATES[state] for state in states) or name
    return Line((summary.organ,), (name, *cells, ", ".join(shown)), hint, not {"missed", "extra"}.isdisjoint(states))


def _order(summary: OrganSummary) -> tuple[float, ...]:
    found = (summary.measures.get(field) for field in ("surface_dsc", "dsc"))
    return tuple(-1.0 if measure is None else measure.mean for measure in found)


def _number(field: str, value: float) -> str:
    return f"{value:.{METRICS[field].decimals}f}"
