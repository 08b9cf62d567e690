"""From a CT on its native grid to the networks' input, each step with its inverse.

The working grid is aligned with the patient's axes (LPS) at the model's spacing. It does not depend on how the array of
the scan is ordered; where a model is used, it is the patient who places it, not the scan's outer corners: a copy of the
scan on another grid then gives the same voxels, pooled in the same groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry, LabelMap, Volume, bounding_box, covering, resample
from focusnet.tiling import triple

AIR_HU = -1024.0
MAX_HU = 3071.0
BODY_THRESHOLD_HU = -300.0
BODY_OPENING_MM = 6.0
MARGIN_IN_PLANE_MM = 4.0
MIN_BODY_ML = 100.0
TIE_BREAK_LPS = np.array((0.01, 0.013, 0.007))  # of a voxel; unequal, so that two axes never cancel
TIE_BREAK_SHARE = 1e-3


@dataclass(frozen=True)
class Intensity:
    """HU window clipped and mapped linearly onto [-1, 1].

    Attributes:
        window_hu: Lower and upper HU.
    """

    window_hu: tuple[float, float] = (-200.0, 1000.0)

    def __call__(self, hu: NDArray[np.floating]) -> NDArray[np.float32]:
        """HU of any shape to float32 in [-1, 1]."""
        low, high = self.window_hu
        return ((np.clip(hu, low, high) - low) * (2.0 / (high - low)) - 1.0).astype(np.float32)


def working_geometry(native: Geometry, spacing_xyz: tuple[float, float, float]) -> Geometry:
    """LPS-aligned grid at ``spacing_xyz`` mm that covers every voxel of ``native``."""
    low, high = native.world_bounds()
    spacing = np.asarray(spacing_xyz, dtype=np.float64)
    # Rounding keeps equal scans in another axis order on exactly one grid.
    low = np.round(low, 4)
    size = np.maximum(np.ceil(np.round((high - low) / spacing, 3)), 1).astype(int)
    x, y, z = (int(n) for n in size)
    return Geometry.from_parts((z, y, x), spacing, low + spacing / 2, frame_of_reference=native.frame_of_reference)


def to_working_grid(volume: Volume, spacing_xyz: tuple[float, float, float]) -> Volume:
    """CT in HU, clipped to [-1024, 3071], on the working grid; float32, air outside the scan."""
    target = working_geometry(volume.geometry, spacing_xyz)
    clipped = Volume(np.clip(volume.array, AIR_HU, MAX_HU), volume.geometry)
    if volume.geometry.is_close(target):
        return Volume(clipped.array.astype(np.float32), target)
    return resample(clipped, target, fill=AIR_HU)


def patient_on_working_grid(
    volume: Volume,
    spacing_xyz: tuple[float, float, float],
    multiple_zyx: tuple[int, int, int],
    shift_xyz: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Volume:
    """The patient alone on a working grid whose voxels lie the same way in any copy of the scan.

    A voxel lies at the middle of all tissue, and the patient's box is counted from there in blocks of ``multiple_zyx``
    voxels, in every copy the same. Voxels of ``spacing_xyz`` along the patient's axes are kept, and nothing is
    interpolated, unless the grid is moved.

    Args:
        volume: CT in HU on any affine grid.
        spacing_xyz: Working spacing in mm.
        multiple_zyx: Voxels that the network pools into one.
        shift_xyz: Moves the grid along the patient's axes, in voxels.

    Returns:
        CT in HU, clipped to [-1024, 3071], cut to the patient and at least 4 mm more in plane; float32, air outside the
        scan. Its shape is a multiple of ``multiple_zyx``.

    Raises:
        FocusNetError: ``E_NOT_CT``, see `body_box`.
    """
    spacing, multiple = np.asarray(spacing_xyz, dtype=np.float64), np.asarray(multiple_zyx)
    block = spacing * multiple[::-1]
    middle = _middle_of_tissue(volume, spacing) + np.asarray(shift_xyz) * spacing
    low, high = volume.geometry.world_bounds()
    before = np.ceil((middle - low + MARGIN_IN_PLANE_MM) / block).astype(int)
    after = np.ceil((high - middle + MARGIN_IN_PLANE_MM) / block).astype(int)
    grid = Geometry.from_parts(
        triple((before + after)[::-1] * multiple),
        spacing,
        middle - before * block,
        frame_of_reference=volume.geometry.frame_of_reference,
    )
    ct = _to_the_ends(volume, grid)
    box = body_box(ct, margin_mm=0.0)
    margin = np.ceil(np.array((0.0, MARGIN_IN_PLANE_MM, MARGIN_IN_PLANE_MM)) / spacing[::-1])
    start = np.maximum(np.floor((box.start_zyx - margin) / multiple), 0) * multiple
    stop = np.minimum(np.ceil((box.stop_zyx + margin) / multiple) * multiple, ct.array.shape)
    return ct.crop(Box(triple(start), triple(stop)))


def _to_the_ends(volume: Volume, grid: Geometry) -> Volume:
    """CT on a grid larger than the scan; a voxel that the scan fills in part is as the scan's end there, not air.

    Else an organ that the scan cuts would end up to half a working voxel too early.
    """
    native = volume.geometry
    clipped = Volume(np.clip(volume.array, AIR_HU, MAX_HU), native)
    ct = resample(clipped, grid, fill=AIR_HU, extrapolate=True)
    step = np.linalg.inv(native.affine) @ grid.affine  # working to native index, (i, j, k)
    k, j, i = np.ogrid[tuple(slice(n) for n in grid.shape_zyx)]
    for row, n in zip(step[:3], native.shape_zyx[::-1], strict=True):
        index = row[0] * i + row[1] * j + row[2] * k + row[3]
        reach = 0.5 + np.abs(row[:3]).max() / 2 - 1e-6  # a voxel that ends with the scan is not filled by it
        ct.array[(index <= -reach) | (index >= n - 1 + reach)] = AIR_HU
    return ct


def _middle_of_tissue(volume: Volume, spacing_xyz: NDArray[np.float64]) -> NDArray[np.float64]:
    """LPS mm of the centroid of what is denser than -300 HU; of the voxel there, if the voxels are the working grid's.

    Raises:
        FocusNetError: ``E_NOT_CT`` when nothing is.
    """
    dense = volume.array > BODY_THRESHOLD_HU
    if not dense.any():
        raise _no_body()
    others = ((1, 2), (0, 2), (0, 1))
    index = [
        np.average(np.arange(n), weights=dense.sum(axis=axes, dtype=np.int64))
        for n, axes in zip(dense.shape, others, strict=True)
    ]
    geometry = volume.geometry
    # Rounding keeps equal scans in another axis order on exactly one grid; the half micrometre decides ties, of voxels
    # here and of samples at the very end of a scan.
    middle = np.round(geometry.index_to_world(index), 3) + 5e-4
    edges = np.abs(geometry.affine[:3, :3])  # a column for each axis of the array
    if np.allclose(edges.max(axis=1), spacing_xyz, rtol=1e-3) and np.allclose(
        edges.sum(axis=1), spacing_xyz, rtol=1e-3
    ):
        return geometry.index_to_world(np.round(geometry.world_to_index(middle)))
    return middle


def _no_body() -> FocusNetError:
    return FocusNetError(
        "E_NOT_CT", "No body found: less than 100 ml are denser than -300 HU; give a CT in Hounsfield units."
    )


def body_box(ct: Volume, margin_mm: float = 10.0) -> Box:
    """Box round the patient on an LPS-aligned CT in HU, without couch and mask where they stand apart.

    Args:
        ct: CT on a working grid.
        margin_mm: Added on every side, inside the grid.

    Raises:
        FocusNetError: ``E_NOT_CT`` when less than 100 ml are denser than -300 HU.
    """
    spacing = np.asarray(ct.geometry.spacing_zyx)
    dense = ct.array > BODY_THRESHOLD_HU
    reach = np.maximum(np.round(BODY_OPENING_MM / 2 / spacing), 0).astype(int)
    reach[0] = 0
    structure = np.ones(2 * reach + 1, bool)
    opened = ndimage.binary_opening(dense, structure) if structure.size > 1 else dense
    labels, count = ndimage.label(opened)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    if count == 0 or sizes.max() * ct.geometry.voxel_volume_ml < MIN_BODY_ML:
        raise _no_body()
    box = bounding_box(labels == int(np.argmax(sizes)) + 1)
    assert box is not None
    z, y, x = (int(n) for n in np.ceil(margin_mm / spacing))
    return box.expand((z, y, x), ct.array.shape)


def labels_to_grid(labels: LabelMap, target: Geometry) -> LabelMap:
    """Labels on another grid: each organ keeps its volume, smooth at any ratio of spacings.

    Of each organ's mask the share of every target voxel is taken, by linear interpolation, on a coarser grid of the
    smoothed mask. As many voxels as the shares make up are the organ's, those of the highest shares. A fixed level of
    one half would shrink thin organs on coarser grids, and lose both ends of one whose borders lie half way between
    the voxels (3 mm from 1.5 mm). Where two organs claim a voxel, it is the one's whose level it exceeds most.
    """
    if labels.geometry.is_close(target):
        return LabelMap(labels.array, target, labels.organs)
    place = target
    # Looked up a little further on along the patient's axes: of two equal ends one goes first.
    nudge = min(labels.geometry.spacing_xyz) * TIE_BREAK_LPS
    target = Geometry(place.shape_zyx, place.affine + np.pad(nudge[:, None], ((0, 1), (3, 0))))
    result = np.zeros(target.shape_zyx, labels.array.dtype)
    best = np.zeros(target.shape_zyx, np.float32)
    reach = np.ceil(2 * max(target.spacing_xyz) / np.asarray(labels.geometry.spacing_zyx)) + 2
    boxes = ndimage.find_objects(labels.array, max_label=max(labels.organs, default=0))
    for value in labels.organs:
        if boxes[value - 1] is None:
            continue
        start, stop = zip(*((s.start, s.stop) for s in boxes[value - 1]), strict=True)
        box = Box(start, stop).expand(triple(reach), labels.array.shape)
        source = labels.geometry.crop(box)
        part = covering(target, source, Box((0, 0, 0), target.shape_zyx))
        if part is None:
            continue
        mask = Volume((labels.array[box.slices] == value).astype(np.float32), source)
        share = _without_ties(resample(mask, target.crop(part), fill=0.0))
        level = _level(share)
        claim = np.where(share > level, share / level, 0.0) if level > 0 else np.zeros_like(share)
        wins = claim > best[part.slices]
        result[part.slices][wins] = value
        best[part.slices][wins] = claim[wins]
    return LabelMap(result, place, labels.organs)


def _without_ties(share: Volume) -> NDArray[np.float32]:
    """Shares of which those nearer to the middle are a little higher, so that the voxels have one order.

    It is the same order whatever the order of the array's axes.
    """
    shown = np.argwhere(share.array > 0)
    if shown.size == 0:
        return share.array
    values = share.array[tuple(shown.T)]
    world = share.geometry.index_to_world(shown)
    distance = np.linalg.norm(world - np.average(world, axis=0, weights=values), axis=1)
    result = np.zeros_like(share.array)
    result[tuple(shown.T)] = np.maximum(values - TIE_BREAK_SHARE * distance / max(distance.max(), 1e-6), 0)
    return result


def _level(share: NDArray[np.float32]) -> float:
    """Share above which there are as many voxels as all shares make up; 0 where they make up less than half of one."""
    count = round(float(share.sum(dtype=np.float64)))
    shown = share[share > 0]
    if count == 0 or shown.size == 0:
        return 0.0
    least = float(np.sort(shown)[-min(count, shown.size)])
    return float(np.nextafter(np.float32(least), np.float32(0)))
