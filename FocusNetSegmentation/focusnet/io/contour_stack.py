"""Stacks of plane contours to voxel masks on any grid, and back.

Model of a stack: a slice that holds a contour plane takes that plane's contours. A slice between two planes takes a
shape between both, with the area between theirs. Beyond the end planes the structure goes on for half a contour
spacing. Where two planes are further apart than 1.5 contour spacings the structure is taken to be interrupted: it ends
half a spacing from either plane, and the gap is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from focusnet.geometry import Box, Geometry, Volume, bounding_box, resample
from focusnet.io.contours import Polygon, area_coverage, even_odd_area, rasterise
from focusnet.io.tracing import simplify, trace, with_keyholes

Contour = NDArray[np.float64]
Mask = NDArray[np.bool_]

SNAP_SLICES = 0.1  # a plane this close to a slice is that slice's, whatever its last digits say
SAME_PLANE_SLICES = 0.05
OPEN_GAP = 1.5
EVEN_GAPS = 1.1
WIDEST_EVEN_GAP = 2.5
WIDEST_SLICES_MM = 5.0
CROSSING_SHARE = 0.02
MAX_TOLERANCE_PIXELS = 1.0
MAX_FINE_VOXELS = 6e7
LEVEL_RANGE = (0.3, 0.7)


@dataclass(frozen=True)
class Spacing:
    """Rules for the distance of contour planes.

    Attributes:
        planes_mm: Distance of neighbouring contour planes, where known; else the usual distance within the stack. With
            fewer than four planes that is the least distance of two of them if it could be one of slices, else the
            distance of the grid's slices.
        bridge_mm: Planes up to this distance apart are joined, whatever the usual distance.
    """

    planes_mm: float | None = None
    bridge_mm: float = 0.0


@dataclass(frozen=True, eq=False)
class Filled:
    """Voxels inside a stack of contours.

    Attributes:
        box: Part of the grid that ``mask`` covers; None when no contour lies on the grid.
        mask: ``(z, y, x)`` of the box's shape.
        contour_volume_ml: Area of the contours times their thickness inside the image, before rounding to voxels.
        not_planar: Numbers of the contours that lie in no plane; they are left out.
        outside: Numbers of the contours that lie wholly outside the image.
        notes: What a reader of the mask should know, one line each.
    """

    box: Box | None
    mask: Mask
    contour_volume_ml: float = 0.0
    not_planar: tuple[int, ...] = ()
    outside: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def slice_normal(geometry: Geometry) -> tuple[NDArray[np.float64], float]:
    """Unit normal of the grid's slices (LPS, towards rising slice numbers) and the distance of two slices in mm."""
    gradient = np.linalg.inv(geometry.affine)[2, :3].astype(np.float64)
    length = float(np.linalg.norm(gradient))
    return gradient / length, 1.0 / length


def common_gap_mm(contours: Sequence[Contour], geometry: Geometry) -> float | None:
    """Usual distance of neighbouring contour planes over all structures of a set; None with fewer than four planes.

    Args:
        contours: ``(n, 3)`` LPS points of every contour of the set.
        geometry: Grid whose slice normal is used.
    """
    normal, step = slice_normal(geometry)
    gaps = np.diff(np.sort([float((points @ normal).mean()) for points in contours]))
    gaps = gaps[gaps > SAME_PLANE_SLICES * step]
    return float(np.median(gaps)) if gaps.size >= 3 else None


def fill_contours(contours: Sequence[Contour], geometry: Geometry, spacing: Spacing | None = None) -> Filled:
    """Voxels of a grid that lie inside closed plane contours.

    Contours in planes that cross the slices (an oblique grid, or a structure drawn on sagittal planes) are filled on a
    finer grid of their own planes first, which is then resampled so that the volume stays the same.

    Args:
        contours: ``(n, 3)`` LPS points in mm, ``n >= 3``, each joined from its last point to its first.
        geometry: Grid of the mask.
        spacing: Rules for the distance of contour planes.

    Returns:
        Mask with notes.
    """
    spacing = spacing or Spacing()
    filled = Filled(None, np.zeros((0, 0, 0), dtype=bool))
    normal, step = slice_normal(geometry)
    left = set(range(len(contours)))
    not_planar: list[int] = []
    outside: list[int] = []
    cut = 0
    while left:
        leader = max(left, key=lambda number: float(np.linalg.norm(np.ptp(contours[number], axis=0))))
        in_slices = _is_flat(contours[leader], normal, step)
        across = normal if in_slices else _plane_normal(contours[leader])
        if not _is_flat(contours[leader], across, step):
            not_planar.append(leader)
            left.remove(leader)
            continue
        group = sorted(number for number in left if _is_flat(contours[number], across, step))
        left.difference_update(group)
        outside += [number for number in group if not _touches(contours[number], geometry)]
        chosen = [contours[number] for number in group if number not in outside]
        cut += sum(_is_cut(points, geometry) for points in chosen)
        if chosen:
            fill = _fill_in_slices if in_slices else _fill_across
            filled = _merge(filled, fill(chosen, geometry, spacing))
    notes = filled.notes
    if cut:
        notes = (*notes, f"{cut} contour(s) reach outside the image; cut at its edge")
    return replace(filled, not_planar=tuple(sorted(not_planar)), outside=tuple(sorted(outside)), notes=notes)


def slice_contours(
    membership: NDArray[np.float32] | Mask, geometry: Geometry, *, tolerance_mm: float, keyholes: bool
) -> list[tuple[int, list[Contour]]]:
    """Contours of a structure on the slices of its grid.

    Args:
        membership: ``(z, y, x)`` mask or degrees of membership; the contour runs at 0.5.
        geometry: Grid.
        tolerance_mm: Greatest distance between the given contour and the one through the voxel edges; at most one
            pixel is taken.
        keyholes: Join holes to their outline by channels of zero width; else give them as contours of their own.

    Returns:
        Pairs of slice number and its contours, ``(n, 3)`` LPS points in mm. Empty slices are left out.
    """
    box = bounding_box(membership > 0.5)
    if box is None:
        return []
    scale = np.array(geometry.spacing_zyx[1:])
    tolerance_mm = min(tolerance_mm, MAX_TOLERANCE_PIXELS * float(scale.min()))
    box = box.expand((0, 1, 1), geometry.shape_zyx)  # the neighbours' values tell where the level is crossed
    corner = np.array(box.start_zyx[1:])
    stack = []
    for number in range(box.start_zyx[0], box.stop_zyx[0]):
        polygons = simplify([p * scale for p in trace(membership[number][box.slices[1:]])], tolerance_mm)
        if keyholes:
            polygons = with_keyholes(polygons)
        if polygons:
            points = [np.insert(p / scale + corner, 0, number, axis=1) for p in polygons]
            stack.append((number, [geometry.index_to_world(p) for p in points]))
    return stack


def _fill_in_slices(contours: list[Contour], geometry: Geometry, spacing: Spacing) -> Filled:
    index = [geometry.world_to_index(points) for points in contours]
    in_plane = np.concatenate(index)[:, 1:]
    slices, *limit = geometry.shape_zyx
    low = np.clip(np.floor(in_plane.min(axis=0)), 0, np.subtract(limit, 1)).astype(int)
    high = np.clip(np.ceil(in_plane.max(axis=0)) + 1, low + 1, limit).astype(int)
    window = (int(high[0] - low[0]), int(high[1] - low[1]))
    positions, polygons = _planes(index, low)
    masks = [rasterise(plane, window) for plane in polygons]
    area = np.array([area_coverage(plane, window).sum() for plane in polygons])

    step = slice_normal(geometry)[1]
    gaps = np.diff(positions)
    usual = _usual_gap(gaps, step) if spacing.planes_mm is None else spacing.planes_mm / step
    if gaps.size >= 2 and gaps.max() <= min(EVEN_GAPS * gaps.min(), WIDEST_EVEN_GAP * usual):
        usual = float(gaps.mean())  # every second slice of a set that is drawn on all
    is_open = gaps > max(OPEN_GAP * usual, spacing.bridge_mm / step)
    half = np.where(is_open, usual, gaps) / 2
    below, above = np.append(usual / 2, half), np.append(half, usual / 2)

    mask = np.zeros((slices, *window), dtype=bool)
    for plane, position in enumerate(positions):
        start = position - below[plane] if plane == 0 or is_open[plane - 1] else position
        stop = position + above[plane] if plane == len(gaps) or is_open[plane] else np.nextafter(position, np.inf)
        mask[_numbers(start, stop, slices)] = masks[plane]
    for plane in np.flatnonzero(~is_open).tolist():
        numbers = _numbers(np.nextafter(positions[plane], np.inf), positions[plane + 1], slices)
        if numbers.size:
            share = (numbers - positions[plane]) / gaps[plane]
            mask[numbers] = _between(masks[plane : plane + 2], area[plane : plane + 2], share, geometry.spacing_zyx[1:])

    thickness = np.minimum(positions + above, slices - 0.5) - np.maximum(positions - below, -0.5)
    volume_ml = float(area @ np.maximum(thickness, 0.0)) * geometry.voxel_volume_ml
    notes = [_gap_note(positions[plane], positions[plane + 1]) for plane in np.flatnonzero(is_open)]
    crossing = sum(_crosses(plane) for plane in polygons)
    if crossing:
        notes.append(f"contours cross themselves or each other on {crossing} plane(s); filled by the even-odd rule")
    box = bounding_box(mask)
    if box is None:
        return Filled(None, mask, volume_ml, notes=tuple(notes))
    shift = (0, int(low[0]), int(low[1]))
    start, stop = (tuple(np.add(end, shift).tolist()) for end in (box.start_zyx, box.stop_zyx))
    return Filled(Box(start, stop), mask[box.slices], volume_ml, notes=tuple(notes))


def _fill_across(contours: list[Contour], geometry: Geometry, spacing: Spacing) -> Filled:
    normal = _plane_normal(max(contours, key=lambda points: float(np.linalg.norm(np.ptp(points, axis=0)))))
    axes = _frame(normal, geometry)
    local = [points @ axes for points in contours]
    low = np.concatenate(local).min(axis=0)
    size = np.concatenate(local).max(axis=0) - low
    planes = np.sort([points[:, 2].mean() for points in local])
    gaps = np.diff(planes)
    step = slice_normal(geometry)[1]
    usual = spacing.planes_mm or _usual_gap(gaps[gaps > SAME_PLANE_SLICES * step] / step, step) * step

    pixel = min(geometry.spacing_xyz) / 2
    layer = usual / np.ceil(usual / min(geometry.spacing_xyz))
    pixel *= max(1.0, float(np.sqrt(np.prod(size / (pixel, pixel, layer) + 1) / MAX_FINE_VOXELS)))
    margin = np.array([pixel, pixel, np.ceil(usual / layer) * layer])
    shape = tuple((np.ceil((size + 2 * margin) / (pixel, pixel, layer)).astype(int) + 1)[::-1].tolist())
    fine = Geometry.from_parts(shape, (pixel, pixel, layer), axes @ (low - margin), axes)
    filled = _fill_in_slices(contours, fine, replace(spacing, planes_mm=usual))
    notes = ("the contours lie across the image slices and were resampled", *filled.notes)
    if filled.box is None:
        return replace(filled, notes=notes)

    part = fine.crop(filled.box)
    corners = np.stack(np.meshgrid(*zip(*part.world_bounds(), strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
    index = geometry.world_to_index(corners)
    start = np.clip(np.floor(index.min(axis=0)) - 1, 0, np.subtract(geometry.shape_zyx, 1)).astype(int)
    stop = np.clip(np.ceil(index.max(axis=0)) + 2, start + 1, geometry.shape_zyx).astype(int)
    box = Box(tuple(start.tolist()), tuple(stop.tolist()))
    # Room for the smoothing before the resampling, which must not lose volume at the edge of the fine grid.
    room = int(np.ceil(1.5 * max(geometry.spacing_xyz) / min(part.spacing_xyz)))
    padded = Volume(np.pad(filled.mask, room).astype(np.float32), part.pad((room,) * 3, (room,) * 3))
    share = resample(padded, geometry.crop(box), fill=0.0).array
    return Filled(box, _fullest(share, float(share.sum())), float(share.sum()) * geometry.voxel_volume_ml, notes=notes)


def _planes(index: list[Contour], corner: NDArray[np.intp]) -> tuple[NDArray[np.float64], list[list[Polygon]]]:
    """Positions of the contour planes in slices, rising, and the polygons on each, relative to ``corner`` (y, x)."""
    positions: list[list[float]] = []
    polygons: list[list[Polygon]] = []
    for points in sorted(index, key=lambda points: float(points[:, 0].mean())):
        position = float(points[:, 0].mean())
        if abs(position - round(position)) <= SNAP_SLICES:
            position = float(round(position))
        if not positions or position - positions[-1][0] > SAME_PLANE_SLICES:
            positions.append([])
            polygons.append([])
        positions[-1].append(position)
        polygons[-1].append(points[:, 1:] - corner)
    return np.array([np.mean(plane) for plane in positions]), polygons


def _usual_gap(gaps: NDArray[np.float64], step_mm: float) -> float:
    if gaps.size >= 3:
        return float(np.median(gaps))
    if not gaps.size or gaps.min() * step_mm > WIDEST_SLICES_MM:
        return 1.0
    # Two gaps at odds with each other don't show a spacing finer than that of the slices.
    least = float(gaps.min())
    return least if gaps.max() <= OPEN_GAP * least else max(least, 1.0)


def _numbers(start: float, stop: float, slices: int) -> NDArray[np.intp]:
    """Slice numbers in the half-open range that the grid has."""
    return np.arange(max(0, int(np.ceil(start))), min(slices, int(np.ceil(stop))))


def _between(
    masks: list[Mask], area: NDArray[np.float64], shares: NDArray[np.float64], spacing_yx: tuple[float, ...]
) -> Mask:
    """Shapes between two planes at the given shares of the way, ``(n, y, x)``.

    The signed distances to both outlines are blended linearly (Raya and Udupa 1990) and cut where the area is the
    linear blend of both areas, so that parts which don't overlap don't vanish on the way.
    """
    below, above = (_signed_distance(mask, spacing_yx) for mask in masks)
    return np.stack(
        [_fullest((1 - s) * below + s * above, (1 - s) * area[0] + s * area[1], limits=None) for s in shares]
    )


def _fullest(values: NDArray[np.floating], count: float, limits: tuple[float, float] | None = LEVEL_RANGE) -> Mask:
    """Elements above the level that leaves as near as can be ``count`` of them, the level kept within limits.

    Interpolating a mask and cutting it at 0.5 makes round structures smaller; cutting it where its sum is kept doesn't.
    """
    wanted = int(np.clip(round(count), 0, values.size))
    if wanted == 0:
        return np.zeros(values.shape, dtype=bool)
    level = float(np.partition(values, values.size - wanted, axis=None)[values.size - wanted])
    if limits is not None:
        level = float(np.clip(level, *limits))
    with_ties, without = values >= level, values > level
    return without if count - without.sum() < with_ties.sum() - count else with_ties


def _signed_distance(mask: Mask, spacing_yx: tuple[float, ...]) -> NDArray[np.float64]:
    """Distance in mm to the outline, positive inside; a large negative number where there is no outline."""
    if not mask.any():
        return np.full(mask.shape, -1e3)
    padded = np.pad(mask, 1)
    inner = ndimage.distance_transform_edt(padded, sampling=spacing_yx)
    outer = ndimage.distance_transform_edt(~padded, sampling=spacing_yx)
    return (inner - outer)[1:-1, 1:-1]


def _crosses(polygons: list[Polygon]) -> bool:
    """Whether the even-odd area differs from what the nesting of the polygons gives."""
    points = np.concatenate(polygons)
    low = points.min(axis=0)
    scale = 48.0 / np.maximum(points.max(axis=0) - low, 1e-6)
    scaled = [(polygon - low) * scale for polygon in polygons]
    covered = float(area_coverage(scaled, (49, 49)).sum())
    return abs(covered - even_odd_area(scaled)) > CROSSING_SHARE * max(covered, 1.0)


def _gap_note(below: float, above: float) -> str:
    empty = int(np.ceil(above) - np.floor(below)) - 1
    return f"no contour on {empty} slice(s) between slices {below:.4g} and {above:.4g}; left empty"


def _merge(one: Filled, other: Filled) -> Filled:
    volume_ml = one.contour_volume_ml + other.contour_volume_ml
    notes = (*one.notes, *other.notes)
    if one.box is None or other.box is None:
        return replace(other if one.box is None else one, contour_volume_ml=volume_ml, notes=notes)
    box = one.box.union(other.box)
    mask = np.zeros(box.shape_zyx, dtype=bool)
    for part, part_box in ((one.mask, one.box), (other.mask, other.box)):
        start = np.subtract(part_box.start_zyx, box.start_zyx).tolist()
        z, y, x = (slice(a, a + n) for a, n in zip(start, part_box.shape_zyx, strict=True))
        mask[z, y, x] |= part
    return Filled(box, mask, volume_ml, notes=(*notes, "contours of more than one orientation were united"))


def _is_flat(points: Contour, normal: NDArray[np.float64], step_mm: float) -> bool:
    return float(np.ptp(points @ normal)) <= 2 * SNAP_SLICES * step_mm


def _plane_normal(points: Contour) -> NDArray[np.float64]:
    """Unit normal of the best plane through the points."""
    _, _, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
    return axes[-1]


def _frame(normal: NDArray[np.float64], geometry: Geometry) -> NDArray[np.float64]:
    """Rotation whose columns are two directions in the plane, the first near an axis of the grid, and the normal."""
    directions = geometry.direction.T
    first = directions[np.argmin(np.abs(directions @ normal))]
    first = first - (first @ normal) * normal
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(normal, first), normal], axis=1)


def _touches(points: Contour, geometry: Geometry) -> bool:
    """Whether the box around a contour meets the image, with half a voxel of margin for its thickness."""
    index = geometry.world_to_index(points)
    return bool(((index.max(axis=0) >= -1.0) & (index.min(axis=0) <= np.array(geometry.shape_zyx))).all())


def _is_cut(points: Contour, geometry: Geometry) -> bool:
    """Whether a contour passes the outer edge of the image."""
    index = geometry.world_to_index(points)
    return bool(((index < -0.51) | (index > np.array(geometry.shape_zyx) - 0.49)).any())
