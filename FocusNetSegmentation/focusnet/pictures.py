"""Pictures of contours on a CT: axial, coronal and sagittal, as a radiologist looks at them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from focusnet import DISCLAIMER, organs
from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry, LabelMap, Volume, resample
from focusnet.io.atomic import atomic_path
from focusnet.preprocessing import AIR_HU

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PIXEL_MM = 0.75
INNER_SHARE = 0.15
WINDOW_HU = (-160.0, 240.0)
BORDER_MM = 65.0
HEIGHT_INCHES = 6.0
LEGEND_INCHES = 1.8


@dataclass(frozen=True)
class View:
    """A plane through the patient and how it is looked at.

    Attributes:
        name: Its name.
        normal: World axis across the plane (0 x, 1 y, 2 z).
        across: World axis that runs to the right of the picture.
        down: World axis along the picture's height.
        is_upright: Whether ``down`` grows upwards (towards the head).
        letters: Letters at the left, right, top and bottom edge.
    """

    name: Literal["Axial", "Coronal", "Sagittal"]
    normal: int
    across: int
    down: int
    is_upright: bool
    letters: str


VIEWS = (
    View("Axial", 2, 0, 1, False, "RLAP"),
    View("Coronal", 1, 0, 2, True, "RLSI"),
    View("Sagittal", 0, 1, 2, True, "APSI"),
)


def contour_views(
    volume: Volume, labels: LabelMap, path: str | Path, *, truth: LabelMap | None = None, title: str = ""
) -> None:
    """Write a PNG with the three planes that cut the most organs.

    Args:
        volume: CT in HU, any orientation.
        labels: Organs to draw in their colours; any grid in the same world.
        path: Target, ``.png``.
        truth: Organs to draw dashed in white.
        title: First line.

    Raises:
        FocusNetError: ``E_EMPTY_IMAGE`` when no organ has a voxel, ``E_OUTPUT_WRITE``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    found = _Organs(labels)
    reference = _Organs(truth) if truth is not None else None
    guide = found if found.parts or reference is None else reference
    if not guide.parts:
        raise FocusNetError("E_EMPTY_IMAGE", "No organ has a voxel, so there is no contour to draw.")
    bounds = _bounds(volume, guide)
    extent = bounds[1] - bounds[0]
    widths = [HEIGHT_INCHES * extent[view.across] / max(extent[v.down] for v in VIEWS) for view in VIEWS]
    figure = Figure(figsize=(sum(widths) + 0.4, HEIGHT_INCHES + LEGEND_INCHES + 0.5), facecolor="black")
    FigureCanvasAgg(figure)
    bottom = LEGEND_INCHES / figure.get_figheight()
    grid = figure.add_gridspec(1, 3, width_ratios=widths, left=0.01, right=0.99, top=0.92, bottom=bottom, wspace=0.03)
    shown: set[str] = set()
    for column, view in enumerate(VIEWS):
        plane = _plane(view, _best_position(guide, view), bounds)
        axes = figure.add_subplot(grid[0, column])
        _draw_ct(axes, volume, view, plane)
        shown |= _draw_contours(axes, found, view, plane)
        if reference is not None:
            _draw_contours(axes, reference, view, plane, is_truth=True)
    handles = [
        Line2D([], [], color=_colour(key), linewidth=2.5, label=organs.organ(key).name)
        for key in found.parts
        if key in shown
    ]
    if reference is not None:
        handles.append(Line2D([], [], color="white", linewidth=1, linestyle="dashed", label="Truth"))
    figure.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.035),
        ncols=max(3, int(figure.get_figwidth() / 2.3)),
        fontsize=8,
        facecolor="black",
        edgecolor="none",
        labelcolor="white",
        handlelength=1.4,
    )
    figure.text(0.5, 0.965, title, color="white", fontsize=11, ha="center", va="center")
    figure.text(0.5, 0.012, f"UNREVIEWED. {DISCLAIMER}", color="0.75", fontsize=7, ha="center")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, facecolor="black", metadata={"Software": "slicer-focusnet"})


class _Organs:
    """Each organ's mask, cut to its box with a margin, and the room it takes in the world."""

    def __init__(self, labels: LabelMap) -> None:
        self.parts: dict[str, Volume] = {}
        self.extents_mm: dict[str, NDArray[np.float64]] = {}
        boxes = ndimage.find_objects(labels.array, max_label=max(labels.organs, default=0))
        for value, key in labels.organs.items():
            found = boxes[value - 1]
            if found is None:
                continue
            box = Box(tuple(s.start for s in found), tuple(s.stop for s in found))  # type: ignore[arg-type]
            part = labels.crop(box.expand((1, 1, 1), labels.geometry.shape_zyx))
            mask = Volume((part.array == value).astype(np.float32), part.geometry)
            places = mask.geometry.index_to_world(np.argwhere(mask.array))
            self.parts[key] = mask
            self.extents_mm[key] = np.stack([places.min(axis=0), places.max(axis=0)])


def _best_position(found: _Organs, view: View) -> float:
    """Where the plane cuts the most organs well inside; the middle of the longest such stretch."""
    ranges = np.array([extent[:, view.normal] for extent in found.extents_mm.values()])  # (organs, 2)
    inner = (ranges[:, 1] - ranges[:, 0]) * INNER_SHARE
    low, high = ranges[:, 0] + inner, ranges[:, 1] - inner
    positions = np.arange(ranges.min(), ranges.max() + 1.0)
    counts = ((positions[:, None] >= low) & (positions[:, None] <= high)).sum(axis=1)
    stretches, number = ndimage.label(counts == counts.max())
    longest = 1 + int(np.argmax(np.bincount(stretches)[1:])) if number else 0
    return float(np.median(positions[stretches == longest]))


def _bounds(volume: Volume, found: _Organs) -> NDArray[np.float64]:
    """Least and greatest LPS position (mm) of the organs with what lies round them in the scan; (2, 3)."""
    extents = np.stack(list(found.extents_mm.values()))
    low, high = volume.geometry.world_bounds()
    return np.stack(
        [
            np.maximum(low, extents[:, 0].min(axis=0) - BORDER_MM),
            np.minimum(high, extents[:, 1].max(axis=0) + BORDER_MM),
        ]
    )


def _plane(view: View, position_mm: float, bounds: NDArray[np.float64]) -> Geometry:
    """LPS-aligned grid of one voxel's thickness through the body's bounds."""
    low, high = bounds[0].copy(), bounds[1].copy()
    size = np.maximum(np.ceil((high - low) / PIXEL_MM), 1).astype(int)
    low[view.normal], size[view.normal] = position_mm - PIXEL_MM / 2, 1
    x, y, z = (int(n) for n in size)
    return Geometry.from_parts((z, y, x), (PIXEL_MM,) * 3, low + PIXEL_MM / 2)


def _flat(volume: Volume, view: View) -> NDArray[np.float32]:
    """(down, across) picture of a one-voxel-thick LPS grid."""
    flat = volume.array[_index(view)]
    return flat[::-1] if view.is_upright else flat


def _index(view: View) -> tuple[int | slice, ...]:
    return tuple(0 if axis == 2 - view.normal else slice(None) for axis in range(3))


def _draw_ct(axes: Axes, volume: Volume, view: View, plane: Geometry) -> None:
    picture = _flat(resample(volume, plane, fill=AIR_HU, antialias=False), view)
    low, high = WINDOW_HU
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="bilinear", aspect="equal")
    axes.set_axis_off()
    position = plane.origin_xyz[view.normal]
    axes.set_title(f"{view.name}, {'xyz'[view.normal]} = {position:.0f} mm", color="0.8", fontsize=9, pad=4)
    places = ((0.015, 0.5), (0.985, 0.5), (0.5, 0.985), (0.5, 0.015))
    sides: tuple[tuple[str, str], ...] = (
        ("left", "center"),
        ("right", "center"),
        ("center", "top"),
        ("center", "bottom"),
    )
    for letter, (x, y), (horizontal, vertical) in zip(view.letters, places, sides, strict=True):
        axes.text(
            x,
            y,
            letter,
            color="yellow",
            fontsize=11,
            weight="bold",
            transform=axes.transAxes,
            ha=horizontal,
            va=vertical,
        )


def _draw_contours(axes: Axes, found: _Organs, view: View, plane: Geometry, *, is_truth: bool = False) -> set[str]:
    """Draw the organs that the plane cuts; returns their keys."""
    drawn = set()
    for key, part in found.parts.items():
        share = _flat(resample(part, plane, fill=0.0, antialias=False), view)
        if share.max() <= 0.5:
            continue
        drawn.add(key)
        if is_truth:
            axes.contour(share, levels=[0.5], colors=["white"], linewidths=0.8, linestyles="dashed")
        else:
            axes.contour(share, levels=[0.5], colors=[_colour(key)], linewidths=1.4)
    return drawn


def _colour(key: str) -> tuple[float, float, float]:
    red, green, blue = organs.organ(key).colour
    return red / 255, green / 255, blue / 255
