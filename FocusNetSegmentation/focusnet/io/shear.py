"""Gantry tilt: from a sheared stack of slices to a right-angled grid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, Volume

RIGHT_ANGLE_COSINE = 1e-4
MAX_TILT_DEGREES = 40.0


def straighten(volume: Volume, *, fill: float) -> Volume:
    """Shift each slice within its plane, so that the slices stand one behind the other along their normal.

    The planes stay where they are in the world; only voxels within a slice are interpolated (linearly, and exactly for
    shifts by whole voxels). The field of view grows by the shift, so no voxel is lost.

    Args:
        volume: Any array whose slices (along one of the three axes) have right angles; ``(z, y, x)``.
        fill: Value of voxels that no slice covers, -1024 for a CT.

    Returns:
        The same volume where its grid is already right-angled, otherwise one of the same type on a right-angled grid
        with the same in-plane axes and spacing; the slice spacing is the distance between the planes.

    Raises:
        FocusNetError: ``E_BAD_GEOMETRY`` when no two axes are at a right angle; ``E_GANTRY_TILT`` above 40 degrees.
    """
    if volume.geometry.is_orthogonal:
        return volume
    cosines = np.abs(volume.geometry.direction.T @ volume.geometry.direction)
    for slice_axis, (first, second) in ((2, (0, 1)), (1, (0, 2)), (0, (1, 2))):
        if cosines[first, second] <= RIGHT_ANGLE_COSINE:
            return _straighten_along(volume, (first, second, slice_axis), fill)
    raise FocusNetError(
        "E_BAD_GEOMETRY", "No two axes of the image are at a right angle; resample it onto a right-angled grid."
    )


def _straighten_along(volume: Volume, axes_xyz: tuple[int, int, int], fill: float) -> Volume:
    """``axes_xyz``: which of the affine's columns are the column step, the row step and the slice step."""
    array = volume.array.transpose([2 - axis for axis in reversed(axes_xyz)])
    column_step, row_step, slice_step = (volume.geometry.affine[:3, axis] for axis in axes_xyz)
    normal = np.cross(column_step, row_step)
    normal /= np.linalg.norm(normal)
    spacing = float(slice_step @ normal)
    tilt = np.degrees(np.arccos(min(1.0, abs(spacing) / float(np.linalg.norm(slice_step)))))
    if tilt > MAX_TILT_DEGREES:
        raise FocusNetError(
            "E_GANTRY_TILT", f"Slices are sheared by {tilt:.0f} degrees, no gantry tilts so far; check the positions."
        )
    shift_yx = np.array([slice_step @ step / (step @ step) for step in (row_step, column_step)])
    offsets_yx = np.round(np.arange(array.shape[0])[:, None] * shift_yx, 6)
    low_yx = np.floor(offsets_yx.min(axis=0)).astype(int)
    straight = _shift_slices(array, offsets_yx - low_yx, fill)

    affine = np.eye(4)
    for axis, step in zip(axes_xyz, (column_step, row_step, normal * spacing), strict=True):
        affine[:3, axis] = step
    affine[:3, 3] = volume.geometry.affine[:3, 3] + low_yx[0] * row_step + low_yx[1] * column_step
    straight = np.ascontiguousarray(straight.transpose(np.argsort([2 - axis for axis in reversed(axes_xyz)])))
    z, y, x = straight.shape
    return Volume(straight, Geometry((z, y, x), affine, volume.geometry.frame_of_reference))


def _shift_slices(array: NDArray[Any], offsets_yx: NDArray[np.float64], fill: float) -> NDArray[Any]:
    """Each ``(y, x)`` slice moved by its offset (in voxels, not negative) within a frame that holds all of them."""
    count, height, width = array.shape
    grow_y, grow_x = np.ceil(offsets_yx.max(axis=0)).astype(int)
    result = np.empty((count, height + grow_y, width + grow_x), array.dtype)
    whole = np.floor(offsets_yx).astype(int)
    for index, (y, x) in enumerate(whole):
        part_y, part_x = offsets_yx[index] - whole[index]
        frame = np.full(result.shape[1:], fill, np.float32)
        above_fill = array[index].astype(np.float32) - fill
        for down, weight_y in ((0, 1.0 - part_y), (1, part_y)):
            for right, weight_x in ((0, 1.0 - part_x), (1, part_x)):
                weight = weight_y * weight_x
                if weight > 0:
                    frame[y + down : y + down + height, x + right : x + right + width] += weight * above_fill
        result[index] = np.rint(frame) if np.issubdtype(result.dtype, np.integer) else frame
    return result
