"""Is this a CT in Hounsfield units?"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from focusnet.errors import FocusNetError
from focusnet.geometry import Volume

AIR_HU = -1024
"""Value of voxels that the scanner did not measure."""

NOT_AIR_HU = -300
FAT_HU = -30  # and below: every patient has it
SOFT_TISSUE_HU = (-250, 300)
MIN_RANGE_HU = 200
MIN_AIR_SHARE = 5e-4
MIN_BODY_SHARE = 5e-3
MIN_SOFT_SHARE = 0.05
SAMPLES = 2_000_000


def check_hu(volume: Volume) -> Volume:
    """Check that the values can be a CT of a patient in HU, and set padding to air.

    A CT holds air near -1000 HU (round the patient, in the airways) and soft tissue near 0 HU. An MR or PET has no
    negative values, a CT stored without its rescale starts at 0, a normalised image spans a few units.

    Args:
        volume: Any real type, ``(z, y, x)``.

    Returns:
        The same volume, or one where values below -1024 HU (padding such as -2000 or -3024) are -1024 HU.

    Raises:
        FocusNetError: ``E_NON_FINITE`` for NaN or infinity; ``E_EMPTY_IMAGE`` for a constant image or nothing but air;
            ``E_NOT_HU`` for normalised, 8-bit or unrescaled values; ``E_NOT_CT`` for values of another modality.
    """
    array = volume.array
    check_finite(array)
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise FocusNetError("E_EMPTY_IMAGE", f"Every voxel is {low:g}; give an image with a patient in it.")
    if low < AIR_HU:
        array = np.maximum(array, array.dtype.type(AIR_HU))
        volume, low = volume.with_array(array), float(AIR_HU)
    sample = _sample(array)
    measured = sample[sample > AIR_HU]
    if _lies_at_1000(measured) and (measured < FAT_HU).mean() < MIN_AIR_SHARE:
        _refuse_without_air(measured, float(measured.min()), high)  # padding must not pass for the air
    if high - low < MIN_RANGE_HU and not high < NOT_AIR_HU:
        raise FocusNetError(
            "E_NOT_HU",
            f"Values run from {low:g} to {high:g}, as in a normalised image; give the CT in Hounsfield units.",
        )
    if (sample < NOT_AIR_HU).mean() < MIN_AIR_SHARE:
        _refuse_without_air(sample, low, high)
    body = sample[sample > NOT_AIR_HU]
    if body.size < MIN_BODY_SHARE * sample.size:
        raise FocusNetError(
            "E_EMPTY_IMAGE",
            f"Only {body.size / sample.size:.2%} of the voxels are denser than -300 HU: no patient, or rescaled twice; "
            "give a CT of a patient in Hounsfield units.",
        )
    soft = ((body >= SOFT_TISSUE_HU[0]) & (body <= SOFT_TISSUE_HU[1])).mean()
    if soft < MIN_SOFT_SHARE:
        raise FocusNetError(
            "E_NOT_HU",
            f"Only {soft:.1%} of the voxels that are not air lie between -250 and 300 HU, where soft tissue is; "
            "check the rescale slope and intercept.",
        )
    return volume


def check_finite(array: NDArray[Any]) -> None:
    """Refuse NaN and infinity.

    Raises:
        FocusNetError: ``E_NON_FINITE``.
    """
    if np.issubdtype(array.dtype, np.floating):
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            raise FocusNetError(
                "E_NON_FINITE", f"{bad} voxels are NaN or infinite; export the image again or replace them by -1024 HU."
            )


def _sample(array: NDArray[Any]) -> NDArray[Any]:
    """About two million voxels spread evenly over the array, 1-D."""
    step = max(1, int(np.ceil((array.size / SAMPLES) ** (1 / 3))))
    return array[tuple(slice(None, None, step if n > 4 * step else 1) for n in array.shape)].ravel()


def _lies_at_1000(sample: NDArray[Any]) -> bool:
    """Whether most of what is no air lies where soft tissue does that lacks its offset of -1024."""
    above = sample[sample > 200]
    return bool(above.size) and bool(((above > 850) & (above < 1250)).mean() > 0.5)


def _refuse_without_air(sample: NDArray[Any], low: float, high: float) -> NoReturn:
    if _lies_at_1000(sample):
        raise FocusNetError(
            "E_NOT_HU", f"Values start at {low:g} and tissue lies near 1000: a CT stored without its offset of -1024."
        )
    if low >= 0 and high <= 255:
        raise FocusNetError(
            "E_NOT_HU", f"Values run from {low:g} to {high:g}, as in a picture; give the CT in Hounsfield units."
        )
    raise FocusNetError(
        "E_NOT_CT",
        f"Values run from {low:g} to {high:g} without air near -1000 HU: this is not a CT (an MR or a PET?); "
        "give a CT in Hounsfield units.",
    )
