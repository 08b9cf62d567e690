"""Smooth implicit bodies in millimetres: the clay that the phantom's anatomy is made of.

A body gives for points (x, y, z) an approximate signed distance in mm, negative inside, first-order exact near its
surface, and a box that holds it. Bodies are combined like sets; ``blend_mm`` rounds the seam.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Vector = tuple[float, float, float]
Window = tuple[slice, slice, slice]
Bounds = tuple[Vector, Vector]

EVERYWHERE: Bounds = ((-1e4, -1e4, -1e4), (1e4, 1e4, 1e4))
_TABLE_STEP_MM = 0.5
_FAR_MM = 60.0


class Points:
    """Patient coordinates in mm of a block of a grid, or of a window of that block.

    Attributes:
        xyz: Three arrays (z, y, x) of one shape.
    """

    def __init__(self, xyz: tuple[Array, Array, Array], block: Points | None = None, window: Window | None = None):
        self.xyz = xyz
        self._block = block
        self._window = window
        self._kept: dict[int, Array] = {}

    def __getitem__(self, window: Window) -> Points:
        x, y, z = self.xyz
        return Points((x[window], y[window], z[window]), self, window)

    @cached_property
    def bounds(self) -> Bounds:
        """Box around the block."""
        if self._block is not None:
            return self._block.bounds
        return _box(np.array([p.min() for p in self.xyz]), np.array([p.max() for p in self.xyz]))

    def keep(self, body: Body) -> Array:
        """Distance of a body that is asked for often: computed once per block."""
        if self._block is not None and self._window is not None:
            return self._block.keep(body)[self._window]
        if id(body) not in self._kept:
            self._kept[id(body)] = body.distance(self)
        return self._kept[id(body)]


class Body(Protocol):
    """A solid given by its signed distance."""

    @property
    def bounds(self) -> Bounds:
        """Lowest and highest (x, y, z) in mm of a box around the body."""

    def distance(self, points: Points) -> Array:
        """Signed distance in mm (negative inside), in the shape of the point arrays."""


def _box(low: NDArray[np.floating], high: NDArray[np.floating]) -> Bounds:
    (x0, y0, z0), (x1, y1, z1) = low.tolist(), high.tolist()
    return (x0, y0, z0), (x1, y1, z1)


def _gap_mm(a: Bounds, b: Bounds) -> float:
    """Lower limit of the distance between points of two boxes."""
    return max(max(a[0][i] - b[1][i], b[0][i] - a[1][i]) for i in range(3))


def _smooth_min(a: Array, b: Array, blend_mm: float) -> Array:
    if blend_mm <= 0:
        return np.minimum(a, b)
    overlap = np.maximum(blend_mm - np.abs(a - b), 0)
    return np.minimum(a, b) - overlap * overlap * np.float32(0.25 / blend_mm)


@dataclass(frozen=True)
class Ellipsoid:
    """Ellipsoid with semi-axes ``radii`` turned by ``yaw_deg`` about z, then ``pitch_deg`` about x."""

    center: Vector
    radii: Vector
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0

    @property
    def bounds(self) -> Bounds:
        """Box of the sphere around it where it is turned, else its own box."""
        turned = self.yaw_deg != 0 or self.pitch_deg != 0
        r = (max(self.radii),) * 3 if turned else self.radii
        return _box(np.subtract(self.center, r), np.add(self.center, r))

    def distance(self, points: Points) -> Array:
        """Signed distance in mm, first order."""
        x, y, z = (p - np.float32(c) for p, c in zip(points.xyz, self.center, strict=True))
        if self.yaw_deg:
            c, s = np.float32(np.cos(np.radians(self.yaw_deg))), np.float32(np.sin(np.radians(self.yaw_deg)))
            x, y = c * x + s * y, c * y - s * x
        if self.pitch_deg:
            c, s = np.float32(np.cos(np.radians(self.pitch_deg))), np.float32(np.sin(np.radians(self.pitch_deg)))
            y, z = c * y + s * z, c * z - s * y
        level: Array = np.zeros_like(x)
        slope: Array = np.zeros_like(x)
        for p, r in zip((x, y, z), self.radii, strict=True):
            p *= np.float32(1 / r)
            p *= p
            level += p
            p *= np.float32(1 / r**2)
            slope += p
        np.sqrt(slope, out=slope)
        np.maximum(slope, np.float32(1e-4), out=slope)
        level -= np.sqrt(level)
        level /= slope
        return level


@dataclass(frozen=True)
class Tube:
    """Chain of round cones through ``nodes`` with ``radii``; ``stretch`` widens it along x, y, z."""

    nodes: tuple[Vector, ...]
    radii: tuple[float, ...]
    stretch: Vector = (1.0, 1.0, 1.0)

    @property
    def bounds(self) -> Bounds:
        """Box of all balls along the chain."""
        nodes, reach = np.array(self.nodes), max(self.radii) * np.array(self.stretch)
        return _box(nodes.min(0) - reach, nodes.max(0) + reach)

    def distance(self, points: Points) -> Array:
        """Signed distance in mm; under a stretch first order in the thin directions."""
        stretch = np.array(self.stretch, np.float32)
        nodes = np.array(self.nodes, np.float32) / stretch
        x, y, z = (p / s for p, s in zip(points.xyz, stretch, strict=True))
        best = np.full_like(x, np.inf)
        for (a, b), (ra, rb) in zip(pairwise(nodes), pairwise(self.radii), strict=True):
            way = b - a
            px, py, pz = x - a[0], y - a[1], z - a[2]
            along = (px * way[0] + py * way[1] + pz * way[2]) / max(np.float32(way @ way), np.float32(1e-6))
            np.clip(along, 0, 1, out=along)
            px -= along * way[0]
            py -= along * way[1]
            pz -= along * way[2]
            along *= np.float32(rb - ra)
            gap = np.sqrt(px * px + py * py + pz * pz) - np.float32(ra) - along
            np.minimum(best, gap, out=best)
        return best * np.float32(min(self.stretch))


@dataclass(frozen=True)
class Column:
    """Upright body whose axial section is an ellipse that changes with height.

    Attributes:
        profile: Rows (z, centre x, centre y, radius x, radius y) in mm with falling or rising z.
        boxiness: 0 an ellipse, 1 a rounded rectangle.
    """

    profile: tuple[tuple[float, float, float, float, float], ...]
    boxiness: float = 0.0
    _tables: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows = np.array(sorted(self.profile))
        heights = np.arange(rows[0, 0], rows[-1, 0] + _TABLE_STEP_MM, _TABLE_STEP_MM)
        tables = np.stack([np.interp(heights, rows[:, 0], rows[:, i]) for i in range(1, 5)])
        object.__setattr__(self, "_tables", tables.astype(np.float32))

    @property
    def bounds(self) -> Bounds:
        """Box over all sections."""
        z, x, y, rx, ry = np.array(self.profile).T
        low = np.array(((x - rx).min(), (y - ry).min(), z.min()))
        return _box(low, np.array(((x + rx).max(), (y + ry).max(), z.max())))

    def distance(self, points: Points) -> Array:
        """Signed distance in mm, in-plane to first order, closed by flat ends."""
        x, y, z = points.xyz
        bottom, top = np.float32(self.bounds[0][2]), np.float32(self.bounds[1][2])
        row = ((z - bottom) * np.float32(1 / _TABLE_STEP_MM) + np.float32(0.5)).astype(np.int32)
        np.clip(row, 0, self._tables.shape[1] - 1, out=row)
        cx, cy, rx, ry = (table[row] for table in self._tables)
        u, v = (x - cx) / rx, (y - cy) / ry
        u2, v2 = u * u, v * v
        level = np.sqrt(u2 + v2)
        slope = np.sqrt(u2 / (rx * rx) + v2 / (ry * ry)) / np.maximum(level, np.float32(1e-3))
        if self.boxiness:
            level = level + np.float32(self.boxiness) * (np.sqrt(np.sqrt(u2 * u2 + v2 * v2)) - level)
        side = (level - 1) / np.maximum(slope, np.float32(1e-3))
        return np.maximum(side, np.maximum(z - top, bottom - z))


@dataclass(frozen=True)
class HalfSpace:
    """All points p with ``normal`` · p below ``offset_mm`` (unit normal)."""

    normal: Vector
    offset_mm: float

    @property
    def bounds(self) -> Bounds:
        """Unbounded."""
        return EVERYWHERE

    def distance(self, points: Points) -> Array:
        """Exact signed distance in mm."""
        x, y, z = points.xyz
        nx, ny, nz = (np.float32(n) for n in self.normal)
        return nx * x + ny * y + nz * z - np.float32(self.offset_mm)


@dataclass(frozen=True)
class Union:
    """What is in any of the parts; parts farther than 60 mm from a block are left out of its distances."""

    parts: tuple[Body, ...]
    blend_mm: float = 0.0

    @property
    def bounds(self) -> Bounds:
        """Box around all parts."""
        lows, highs = zip(*(part.bounds for part in self.parts), strict=True)
        pad = self.blend_mm / 4
        return _box(np.min(lows, 0) - pad, np.max(highs, 0) + pad)

    def distance(self, points: Points) -> Array:
        """Smallest distance, rounded where two parts meet."""
        near = [p for p in self.parts if _gap_mm(p.bounds, points.bounds) < _FAR_MM] or self.parts[:1]
        result = near[0].distance(points)
        for part in near[1:]:
            result = _smooth_min(result, part.distance(points), self.blend_mm)
        return result


@dataclass(frozen=True)
class Common:
    """What is in all of the parts."""

    parts: tuple[Body, ...]

    @property
    def bounds(self) -> Bounds:
        """Intersection of the boxes."""
        lows, highs = zip(*(part.bounds for part in self.parts), strict=True)
        return _box(np.max(lows, 0), np.min(highs, 0))

    def distance(self, points: Points) -> Array:
        """Largest distance."""
        result = self.parts[0].distance(points)
        for part in self.parts[1:]:
            result = np.maximum(result, part.distance(points))
        return result


@dataclass(frozen=True)
class Without:
    """``body`` less what is in ``hole``."""

    body: Body
    hole: Body

    @property
    def bounds(self) -> Bounds:
        """Box of the body."""
        return self.body.bounds

    def distance(self, points: Points) -> Array:
        """Signed distance of the difference."""
        return np.maximum(self.body.distance(points), -self.hole.distance(points))


@dataclass(frozen=True)
class Grown:
    """``body`` grown by ``margin_mm`` (shrunk where negative)."""

    body: Body
    margin_mm: float

    @property
    def bounds(self) -> Bounds:
        """Box of the body, grown too."""
        low, high = self.body.bounds
        return _box(np.array(low) - self.margin_mm, np.array(high) + self.margin_mm)

    def distance(self, points: Points) -> Array:
        """Signed distance less the margin."""
        return self.body.distance(points) - np.float32(self.margin_mm)


def shell(body: Body, outer_mm: float, inner_mm: float = 0.0) -> Body:
    """Layer between ``inner_mm`` and ``outer_mm`` outside the surface of ``body`` (negative: inside)."""
    return Without(Grown(body, outer_mm), Grown(body, inner_mm) if inner_mm else body)


@dataclass(frozen=True)
class Kept:
    """``body`` whose distance is remembered per block of points, for bodies that many others are cut by."""

    body: Body

    @property
    def bounds(self) -> Bounds:
        """Box of the body."""
        return self.body.bounds

    def distance(self, points: Points) -> Array:
        """Signed distance of the body; not to be changed in place."""
        return points.keep(self.body)
