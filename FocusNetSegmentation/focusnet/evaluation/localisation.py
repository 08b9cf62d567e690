"""Where an organ was found: shift of its centroid, and the localisation error and rate of small organs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from focusnet.geometry import Geometry

LOCALISATION_LIMITS_MM = (3.0, 4.0, 5.0)


class CentroidShift(NamedTuple):
    """Vector from the reference's centroid to the prediction's in patient coordinates, mm.

    Attributes:
        left_mm: Left-right part, positive to the patient's left.
        posterior_mm: Anterior-posterior part, positive to the back.
        superior_mm: Superior-inferior part, positive to the head.
    """

    left_mm: float
    posterior_mm: float
    superior_mm: float

    @property
    def distance_mm(self) -> float:
        """Length of the shift."""
        return float(np.linalg.norm(self))


class Localisation(NamedTuple):
    """How well organs were located over several cases.

    Attributes:
        found: Number of organs with a prediction.
        missed: Number of organs without one.
        mean_error_mm: Mean distance of the centroids over those found; None where there is none.
        rates: Share of all organs, the missed ones included, found within 3, 4 and 5 mm.
    """

    found: int
    missed: int
    mean_error_mm: float | None
    rates: tuple[float, ...]


def centroid_mm(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.float64]:
    """Centroid of a mask in LPS millimetres.

    Args:
        mask: ``(z, y, x)``, not empty.
        geometry: Grid of that array.

    Returns:
        ``(3,)``, LPS mm.

    Raises:
        ValueError: The mask is empty.
    """
    total = np.count_nonzero(mask)
    if total == 0:
        raise ValueError("An empty mask has no centroid.")
    index = [
        np.count_nonzero(mask, axis=tuple(a for a in range(3) if a != axis)) @ np.arange(mask.shape[axis]) / total
        for axis in range(3)
    ]
    return geometry.index_to_world(index)


def centroid_shift(reference_mm: NDArray[np.float64], prediction_mm: NDArray[np.float64]) -> CentroidShift:
    """Shift between two centroids given in LPS millimetres."""
    left, posterior, superior = (prediction_mm - reference_mm).tolist()
    return CentroidShift(left, posterior, superior)


def summarise_localisation(errors_mm: Sequence[float | None]) -> Localisation:
    """Localisation error and rates within 3, 4 and 5 mm (FocusNetv2 §4, there for the centres of small organs).

    Args:
        errors_mm: Distance of the centroids of each organ that the reference holds; None where it was missed.

    Returns:
        Counts, mean error and rates; a missed organ is within no distance.

    Raises:
        ValueError: There is no organ.
    """
    if not errors_mm:
        raise ValueError("Localisation of no organ at all is undefined.")
    found = np.array([error for error in errors_mm if error is not None])
    rates = tuple(float(np.count_nonzero(found <= limit) / len(errors_mm)) for limit in LOCALISATION_LIMITS_MM)
    return Localisation(len(found), len(errors_mm) - len(found), float(found.mean()) if len(found) else None, rates)
