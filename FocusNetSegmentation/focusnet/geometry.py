"""Geometry of medical volumes, apart from their arrays.

Arrays are ordered ``(z, y, x)``, world coordinates are LPS in millimetres (+x to the patient's left, +y to the back,
+z to the head). Index arguments and results are in array order ``(z, y, x)``; the affine itself acts on
``(i, j, k, 1)`` with ``i`` along ``x``, as in SimpleITK and NIfTI.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from focusnet.errors import FocusNetError

Shape = tuple[int, int, int]

FWHM_TO_SIGMA = 1.0 / (2.0 * np.sqrt(2.0 * np.log(2.0)))
MIN_SMOOTHING_VOXELS = 0.2


@dataclass(frozen=True)
class Box:
    """Half-open box of voxels, ``start_zyx <= index < stop_zyx``."""

    start_zyx: Shape
    stop_zyx: Shape

    def __post_init__(self) -> None:
        if any(stop <= start for start, stop in zip(self.start_zyx, self.stop_zyx, strict=True)):
            raise ValueError(f"An empty box has no place: start {self.start_zyx}, stop {self.stop_zyx}.")

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Slices that cut the box out of a ``(z, y, x)`` array that holds it whole."""
        z, y, x = (slice(a, b) for a, b in zip(self.start_zyx, self.stop_zyx, strict=True))
        return z, y, x

    @property
    def shape_zyx(self) -> Shape:
        """Number of voxels along each axis."""
        z, y, x = (b - a for a, b in zip(self.start_zyx, self.stop_zyx, strict=True))
        return z, y, x

    def expand(self, margin_zyx: Shape, limit_shape: Shape) -> Box:
        """Grow by a margin of voxels on both sides, clamped to an array of shape ``limit_shape``."""
        start = tuple(max(0, a - m) for a, m in zip(self.start_zyx, margin_zyx, strict=True))
        stop = tuple(min(n, b + m) for b, m, n in zip(self.stop_zyx, margin_zyx, limit_shape, strict=True))
        return Box(start, stop)  # type: ignore[arg-type]

    def union(self, other: Box) -> Box:
        """Smallest box that holds both."""
        start = tuple(map(min, self.start_zyx, other.start_zyx))
        stop = tuple(map(max, self.stop_zyx, other.stop_zyx))
        return Box(start, stop)  # type: ignore[arg-type]

    def intersection(self, other: Box) -> Box | None:
        """Common box, or None where there is none."""
        start = tuple(map(max, self.start_zyx, other.start_zyx))
        stop = tuple(map(min, self.stop_zyx, other.stop_zyx))
        if any(b <= a for a, b in zip(start, stop, strict=True)):
            return None
        return Box(start, stop)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where the voxels of a ``(z, y, x)`` array lie in the patient.

    Attributes:
        shape_zyx: Shape of the array.
        affine: 4x4 matrix from homogeneous voxel index ``(i, j, k, 1)``, ``i`` along x, to LPS millimetres at the
            voxel's centre. Any invertible affine is allowed: flipped, permuted, oblique and sheared.
        frame_of_reference: DICOM frame of reference UID, where known.

    Raises:
        FocusNetError: ``E_BAD_GEOMETRY`` when the shape is not three positive numbers or the affine is not invertible.
    """

    shape_zyx: Shape
    affine: NDArray[np.float64]
    frame_of_reference: str | None = None

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape_zyx)
        affine = np.array(self.affine, dtype=np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise FocusNetError("E_BAD_GEOMETRY", f"Expected three axes of at least one voxel, got shape {shape}.")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise FocusNetError(
                "E_BAD_GEOMETRY", "The index-to-world matrix is no finite 4x4 affine; check the header."
            )
        if abs(np.linalg.det(affine[:3, :3])) < 1e-9:
            raise FocusNetError("E_BAD_GEOMETRY", "The index-to-world matrix is singular; check spacing and direction.")
        affine.setflags(write=False)
        object.__setattr__(self, "shape_zyx", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def from_parts(
        cls,
        shape_zyx: Shape,
        spacing_xyz: ArrayLike = (1.0, 1.0, 1.0),
        origin_xyz: ArrayLike = (0.0, 0.0, 0.0),
        direction: ArrayLike | None = None,
        frame_of_reference: str | None = None,
    ) -> Geometry:
        """Build from spacing (mm), origin (LPS mm) and direction (3x3, columns are the axes i, j, k)."""
        affine = np.eye(4)
        affine[:3, :3] = (np.eye(3) if direction is None else np.reshape(direction, (3, 3))) * np.asarray(spacing_xyz)
        affine[:3, 3] = origin_xyz
        return cls(shape_zyx, affine, frame_of_reference)

    @cached_property
    def spacing_xyz(self) -> tuple[float, float, float]:
        """Voxel edge lengths in mm along i, j, k."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def spacing_zyx(self) -> tuple[float, float, float]:
        """Voxel edge lengths in mm along the array's axes."""
        x, y, z = self.spacing_xyz
        return z, y, x

    @property
    def direction(self) -> NDArray[np.float64]:
        """3x3 matrix whose columns are the unit directions of i, j, k in LPS."""
        return self.affine[:3, :3] / np.asarray(self.spacing_xyz)

    @property
    def origin_xyz(self) -> tuple[float, float, float]:
        """LPS position in mm of the centre of voxel (0, 0, 0)."""
        x, y, z = self.affine[:3, 3]
        return float(x), float(y), float(z)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres (right for sheared grids too)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    @property
    def center_mm(self) -> NDArray[np.float64]:
        """LPS position of the middle of the grid."""
        return self.index_to_world((np.asarray(self.shape_zyx) - 1) / 2.0)

    @property
    def is_orthogonal(self) -> bool:
        """Whether the axes stand at right angles (a sheared grid can't be stored in an image file)."""
        return bool(np.allclose(self.direction.T @ self.direction, np.eye(3), atol=1e-4))

    @property
    def axis_codes(self) -> str:
        """Letters of the world directions closest to the axes i, j, k, for example ``LPS`` or ``RAI``."""
        remaining, codes = np.abs(self.direction), ["", "", ""]
        for _ in range(3):
            world, axis = np.unravel_index(int(np.argmax(remaining)), (3, 3))
            codes[axis] = ("RL", "AP", "IS")[world][int(self.direction[world, axis] > 0)]
            remaining[world, :] = -1.0
            remaining[:, axis] = -1.0
        return "".join(codes)

    def index_to_world(self, index_zyx: ArrayLike) -> NDArray[np.float64]:
        """LPS mm of (fractional) voxel indices; ``(..., 3)`` in, ``(..., 3)`` out."""
        index = np.asarray(index_zyx, dtype=np.float64)[..., ::-1]
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def world_to_index(self, world_xyz: ArrayLike) -> NDArray[np.float64]:
        """Fractional voxel indices ``(z, y, x)`` of LPS positions in mm; ``(..., 3)`` in, ``(..., 3)`` out."""
        inverse = np.linalg.inv(self.affine)
        return (np.asarray(world_xyz, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3])[..., ::-1]

    def crop(self, box: Box) -> Geometry:
        """Geometry of the sub-array ``array[box.slices]``; the box may also reach outside (padding)."""
        affine = self.affine.copy()
        affine[:3, 3] = self.index_to_world(box.start_zyx)
        return replace(self, shape_zyx=box.shape_zyx, affine=affine)

    def pad(self, before_zyx: Shape, after_zyx: Shape) -> Geometry:
        """Geometry of the array padded by ``before_zyx`` and ``after_zyx`` voxels."""
        start = tuple(-b for b in before_zyx)
        stop = tuple(n + a for n, a in zip(self.shape_zyx, after_zyx, strict=True))
        return self.crop(Box(start, stop))  # type: ignore[arg-type]

    def transformed(self, matrix: ArrayLike) -> Geometry:
        """Geometry after moving the world by a 4x4 matrix (LPS to LPS, mm)."""
        return replace(self, affine=np.asarray(matrix, dtype=np.float64) @ self.affine)

    def is_close(self, other: Geometry, atol_mm: float = 1e-3) -> bool:
        """Whether both have one shape and all their corners agree within ``atol_mm``."""
        if self.shape_zyx != other.shape_zyx:
            return False
        return bool(np.abs(self._corners() - other._corners()).max() <= atol_mm)

    def world_bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Least and greatest LPS coordinates (mm) over the outer corners of the voxels."""
        corners = self._corners()
        return corners.min(axis=0), corners.max(axis=0)

    def _corners(self) -> NDArray[np.float64]:
        ends = [(-0.5, n - 0.5) for n in self.shape_zyx]
        return self.index_to_world(np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3))


@dataclass(frozen=True, eq=False)
class Volume:
    """A ``(z, y, x)`` array with its geometry; for CT the values are HU."""

    array: NDArray[Any]
    geometry: Geometry

    def __post_init__(self) -> None:
        _check_shape(self.array, self.geometry)

    def crop(self, box: Box) -> Volume:
        """The part inside ``box`` (a view of the same array)."""
        return Volume(self.array[box.slices], self.geometry.crop(box))

    def with_array(self, array: NDArray[Any]) -> Volume:
        """Another array of the same shape on the same grid."""
        return Volume(array, self.geometry)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Exclusive organ labels: a ``(z, y, x)`` unsigned array, its geometry, and the organ key of each label value."""

    array: NDArray[Any]
    geometry: Geometry
    organs: Mapping[int, str]

    def __post_init__(self) -> None:
        _check_shape(self.array, self.geometry)
        if not np.issubdtype(self.array.dtype, np.unsignedinteger):
            raise TypeError(f"Labels are unsigned integers, got {self.array.dtype}.")
        if 0 in self.organs or len(set(self.organs.values())) != len(self.organs):
            raise ValueError("Label 0 is background and each organ has one label.")

    def label_of(self, organ: str) -> int:
        """Label value of an organ key.

        Raises:
            FocusNetError: ``E_UNKNOWN_ORGAN`` when the map has no such organ.
        """
        for value, key in self.organs.items():
            if key == organ:
                return value
        raise FocusNetError("E_UNKNOWN_ORGAN", f"No organ '{organ}' here; there are {', '.join(self.organs.values())}.")

    def mask(self, organ: str) -> NDArray[np.bool_]:
        """Boolean mask of one organ, same shape as the array."""
        return self.array == self.label_of(organ)

    def crop(self, box: Box) -> LabelMap:
        """The part inside ``box`` (a view of the same array)."""
        return LabelMap(self.array[box.slices], self.geometry.crop(box), self.organs)


def _check_shape(array: NDArray[Any], geometry: Geometry) -> None:
    if array.shape != geometry.shape_zyx:
        raise FocusNetError("E_BAD_GEOMETRY", f"Array of shape {array.shape} on a grid of shape {geometry.shape_zyx}.")


def bounding_box(mask: NDArray[Any]) -> Box | None:
    """Smallest box around the non-zero voxels of a ``(z, y, x)`` array, or None where there are none."""
    start, stop = [], []
    for axis in range(3):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        if hit.size == 0:
            return None
        start.append(int(hit[0]))
        stop.append(int(hit[-1]) + 1)
    return Box(tuple(start), tuple(stop))  # type: ignore[arg-type]


def covering(grid: Geometry, region: Geometry, within: Box) -> Box | None:
    """Voxels of ``grid`` inside ``within`` that hold or neighbour a point of ``region``; None where there are none."""
    ends = [(-0.5, n - 0.5) for n in region.shape_zyx]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    index = grid.world_to_index(region.index_to_world(corners))
    z0, y0, x0 = (int(n) for n in np.floor(index.min(axis=0)))
    z1, y1, x1 = (int(n) + 1 for n in np.ceil(index.max(axis=0)))
    return Box((z0, y0, x0), (z1, y1, x1)).intersection(within)


def resample(
    volume: Volume,
    target: Geometry,
    *,
    fill: float,
    order: Literal["linear", "nearest"] = "linear",
    antialias: bool = True,
    extrapolate: bool = False,
) -> Volume:
    """Values of ``volume`` at the voxel centres of ``target``, for any two affine grids.

    Args:
        volume: Source; any real type.
        target: Grid of the result.
        fill: Value outside the source.
        order: ``linear`` gives float32, ``nearest`` keeps the source's type.
        antialias: Smooth before sampling more coarsely than the source (linear only), with a Gaussian that brings the
            source's voxel to the target's size in full width at half maximum.
        extrapolate: Take the value of the nearest voxel outside the source, not ``fill``.

    Returns:
        Volume on ``target``.
    """
    # Target index to source index, (i, j, k) order. Working in index space keeps every affine, sheared ones too, exact.
    matrix = np.linalg.inv(volume.geometry.affine) @ target.affine
    array = volume.array
    if order == "linear":
        array = array.astype(np.float32, copy=False)
        if antialias:
            array = _smooth_for(array, matrix[:3, :3])
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(target.shape_zyx[::-1])
    resampler.SetTransform(transform)
    resampler.SetInterpolator(sitk.sitkLinear if order == "linear" else sitk.sitkNearestNeighbor)
    resampler.SetDefaultPixelValue(float(fill))
    resampler.SetUseNearestNeighborExtrapolator(extrapolate)
    resampled = resampler.Execute(sitk.GetImageFromArray(array))
    return Volume(sitk.GetArrayFromImage(resampled), target)


def _smooth_for(array: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Gaussian that widens the source voxel to the target's; ``matrix``: target to source index steps, (i, j, k)."""
    footprint = np.sqrt((matrix**2).sum(axis=1))  # target voxel size in source voxels along i, j, k
    sigma = FWHM_TO_SIGMA * np.sqrt(np.maximum(footprint**2 - 1.0, 0.0))
    for axis, s in enumerate(sigma[::-1]):
        if s > MIN_SMOOTHING_VOXELS:
            array = ndimage.gaussian_filter1d(array, s, axis=axis, mode="nearest", truncate=3.0)
    return array


def to_sitk(item: Volume | LabelMap) -> sitk.Image:
    """SimpleITK image with the same voxels and geometry.

    Raises:
        FocusNetError: ``E_BAD_GEOMETRY`` when the grid is sheared, which image files can't store; resample it first.
    """
    geometry = item.geometry
    if not geometry.is_orthogonal:
        raise FocusNetError("E_BAD_GEOMETRY", "The grid is sheared, which image files can't store; resample it first.")
    array = item.array
    image = sitk.GetImageFromArray(array.astype(np.uint8) if array.dtype == np.bool_ else array)
    image.SetSpacing(geometry.spacing_xyz)
    image.SetOrigin(geometry.origin_xyz)
    image.SetDirection(geometry.direction.ravel().tolist())
    return image


def from_sitk(image: sitk.Image) -> Volume:
    """Volume with a copy of a 3-D scalar SimpleITK image.

    Raises:
        FocusNetError: ``E_NOT_3D`` for another number of axes or several values per voxel.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise FocusNetError(
            "E_NOT_3D",
            f"Expected one value per voxel on three axes, got {image.GetDimension()} axes and "
            f"{image.GetNumberOfComponentsPerPixel()} values per voxel; give one scalar 3-D volume.",
        )
    x, y, z = image.GetSize()
    geometry = Geometry.from_parts((z, y, x), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return Volume(sitk.GetArrayFromImage(image), geometry)
