"""What the phantom's tissues look like on CT, and the draft that collects them in painting order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from focusnet_training.phantom_shapes import Array, Body, Grown, Vector

AIR_HU = -1000.0
FAT_HU = -100.0
MUSCLE_HU = 57.0
FLUID_HU = 8.0
CORTICAL_HU = 1250.0

SIDES: tuple[tuple[str, int], ...] = (("l", 1), ("r", -1))

Tone = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class Tissue:
    """One coat of paint.

    Attributes:
        body: Where it is.
        tone: ``tone(distance_mm, fine, coarse)`` gives HU from the signed distance to the surface of ``body`` and two
            random textures of unit variance.
        opacity: Share of what lies below that it covers.
    """

    body: Body
    tone: Tone
    opacity: float = 1.0


class Variation:
    """Random deviations of one patient from the average, cut at two standard deviations."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def between(self, low: float, high: float) -> float:
        """One even draw."""
        return float(self._rng.uniform(low, high))

    def normal(self, deviation: float) -> float:
        """One draw around zero."""
        return float(np.clip(self._rng.normal(), -2, 2) * deviation)

    def factor(self, deviation: float) -> float:
        """One draw around one."""
        return 1.0 + self.normal(deviation)

    def near(self, point: Vector, deviation_mm: float) -> Vector:
        """A point moved a little in each direction."""
        x, y, z = point
        return x + self.normal(deviation_mm), y + self.normal(deviation_mm), z + self.normal(deviation_mm)

    def sized(self, radii: Vector, deviation: float) -> Vector:
        """Semi-axes changed together, and each a third as much by itself."""
        whole = self.factor(deviation)
        a, b, c = (r * whole * self.factor(deviation / 3) for r in radii)
        return a, b, c


@dataclass
class Draft:
    """A patient in the making: tissues in painting order (later ones cover earlier ones) and the organs' bodies."""

    vary: Variation
    tissues: list[Tissue] = field(default_factory=list)
    organs: dict[str, Body] = field(default_factory=dict)

    def paint(self, body: Body, tone: Tone, opacity: float = 1.0) -> None:
        """Add a coat."""
        self.tissues.append(Tissue(body, tone, opacity))

    def embed(self, body: Body, tone: Tone, fat_share: float = 0.8) -> None:
        """Add a coat with a thin layer of fat around it."""
        self.paint(Grown(body, 1.2), plain(FAT_HU, 5), fat_share)
        self.paint(body, tone)

    def organ(self, key: str, body: Body, tone: Tone, opacity: float = 1.0) -> None:
        """Add a coat that is an organ."""
        self.organs[key] = body
        self.paint(body, tone, opacity)


def mirrored(side: int, *points: Vector) -> tuple[Vector, ...]:
    """Points of the left side (+x) for ``side`` 1, of the right side for -1."""
    return tuple((side * x, y, z) for x, y, z in points)


def plain(hu: float, grain_hu: float = 4.0) -> Tone:
    """Even tissue with a fine grain."""
    return lambda distance, fine, coarse: np.float32(hu) + np.float32(grain_hu) * fine


def air(distance: Array, fine: Array, coarse: Array) -> Array:
    """Air."""
    return np.full_like(distance, AIR_HU)


def fluid(distance: Array, fine: Array, coarse: Array) -> Array:
    """Cerebrospinal fluid."""
    return np.float32(FLUID_HU) + fine


def marbled(hu: float, other_hu: float, share: float) -> Tone:
    """Tissue with small lobules of another."""

    def tone(distance: Array, fine: Array, coarse: Array) -> Array:
        lobule = np.clip(np.float32(0.7) * fine + np.float32(2 * share - 0.5), 0, 1)
        return np.float32(hu) + np.float32(other_hu - hu) * lobule

    return tone


def muscle(distance: Array, fine: Array, coarse: Array) -> Array:
    """Muscle divided by thin planes of fat."""
    septum = np.clip(1 - np.float32(5) * np.abs(coarse), 0, 1)
    return np.float32(MUSCLE_HU) + np.float32(4) * fine - np.float32(110) * septum


def bone(marrow_hu: float, cortex_mm: float, cortex_hu: float = CORTICAL_HU) -> Tone:
    """Bone with a dense layer of ``cortex_mm`` under all its surfaces and marrow or diploe within."""

    def tone(distance: Array, fine: Array, coarse: Array) -> Array:
        core = np.clip((-distance - np.float32(cortex_mm)) * np.float32(1.5), 0, 1)
        return np.float32(cortex_hu) - core * (np.float32(cortex_hu - marrow_hu) - np.float32(80) * fine)

    return tone


def air_cells(wall_hu: float, share: float) -> Tone:
    """Pneumatised bone: small air cells between walls."""

    def tone(distance: Array, fine: Array, coarse: Array) -> Array:
        open_ = np.clip(np.float32(share) + np.float32(1.1) * fine, 0, 1)
        return np.float32(wall_hu) + np.float32(AIR_HU - wall_hu) * open_

    return tone


def brain(distance: Array, fine: Array, coarse: Array) -> Array:
    """White matter under a folded grey cortex, with fluid in the sulci; folds follow the coarse texture."""
    depth, fold = -distance, np.abs(coarse)
    near = np.clip((np.float32(20) - depth) * np.float32(0.12), 0, 1)
    sulcus = np.clip(np.float32(1.4) - np.float32(2.7) * fold, 0, 1) * near
    cortex = np.clip(
        np.maximum((np.float32(4.5) - depth) * np.float32(0.6), (np.float32(0.95) - fold) * 4 * near), 0, 1
    )
    return np.float32(27) + np.float32(10) * cortex - np.float32(26) * sulcus + np.float32(1.5) * fine
