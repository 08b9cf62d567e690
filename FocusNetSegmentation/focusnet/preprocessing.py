"""From a CT on its native grid to the networks' input, each step with its inverse.

The working grid is aligned with the patient's axes (LPS) at the model's spacing. It depends only on where the scan lies
in the world, not on how its array is ordered, so a flipped, permuted or oblique copy of a scan gives the same input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry, LabelMap, Volume, bounding_box, resample

AIR_HU = -1024.0
MAX_HU = 3071.0
BODY_THRESHOLD_HU = -300.0
BODY_OPENING_MM = 6.0
MIN_BODY_ML = 100.0


@dataclass(frozen=True)
class Intensity:
    """HU window clipped and mapped linearly onto [-1, 1] (METHOD §3).

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
        raise FocusNetError(
            "E_NOT_CT",
            "No body found: less than 100 ml are denser than -300 HU; give a CT in Hounsfield units.",
        )
    box = bounding_box(labels == int(np.argmax(sizes)) + 1)
    assert box is not None
    z, y, x = (int(n) for n in np.ceil(margin_mm / spacing))
    return box.expand((z, y, x), ct.array.shape)


def labels_to_grid(labels: LabelMap, target: Geometry) -> LabelMap:
    """Labels on another grid, smooth at any ratio of spacings.

    Each organ's mask is interpolated linearly and the highest value wins against the other organs and the background:
    no staircase on a finer grid, no loss of volume (as smoothing would bring to small organs) on a coarser one.
    """
    if labels.geometry.is_close(target):
        return LabelMap(labels.array, target, labels.organs)
    result = np.zeros(target.shape_zyx, labels.array.dtype)
    best = resample(
        Volume((labels.array == 0).astype(np.float32), labels.geometry), target, fill=1.0, antialias=False
    ).array
    for value in labels.organs:
        mask = labels.array == value
        if not mask.any():
            continue
        share = resample(Volume(mask.astype(np.float32), labels.geometry), target, fill=0.0, antialias=False).array
        wins = share > best
        result[wins] = value
        best = np.maximum(best, share)
    return LabelMap(result, target, labels.organs)
