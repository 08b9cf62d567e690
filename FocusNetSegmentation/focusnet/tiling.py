"""Pieces of a volume, and the blended answers of all pieces in little memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from focusnet.geometry import Box, Shape

FLOOR = 1e-3


def triple(values: Iterable[float]) -> Shape:
    """Three whole numbers as a tuple."""
    z, y, x = (int(value) for value in values)
    return z, y, x


def piece_shape(extent_zyx: Shape, largest_zyx: Shape, multiple_zyx: Shape, least_zyx: Shape) -> Shape:
    """Shape of the pieces of a volume: the whole extent where it fits into ``largest_zyx``, as multiples.

    Args:
        extent_zyx: Shape of the volume.
        largest_zyx: Largest piece; itself multiples.
        multiple_zyx: The sizes are multiples of this.
        least_zyx: The sizes are at least this (an ROI must fit).
    """
    return triple(
        min(largest, math.ceil(max(extent, least) / multiple) * multiple)
        for extent, largest, multiple, least in zip(extent_zyx, largest_zyx, multiple_zyx, least_zyx, strict=True)
    )


def piece_starts(extent: int, size: int, overlap: int) -> list[int]:
    """First voxels of evenly spread pieces of ``size`` that cover ``extent`` with at least ``overlap`` in common."""
    if extent <= size:
        return [0]
    count = math.ceil((extent - size) / (size - overlap)) + 1
    return [int(start) for start in np.rint(np.linspace(0, extent - size, count))]


def piece_weights(size: int, overlap: int) -> NDArray[np.float32]:
    """Weights of the voxels of a piece along one axis: a linear ramp over the overlap at both ends, 1 between."""
    distance = np.arange(size) + 0.5
    return np.minimum(1.0, np.minimum(distance, distance[::-1]) / max(overlap, 0.5)).astype(np.float32)


def smaller_pieces(shape_zyx: Shape, multiple_zyx: Shape, least_zyx: Shape) -> Iterator[Shape]:
    """Ever smaller pieces to try when memory runs out, each half of the one before along its most generous axis."""
    shape = list(shape_zyx)
    floor = [min(s, math.ceil(a / m) * m) for s, a, m in zip(shape_zyx, least_zyx, multiple_zyx, strict=True)]
    while shape != floor:
        axis = int(np.argmax([s / f for s, f in zip(shape, floor, strict=True)]))
        half = math.ceil(shape[axis] / 2 / multiple_zyx[axis]) * multiple_zyx[axis]
        shape[axis] = max(floor[axis], half)
        yield shape[0], shape[1], shape[2]


class SparseMaps:
    """Maps in [0, 1] of several channels over one volume, of which only the parts above `FLOOR` are kept.

    An organ fills little of a volume, so a box per channel and slice in half precision takes a small part of the
    memory of whole maps, and what is left out can't decide a label.

    Args:
        channels: Number of maps.
        shape_zyx: Shape of the volume.

    Attributes:
        peak_heights: (channels,) greatest value of each map.
        peak_zyx: (channels, 3) where it lies.
    """

    def __init__(self, channels: int, shape_zyx: Shape) -> None:
        self.shape_zyx = shape_zyx
        self.peak_heights = np.zeros(channels, np.float32)
        self.peak_zyx = np.zeros((channels, 3), np.int64)
        self._slices: list[dict[int, tuple[int, int, NDArray[np.float16]]]] = [{} for _ in range(channels)]

    def put(self, z: int, values: NDArray[np.float32]) -> None:
        """Store slice ``z`` of all maps, ``values`` (channels, y, x)."""
        for channel, plane in enumerate(values):
            self._store(channel, z, plane)
            place = int(plane.argmax())
            if plane.flat[place] > self.peak_heights[channel]:
                self.peak_heights[channel] = plane.flat[place]
                self.peak_zyx[channel] = (z, *divmod(place, plane.shape[1]))

    def read(self, channel: int, box: Box) -> NDArray[np.float32]:
        """The part of a map inside ``box`` (which lies inside the volume), zero where nothing is kept."""
        values = np.zeros(box.shape_zyx, np.float32)
        z0, y0, x0 = box.start_zyx
        for z in range(z0, box.stop_zyx[0]):
            if z in self._slices[channel]:
                y, x, block = self._slices[channel][z]
                kept = Box((z, y, x), (z + 1, y + block.shape[0], x + block.shape[1]))
                common = kept.intersection(box)
                if common is not None:
                    _, rows, columns = common.slices
                    part = block[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
                    values[z - z0, rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0] = part
        return values

    def write(self, channel: int, box: Box, values: NDArray[np.float32]) -> None:
        """Replace the part of a map inside ``box``; the rest of it stays."""
        whole = self._plane_box(channel, box)
        planes = self.read(channel, whole)
        z0, y0, x0 = (a - b for a, b in zip(box.start_zyx, whole.start_zyx, strict=True))
        depth, height, width = values.shape
        planes[z0 : z0 + depth, y0 : y0 + height, x0 : x0 + width] = values
        for z, plane in enumerate(planes, start=whole.start_zyx[0]):
            self._store(channel, z, plane, whole.start_zyx[1], whole.start_zyx[2])

    def box(self, channel: int) -> Box | None:
        """Smallest box around what is kept of a map, None where nothing is."""
        kept = self._slices[channel]
        if not kept:
            return None
        y0 = min(y for y, _, _ in kept.values())
        x0 = min(x for _, x, _ in kept.values())
        y1 = max(y + block.shape[0] for y, _, block in kept.values())
        x1 = max(x + block.shape[1] for _, x, block in kept.values())
        return Box((min(kept), y0, x0), (max(kept) + 1, y1, x1))

    def _plane_box(self, channel: int, box: Box) -> Box:
        """``box`` widened in its planes to hold all that is kept there."""
        for z in range(box.start_zyx[0], box.stop_zyx[0]):
            if z in self._slices[channel]:
                y, x, block = self._slices[channel][z]
                box = box.union(Box((z, y, x), (z + 1, y + block.shape[0], x + block.shape[1])))
        return box

    def _store(self, channel: int, z: int, plane: NDArray[np.float32], y0: int = 0, x0: int = 0) -> None:
        rows = np.flatnonzero(plane.max(axis=1) > FLOOR)
        if rows.size == 0:
            self._slices[channel].pop(z, None)
            return
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        columns = np.flatnonzero(plane[top:bottom].max(axis=0) > FLOOR)
        left, right = int(columns[0]), int(columns[-1]) + 1
        self._slices[channel][z] = (y0 + top, x0 + left, plane[top:bottom, left:right].astype(np.float16))


class Blender:
    """Weighted mean of overlapping pieces, handed on slice by slice as soon as no further piece reaches a slice.

    Args:
        maps: Where finished slices go.
    """

    def __init__(self, maps: SparseMaps) -> None:
        self._maps = maps
        self._pending: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    def add(self, start_zyx: Shape, values: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        """Add one slice of a piece.

        Args:
            start_zyx: Its slice and first row and column in the volume.
            values: (channels, y, x), at least 0.
            weights: (y, x), greater than 0.
        """
        z, y, x = start_zyx
        if z not in self._pending:
            plane = self._maps.shape_zyx[1:]
            self._pending[z] = (np.zeros((len(values), *plane), np.float32), np.zeros(plane, np.float32))
        total, weight = self._pending[z]
        region = (slice(y, y + weights.shape[0]), slice(x, x + weights.shape[1]))
        total[:, *region] += values * weights
        weight[region] += weights

    def finish(self, before_z: int) -> None:
        """Hand on all slices below ``before_z``; every voxel of them has been added at least once."""
        for z in sorted(z for z in self._pending if z < before_z):
            total, weight = self._pending.pop(z)
            total /= weight
            self._maps.put(z, total)
