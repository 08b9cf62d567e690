"""Pixels to plane polygons: marching squares, simplification, keyholes.

Polygons are ``(n, 2)`` arrays of ``(y, x)`` vertices, see ``contours``. Outlines have a positive ``signed_area``,
holes a negative one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from focusnet.io.contours import Polygon, signed_area

LEVEL = 0.5


def trace(membership: NDArray[np.float32] | NDArray[np.bool_]) -> list[Polygon]:
    """Contours at the level 0.5 by marching squares (Lorensen and Cline 1987, in the plane).

    Vertices lie on the lines between neighbouring pixel centres, linearly interpolated; for a mask half-way. Pixels
    that touch only at a corner are kept apart. Outside the image the membership is 0, so every contour closes.

    Args:
        membership: ``(y, x)`` mask, or degrees of membership between 0 and 1.

    Returns:
        Closed polygons, inside of the structure on one side: outlines with positive, holes with negative
        ``signed_area``.
    """
    field = np.pad(np.asarray(membership, dtype=np.float64), 1)
    inside = field > LEVEL
    height, width = field.shape
    # Node (axis 0, r, c): edge from pixel (r, c) to (r, c + 1); node (axis 1, r, c): to (r + 1, c).
    size = height * width
    top_left, top_right = inside[:-1, :-1], inside[:-1, 1:]
    bottom_left, bottom_right = inside[1:, :-1], inside[1:, 1:]
    code = top_left + 2 * top_right + 4 * bottom_right + 8 * bottom_left
    row, column = np.nonzero((code > 0) & (code < 15))
    here = row * width + column
    sides = {"top": here, "left": size + here, "bottom": here + width, "right": size + here + 1}
    case = code[row, column]
    following = np.full(2 * size, -1, dtype=np.intp)
    for number, steps in _STEPS.items():
        chosen = case == number
        for begin, end in steps:
            following[sides[begin][chosen]] = sides[end][chosen]
    return [_positions(np.array(loop), field) for loop in _loops(following)]


def simplify(polygons: Sequence[Polygon], tolerance: float) -> list[Polygon]:
    """Leave out vertices so that no contour moves by more than ``tolerance``.

    In each round those vertices go that leave all original vertices between their neighbours close to the new edge, no
    two neighbours at once.

    Args:
        polygons: Polygons of at least three vertices, in any unit (isotropic).
        tolerance: Greatest distance between old and new contour, same unit. 0 merges collinear edges only.

    Returns:
        Polygons of at least three vertices, same order.
    """
    return [_simplify_one(polygon, max(tolerance, 1e-9)) for polygon in polygons]


def with_keyholes(polygons: Sequence[Polygon]) -> list[Polygon]:
    """Outlines with their holes joined in by channels of zero width.

    Each hole is cut open at its leftmost vertex and joined to the nearest edge to the left of it, so that no channel
    leaves the structure or crosses another one. The enclosed area stays the same.

    Args:
        polygons: Polygons that don't cross, as from ``trace``.

    Returns:
        One polygon per outline.
    """
    outlines = [p for p in polygons if signed_area(p) > 0]
    holes = sorted((p for p in polygons if signed_area(p) <= 0), key=lambda p: float(p[:, 1].min()))
    if not holes:
        return outlines
    for hole in holes:
        opened = np.roll(hole, -int(np.argmin(hole[:, 1])), axis=0)
        parent, edge, anchor = _nearest_left(outlines, opened[0])
        outline = outlines[parent]
        outlines[parent] = np.concatenate(
            [outline[: edge + 1], [anchor], opened, opened[:1], [anchor], outline[edge + 1 :]]
        )
    return outlines


# Steps from side to side of a cell with the structure on the left hand (rows downwards), by the corners inside:
# 1 top left, 2 top right, 4 bottom right, 8 bottom left. 5 and 10 keep the two corners apart.
_STEPS: dict[int, tuple[tuple[str, str], ...]] = {
    1: (("left", "top"),),
    2: (("top", "right"),),
    3: (("left", "right"),),
    4: (("right", "bottom"),),
    5: (("left", "top"), ("right", "bottom")),
    6: (("top", "bottom"),),
    7: (("left", "bottom"),),
    8: (("bottom", "left"),),
    9: (("bottom", "top"),),
    10: (("top", "right"), ("bottom", "left")),
    11: (("bottom", "right"),),
    12: (("right", "left"),),
    13: (("right", "top"),),
    14: (("top", "left"),),
}


def _loops(following: NDArray[np.intp]) -> list[list[int]]:
    """Cycles of the map from each node to the next one; -1 marks nodes without contour."""
    nodes = np.flatnonzero(following >= 0).tolist()
    step = following.tolist()
    loops = []
    for first in nodes:
        if step[first] < 0:
            continue
        loop, node = [], first
        while step[node] >= 0:
            loop.append(node)
            step[node], node = -1, step[node]
        loops.append(loop)
    return loops


def _positions(loop: NDArray[np.intp], field: NDArray[np.float64]) -> Polygon:
    """``(y, x)`` in the unpadded image where the field crosses the level on the nodes' pixel pairs."""
    downwards, pixel = np.divmod(loop, field.size)
    row, column = np.divmod(pixel, field.shape[1])
    near, far = field[row, column], field[row + downwards, column + 1 - downwards]
    share = (LEVEL - near) / (far - near)
    return np.stack([row + downwards * share, column + (1 - downwards) * share], axis=1) - 1.0


def _simplify_one(polygon: Polygon, tolerance: float) -> Polygon:
    count = len(polygon)
    kept = np.arange(count)
    for limit in (1e-9, tolerance):
        while len(kept) > 3:
            before, after = np.roll(kept, 1), np.roll(kept, -1)
            # Each vertex with all original ones between its neighbours, itself among them.
            between = (after - before) % count - 1
            first = np.cumsum(between) - between
            vertex = np.repeat(np.arange(len(kept)), between)
            original = (before[vertex] + 1 + np.arange(len(vertex)) - first[vertex]) % count
            moved = _distance_to_segment(polygon[original], polygon[before[vertex]], polygon[after[vertex]])
            leaving = _every_other(np.flatnonzero(np.maximum.reduceat(moved, first) <= limit), len(kept))
            if leaving.size == 0:
                break
            kept = np.delete(kept, leaving)
    return polygon[kept]


def _every_other(candidates: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Some of the candidate vertices of a ring of ``count``, no two of them neighbours, so that three vertices stay."""
    run_start = np.flatnonzero(np.diff(candidates, prepend=-2) > 1)
    place = np.arange(candidates.size) - np.repeat(run_start, np.diff(run_start, append=candidates.size))
    chosen = candidates[place % 2 == 0]
    if chosen.size > 1 and chosen[0] == 0 and chosen[-1] == count - 1:
        chosen = chosen[:-1]
    return chosen[: count - 3]


def _distance_to_segment(point: Polygon, start: Polygon, stop: Polygon) -> NDArray[np.float64]:
    along = stop - start
    length2 = np.maximum((along**2).sum(axis=1), 1e-300)
    share = np.clip(((point - start) * along).sum(axis=1) / length2, 0.0, 1.0)
    return np.linalg.norm(point - start - share[:, None] * along, axis=1)


def _nearest_left(outlines: list[Polygon], point: NDArray[np.float64]) -> tuple[int, int, NDArray[np.float64]]:
    """Outline, edge number and position of the edge point nearest to the left of ``point`` in its row."""
    best: tuple[int, int, NDArray[np.float64]] | None = None
    y, x = point
    for number, outline in enumerate(outlines):
        stop = np.roll(outline, -1, axis=0)
        hit = np.flatnonzero((outline[:, 0] <= y) != (stop[:, 0] <= y))
        at = outline[hit, 1] + (y - outline[hit, 0]) / (stop[hit, 0] - outline[hit, 0]) * (stop - outline)[hit, 1]
        left = np.flatnonzero(at <= x)
        if left.size and (best is None or at[left].max() > best[2][1]):
            nearest = left[np.argmax(at[left])]
            best = number, int(hit[nearest]), np.array([y, at[nearest]])
    if best is None:
        raise ValueError("A hole lies in no outline.")
    return best
