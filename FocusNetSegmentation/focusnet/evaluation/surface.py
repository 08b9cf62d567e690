"""Distances between the surfaces of two masks, and the measures made of them.

Two bases, never mixed and always named:

- ``surfel``: a surface element sits at each corner where 2x2x2 voxels are neither all inside nor all outside, weighted
  with the area of the surface through it (Nikolov et al., J Med Internet Res 23, 2021). The area depends only on which
  of the eight voxels are inside and on the spacing.
- ``voxel``: the voxels of the mask with a background voxel beside them (six neighbours), each of weight one.

Masks are boolean arrays ``(z, y, x)``; outside the array is background, so an organ may touch the edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Spacing = tuple[float, float, float]
Convention = Literal["max", "mean", "pooled"]

TIE_MM = 1e-6
QUANTILE_SLACK = 1e-9


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distance of each surface element to the nearest element of the other surface.

    Attributes:
        reference_mm: ``(n,)``, from the reference's elements to the prediction's surface.
        prediction_mm: ``(m,)``, from the prediction's elements to the reference's surface.
        reference_mm2: ``(n,)`` areas in mm², or None on the voxel basis.
        prediction_mm2: ``(m,)`` areas in mm², or None on the voxel basis.
    """

    reference_mm: FloatArray
    prediction_mm: FloatArray
    reference_mm2: FloatArray | None = None
    prediction_mm2: FloatArray | None = None


def surface_element_areas(spacing_zyx: Spacing) -> FloatArray:
    """Area of the surface through each of the 256 configurations of 2x2x2 voxels.

    Bit ``4 dz + 2 dy + dx`` of a configuration says whether the voxel at offset ``(dz, dy, dx)`` is inside. The surface
    is that of marching cubes through the middles of the cut edges (Lorensen and Cline, SIGGRAPH 1987).

    Args:
        spacing_zyx: Voxel size in mm.

    Returns:
        ``(256,)`` areas in mm²; 0 for all inside and all outside.
    """
    z, y, x = spacing_zyx
    return np.linalg.norm(_element_vectors() * np.array([y * x, z * x, z * y]), axis=-1).sum(axis=-1)


def surface_distances(reference: BoolArray, prediction: BoolArray, spacing_zyx: Spacing) -> SurfaceDistances:
    """Distances between two surfaces on the surfel basis.

    Args:
        reference: Mask ``(z, y, x)``, not empty.
        prediction: Mask of the same shape, not empty.
        spacing_zyx: Voxel size in mm.

    Returns:
        Distances in mm and areas in mm² of all surface elements.

    Raises:
        ValueError: A mask is empty.
    """
    _require_content(reference, prediction)
    areas = surface_element_areas(spacing_zyx)
    reference_codes, prediction_codes = _neighbour_codes(reference), _neighbour_codes(prediction)
    # Unsigned overflow sends the two inner codes, 255 and 0, to 0 and 1.
    reference_surface, prediction_surface = reference_codes + 1 > 1, prediction_codes + 1 > 1
    to_prediction, to_reference = _both_ways(reference_surface, prediction_surface, spacing_zyx)
    return SurfaceDistances(
        to_prediction,
        to_reference,
        areas[reference_codes[reference_surface]],
        areas[prediction_codes[prediction_surface]],
    )


def border_distances(reference: BoolArray, prediction: BoolArray, spacing_zyx: Spacing) -> SurfaceDistances:
    """Distances between two surfaces on the voxel basis.

    Args:
        reference: Mask ``(z, y, x)``, not empty.
        prediction: Mask of the same shape, not empty.
        spacing_zyx: Voxel size in mm.

    Returns:
        Distances in mm of all border voxels.

    Raises:
        ValueError: A mask is empty.
    """
    _require_content(reference, prediction)
    return SurfaceDistances(*_both_ways(_border(reference), _border(prediction), spacing_zyx))


def hausdorff_mm(distances: SurfaceDistances) -> float:
    """Hausdorff distance: the greatest distance in either direction, in mm."""
    return float(max(distances.reference_mm.max(), distances.prediction_mm.max()))


def hausdorff_percentile_mm(distances: SurfaceDistances, convention: Convention, percent: float = 95.0) -> float:
    """Robust Hausdorff distance in mm.

    Percentiles are weighted by area on the surfel basis: the least distance that covers the share of the surface. On
    the voxel basis they are interpolated linearly.

    Args:
        distances: Both directions.
        convention: ``max`` of the two directed percentiles (surface-distance, MONAI), their ``mean`` (FocusNetv2,
            Plastimatch), or the percentile of both directions ``pooled`` (medpy).
        percent: 0 to 100.

    Returns:
        Distance in mm.
    """
    there, back = (distances.reference_mm, distances.reference_mm2), (distances.prediction_mm, distances.prediction_mm2)
    if convention == "pooled":
        areas = None if there[1] is None or back[1] is None else np.concatenate([there[1], back[1]])
        return _percentile(np.concatenate([there[0], back[0]]), areas, percent)
    directed = [_percentile(*there, percent), _percentile(*back, percent)]
    return max(directed) if convention == "max" else sum(directed) / 2


def mean_surface_distance_mm(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance: mean over the elements of both surfaces, weighted by area, in mm."""
    values = np.concatenate([distances.reference_mm, distances.prediction_mm])
    if distances.reference_mm2 is None or distances.prediction_mm2 is None:
        return float(values.mean())
    areas = np.concatenate([distances.reference_mm2, distances.prediction_mm2])
    return float(values @ areas / areas.sum())


def surface_dice(distances: SurfaceDistances, tolerance_mm: float) -> float:
    """Surface Dice: share of both surfaces within a tolerance of the other (Nikolov et al., 2021).

    A distance equal to the tolerance counts as within it, rounding errors included: published tolerances are often a
    whole number of voxels.

    Args:
        distances: On the surfel basis.
        tolerance_mm: Tolerance in mm.

    Returns:
        0 to 1.

    Raises:
        ValueError: The distances carry no areas.
    """
    if distances.reference_mm2 is None or distances.prediction_mm2 is None:
        raise ValueError("The surface Dice needs surface elements with areas.")
    near = distances.reference_mm <= tolerance_mm + TIE_MM, distances.prediction_mm <= tolerance_mm + TIE_MM
    within = distances.reference_mm2[near[0]].sum() + distances.prediction_mm2[near[1]].sum()
    return float(within / (distances.reference_mm2.sum() + distances.prediction_mm2.sum()))


def _require_content(reference: BoolArray, prediction: BoolArray) -> None:
    if not (reference.any() and prediction.any()):
        raise ValueError("An empty mask has no surface; its state is named instead.")


def _percentile(values: FloatArray, weights: FloatArray | None, percent: float) -> float:
    if weights is None:
        return float(np.percentile(values, percent))
    order = np.argsort(values, kind="stable")
    covered = np.cumsum(weights[order])
    # The slack makes a share that is reached exactly count as reached, whatever the order of summation.
    index = int(np.searchsorted(covered, covered[-1] * (percent / 100.0 - QUANTILE_SLACK)))
    return float(values[order[min(index, len(order) - 1)]])


def _neighbour_codes(mask: BoolArray) -> NDArray[np.uint8]:
    """Configuration of the 2x2x2 voxels around each voxel corner, shape ``(z + 1, y + 1, x + 1)``."""
    corners: NDArray[np.uint8] = np.pad(mask, 1).view(np.uint8)
    for axis in (2, 1, 0):
        low, high = (np.moveaxis(corners, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        bits = np.uint8(4 >> axis)
        corners = np.moveaxis(low | high << bits, 0, axis)
    return corners


def _border(mask: BoolArray) -> BoolArray:
    inside = np.pad(mask, 1)
    core = inside[1:-1, 1:-1, 1:-1]
    inner = inside[2:, 1:-1, 1:-1] & inside[:-2, 1:-1, 1:-1] & inside[1:-1, 2:, 1:-1] & inside[1:-1, :-2, 1:-1]
    inner &= inside[1:-1, 1:-1, 2:]
    inner &= inside[1:-1, 1:-1, :-2]
    return core & ~inner


def _both_ways(a: BoolArray, b: BoolArray, spacing_zyx: Spacing) -> tuple[FloatArray, FloatArray]:
    """Distance from each point of ``a`` to the nearest of ``b`` and back; common points have none to go."""
    points_a, points_b = np.argwhere(a) * np.asarray(spacing_zyx), np.argwhere(b) * np.asarray(spacing_zyx)
    return _nearest(points_a, points_b, ~b[a]), _nearest(points_b, points_a, ~a[b])


def _nearest(points: FloatArray, targets: FloatArray, apart: BoolArray) -> FloatArray:
    distance = np.zeros(len(points))
    if apart.any():
        tree = cKDTree(targets, leafsize=32, compact_nodes=False, balanced_tree=False)
        distance[apart] = tree.query(points[apart])[0]
    return distance


@cache
def _element_vectors() -> FloatArray:
    """Area vectors ``(256, 4, 3)`` of the triangles of each configuration, unit spacing, padded with zeros."""
    vectors = np.zeros((256, 4, 3))
    for code in range(1, 255):
        inside = (code >> np.arange(8) & 1).astype(bool).reshape(2, 2, 2)
        triangles = np.concatenate([_largest_patch(loop) for loop in _cut_loops(inside)])
        vectors[code, : len(triangles)] = triangles
    return vectors


def _cut_loops(inside: BoolArray) -> Iterator[FloatArray]:
    """Closed loops ``(n, 3)`` through the middles of the cut edges, one around each connected group of corners.

    Groups are formed by the corners in the minority, so on a face whose diagonals differ the minority is cut apart.
    """
    minority = inside if inside.sum() <= 4 else ~inside
    groups, count = ndimage.label(minority)
    for group in range(1, count + 1):
        corners = np.argwhere(groups == group)
        ends = [(corner, abs(corner - step)) for corner, step in product(corners, np.eye(3, dtype=int))]
        middles = [(corner + end) / 2 for corner, end in ends if not minority[tuple(end)]]
        loop = [middles.pop()]
        while middles:
            # The next point lies on a common face of the cube: a coordinate that is 0 or 1 for both.
            on_face = (np.asarray(middles) == loop[-1]) & np.isin(loop[-1], (0, 1))
            loop.append(middles.pop(int(np.argmax(on_face.any(axis=1)))))
        yield np.asarray(loop)


def _largest_patch(loop: FloatArray) -> FloatArray:
    """Area vectors ``(n - 2, 3)`` of the triangulation of a loop that has the largest area.

    The loops of five and six points are not flat; of their triangulations the largest keeps the table of areas
    symmetric under all permutations of the axes and under exchange of inside and outside.
    """
    corners = loop[np.array(list(_triangulations(0, len(loop) - 1)))]  # (patches, n - 2, 3 corners, 3)
    patches = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]) / 2
    return patches[int(np.argmax(np.linalg.norm(patches, axis=-1).sum(axis=-1)))]


def _triangulations(first: int, last: int) -> Iterator[list[tuple[int, int, int]]]:
    """All triangulations of the polygon of points ``first`` to ``last``."""
    if last - first < 2:
        yield []
    for apex in range(first + 1, last):
        for left, right in product(_triangulations(first, apex), _triangulations(apex, last)):
            yield [*left, (first, apex, last), *right]
