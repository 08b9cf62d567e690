"""Contours of one organ on its worst axial slice and on a coronal slice, over the CT where there is one."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from focusnet.evaluation.case import Pair, Row, lay_over
from focusnet.evaluation.figures import INK, PREDICTION_COLOUR, REFERENCE_COLOUR
from focusnet.evaluation.job import CaseJob
from focusnet.evaluation.masks import CroppedMask
from focusnet.evaluation.reading import read_case
from focusnet.geometry import Box, Geometry, Volume, resample
from focusnet.io import read_volume

MARGIN_MM = 10.0
LEAST_MM = 40.0
AIR_HU = -1024.0
PICTURE_PX = 180
WINDOW_HU = (-160.0, 240.0)
OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "S": "I", "I": "S"}


class View(NamedTuple):
    """A cut through the patient: directions that its normal, its rows and its columns run along."""

    normal: str
    down: str
    right: str


AXIAL = View("S", "P", "L")
CORONAL = View("P", "I", "L")


@dataclass(frozen=True, eq=False)
class Overlay:
    """Contours of one organ in one plane.

    Attributes:
        reference: Boolean ``(rows, columns)``.
        prediction: Boolean, same shape.
        spacing_mm: Pixel height and width.
        view: Directions of rows and columns.
        ct_hu: HU of the same pixels, or None.
        level: Row to mark, or None.
    """

    reference: NDArray[np.bool_]
    prediction: NDArray[np.bool_]
    spacing_mm: tuple[float, float]
    view: View
    ct_hu: NDArray[np.floating] | None = None
    level: int | None = None


def make_overlays(jobs: Mapping[str, CaseJob], rows: Sequence[Row], method: str) -> list[tuple[Overlay, Overlay]]:
    """Axial and coronal picture of some rows; each case is read once.

    Args:
        jobs: Job by case.
        rows: Rows with a worst slice, in any order.
        method: Method whose contours are drawn beside the reference's.

    Returns:
        The worst axial slice and the coronal slice with most differing voxels, for each row in order.
    """
    pictures: dict[Row, tuple[Overlay, Overlay]] = {}
    for case in dict.fromkeys(row.case for row in rows):
        job = jobs[case]
        pair = lay_over(read_case(job.reference, job.reading), read_case(job.predictions[method], job.reading))
        ct = None if job.reading.ct is None else read_volume(job.reading.ct)
        pictures |= {row: worst_views(pair, row, ct) for row in rows if row.case == case}
    return [pictures[row] for row in rows]


def worst_views(pair: Pair, row: Row, ct: Volume | None = None) -> tuple[Overlay, Overlay]:
    """The worst axial slice, and the coronal slice with most differing voxels with that axial slice marked.

    Raises:
        ValueError: The row has no worst slice.
    """
    if row.worst_slice is None:
        raise ValueError(f"{row.organ} of {row.case} is {row.state} and has no worst slice.")
    masks = pair.masks(row.organ)
    box = _union(masks)
    empty = np.zeros(box.shape_zyx, dtype=bool)
    reference, prediction = (empty if mask is None else mask.on(box) for mask in masks)
    axis = _axis(pair.grid, CORONAL.normal)
    differing = np.count_nonzero(reference ^ prediction, axis=tuple(a for a in range(3) if a != axis))
    coronal = cut(pair, row.organ, CORONAL, box.start_zyx[axis] + int(np.argmax(differing)), ct)
    return (
        cut(pair, row.organ, AXIAL, row.worst_slice, ct),
        replace(coronal, level=_level(pair.grid, row.worst_slice, box)),
    )


def cut(pair: Pair, organ: str, view: View, position: int, ct: Volume | None = None) -> Overlay:
    """Both masks, and the CT, in one plane around an organ.

    Args:
        pair: The two labelled scans; one of them holds the organ.
        organ: Organ key.
        view: Plane.
        position: Index of the plane along its normal in the pair's grid.
        ct: CT on any grid in the same world.

    Returns:
        Square picture around the organ.
    """
    masks = pair.masks(organ)
    box = _around(_union(masks), pair.grid, _axis(pair.grid, view.normal), position)
    geometry = pair.grid.crop(box)
    empty = np.zeros(box.shape_zyx, dtype=bool)
    reference, prediction = (_upright(empty if m is None else m.on(box), geometry, view) for m in masks)
    spacing = [geometry.spacing_zyx[_axis(geometry, direction)] for direction in (view.down, view.right)]
    hu = None
    if ct is not None:
        hu = _upright(resample(ct, geometry, fill=AIR_HU, order="nearest").array, geometry, view)
    return Overlay(reference, prediction, (spacing[0], spacing[1]), view, hu)


def draw(picture: Overlay) -> str:
    """Picture as SVG: CT if there is one, both contours along the voxel edges, a scale bar and the patient's sides."""
    rows, columns = picture.reference.shape
    dy, dx = picture.spacing_mm
    width, height = columns * dx, rows * dy
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    pixel = side / PICTURE_PX
    dark = picture.ct_hu is not None
    ink = "#fff" if dark else INK
    parts = [f'<rect width="{width:.2f}" height="{height:.2f}" fill="{"#000" if dark else "#fff"}"/>']
    if picture.ct_hu is not None:
        image = base64.b64encode(png(windowed(picture.ct_hu))).decode()
        parts.append(
            f'<image width="{width:.2f}" height="{height:.2f}" preserveAspectRatio="none" '
            f'href="data:image/png;base64,{image}"/>'
        )
    for mask, colour in ((picture.reference, REFERENCE_COLOUR), (picture.prediction, PREDICTION_COLOUR)):
        parts.append(
            f'<g transform="scale({dx:.5f} {dy:.5f})"><path d="{filled_path(mask)}" fill="{colour}" '
            f'fill-opacity="{0.0 if dark else 0.16}" shape-rendering="crispEdges"/>'
            f'<path d="{edge_path(mask)}" fill="none" stroke="{colour}" stroke-width="1.6" '
            'vector-effect="non-scaling-stroke" stroke-linecap="square"/></g>'
        )
    if picture.level is not None:
        parts.append(
            f'<path d="M0 {(picture.level + 0.5) * dy:.2f}h{width:.2f}" stroke="{ink}" stroke-opacity=".55" '
            f'stroke-width="{pixel:.3f}" stroke-dasharray="{4 * pixel:.2f} {4 * pixel:.2f}"/>'
        )
    bar = next(length for length in (100, 50, 20, 10, 5, 2, 1) if length <= 0.4 * side)
    size, edge, foot = 11 * pixel, left + 6 * pixel, top + side - 7 * pixel
    sides = ((edge, "start", OPPOSITE[picture.view.right]), (left + side - 6 * pixel, "end", picture.view.right))
    parts += [
        f'<path d="M{edge:.2f} {foot:.2f}h{bar}" stroke="{ink}" stroke-width="{2 * pixel:.3f}"/>',
        f'<text x="{edge:.2f}" y="{foot - 4 * pixel:.2f}" font-size="{size:.2f}" fill="{ink}">{bar} mm</text>',
        *(
            f'<text x="{x:.2f}" y="{top + 14 * pixel:.2f}" font-size="{size:.2f}" fill="{ink}" '
            f'text-anchor="{anchor}">{side}</text>'
            for x, anchor, side in sides
        ),
    ]
    return (
        f'<svg viewBox="{left:.2f} {top:.2f} {side:.2f} {side:.2f}" width="{PICTURE_PX}" height="{PICTURE_PX}" '
        f'role="img" aria-label="Contours on one slice">{"".join(parts)}</svg>'
    )


def edge_path(mask: NDArray[np.bool_]) -> str:
    """SVG path along the pixel edges between inside and outside, in pixels."""
    padded = np.pad(mask, 1)
    across = padded[1:, 1:-1] ^ padded[:-1, 1:-1]  # (rows + 1, columns): edges that run along a row
    down = (padded[1:-1, 1:] ^ padded[1:-1, :-1]).T  # (columns + 1, rows)
    steps = [f"M{start} {line}h{length}" for line, start, length in _runs(across)]
    steps += [f"M{line} {start}v{length}" for line, start, length in _runs(down)]
    return "".join(steps)


def filled_path(mask: NDArray[np.bool_]) -> str:
    """SVG path of the pixels inside, row by row, in pixels."""
    return "".join(f"M{start} {line}h{length}v1h-{length}z" for line, start, length in _runs(mask))


def windowed(hu: NDArray[np.floating]) -> NDArray[np.uint8]:
    """HU in a soft-tissue window as grey values 0 to 255."""
    low, high = WINDOW_HU
    return np.rint(np.clip((hu - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def png(grey: NDArray[np.uint8]) -> bytes:
    """An 8-bit grey image ``(rows, columns)`` as PNG."""
    rows, columns = grey.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in np.ascontiguousarray(grey))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")


def _level(grid: Geometry, position: int, box: Box) -> int:
    """Row of an axial slice in the coronal picture around a box."""
    axis = _axis(grid, AXIAL.normal)
    around = _around(box, grid, _axis(grid, CORONAL.normal), 0)
    if grid.axis_codes[2 - axis] == CORONAL.down:
        return position - around.start_zyx[axis]
    return around.stop_zyx[axis] - 1 - position


def _union(masks: Sequence[CroppedMask | None]) -> Box:
    present = [mask.box for mask in masks if mask is not None]
    return present[0].union(present[-1])


def _axis(geometry: Geometry, direction: str) -> int:
    """Array axis closest to a direction of the patient or its opposite."""
    codes = geometry.axis_codes
    return 2 - next(i for i, code in enumerate(codes) if code in (direction, OPPOSITE[direction]))


def _around(box: Box, grid: Geometry, axis: int, position: int) -> Box:
    """The plane at ``position`` along an axis, and in it a square around the box with a margin."""
    size_mm = np.multiply(box.shape_zyx, grid.spacing_zyx)
    side_mm = max(LEAST_MM, 2 * MARGIN_MM + max(mm for i, mm in enumerate(size_mm) if i != axis))
    middle = np.add(box.start_zyx, box.stop_zyx) / 2
    half = side_mm / 2 / np.asarray(grid.spacing_zyx)
    start, stop = np.floor(middle - half).astype(int).tolist(), np.ceil(middle + half).astype(int).tolist()
    start[axis], stop[axis] = position, position + 1
    return Box(tuple(start), tuple(stop))


def _upright(plane: NDArray[Any], geometry: Geometry, view: View) -> NDArray[Any]:
    """An array one voxel thick as ``(rows, columns)`` of a view."""
    order = [_axis(geometry, direction) for direction in view]
    flat = plane.transpose(order)[0]
    codes = [geometry.axis_codes[2 - axis] for axis in order]
    return flat[:: 1 if codes[1] == view.down else -1, :: 1 if codes[2] == view.right else -1]


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Line, start and length of each run of true values along the last axis."""
    padded = np.pad(mask, ((0, 0), (1, 1))).astype(np.int8)
    change = np.diff(padded, axis=1)
    lines, starts = np.nonzero(change == 1)
    _, ends = np.nonzero(change == -1)
    return list(zip(lines.tolist(), starts.tolist(), (ends - starts).tolist(), strict=True))
