"""The report: one HTML file that needs no network, made from a template and inline figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

import focusnet
from focusnet import organs
from focusnet.evaluation import figures, overlays
from focusnet.evaluation.case import Row
from focusnet.evaluation.definitions import METRICS, STATES, STATISTICS
from focusnet.evaluation.localisation import LOCALISATION_LIMITS_MM
from focusnet.evaluation.notices import find_notices
from focusnet.evaluation.statistics import POOLED, PairedTest
from focusnet.evaluation.summary import SMALL_ML, OrganSummary, mean_over_organs, summarise_rows, worst_rows

if TYPE_CHECKING:
    from focusnet.evaluation.run import EvaluationResult

TEMPLATE = "report.html.jinja"
HEADLINE = ("dsc", "surface_dsc", "hd95_max_mm", "msd_mm")
COLUMNS = ("dsc", "surface_dsc", "hd95_max_mm", "hd95_mean_mm", "msd_mm", "centroid_shift_mm", "apl_relative")
PLOTTED = ("dsc", "surface_dsc", "hd95_max_mm", "msd_mm")
WORST = 9
SEVERITIES = ("error", "warning", "info")


def render_report(result: EvaluationResult) -> str:
    """The whole report.

    Args:
        result: What the evaluation found.

    Returns:
        HTML with all styles, scripts and figures inside.
    """
    from jinja2 import Environment, StrictUndefined

    from focusnet.evaluation.outputs import versions

    source = files("focusnet.evaluation").joinpath(TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(source)
    first = next(iter(result.rows))
    summaries = summarise_rows(result.rows[first])
    observed = {summary.organ: summary for summary in summarise_rows(result.observer)}
    settings = result.jobs[0].settings
    return template.render(
        title=f"{first} compared with the reference",
        methods=list(result.rows),
        cases=[outcome for outcome in result.outcomes if outcome.error is None],
        compared=len(result.rows[first]),
        organ_count=len(summaries),
        cards=_cards(result, summaries, list(observed.values())),
        notices=find_notices(result, first),
        flags=_flags(result),
        columns=[METRICS[field] for field in COLUMNS],
        lines=[
            _line(summary, observed.get(summary.organ), settings.tolerance_of(summary.organ)) for summary in summaries
        ],
        totals=_totals(summaries),
        has_observer=bool(observed),
        other_tables=_other_tables(result),
        plots=_plots(result),
        legend=[*zip(result.rows, figures.METHOD_COLOURS * len(result.rows), strict=False)],
        volumes=_volumes(result.rows[first]),
        worst=_worst(result, first),
        reference_colour=figures.REFERENCE_COLOUR,
        prediction_colour=figures.PREDICTION_COLOUR,
        comparisons=_comparisons(result.tests),
        statistics=STATISTICS,
        small=[(s, organs.organ(s.organ)) for s in summaries if s.is_small and s.localisation],
        small_ml=SMALL_ML,
        limits=[f"{limit:g}" for limit in LOCALISATION_LIMITS_MM],
        definitions=list(METRICS.values()),
        states=STATES,
        apl_tolerance_mm=settings.apl_tolerance_mm,
        tolerances=_tolerances(summaries, result),
        versions=versions(),
        disclaimer=focusnet.DISCLAIMER,
        name_of=lambda key: organs.organ(key).name,
        css_colour=css_colour,
    )


def css_colour(key: str) -> str:
    """Colour of an organ as ``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*organs.organ(key).colour)


def _cards(
    result: EvaluationResult, summaries: Sequence[OrganSummary], observed: Sequence[OrganSummary]
) -> list[dict[str, str]]:
    cards = []
    for field in HEADLINE:
        metric, mean, human = METRICS[field], mean_over_organs(summaries, field), mean_over_organs(observed, field)
        if mean is None:
            continue
        others = [
            (method, mean_over_organs(summarise_rows(rows), field))
            for method, rows in result.rows.items()
            if method != next(iter(result.rows))
        ]
        small = mean_over_organs([summary for summary in summaries if summary.is_small], field)
        others = [("small organs", small), *others, ("second observer", human)]
        beside = [f"{name} {value[0]:.{metric.decimals}f}" for name, value in others if value is not None]
        value = f"{mean[0]:.{metric.decimals}f}"
        cards.append({"name": metric.name, "value": value, "unit": metric.unit, "beside": " · ".join(beside)})
    return cards


def _flags(result: EvaluationResult) -> list[dict[str, Any]]:
    """Quality flags by severity."""
    found = [(outcome.case, flag) for outcome in result.outcomes for flag in outcome.flags]
    groups = [(level, [(case, flag) for case, flag in found if flag.severity == level]) for level in SEVERITIES]
    return [{"level": level, "flags": flags} for level, flags in groups if flags]


def _line(summary: OrganSummary, observed: OrganSummary | None, tolerance_mm: float | None) -> dict[str, Any]:
    """One line of the table of organs."""
    organ = organs.organ(summary.organ)
    human = observed.measures.get("dsc") if observed is not None else None
    return {
        "organ": organ,
        "colour": css_colour(summary.organ),
        "small": summary.is_small,
        "n": summary.states.get("ok", 0) + summary.states.get("missed", 0),
        "states": [(state, summary.states[state]) for state in STATES if state != "ok" and summary.states.get(state)],
        "measures": [summary.measures.get(field) for field in COLUMNS],
        "human": human.mean if human is not None else None,
        "tolerance_mm": tolerance_mm,
        "volumes": summary.volumes_ml,
        "mean_volumes": [summary.measures.get(f"volume_{side}_ml") for side in ("reference", "prediction")],
    }


def _totals(summaries: Sequence[OrganSummary]) -> list[dict[str, Any]]:
    small = [summary for summary in summaries if summary.is_small]
    groups = [("Mean over organs", summaries), ("Mean over small organs", small)]
    return [
        {"name": name, "n": means[0][1] if means[0] else 0, "means": means}
        for name, group in groups
        if group and (means := [mean_over_organs(group, field) for field in COLUMNS])
    ]


def _other_tables(result: EvaluationResult) -> list[dict[str, Any]]:
    """Lines of the table of organs for the other methods and the second observer."""
    others = [(method, rows) for method, rows in result.rows.items() if method != next(iter(result.rows))]
    if result.observer:
        others.append(("second observer", result.observer))
    settings = result.jobs[0].settings
    tables = []
    for name, rows in others:
        summaries = summarise_rows(rows)
        lines = [_line(summary, None, settings.tolerance_of(summary.organ)) for summary in summaries]
        tables.append({"name": name, "lines": lines, "totals": _totals(summaries)})
    return tables


def _plots(result: EvaluationResult) -> list[dict[str, str]]:
    """One box plot per measure, with all methods."""
    keys = [key for key in organs.CATALOGUE if any(r.organ == key for rows in result.rows.values() for r in rows)]
    labels = {key: organs.organ(key).name for key in keys}
    plots = []
    for field in PLOTTED:
        metric = METRICS[field]
        colours = figures.METHOD_COLOURS
        series = [
            figures.Series(name, colours[index % len(colours)], _points(rows, field))
            for index, (name, rows) in enumerate(result.rows.items())
        ]
        observer = figures.Series("second observer", figures.OBSERVER_COLOUR, _points(result.observer, field))
        values = [value for one in (*series, observer) for points in one.points.values() for _, value in points]
        if not values:
            continue
        high = 1.0 if not metric.unit else max(values) * 1.04 or 1.0
        low = 0.0 if metric.unit else max(0.0, np.floor(min(values) * 10) / 10)
        axis = figures.Axis(metric.heading, low, high if high > low else low + 1.0, metric.decimals)
        svg = figures.box_plot(labels, series, observer if result.observer else None, axis)
        plots.append({"field": field, "name": metric.name, "svg": svg})
    return plots


def _points(rows: Iterable[Row], field: str) -> dict[str, list[tuple[str, float]]]:
    points: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        value = getattr(row, field)
        if value is not None:
            points.setdefault(row.organ, []).append((row.case, value))
    return points


def _volumes(rows: Iterable[Row]) -> str:
    points = [
        (row.organ, _volume_title(row), row.volume_reference_ml, row.volume_prediction_ml)
        for row in rows
        if row.state == "ok" and row.volume_reference_ml and row.volume_prediction_ml
    ]
    return figures.bland_altman(points, {key: css_colour(key) for key, *_ in points}) if points else ""


def _volume_title(row: Row) -> str:
    reference, prediction = row.volume_reference_ml or 0.0, row.volume_prediction_ml or 0.0
    return f"{organs.organ(row.organ).name}, {row.case}: {prediction:.3g} ml, reference {reference:.3g} ml"


def _worst(result: EvaluationResult, first: str) -> list[dict[str, Any]]:
    rows = [row for row in worst_rows(result.rows[first], WORST) if row.worst_slice is not None]
    pictures = overlays.make_overlays({job.case: job for job in result.jobs}, rows, first)
    return [
        {"row": row, "svgs": [overlays.draw(p) for p in pair], "there": _on_slice(row, pair[0], first)}
        for row, pair in zip(rows, pictures, strict=True)
    ]


def _on_slice(row: Row, axial: overlays.Overlay, method: str) -> str:
    """What the worst slice holds, in words."""
    if not axial.prediction.any():
        return "reference only"
    return f"DSC {row.worst_slice_dsc:.2f}" if axial.reference.any() else f"{method} only"


def _comparisons(tests: Sequence[PairedTest]) -> list[dict[str, Any]]:
    """Comparisons grouped by pair of methods and measure, the pooled line first."""
    groups: dict[tuple[str, str, str], list[PairedTest]] = {}
    for test in tests:
        groups.setdefault((test.contest.first, test.contest.second, test.contest.metric), []).append(test)
    comparisons = []
    for (first, second, field), group in groups.items():
        metric = METRICS[field]
        reach = max((abs(end) for test in group for end in test.interval or ()), default=0.0) or 1.0
        lines = [
            {
                "test": test,
                "name": "All organs" if test.contest.organ == POOLED else organs.organ(test.contest.organ).name,
                "pooled": test.contest.organ == POOLED,
                "svg": figures.interval(test.interval[0], test.difference, test.interval[1], reach)
                if test.interval
                else "",
            }
            for test in sorted(group, key=lambda test: test.contest.organ != POOLED)
        ]
        comparisons.append({"first": first, "second": second, "metric": metric, "lines": lines})
    return comparisons


def _tolerances(summaries: Sequence[OrganSummary], result: EvaluationResult) -> str:
    settings = result.jobs[0].settings
    texts = []
    for summary in summaries:
        organ = organs.organ(summary.organ)
        mark = "given" if organ.key in settings.tolerances_mm else "default" if organ.tolerance_is_default else ""
        texts.append(f"{organ.name} {settings.tolerance_of(organ.key):g}{f' ({mark})' if mark else ''}")
    return ", ".join(texts)
