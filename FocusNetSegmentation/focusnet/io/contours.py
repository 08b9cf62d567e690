"""Plane polygons to pixels.

Polygons are ``(n, 2)`` float arrays of ``(y, x)`` vertices in pixel indices: pixel ``(r, c)`` is the unit square around
the point ``(r, c)``. The last vertex is joined to the first. All polygons of a plane are combined by the even-odd rule,
so holes, islands in holes and keyholes need no bookkeeping, and a channel of zero width cancels itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]

SUB_ROWS = 8  # even, so that areas bounded by lines between pixel centres and edge middles come out exactly
TIE_BAND = 0.03  # pixels covered by a half +- this share are decided by their centre


def signed_area(polygon: Polygon) -> float:
    """Shoelace area in square pixels; positive for an anticlockwise walk as seen with the rows running downwards."""
    y, x = polygon[:, 0], polygon[:, 1]
    return float(0.5 * (np.dot(y, np.roll(x, -1)) - np.dot(x, np.roll(y, -1))))


def area_coverage(polygons: Sequence[Polygon], shape_yx: tuple[int, int]) -> NDArray[np.float64]:
    """Share of each pixel's area inside the polygons.

    Every pixel row is cut into ``SUB_ROWS`` scan lines; along a scan line the covered length is exact. The error of a
    pixel is therefore that of a midpoint rule of ``SUB_ROWS`` steps in y only.

    Args:
        polygons: Polygons of one plane, combined by the even-odd rule; they may reach outside the image.
        shape_yx: Rows and columns of the image.

    Returns:
        ``(y, x)`` array between 0 and 1.
    """
    height, width = shape_yx
    step = 1.0 / SUB_ROWS
    row, x = _crossings(polygons, height * SUB_ROWS, first=-0.5 + step / 2, step=step)
    order = np.lexsort((x, row))
    row, x = row[order], np.clip(x[order] + 0.5, 0.0, width)
    # Each scan line has an even number of crossings: every odd one opens a span, every even one closes it.
    sign = np.where(np.arange(row.size) % 2 == 0, step, -step)
    column = x.astype(np.intp)
    cell = (row // SUB_ROWS) * (width + 2) + column
    size = height * (width + 2)
    change = np.bincount(cell, sign * (column + 1 - x), size) + np.bincount(cell + 1, sign * (x - column), size)
    return np.cumsum(change.reshape(height, width + 2), axis=1)[:, :width]


def centres_inside(polygons: Sequence[Polygon], shape_yx: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside the polygons by the even-odd rule; ``(y, x)``."""
    height, width = shape_yx
    row, x = _crossings(polygons, height, first=0.0, step=1.0)
    column = np.ceil(np.clip(x, 0.0, width)).astype(np.intp)
    count = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return np.cumsum(count, axis=1)[:, :width] % 2 == 1


def rasterise(polygons: Sequence[Polygon], shape_yx: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels of which more than half lies inside the polygons; a tie goes by the pixel's centre.

    The tie band makes the mask of a contour that was traced from a mask (``tracing.trace``) that mask again: there a
    pixel inside is covered by at least a half, a pixel outside by at most a half, and the centres always tell.
    """
    coverage = area_coverage(polygons, shape_yx)
    tie = np.abs(coverage - 0.5) <= TIE_BAND
    inside = coverage > 0.5
    if tie.any():
        inside = np.where(tie, centres_inside(polygons, shape_yx), inside)
    return inside


def nesting_depths(polygons: Sequence[Polygon]) -> list[int]:
    """For each polygon the number of the others that contain its first vertex: even for an outline, odd for a hole."""
    low = np.array([p.min(axis=0) for p in polygons])
    high = np.array([p.max(axis=0) for p in polygons])
    depths = []
    for own, polygon in enumerate(polygons):
        vertex = polygon[0]
        near = np.flatnonzero(((low <= vertex) & (vertex <= high)).all(axis=1)).tolist()
        depths.append(sum(_contains(polygons[other], vertex) for other in near if other != own))
    return depths


def even_odd_area(polygons: Sequence[Polygon]) -> float:
    """Area in square pixels that the nested polygons enclose, provided that none crosses itself or another."""
    depths = nesting_depths(polygons)
    return sum((-1) ** depth * abs(signed_area(polygon)) for depth, polygon in zip(depths, polygons, strict=True))


def _contains(polygon: Polygon, point_yx: NDArray[np.float64]) -> bool:
    _, x = _crossings([polygon], 1, first=float(point_yx[0]), step=1.0)
    return int(np.count_nonzero(x <= point_yx[1])) % 2 == 1


def _crossings(
    polygons: Sequence[Polygon], rows: int, *, first: float, step: float
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Row number and x of all crossings of polygon edges with the scan lines ``y = first + step * row``.

    An edge owns its lower end and not its upper one, so a line through a vertex is never counted twice.
    """
    start = np.concatenate([*polygons, np.empty((0, 2))])
    stop = np.concatenate([*(np.roll(p, -1, axis=0) for p in polygons), np.empty((0, 2))])
    # Number of the first scan line at or above each end, equal for both edges that share the vertex.
    line_start = np.clip(np.ceil((start[:, 0] - first) / step), 0, rows).astype(np.intp)
    line_stop = np.clip(np.ceil((stop[:, 0] - first) / step), 0, rows).astype(np.intp)
    lowest = np.minimum(line_start, line_stop)
    count = np.abs(line_stop - line_start)
    edge = np.repeat(np.arange(count.size), count)
    row = lowest[edge] + np.arange(edge.size) - np.repeat(np.cumsum(count) - count, count)
    slope = (stop[edge, 1] - start[edge, 1]) / (stop[edge, 0] - start[edge, 0])
    return row, start[edge, 1] + (first + step * row - start[edge, 0]) * slope
