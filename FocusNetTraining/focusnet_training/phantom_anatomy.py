"""Anatomy of the phantom: where the tissues of a head and neck lie and what they look like on CT.

Frame: millimetres, +x to the patient's left, +y to the back, +z up; the origin lies midway between the ear canals at
the height of the Frankfort plane. Proportions follow an average adult; every build draws its own sizes and places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from focusnet_training.phantom_shapes import (
    Array,
    Body,
    Column,
    Common,
    Ellipsoid,
    Grown,
    HalfSpace,
    Kept,
    Tube,
    Union,
    Vector,
    Without,
    shell,
)

AIR_HU = -1000.0
FAT_HU = -100.0
MUSCLE_HU = 55.0
CSF_HU = 8.0
CORTICAL_HU = 1250.0

Tone = Callable[[Array, Array, Array], Array]


@dataclass(frozen=True)
class Tissue:
    """One coat of paint: ``tone(distance_mm, fine_texture, gyral_texture)`` gives HU inside ``body``."""

    body: Body
    tone: Tone
    opacity: float = 1.0


@dataclass(frozen=True)
class Anatomy:
    """Tissues in painting order (later ones cover earlier ones) and the organs' truth, keyed canonically."""

    tissues: tuple[Tissue, ...]
    organs: dict[str, Body]
    fillings: tuple[Vector, ...]
    skin: Body


class Variation:
    """Random deviations of one patient from the average, cut at two standard deviations."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

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
        """Semi-axes changed together and each a little by itself."""
        whole = self.factor(deviation)
        a, b, c = (r * whole * self.factor(deviation / 3) for r in radii)
        return a, b, c


def plain(hu: float, grain_hu: float = 4.0) -> Tone:
    """Even tissue with a fine grain."""
    return lambda distance, fine, gyral: np.float32(hu) + np.float32(grain_hu) * fine


def marbled(hu: float, fat_hu: float, share: float) -> Tone:
    """Glandular or muscular tissue interspersed with fat lobules."""

    def tone(distance: Array, fine: Array, gyral: Array) -> Array:
        lobule = np.clip(fine * np.float32(0.7) + np.float32(share * 2 - 1) + np.float32(0.5), 0, 1)
        return np.float32(hu) + np.float32(fat_hu - hu) * lobule

    return tone


def bundled(hu: float, grain_hu: float = 5.0) -> Tone:
    """Muscle divided by thin planes of fat."""

    def tone(distance: Array, fine: Array, gyral: Array) -> Array:
        septum = np.clip(np.float32(1.0) - np.abs(gyral) * np.float32(5), 0, 1)
        return np.float32(hu) + np.float32(grain_hu) * fine - np.float32(110) * septum

    return tone


def layered_bone(thickness_mm: float, table_mm: float, marrow_hu: float) -> Tone:
    """Flat bone: dense outer and inner table with diploe between."""

    def tone(distance: Array, fine: Array, gyral: Array) -> Array:
        core = np.clip((-distance - np.float32(table_mm)) * np.float32(1.5), 0, 1)
        return np.float32(CORTICAL_HU) - core * (np.float32(CORTICAL_HU - marrow_hu) - np.float32(90) * fine)

    return tone


def cells(wall_hu: float, air_hu: float) -> Tone:
    """Pneumatised bone: small air cells between bony walls."""

    def tone(distance: Array, fine: Array, gyral: Array) -> Array:
        open_ = np.clip(np.float32(0.7) + np.float32(1.1) * fine, 0, 1)
        return np.float32(wall_hu) + np.float32(air_hu - wall_hu) * open_

    return tone


def gyri(distance: Array, fine: Array, gyral: Array) -> Array:
    """Brain with grey cortex, white matter and fluid-filled sulci near the surface."""
    depth = -distance
    fold = np.abs(gyral)
    near = np.clip((np.float32(16) - depth) * np.float32(0.15), 0, 1)
    sulcus = np.clip(np.float32(1.3) - fold * np.float32(3.5), 0, 1) * near
    cortex = np.clip(np.maximum((np.float32(5) - depth) * np.float32(0.6), (np.float32(0.5) - fold) * 4 * near), 0, 1)
    return np.float32(28) + np.float32(9) * cortex - np.float32(24) * sulcus + np.float32(1.5) * fine


def _mirrored(side: int, *points: Vector) -> tuple[Vector, ...]:
    return tuple((side * x, y, z) for x, y, z in points)


SIDES: tuple[tuple[str, int], ...] = (("l", 1), ("r", -1))


def build_anatomy(rng: np.random.Generator, small_contrast: float = 1.0) -> Anatomy:
    """One patient.

    Args:
        rng: Source of all variation.
        small_contrast: Opacity of optic nerves and chiasm over what surrounds them; 1 is natural.
    """
    vary = Variation(rng)
    tissues: list[Tissue] = []
    organs: dict[str, Body] = {}

    def paint(body: Body, tone: Tone, opacity: float = 1.0) -> Body:
        tissues.append(Tissue(body, tone, opacity))
        return body

    # ---------------------------------------------------------------- skin, fat and the great muscles
    head = Ellipsoid((0, 2, 48), (77, 97, 82))
    face = Column(
        (
            (34, 0, -28, 66, 64),
            (15, 0, -30, 72, 66),
            (0, 0, -30, 73, 67),
            (-30, 0, -28, 71, 70),
            (-60, 0, -32, 62, 64),
            (-80, 0, -38, 48, 55),
            (-92, 0, -36, 32, 50),
            (-100, 0, -30, 22, 40),
        ),
        boxiness=0.4,
    )
    neck = Column(
        (
            (20, 0, 40, 55, 50),
            (-40, 0, 24, 58, 56),
            (-70, 0, 14, 56, 60),
            (-100, 0, 8, 56, 61),
            (-125, 0, 9, 62, 63),
            (-145, 0, 12, 92, 68),
            (-170, 0, 18, 150, 80),
            (-240, 0, 22, 200, 100),
        ),
        boxiness=0.2,
    )
    nose = Tube(((0, -88, 22), (0, -104, -2), (0, -108, -8)), (8, 10, 11))
    chin = Ellipsoid((0, -80, -78), (24, 15, 14))
    ears = [Ellipsoid((s * 77, 10, 6), (5, 15, 29), yaw_deg=-s * 22, pitch_deg=8) for _, s in SIDES]
    skin = Kept(Union((head, face, neck, nose, chin, *ears), blend_mm=14))
    paint(skin, plain(25))
    paint(Grown(skin, -2.2), plain(FAT_HU, 8))

    body_muscle = Column(
        (
            (-20, 0, 34, 46, 42),
            (-60, 0, 26, 46, 42),
            (-100, 0, 18, 46, 44),
            (-130, 0, 18, 55, 48),
            (-150, 0, 22, 80, 52),
            (-175, 0, 26, 130, 60),
            (-240, 0, 26, 180, 80),
        ),
        boxiness=0.2,
    )
    paint(body_muscle, bundled(MUSCLE_HU))
    for _, s in SIDES:
        for nodes, radius, stretch in (
            (((18, 42, -20), (20, 44, -90), (24, 58, -150), (28, 70, -230)), 15, (1, 1, 1)),
            (((8, 52, -25), (9, 58, -100), (10, 72, -170)), 7, (1, 1, 1)),
            (((38, 22, -40), (40, 26, -100), (60, 40, -160)), 9, (0.8, 1.2, 1)),
            (((30, 2, -95), (34, 8, -130), (46, 14, -170)), 8, (1, 1, 1)),
            (((22, 58, -30), (38, 52, -90), (80, 50, -150)), 7, (1.4, 0.8, 1)),
            (((57, 18, -18), (50, 4, -70), (36, -22, -125), (16, -36, -170)), 9, (1.1, 0.8, 1)),
        ):
            paint(
                Tube(_mirrored(s, *[vary.near(n, 1.0) for n in nodes]), (float(radius),) * len(nodes), stretch),
                plain(MUSCLE_HU + 4, 6),
            )

    # ---------------------------------------------------------------- brain case
    stem_scale = vary.factor(0.05)
    brainstem = Column(
        tuple(
            (z, 0.0, y, rx * stem_scale, ry * stem_scale)
            for z, y, rx, ry in (
                (33, 3, 14.5, 11),
                (24, 3, 16, 12.5),
                (14, 1, 17.5, 14),
                (4, 3, 16, 13.5),
                (-6, 9, 11.5, 9.5),
                (-15, 13.5, 8.8, 8),
                (-24, 17, 7.4, 6.6),
            )
        )
    )
    vault = Ellipsoid((0, 3, 45), (66, 84, 71))
    temporal = {
        name: Ellipsoid(
            (s * (43 + vary.normal(0.6)), -8 + vary.normal(1), 24.5 + vary.normal(0.7)),
            vary.sized((24, 41, 21.5), 0.02),
            yaw_deg=-s * 6,
        )
        for name, s in SIDES
    }
    suprasellar = Ellipsoid((0, -20, 31), (17, 13, 10))
    petrous = Union(tuple(Tube(_mirrored(s, (60, 12, -2), (38, -1, 3), (15, -14, 5)), (12, 10, 5.5)) for _, s in SIDES))
    orbits = Union(tuple(_orbital_cone(s) for _, s in SIDES))
    room = Union(
        (
            Common((vault, HalfSpace((0, 0, -1), -29))),
            Common((vault, HalfSpace((0, -0.38, -0.925), -15.5))),
            Common((Union((Grown(temporal["l"], 2), Grown(temporal["r"], 2))), vault)),
            Common((Ellipsoid((0, 42, 6), (55, 44, 34)), Grown(vault, 2))),
            Grown(brainstem, 5.5),
            suprasellar,
        ),
        blend_mm=8,
    )
    cavity = Kept(Without(Without(room, petrous), Grown(orbits, 2.2)))
    thickness = 6.0 * vary.factor(0.12)
    paint(shell(cavity, thickness), layered_bone(thickness, 1.6, 480))
    for _, s in SIDES:
        paint(Ellipsoid((s * 55, 17, -8), (11, 15, 19)), plain(850, 100))
    paint(petrous, plain(900, 120))
    sphenoid = Ellipsoid((0, -26, 8), (20, 19, 13))
    paint(sphenoid, plain(600, 120))
    paint(cavity, plain(CSF_HU, 1))
    cerebrum = Grown(cavity, -2.2)
    paint(cerebrum, gyri)

    # cisterns, ventricles, falx
    paint(Grown(suprasellar, -0.5), plain(CSF_HU, 1))
    paint(Common((Grown(brainstem, 4.5), HalfSpace((0, 1, 0), 8))), plain(CSF_HU, 1))
    paint(Common((Grown(brainstem, 3), HalfSpace((0, 0, -1), -20))), plain(CSF_HU, 1))
    paint(Grown(Common((Grown(brainstem, 4), HalfSpace((0, 0, 1), -8))), 0), plain(CSF_HU, 1))
    ventricle = vary.factor(0.25)
    for _, s in SIDES:
        paint(
            Tube(
                _mirrored(s, (7, -32, 50), (9, -10, 58), (14, 18, 58), (24, 36, 46), (27, 56, 44)),
                tuple(ventricle * r for r in (4.5, 4.0, 4.5, 6.0, 2.5)),
                (0.9, 1, 1.2),
            ),
            plain(CSF_HU, 1),
        )
        paint(Tube(_mirrored(s, (25, 34, 42), (34, 12, 26), (33, -10, 21)), (3, 2.4, 1.8)), plain(CSF_HU, 1))
        paint(Ellipsoid((s * 20, 2, 48), (8, 14, 9)), plain(38, 1))
        paint(Ellipsoid((s * 13, -22, 50), (6, 12, 9)), plain(39, 1))
    paint(Ellipsoid((0, 2, 44), (2.6 * ventricle, 14, 9)), plain(CSF_HU, 1))
    paint(Ellipsoid((0, 20, 8), (8, 4.5 * ventricle, 9)), plain(CSF_HU, 1))
    falx = Common((Grown(cavity, -0.5), Ellipsoid((0, 5, 70), (1.4, 90, 55))))
    paint(Without(falx, Ellipsoid((0, 3, 38), (40, 55, 40))), plain(52, 2))

    # ---------------------------------------------------------------- temporal lobes, brain stem, pituitary, chiasm
    for name, s in SIDES:
        fissure = Common(
            (
                shell(temporal[name], 2.6, -0.2),
                Grown(cavity, -1),
                HalfSpace((-s * 0.45, 0.15, -0.88), -23),
            )
        )
        paint(fissure, plain(CSF_HU, 1))
        lobe = Common((temporal[name], Grown(cavity, -2.0)))
        organs[f"temporal_lobe_{name}"] = Without(lobe, Grown(brainstem, 3.5))
        paint(
            Common((shell(temporal[name], 1.8, -0.2), Grown(cavity, -1), HalfSpace((s * 1.0, 0, 0), 30))),
            plain(CSF_HU + 4, 1),
        )
    organs["brainstem"] = brainstem
    paint(brainstem, plain(31, 1.5))

    sella = vary.near((0, -23, 19), 0.6)
    pituitary = Ellipsoid(sella, vary.sized((6.6, 5.2, 4.1), 0.06))
    organs["pituitary"] = pituitary
    paint(Ellipsoid((0, -23, 18), (15, 9, 7)), plain(25, 4))
    paint(Grown(Ellipsoid((0, -23, 17.5), (7, 6.0, 4.5)), 2), plain(650, 60))
    paint(Common((Grown(suprasellar, -0.5), HalfSpace((0, 0, -1), -22))), plain(CSF_HU, 1))
    for _, s in SIDES:
        paint(
            Tube(_mirrored(s, (12, -16, 12), (12.5, -24, 16), (12, -30, 19), (11, -27, 26)), (2.4,) * 4), plain(75, 2)
        )
    paint(Grown(pituitary, 1.0), plain(10, 2))
    paint(pituitary, plain(62, 2))

    # sinuses and nose
    paint(Ellipsoid((0, -37, 9), (12, 9, 9)), plain(AIR_HU, 0))

    anterior: dict[str, Vector] = {}
    middle = vary.near((0, -20, 30), 0.5)
    chiasm_parts: list[Body] = []
    spread = vary.factor(0.08)
    for name, s in SIDES:
        anterior[name] = (s * 5.8 * spread, -25.5 + vary.normal(0.3), 28.6)
        chiasm_parts.append(
            Tube(
                (anterior[name], (middle[0] + s * 0.8, middle[1], middle[2]), (-s * 6.8 * spread, -14.0, 31.0)),
                (2.5, 2.7, 2.4),
                (1, 1, 0.8),
            )
        )
    chiasm = Union(tuple(chiasm_parts), blend_mm=2)
    organs["optic_chiasm"] = chiasm

    # ---------------------------------------------------------------- facial skeleton
    for _, s in SIDES:
        paint(
            Tube(_mirrored(s, (44, -74, -6), (62, -48, -4), (66, -24, 3), (60, -12, 6)), (5, 3.2, 3, 4)), plain(900, 80)
        )
        paint(Ellipsoid((s * 42, -70, -8), (10, 10, 11)), plain(850, 100))
        paint(Tube(_mirrored(s, (48, -78, 26), (51, -76, 12), (44, -78, -4)), (4, 3.5, 4)), plain(1000, 80))
        paint(Tube(_mirrored(s, (47, -78, 26), (30, -88, 36), (12, -90, 34)), (4, 4.5, 5)), plain(1000, 80))
    paint(Tube(((0, -87, 32), (0, -93, 20), (0, -99, 10)), (4.5, 3.5, 2)), plain(900, 60))
    upper_arch = (
        (-25, -52, -32),
        (-22, -70, -32),
        (-12, -85, -32),
        (0, -90, -32),
        (12, -85, -32),
        (22, -70, -32),
        (25, -52, -32),
    )
    paint(Ellipsoid((0, -62, -27), (25, 30, 3)), plain(700, 80))
    paint(Tube(upper_arch, (5.0,) * 7, (1, 1, 1.4)), plain(750, 100))

    for name, s in SIDES:
        _paint_orbit(name, s, vary, paint, organs, anterior[name], small_contrast)
        maxillary = Ellipsoid(vary.near((s * 27, -62, -13), 1), vary.sized((14, 16, 14), 0.06))
        paint(Grown(maxillary, 1.6), plain(800, 60))
        paint(maxillary, plain(AIR_HU, 0))
        paint(Ellipsoid((s * 7, -60, 14), (6.5, 22, 11)), cells(150, -1000))
        paint(Ellipsoid((s * 7, -70, -12), (6, 26, 17)), plain(AIR_HU, 0))
        paint(Ellipsoid((s * 8.5, -64, -14), (3.2, 18, 4.5)), plain(40, 5))
        paint(Ellipsoid((s * 8, -62, -3), (2.6, 15, 3.5)), plain(40, 5))
        paint(Ellipsoid((s * 10, -85, 38), (9, 3.5, 8)), plain(AIR_HU, 0))
    paint(Ellipsoid((0, -62, -10), (1.2, 32, 20)), plain(250, 20))

    paint(chiasm, plain(40, 1), small_contrast)

    _paint_pharynx(vary, paint)
    fillings = _paint_jaw(vary, paint, organs)
    _paint_spine(vary, paint, organs)
    for name, s in SIDES:
        _paint_ear(name, s, vary, paint, organs)
        _paint_glands(name, s, vary, paint, organs, skin)
    _paint_neck(vary, paint, organs)
    return Anatomy(tuple(tissues), organs, fillings, skin)


Paint = Callable[..., Body]


def _orbital_cone(s: int) -> Body:
    return Tube(_mirrored(s, (32, -84, 16), (31, -74, 16), (24, -52, 19), (17, -41, 22)), (18.5, 18.5, 12, 5))


def _paint_orbit(
    name: str, s: int, vary: Variation, paint: Paint, organs: dict[str, Body], nerve_end: Vector, contrast: float
) -> None:
    cone = _orbital_cone(s)
    open_front = HalfSpace((0, -1, 0), 82)
    paint(Common((shell(cone, 2.0), open_front)), plain(950, 60))
    inner = Common((cone, HalfSpace((0, -1, 0), 86)))
    paint(inner, plain(FAT_HU + 4, 5))
    # lesser wing with the optic canal
    paint(Tube(_mirrored(s, (18, -41, 23), (11, -32, 25.5)), (5.5, 4.5)), plain(850, 60))
    paint(Tube(_mirrored(s, (18.5, -42, 22.5), (9, -29, 27)), (3.2, 3.2)), plain(-10, 5))

    x, y, z = vary.near((s * 32, -76.0, 16.0), 0.7)
    radius = 12.4 * vary.factor(0.035)
    for dx, dz in ((10.5, 0), (-10.5, 0), (0, 10.5), (0, -10.5)):
        paint(
            Tube(
                ((x + dx, y + 2, z + dz), (x - s * 4 + dx * 0.75, y + 18, z + 2 + dz * 0.75), (s * 17, -42, 21.5)),
                (1.8, 2.3, 1.6),
            ),
            plain(48, 3),
        )
    paint(Ellipsoid((s * 44, -78, 26), (4, 7, 6), yaw_deg=s * 30), plain(38, 4))
    globe = Ellipsoid((x, y, z), (radius, radius, radius * 1.0))
    gaze = vary.normal(6)
    lens_at = (x + np.sin(np.radians(gaze)) * 8.2, y - np.cos(np.radians(gaze)) * 8.2, z + vary.normal(0.6))
    lens = Ellipsoid(lens_at, vary.sized((4.7, 2.4, 4.7), 0.05), yaw_deg=-gaze)
    nerve_start = (x - s * 2.0 - np.sin(np.radians(gaze)) * 3, y + radius - 0.8, z)
    sag = vary.normal(1.5)
    nerve = Tube(
        (
            nerve_start,
            (s * 27.5 + vary.normal(0.5), -57, z + 0.8 + sag * 0.7),
            (s * 23 + vary.normal(0.5), -48.5, z + 3 + sag),
            (s * 17.3, -40.5, 23),
            (s * 12, -33.5, 25.8),
            nerve_end,
        ),
        tuple(r * vary.factor(0.03) for r in (2.3, 2.2, 2.2, 2.0, 2.0, 2.2)),
    )
    organs[f"optic_nerve_{name}"] = Without(nerve, globe)
    organs[f"eye_{name}"] = globe
    organs[f"lens_{name}"] = lens
    paint(nerve, plain(38, 2), contrast)
    paint(globe, plain(45, 2))
    paint(Grown(globe, -1.2), plain(10, 1))
    paint(lens, plain(95, 2))


def _paint_ear(name: str, s: int, vary: Variation, paint: Paint, organs: dict[str, Body]) -> None:
    shift = vary.near((0, 0, 0), 0.6)

    def at(*points: Vector) -> tuple[Vector, ...]:
        return tuple((s * (x + shift[0]), y + shift[1], z + shift[2]) for x, y, z in points)

    paint(Common((Ellipsoid((s * 55, 19, -7), (9, 12.5, 16)), HalfSpace((0, -1, 0), -8))), cells(450, -950))
    cochlea, vestibule, ring = at((26, -8.5, 4), (30.5, -4.5, 6), (33.5, 0.0, 7.5))
    scale = vary.factor(0.05)
    inner = Union(
        (
            Ellipsoid(cochlea, (4.1 * scale, 3.9 * scale, 3.8 * scale)),
            Ellipsoid(vestibule, (3.6 * scale, 3.2 * scale, 3.6 * scale), yaw_deg=s * 30),
            Ellipsoid(ring, (3.8 * scale, 3.2 * scale, 3.4 * scale), yaw_deg=s * 30),
        ),
        blend_mm=2,
    )
    organs[f"inner_ear_{name}"] = inner
    paint(Grown(inner, 3.2), plain(1550, 60))
    paint(inner, plain(420, 160))
    canal = at((23.5, -6, 5), (11, -1, 6))
    paint(Tube(canal, (2.2, 3.0)), plain(15, 2))

    drum = at((38.5, -5.5, 3.5))[0]
    middle = Ellipsoid(drum, vary.sized((4.4, 6.6, 8.4), 0.06), yaw_deg=-s * 15)
    organs[f"middle_ear_{name}"] = middle
    paint(Tube(at((45, -1, 1), (58, 1, 0), (84, 4, 0)), (3.6, 3.6, 4.2)), plain(AIR_HU, 0))
    paint(Grown(Tube(at((45, -1, 1), (52, 0, 0.5)), (3.6, 3.6)), 2), plain(800, 60))
    paint(Tube(at((44, -1, 1), (58, 1, 0), (84, 4, 0)), (3.2, 3.2, 4.0)), plain(AIR_HU, 0))
    paint(middle, plain(-900, 40))
    paint(Ellipsoid(at((39.5, -5, 7))[0], (1.3, 1.6, 2.2)), plain(700, 50))

    joint = at((50, -14, -0.5))[0]
    organs[f"tmj_{name}"] = Ellipsoid(joint, vary.sized((10.2, 6.2, 5.8), 0.05), yaw_deg=-s * 12)


def _paint_glands(name: str, s: int, vary: Variation, paint: Paint, organs: dict[str, Body], skin: Body) -> None:
    size = vary.factor(0.06)
    fatty = float(np.clip(0.25 + vary.normal(0.1), 0.05, 0.45))
    parotid = Union(
        (
            Ellipsoid(vary.near((s * 61, -8, -31), 0.8), (10 * size, 24 * size, 29 * size), yaw_deg=s * 8),
            Ellipsoid(vary.near((s * 53, 4, -31), 0.8), (14 * size, 11.5 * size, 24 * size)),
        ),
        blend_mm=5,
    )
    parotid = Without(
        Without(parotid, Grown(organs[f"mandible_{name}"], 1.5)), Ellipsoid((s * 56, -27, -42), (6.5, 17, 28))
    )
    parotid = Common((parotid, Grown(skin, -3.5)))
    organs[f"parotid_{name}"] = parotid
    paint(parotid, marbled(20, FAT_HU, fatty))
    paint(Tube(_mirrored(s, (53, -3, -14), (52, -2, -48)), (2.4, 2.4)), plain(60, 2))
    size = vary.factor(0.06)
    gland = Ellipsoid(
        vary.near((s * 31, -38, -80), 1.2), (10.5 * size, 16 * size, 12.5 * size), yaw_deg=-s * 25, pitch_deg=-10
    )
    gland = Without(gland, Grown(organs[f"mandible_{name}"], 1.2))
    organs[f"submandibular_{name}"] = gland
    paint(Grown(gland, 2.2), plain(FAT_HU, 6))
    paint(gland, plain(42, 9))


def _paint_pharynx(vary: Variation, paint: Paint) -> None:
    tongue = Ellipsoid((0, -56, -54), (24, 31, 22))
    floor = Ellipsoid((0, -58, -72), (34, 30, 14))
    paint(floor, bundled(55))
    paint(tongue, marbled(58, 20, 0.3))
    width = vary.factor(0.12)
    airway = Column(
        (
            (-4, 0, -28, 9 * width, 7),
            (-18, 0, -27, 12 * width, 9),
            (-30, 0, -20, 10 * width, 6),
            (-45, 0, -16, 9 * width, 5.5),
            (-60, 0, -15, 10 * width, 6.0),
            (-75, 0, -16, 13 * width, 6),
            (-90, 0, -19, 13 * width, 7),
            (-99, 0, -22, 11 * width, 7),
        )
    )
    paint(Grown(airway, 4.5), plain(MUSCLE_HU, 5))
    paint(Tube(((0, -34, -30), (0, -22, -42)), (4.5, 3.5), (1.8, 1, 1)), plain(52, 3))
    paint(airway, plain(AIR_HU, 0))
    paint(Ellipsoid((0, -58, -34), (20, 24, 2.2)), plain(AIR_HU, 0))


def _paint_jaw(vary: Variation, paint: Paint, organs: dict[str, Body]) -> tuple[Vector, ...]:
    for _, s in SIDES:
        paint(Ellipsoid((s * 56, -27, -42), (6.5, 17, 28)), plain(60, 6))
        paint(Ellipsoid((s * 40, -23, -40), (5, 13, 22), yaw_deg=s * 20), plain(58, 6))
        paint(Tube(_mirrored(s, (22, -34, -14), (42, -18, -5)), (6.5, 5.5)), plain(58, 6))
        paint(Tube(_mirrored(s, (54, -36, -16), (62, -34, 10), (68, -22, 34)), (6, 7, 4), (0.8, 2.0, 1)), plain(58, 6))
        paint(Ellipsoid((s * 42, -56, -38), (4, 16, 13), yaw_deg=s * 20), plain(FAT_HU, 5))
    height, wide = vary.factor(0.05), vary.factor(0.03)
    parts: list[Body] = []
    rows: list[Vector] = [(0, -87, -76), (10, -86, -76), (21, -80, -75), (33, -64, -72), (42, -45, -69), (48, -26, -64)]
    heads: list[Body] = []
    for _, s in SIDES:
        arch = _mirrored(s, *[(x * wide, y, z) for x, y, z in rows])
        parts.append(Tube(arch, tuple(r * height for r in (6.2, 6.2, 6.1, 6.0, 6.0, 5.2)), (1, 1, 2.1)))
        x = 50 * wide
        parts.append(Tube(_mirrored(s, (x - 1, -24, -60), (x, -21, -40), (x, -20, -24)), (4.8, 4.4, 3.8), (1, 3.6, 1)))
        parts.append(Tube(_mirrored(s, (x, -17, -26), (50, -14, -10), (50, -14, -3)), (5, 4.4, 4.2)))
        parts.append(Tube(_mirrored(s, (x, -29, -26), (x - 1, -33, -10)), (4.5, 2.4), (0.8, 1.2, 1)))
        heads.append(Ellipsoid((s * 50, -14, -2.5), (8.4, 4.4, 4.6), yaw_deg=-s * 12))
    mandible = Union((*parts, *heads), blend_mm=4)
    for name, s in SIDES:
        organs[f"mandible_{name}"] = Common((mandible, HalfSpace((-s, 0, 0), 0)))
    for _, s in SIDES:
        paint(Ellipsoid((s * 50, -14, 0), (12.5, 8.5, 8)), plain(850, 60))
        paint(Common((Ellipsoid((s * 50, -14, -1.5), (11, 6.8, 6.8)), HalfSpace((0, 0, 1), 5))), plain(60, 6))
        paint(Common((Ellipsoid((s * 50, -14, -8), (12.5, 8.5, 8)), HalfSpace((0, 0, 1), -5))), plain(20, 6))
    paint(mandible, layered_bone(0, 2.2, 320))
    for _, s in SIDES:
        paint(Tube(_mirrored(s, (40, -48, -70), (20, -78, -74)), (1.4, 1.4)), plain(60, 5))
    fillings: list[Vector] = []
    for _, s in SIDES:
        for x, y in ((3.5, -87), (10, -84.5), (16, -79), (20.5, -72), (24, -63.5), (26.5, -54)):
            for top, sign in ((-38, 1), (-60, -1)):
                wide_mm = 2.6 if x < 12 else 4.2
                root = top + sign * 9
                paint(Tube(_mirrored(s, (x, y, root), (x, y, top)), (1.6, wide_mm * 0.8)), plain(1500, 40))
                crown = (s * x, float(y), top - sign * 5.0)
                paint(Ellipsoid(crown, (wide_mm, wide_mm * 1.1, 5.5)), plain(2300, 60))
                if x > 18:
                    fillings.append(crown)
    return tuple(fillings)


_CANAL = ((-14, 18), (-24, 18), (-40, 19), (-80, 21), (-110, 25), (-140, 34), (-180, 47), (-240, 58))


def _paint_spine(vary: Variation, paint: Paint, organs: dict[str, Body]) -> None:
    canal = Column(tuple((z, 0.0, y, 11.5, 8.6) for z, y in _CANAL))
    bodies = Column(
        tuple(
            (z, 0.0, y - 18, 9.5 + max(0, (-z - 60) * 0.04), 8.2 + max(0, (-z - 60) * 0.02))
            for z, y in _CANAL
            if z <= -36
        )
    )
    pitch, start = 17.5 * vary.factor(0.03), -52 + vary.normal(2)

    def vertebral(distance: Array, fine: Array, gyral: Array) -> Array:
        core = np.clip((-distance - np.float32(1.4)) * np.float32(1.2), 0, 1)
        return np.float32(850) - core * (np.float32(560) - np.float32(60) * fine)

    paint(Grown(bodies, 0), vertebral)
    paint(Tube(((0, 2, -40), (0, 3, -18)), (6, 5)), plain(700, 60))
    at = np.array(_CANAL[::-1], float)
    for level in range(11):
        z = start - level * pitch
        y = float(np.interp(z, at[:, 0], at[:, 1]))
        paint(Common((bodies, Ellipsoid((0, y - 18, z), (30, 30, 2.6)))), plain(85, 6))
        mid = z + pitch / 2
        y = float(np.interp(mid, at[:, 0], at[:, 1]))
        for _, s in SIDES:
            lamina = _mirrored(s, (14, y - 6, mid + 2), (14, y + 5, mid), (0, y + 13, mid - 3))
            paint(Tube(lamina, (4, 4.5, 3.5), (1, 1, 1.3)), vertebral)
            paint(Tube(_mirrored(s, (12, y - 8, mid), (23, y - 6, mid - 2)), (3.2, 3.0)), vertebral)
        spine = 14.0 if level < 5 else 26.0
        paint(Tube(((0, y + 12, mid - 3), (0, y + spine + 12, mid - 11)), (3, 2.6)), vertebral)
    for _, s in SIDES:
        atlas = _mirrored(s, (0, -5, -25), (12, 2, -24), (20, 12, -24), (14, 27, -26), (0, 32, -26))
        paint(Tube(atlas, (4, 5.5, 6.5, 4, 4)), vertebral)
    paint(canal, plain(CSF_HU + 6, 1))
    cord = Column(
        tuple((z, 0.0, y, 6.6 + (0.6 if -130 < z < -70 else 0.0), 5.0) for z, y in ((-23.9, 17.6), *_CANAL[2:]))
    )
    organs["spinal_cord"] = cord
    paint(cord, plain(40, 1))
    stem = organs["brainstem"]
    paint(Common((stem, HalfSpace((0, 0, 1), -12))), plain(31, 1.5))


def _paint_neck(vary: Variation, paint: Paint, organs: dict[str, Body]) -> None:
    drop = vary.normal(2.0)
    hyoid = ((-19, -28, -90), (-14, -42, -93), (0, -48, -94), (14, -42, -93), (19, -28, -90))
    larynx_rows = (
        (-98, -30, 14, 12),
        (-104, -30, 16, 15),
        (-114, -30, 16.5, 16),
        (-122, -28.5, 14.5, 14.5),
        (-130, -27, 12.5, 12.5),
    )
    size = vary.factor(0.04)
    larynx = Column(tuple((z + drop, 0.0, y, rx * size, ry * size) for z, y, rx, ry in larynx_rows), boxiness=0.1)
    organs["larynx"] = larynx
    paint(Grown(larynx, 3), plain(FAT_HU, 6))
    for _, s in SIDES:
        paint(
            Tube(_mirrored(s, (12, -46, -98), (14, -44, -125), (10, -40, -165)), (4, 4, 4), (1.6, 0.7, 1)), plain(58, 5)
        )
        paint(Tube(_mirrored(s, (8, -2, -40), (9, -4, -100), (9, 2, -140)), (5, 6, 6), (1.1, 0.6, 1)), plain(56, 5))
        paint(Tube(_mirrored(s, (18, -22, -128), (18, -20, -150)), (8, 7), (1, 1.2, 1)), plain(105, 6))
        artery = _mirrored(
            s, (18, -4, -180), (22, -12, -150), (26, -12, -105), (28, -8, -70), (24, -4, -30), (22, -6, -6)
        )
        paint(Tube(artery, (3.6, 3.4, 3.8, 2.8, 2.6, 2.4)), plain(60, 2))
        vein = _mirrored(s, (26, -10, -180), (31, -10, -150), (34, -4, -105), (36, 0, -70), (32, 8, -28), (28, 8, -10))
        paint(Tube(vein, (6, 5.5, 5, 4.5, 4.2, 3.5)), plain(50, 2))
        clavicle = _mirrored(s, (14, -34, -172), (50, -34, -164), (90, -8, -156), (140, 10, -152))
        paint(Tube(clavicle, (8, 5.5, 5, 6)), layered_bone(0, 2, 350))
        apex = Ellipsoid((s * 50, 14, -206), (34, 36, 36))
        paint(Grown(apex, 4), plain(50, 6))
        paint(apex, plain(-860, 25))
        for z in (-176, -196):
            paint(
                Tube(
                    _mirrored(s, (22, 38, z + 6), (60, 44, z), (84, 12, z - 10), (66, -24, z - 20)),
                    (3.5,) * 4,
                    (1, 1, 1.4),
                ),
                plain(600, 80),
            )
    paint(Tube(hyoid, (2.4,) * 5, (1, 1, 1.4)), plain(600, 60))
    paint(larynx, marbled(52, -40, 0.25))
    front = HalfSpace((0, 1, 0), -26)
    plates = Common((shell(larynx, -1.0, -3.6), front, HalfSpace((0, 0, -1), 124 - drop)))
    paint(Common((plates, HalfSpace((0, 0, 1), -101 + drop))), plain(190, 60))
    ring = Common((shell(larynx, -0.5, -3.6), HalfSpace((0, 0, 1), -124 + drop)))
    paint(ring, plain(220, 50))
    for _, s in SIDES:
        paint(Ellipsoid((s * 5.5, -20, -115 + drop), (2.2, 2.4, 4)), plain(210, 20))
    lumen = Column(
        tuple(
            (z + drop, 0.0, y, rx, ry)
            for z, y, rx, ry in (
                (-95, -21, 9, 6),
                (-103, -26, 6.5, 7),
                (-110, -29, 4.5, 9),
                (-115, -29, 2.6, 9),
                (-119, -28, 5.0, 9),
                (-126, -27, 8, 9),
                (-135, -26, 8.5, 8.5),
            )
        )
    )
    paint(lumen, plain(AIR_HU, 0))
    trachea = Column(
        ((-132 + drop, 0, -26, 8.5, 8.5), (-150, 0, -20, 8.8, 8.5), (-180, 0, -8, 9, 8.5), (-240, 0, 4, 9, 8.5))
    )
    paint(Grown(trachea, 1.8), plain(95, 20))
    paint(trachea, plain(AIR_HU, 0))
    side = 2.0 + vary.normal(1.5)
    gullet = Column(
        (
            (-130 + drop, side * 0.4, -8.5, 8, 4.2),
            (-150, side, -3, 8.2, 4.8),
            (-180, side + 1, 9.5, 8.2, 5.2),
            (-240, side + 1, 22, 8.5, 6),
        )
    )
    organs["esophagus"] = gullet
    paint(Grown(gullet, 1.6), plain(FAT_HU + 20, 5))
    paint(gullet, plain(42, 3))
    paint(
        Tube(((side, -3, -150), (side + 1, 9.5, -180), (side + 1, 22, -240)), (1.4, 1.6, 1.8), (1.8, 1, 1)),
        plain(-300, 250),
    )
