"""Where a voxel lies in the patient: pose, deformation and smooth random fields on blocks of a grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from focusnet.geometry import Geometry
from numpy.typing import NDArray

from focusnet_training.phantom_shapes import Array, Body, Points, Vector, Window
from focusnet_training.phantom_tissue import Variation

Axes = tuple[NDArray[np.float64], ...]

_BLOCK_VOXELS = 400_000
_LOCATE_STEPS = 20
_LOOKUP_STEP = 5
_SAFETY = 1.6  # distances are of first order only, and can come out too great off the surface
_NODE_MM = 55.0
_NODES = 9
_BULGE_MM = 4.0


def sample_axes(geometry: Geometry, z_parts: int) -> Axes:
    """World coordinates in mm along z (``z_parts`` sub-slices per slice), y and x of an axis-aligned grid."""
    axes = []
    for i, (n, step) in enumerate(zip(geometry.shape_zyx, geometry.spacing_zyx, strict=True)):
        parts = z_parts if i == 0 else 1
        axes.append(geometry.origin_xyz[2 - i] + step * ((np.arange(n * parts) + 0.5) / parts - 0.5))
    return tuple(axes)


@dataclass(frozen=True, eq=False)
class SmoothField:
    """Cubic B-spline through random nodes: a smooth random function of the world.

    Attributes:
        nodes: Coefficients (z, y, x).
        centre_zyx: World position of the middle node in mm.
        step_mm: Distance of nodes; structures are about twice as wide.
    """

    nodes: Array
    centre_zyx: tuple[float, float, float]
    step_mm: float

    @staticmethod
    def covering(rng: np.random.Generator, axes: Axes, step_mm: float) -> SmoothField:
        """Field of unit variance over the whole grid."""
        counts = [int((axis[-1] - axis[0]) / step_mm) + 6 for axis in axes]
        # the mean of the squared weights of a cubic B-spline is 151/315 per axis
        nodes = rng.standard_normal(counts, dtype=np.float32) * np.float32((315 / 151) ** 1.5)
        z, y, x = (float(axis[0] + axis[-1]) / 2 for axis in axes)
        return SmoothField(nodes, (z, y, x), step_mm)

    def on(self, axes: Axes) -> Array:
        """Values (z, y, x) on the grid of the axes."""
        field = self.nodes
        for axis, centre in zip(axes, self.centre_zyx, strict=True):
            first = centre - self.step_mm * (len(field) - 1) / 2
            gap = np.abs((axis[:, None] - first) / self.step_mm - np.arange(len(field))[None, :])
            weights = np.where(gap < 1, 2 / 3 - gap**2 + gap**3 / 2, np.clip(2 - gap, 0, None) ** 3 / 6)
            field = np.moveaxis(np.tensordot(weights.astype(np.float32), field, 1), 0, 2)
        return np.ascontiguousarray(field)


class Pose:
    """Map from the world to the patient's frame: rotation, scale, bend of the neck and smooth deformation."""

    def __init__(self, rng: np.random.Generator) -> None:
        vary = Variation(rng)
        angles = np.radians([vary.normal(4.5), vary.normal(4.5), vary.normal(5.5)])
        (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
        turn_x = np.array(((1, 0, 0), (0, cx, -sx), (0, sx, cx)))
        turn_y = np.array(((cy, 0, sy), (0, 1, 0), (-sy, 0, cy)))
        turn_z = np.array(((cz, -sz, 0), (sz, cz, 0), (0, 0, 1)))
        scale = vary.factor(0.055) * np.array([vary.factor(0.02) for _ in range(3)])
        self._matrix = ((turn_x @ turn_y @ turn_z) / scale[:, None]).astype(np.float32)
        self._bend = np.array((vary.normal(3.5), vary.normal(6)), np.float32)
        self._twist = np.radians(vary.normal(3))
        nodes = rng.standard_normal((3, _NODES, _NODES, _NODES), dtype=np.float32) * np.float32(_BULGE_MM)
        self._bulge = [SmoothField(n, (-20.0, 0.0, 0.0), _NODE_MM) for n in nodes]

    def points(self, axes: Axes) -> Points:
        """Patient coordinates of every point of the grid of the axes (z, y, x)."""
        z, y, x = (a.astype(np.float32) for a in axes)
        below = np.clip((-20 - z) / 100, 0, 2.5)
        lean = below**2 / (below + np.float32(0.5))
        turn = (np.float32(self._twist) * below)[:, None, None]
        x0 = x[None, None, :] + (self._bend[0] * lean)[:, None, None]
        y0 = y[None, :, None] + (self._bend[1] * lean)[:, None, None]
        x1 = np.cos(turn) * x0 - np.sin(turn) * y0
        y1 = np.sin(turn) * x0 + np.cos(turn) * y0
        result = []
        for row, bulge in zip(self._matrix, self._bulge, strict=True):
            coordinate = bulge.on(axes)
            coordinate += row[0] * x1
            coordinate += row[1] * y1
            coordinate += (row[2] * z)[:, None, None]
            result.append(coordinate)
        return Points((result[0], result[1], result[2]))

    def blocks(self, geometry: Geometry, z_parts: int = 1) -> Iterator[tuple[slice, Axes, Block]]:
        """Whole slices of a grid, few enough to stay in the cache: their range, their axes, their points."""
        z, y, x = sample_axes(geometry, z_parts)
        step = max(1, _BLOCK_VOXELS // (z_parts * len(y) * len(x)))
        for start in range(0, geometry.shape_zyx[0], step):
            stop = min(geometry.shape_zyx[0], start + step)
            axes = (z[start * z_parts : stop * z_parts], y, x)
            yield slice(start, stop), axes, Block(self.points(axes))

    def locate(self, point: Vector) -> NDArray[np.float64]:
        """World position (x, y, z) in mm of a point of the patient's frame."""
        world = np.array(point, float)
        for _ in range(_LOCATE_STEPS):
            x, y, z = self.points(tuple(world[[i]] for i in (2, 1, 0))).xyz
            world += np.array(point) - (x.item(), y.item(), z.item())
        return world


class Block:
    """Points of a block of a grid, with a quick search for the window that a body can touch.

    The search asks for the distance at every few voxels only; a voxel is in the window if the body comes near its
    closest sample.
    """

    def __init__(self, points: Points) -> None:
        self.points = points
        self.shape = points.xyz[0].shape
        self._samples: list[NDArray[np.intp]] = []
        for n in self.shape:
            step = min(_LOOKUP_STEP, max(1, n // 4))
            self._samples.append(np.unique(np.append(np.arange(0, n, step), n - 1)))
        x, y, z = (p[np.ix_(*self._samples)] for p in points.xyz)
        self._sparse = (x, y, z)
        gaps = [max(float(np.abs(np.diff(p, axis=i)).max(initial=0)) for p in self._sparse) for i in range(3)]
        self._reach_mm = _SAFETY * float(np.linalg.norm(gaps)) / 2

    def window(self, body: Body, pad_mm: float) -> Window | None:
        """Slices that hold the body grown by ``pad_mm``; None where it lies outside."""
        near = np.ones(self._sparse[0].shape, bool)
        limit = pad_mm + self._reach_mm
        for p, low, high in zip(self._sparse, *body.bounds, strict=True):
            near &= (p > low - limit) & (p < high + limit)
        rough = _extent(near)
        if rough is None:
            return None
        x, y, z = (p[rough] for p in self._sparse)
        fine = _extent(body.distance(Points((x, y, z))) < limit)
        if fine is None:
            return None
        slices = []
        for samples, outer, inner in zip(self._samples, rough, fine, strict=True):
            first, last = outer.start + inner.start, outer.start + inner.stop - 1
            start = 0 if first == 0 else (samples[first - 1] + samples[first]) // 2
            stop = samples[last] + 1 if last == len(samples) - 1 else (samples[last] + samples[last + 1]) // 2 + 1
            slices.append(slice(int(start), int(stop)))
        return slices[0], slices[1], slices[2]


def _extent(mask: NDArray[np.bool_]) -> Window | None:
    slices = []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(i for i in range(3) if i != axis)))
        if hit.size == 0:
            return None
        slices.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return slices[0], slices[1], slices[2]
