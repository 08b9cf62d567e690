"""Overlap of two masks: Dice, volume, the worst slice and the added path length.

Masks are boolean arrays ``(z, y, x)`` on one grid. Nothing here knows about organs, files or empty-mask states.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

BoolArray = NDArray[np.bool_]


class WorstSlice(NamedTuple):
    """The slice on which two masks agree least, by its place, and its Dice coefficient."""

    position: int
    dsc: float


class AddedPath(NamedTuple):
    """Length of contour to be drawn anew, and of the whole reference contour, in mm."""

    added_mm: float
    reference_mm: float

    @property
    def relative(self) -> float:
        """Added share of the reference contour, 0 to 1."""
        return self.added_mm / self.reference_mm


def dice(reference: BoolArray, prediction: BoolArray) -> float:
    """Dice similarity coefficient, ``2 |A and B| / (|A| + |B|)`` (Dice, Ecology 26, 1945).

    Args:
        reference: Mask of any shape.
        prediction: Mask of the same shape.

    Returns:
        0 (disjoint) to 1 (equal).

    Raises:
        ValueError: Both masks are empty; the coefficient has no value then.
    """
    total = int(np.count_nonzero(reference) + np.count_nonzero(prediction))
    if total == 0:
        raise ValueError("The Dice coefficient of two empty masks is undefined.")
    return 2 * int(np.count_nonzero(reference & prediction)) / total


def slice_dice(reference: BoolArray, prediction: BoolArray) -> NDArray[np.float64]:
    """Dice coefficient of each slice along the first axis; NaN where both slices are empty.

    Args:
        reference: Mask ``(z, y, x)``.
        prediction: Mask of the same shape.

    Returns:
        Array of length ``z``.
    """
    total = _per_slice(reference) + _per_slice(prediction)
    overlap = _per_slice(reference & prediction)
    return np.divide(2.0 * overlap, total, out=np.full(total.shape, np.nan), where=total > 0)


def worst_slice(reference: BoolArray, prediction: BoolArray) -> WorstSlice:
    """Slice along the first axis with the lowest Dice coefficient.

    Among equals, usually slices which only one of the masks reaches, the one with the most differing voxels counts,
    and then the first.

    Args:
        reference: Mask ``(z, y, x)``.
        prediction: Mask of the same shape.

    Returns:
        Place of the slice and its Dice coefficient.

    Raises:
        ValueError: Both masks are empty.
    """
    scores = slice_dice(reference, prediction)
    if np.isnan(scores).all():
        raise ValueError("Two empty masks have no worst slice.")
    lowest = np.nanmin(scores)
    differing = np.where(scores == lowest, _per_slice(reference ^ prediction), -1)
    return WorstSlice(int(np.argmax(differing)), float(lowest))


def added_path_length(
    reference: BoolArray, prediction: BoolArray, spacing_yx: tuple[float, float], tolerance_mm: float = 0.0
) -> AddedPath:
    """Added path length: how much of the reference contour is missing from the prediction's contour.

    Slice by slice along the first axis, the contour of a mask is the set of its pixels with a background pixel beside
    them (four neighbours). A reference contour pixel is added path when no contour pixel of the prediction in the same
    slice lies within the tolerance. Each pixel counts with the pixel size, the geometric mean of both spacings
    (Vaassen et al., Phys Imaging Radiat Oncol 13, 2020).

    Args:
        reference: Mask ``(z, y, x)``.
        prediction: Mask of the same shape.
        spacing_yx: Pixel size in mm.
        tolerance_mm: Distance within which two contours count as one; 0 asks for the same pixel.

    Returns:
        Added and whole length in mm; the whole length is 0 when the reference is empty.
    """
    wanted, drawn = _contour_pixels(reference), _contour_pixels(prediction)
    pixel_mm = float(np.sqrt(spacing_yx[0] * spacing_yx[1]))
    missing = np.argwhere(wanted & ~drawn)
    if tolerance_mm > 0 and len(missing) and drawn.any():
        # Slices are set so far apart that no neighbour within the tolerance is found in another slice.
        scale = np.array([10.0 * (tolerance_mm + 1.0), *spacing_yx])
        reach = tolerance_mm + 1e-6
        distance, _ = cKDTree(np.argwhere(drawn) * scale).query(missing * scale, distance_upper_bound=reach)
        missing = missing[np.isinf(distance)]
    return AddedPath(len(missing) * pixel_mm, int(np.count_nonzero(wanted)) * pixel_mm)


def _per_slice(mask: BoolArray) -> NDArray[np.int64]:
    return np.count_nonzero(mask, axis=(1, 2))


def _contour_pixels(mask: BoolArray) -> BoolArray:
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    inner = padded[:, 2:, 1:-1] & padded[:, :-2, 1:-1] & padded[:, 1:-1, 2:] & padded[:, 1:-1, :-2]
    return mask & ~inner
