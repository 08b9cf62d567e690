"""Plots of the report as inline SVG, drawn without a plotting library so that they stay sharp, small and printable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from focusnet.evaluation.statistics import Summary, summarise

REFERENCE_COLOUR = "#1684d6"
PREDICTION_COLOUR = "#e8730c"
METHOD_COLOURS = ("#e8730c", "#6a51a3", "#2e8b57", "#b5396b", "#7a6a00", "#4a6fa5")
OBSERVER_COLOUR = "#5b6b7a"
INK, FAINT = "#1c2733", "#dfe5ea"
ROW_PX, LABEL_PX, PLOT_PX, RIGHT_PX, AXIS_PX = 22, 204, 850, 64, 34


@dataclass(frozen=True)
class Series:
    """Values of one method in a box plot: points ``(case, value)`` by organ key."""

    name: str
    colour: str
    points: Mapping[str, Sequence[tuple[str, float]]]


@dataclass(frozen=True)
class Axis:
    """Value axis of a plot.

    Attributes:
        label: Name with unit.
        low: Left end.
        high: Right end.
        decimals: Digits of the values in tooltips.
    """

    label: str
    low: float
    high: float
    decimals: int

    def place(self, value: float, length_px: float) -> float:
        """Position in pixels; values beyond the ends stay on them."""
        share = (value - self.low) / (self.high - self.low)
        return min(max(share, 0.0), 1.0) * length_px

    def ticks(self) -> list[float]:
        """Round values, about six."""
        step = nice_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 10) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def nice_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten at or above ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))


def box_plot(labels: Mapping[str, str], series: Sequence[Series], observer: Series | None, axis: Axis) -> str:
    """Horizontal box plots, one row per organ and method, every case as a point.

    Args:
        labels: Name for people by organ key, in the order of the rows.
        series: One per method.
        observer: Second observer, drawn as the band from quartile to quartile with its median, behind the boxes.
        axis: Value axis.

    Returns:
        SVG element.
    """
    band = ROW_PX * len(series) - (len(series) - 1) * 6
    height = band * len(labels)
    parts = []
    for tick in axis.ticks():
        x = LABEL_PX + axis.place(tick, PLOT_PX)
        parts.append(_line(x, 0, x, height, FAINT))
        parts.append(_text(x, height + 16, f"{tick:g}", anchor="middle", css="t"))
    parts.append(_text(LABEL_PX + PLOT_PX / 2, height + 32, axis.label, anchor="middle", css="t"))
    for row, (key, label) in enumerate(labels.items()):
        top = row * band
        if row % 2:
            parts.insert(
                0, f'<rect x="0" y="{top}" width="{LABEL_PX + PLOT_PX + RIGHT_PX}" height="{band}" fill="#f6f8fa"/>'
            )
        parts.append(_text(LABEL_PX - 10, top + band / 2 + 4, label, anchor="end", css="l"))
        if observer is not None:
            parts.append(_observer_band(observer.points.get(key, ()), axis, top + 2, band - 4))
        for index, one in enumerate(series):
            middle = top + band * (index + 0.5) / len(series)
            parts.append(_box(one, key, axis, middle))
        counts = "/".join(str(len(one.points.get(key, ()))) for one in series)
        parts.append(_text(LABEL_PX + PLOT_PX + 12, top + band / 2 + 4, f"n {counts}", css="t"))
    return _svg(LABEL_PX + PLOT_PX + RIGHT_PX, height + AXIS_PX + 4, parts, f"Box plots of {axis.label} by organ")


def bland_altman(points: Sequence[tuple[str, str, float, float]], colours: Mapping[str, str]) -> str:
    """Bland-Altman plot of volumes: relative difference over the mean volume, on a logarithmic axis.

    Args:
        points: Organ key, tooltip, reference and predicted volume in ml, both above 0.
        colours: CSS colour by organ key.

    Returns:
        SVG element.
    """
    width, height, left, right, bottom = 1118, 330, 62, 130, 44
    means = [(a + b) / 2 for _, _, a, b in points]
    relative = [200 * (b - a) / (a + b) for _, _, a, b in points]
    low, high = math.floor(math.log10(min(means))), math.ceil(math.log10(max(means)) + 1e-9)
    widest = max(10.0, *(abs(value) for value in relative))
    reach = nice_step(widest / 4) * math.ceil(widest / nice_step(widest / 4))
    vertical = Axis("", -reach, reach, 0)
    bias, spread = float(np.mean(relative)), 1.96 * float(np.std(relative, ddof=1)) if len(relative) > 1 else 0.0

    def across(volume_ml: float) -> float:
        return left + (math.log10(volume_ml) - low) / max(high - low, 1) * (width - left - right)

    def up(value: float) -> float:
        return 10 + height - 10 - bottom - vertical.place(value, height - 10 - bottom)

    parts = []
    for tick in vertical.ticks():
        parts.append(_line(left, up(tick), width - right, up(tick), FAINT))
        parts.append(_text(left - 8, up(tick) + 4, _signed(tick, "g"), anchor="end", css="t"))
    for power in range(low, high + 1):
        parts.append(_line(across(10.0**power), up(-reach), across(10.0**power), up(reach), FAINT))
        parts.append(_text(across(10.0**power), height - bottom + 18, f"{10.0**power:g}", anchor="middle", css="t"))
    for value, name in ((bias, "mean"), (bias + spread, "+1.96 SD"), (bias - spread, "−1.96 SD")):
        dash = "" if name == "mean" else ' stroke-dasharray="5 4"'
        parts.append(_line(left, up(value), width - right, up(value), INK, dash))
        parts.append(_text(width - right + 8, up(value) + 4, f"{_signed(value, '.1f')} {name}", css="t"))
    for (key, title, _, _), mean, value in zip(points, means, relative, strict=True):
        parts.append(
            f'<circle cx="{across(mean):.1f}" cy="{up(value):.1f}" r="3.6" fill="{colours[key]}" stroke="{INK}" '
            f'stroke-width=".7" fill-opacity=".85"><title>{escape(title)}</title></circle>'
        )
    parts.append(_text((left + width - right) / 2, height - 6, "Mean of both volumes (ml)", anchor="middle", css="t"))
    return _svg(width, height, parts, "Bland-Altman plot of volumes")


def interval(low: float, middle: float, high: float, reach: float) -> str:
    """Mean difference with its interval on an axis from ``-reach`` to ``reach``, to stand in a table cell."""
    width, axis = 150.0, Axis("", -reach, reach, 0)
    a, m, b = (axis.place(value, width - 8) + 4 for value in (low, middle, high))
    parts = [
        _line(width / 2, 0, width / 2, 18, "#9aa7b3"),
        _line(a, 9, b, 9, INK),
        f'<circle cx="{m:.1f}" cy="9" r="3.4" fill="{INK}"/>',
    ]
    return _svg(width, 18, parts, f"{middle:+.3g} ({low:+.3g} to {high:+.3g})")


def _box(series: Series, key: str, axis: Axis, middle: float) -> str:
    points = series.points.get(key, ())
    summary = summarise(value for _, value in points)
    if summary is None:
        return ""
    parts = _whiskers(summary, [value for _, value in points], axis, middle)
    for index, (case, value) in enumerate(points):
        offset = 4.5 * (index * 0.618 % 1 - 0.5) * 2  # spread evenly, the same in every run
        parts.append(
            f'<circle cx="{LABEL_PX + axis.place(value, PLOT_PX):.1f}" cy="{middle + offset:.1f}" r="2.6" '
            f'fill="{series.colour}" fill-opacity=".75">'
            f"<title>{escape(f'{series.name}, {case}: {value:.{axis.decimals}f}')}</title></circle>"
        )
    return f'<g stroke="{series.colour}">{"".join(parts)}</g>'


def _whiskers(summary: Summary, values: Sequence[float], axis: Axis, middle: float) -> list[str]:
    reach = 1.5 * (summary.upper_quartile - summary.lower_quartile)
    inside = [v for v in values if summary.lower_quartile - reach <= v <= summary.upper_quartile + reach]
    low, q1, median, q3, high = (
        LABEL_PX + axis.place(v, PLOT_PX)
        for v in (min(inside), summary.lower_quartile, summary.median, summary.upper_quartile, max(inside))
    )
    return [
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{middle}" y2="{middle}"/>',
        f'<rect x="{q1:.1f}" y="{middle - 6}" width="{max(q3 - q1, 0.5):.1f}" height="12" fill="#fff" rx="2"/>',
        f'<line x1="{median:.1f}" x2="{median:.1f}" y1="{middle - 6}" y2="{middle + 6}" stroke-width="2.4"/>',
    ]


def _observer_band(points: Sequence[tuple[str, float]], axis: Axis, top: float, height: float) -> str:
    summary = summarise(value for _, value in points)
    if summary is None:
        return ""
    q1, median, q3 = (
        LABEL_PX + axis.place(v, PLOT_PX) for v in (summary.lower_quartile, summary.median, summary.upper_quartile)
    )
    title = escape(f"Second observer: median {summary.median:.{axis.decimals}f}, n {summary.n}")
    return (
        f'<g><title>{title}</title><rect x="{q1:.1f}" y="{top}" width="{max(q3 - q1, 1):.1f}" height="{height}" '
        f'fill="{OBSERVER_COLOUR}" fill-opacity=".16"/>'
        f'<line x1="{median:.1f}" x2="{median:.1f}" y1="{top}" y2="{top + height}" stroke="{OBSERVER_COLOUR}" '
        'stroke-width="2" stroke-dasharray="3 2"/></g>'
    )


def _signed(value: float, form: str) -> str:
    """Per cent with a sign, except for 0."""
    return f"{value:{'+' if value else ''}{form}} %".replace("-", "−")


def _svg(width: float, height: float, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}" stroke="{colour}"{more}/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", css: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'
