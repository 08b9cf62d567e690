"""The brain case of the phantom with the brain, sella, eyes and ears."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from focusnet_training.phantom_shapes import (
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
from focusnet_training.phantom_tissue import (
    FAT_HU,
    SIDES,
    Draft,
    air,
    air_cells,
    bone,
    brain,
    fluid,
    mirrored,
    plain,
)

_BRAINSTEM = (
    (33.0, 3.0, 14.5, 11.0),
    (24.0, 3.0, 16.0, 12.5),
    (14.0, 1.0, 17.5, 14.0),
    (4.0, 3.0, 16.0, 13.5),
    (-6.0, 9.0, 11.5, 9.5),
    (-15.0, 13.5, 8.8, 8.0),
    (-24.0, 17.0, 7.4, 6.6),
)


@dataclass(frozen=True)
class BrainCase:
    """The inside of the skull and what gives it its shape."""

    cavity: Body
    vault: Body
    petrous: Body
    brainstem: Body
    suprasellar: Body
    temporal: dict[str, Body]


def shape_brain_case(draft: Draft) -> BrainCase:
    """Inside of the skull: vault, three fossae, foramen magnum; petrous bones, orbits and jaw joints bulge in."""
    vary = draft.vary
    scale = vary.factor(0.04)
    brainstem = Column(tuple((z, 0.0, y, rx * scale, ry * scale) for z, y, rx, ry in _BRAINSTEM))
    vault = Ellipsoid((0, 3, 45), (66, 84, 71))
    temporal: dict[str, Body] = {
        name: Ellipsoid(vary.near((s * 43.5, -7, 25), 0.7), vary.sized((24.5, 43, 22.5), 0.02), yaw_deg=-s * 6)
        for name, s in SIDES
    }
    petrous = Union(
        tuple(Tube(mirrored(s, (60, 12, -1), (38, -1, 5), (15, -14, 6)), (12, 10.5, 5.5)) for _, s in SIDES)
    )
    suprasellar = Ellipsoid((0, -20, 31), (17, 13, 10))
    room = Union(
        (
            Common((vault, HalfSpace((0, 0, -1), -29))),
            Common((vault, HalfSpace((0, -0.38, -0.925), -15.5))),
            Common((Union(tuple(Grown(t, 2) for t in temporal.values())), vault)),
            Common((Ellipsoid((0, 42, 6), (55, 44, 34)), Grown(vault, 2))),
            Grown(brainstem, 5.5),
            suprasellar,
        ),
        blend_mm=8,
    )
    bulges = Union((petrous, *(Grown(orbital_cone(s), 2.2) for _, s in SIDES), *(joint_roof(s) for _, s in SIDES)))
    return BrainCase(Kept(Without(room, bulges)), vault, petrous, brainstem, suprasellar, temporal)


def joint_roof(side: int) -> Body:
    """Bone that holds the socket of the jaw joint."""
    return Ellipsoid((side * 50, -14, 0), (13.5, 9.5, 8.5))


def orbital_cone(side: int) -> Body:
    """Inside of the orbit, from its rim to the apex."""
    return Tube(mirrored(side, (32, -84, 16), (31, -74, 16), (24, -52, 19), (17, -41, 22)), (18.5, 18.5, 12, 5))


def paint_skull(draft: Draft, case: BrainCase) -> None:
    """Vault with two tables and diploe, petrous and mastoid bones, sphenoid."""
    thickness = 6.0 * draft.vary.factor(0.12)
    draft.paint(shell(case.cavity, thickness), bone(480, 1.6))
    draft.paint(case.petrous, plain(900, 120))
    for _, s in SIDES:
        draft.paint(Ellipsoid((s * 55, 17, -8), (11, 15, 19)), plain(850, 100))
    draft.paint(Ellipsoid((0, -26, 8), (20, 19, 13)), plain(600, 120))


def paint_brain(draft: Draft, case: BrainCase) -> None:
    """Brain, cisterns, ventricles, falx; temporal lobes and brain stem."""
    vary, cavity, stem = draft.vary, case.cavity, case.brainstem
    draft.paint(cavity, fluid)
    draft.paint(Grown(cavity, -2.2), brain)
    draft.paint(Grown(case.suprasellar, -0.5), fluid)
    below_top = HalfSpace((0, 0, 1), 33)
    for margin, limit in (
        (4.5, HalfSpace((0, 1, 0), 6)),
        (2.5, HalfSpace((0, 0, -1), -18)),
        (4.0, HalfSpace((0, 0, 1), -8)),
    ):
        draft.paint(Common((Grown(stem, margin), limit, below_top)), fluid)
    wide = vary.factor(0.25)
    for _, s in SIDES:
        horn = mirrored(s, (7, -32, 50), (9, -10, 58), (14, 18, 58), (24, 36, 46), (27, 56, 44))
        draft.paint(Tube(horn, tuple(wide * r for r in (4.5, 4.0, 4.5, 6.0, 2.5)), (0.9, 1, 1.2)), fluid)
        draft.paint(Tube(mirrored(s, (25, 34, 42), (34, 12, 26), (33, -10, 21)), (3, 2.4, 1.8)), fluid)
        draft.paint(Ellipsoid((s * 20, 2, 48), (8, 14, 9)), plain(38, 1))
        draft.paint(Ellipsoid((s * 13, -22, 50), (6, 12, 9)), plain(39, 1))
    draft.paint(Ellipsoid((0, 2, 45), (2.6 * wide, 14, 9)), fluid)
    draft.paint(Ellipsoid((0, 20, 8), (8, 4.5 * wide, 9)), fluid)
    sheet = Common((Grown(cavity, -0.5), Ellipsoid((0, 5, 70), (1.4, 90, 55))))
    draft.paint(Without(sheet, Ellipsoid((0, 3, 38), (40, 55, 40))), plain(52, 2))
    for name, s in SIDES:
        lobe = case.temporal[name]
        inside = Grown(cavity, -1)
        draft.paint(Common((shell(lobe, 2.4, -0.2), inside, HalfSpace((-s * 0.45, 0.15, -0.88), -23))), fluid)
        draft.paint(Common((shell(lobe, 1.8, -0.2), inside, HalfSpace((s * 1.0, 0, 0), 30))), fluid)
        draft.organs[f"temporal_lobe_{name}"] = Without(Common((lobe, Grown(cavity, -2))), Grown(stem, 3.5))
    draft.organ("brainstem", stem, plain(32, 1.5))


def paint_sella(draft: Draft, case: BrainCase) -> None:
    """Pituitary in the bony sella between the cavernous sinuses, sphenoid sinus below."""
    vary = draft.vary
    pituitary = Ellipsoid(vary.near((0, -23, 19), 0.5), vary.sized((6.3, 5.0, 3.9), 0.06))
    draft.paint(Ellipsoid((0, -23, 17.5), (9, 8.2, 6.5)), plain(700, 60))
    for _, s in SIDES:
        draft.paint(Ellipsoid((s * 12.5, -22, 18), (5.5, 10, 6.5)), plain(38, 3))
    draft.paint(Common((Grown(case.suprasellar, -0.5), HalfSpace((0, 0, -1), -22))), fluid)
    for _, s in SIDES:
        siphon = mirrored(s, (13, -14, 11), (13, -22, 15), (12.5, -30, 19), (11.5, -27, 26))
        draft.paint(Tube(siphon, (2.4,) * 4), plain(80, 2))
    draft.paint(Grown(pituitary, 0.8), plain(18, 2))
    draft.organ("pituitary", pituitary, plain(66, 2))
    draft.paint(Ellipsoid((0, -37, 9), (12, 9, 9)), air)


def paint_visual_pathway(draft: Draft, contrast: float) -> None:
    """Orbits with eyes and nerves, and the X of the chiasm that the nerves end in."""
    vary = draft.vary
    x, y, z = vary.near((0, -20, 30), 0.5)
    spread = vary.factor(0.08)
    arms: list[Body] = []
    for name, s in SIDES:
        start = (s * 5.8 * spread, -25.5 + vary.normal(0.3), 28.6)
        _paint_orbit(draft, name, s, start, contrast)
        arms.append(Tube((start, (x + s * 0.8, y, z), (-s * 6.6 * spread, -14.2, 31)), (2.3, 2.5, 2.2), (1, 1, 0.8)))
    draft.organ("optic_chiasm", Union(tuple(arms), blend_mm=2), plain(41, 1), contrast)


def _paint_orbit(draft: Draft, name: str, s: int, nerve_end: Vector, contrast: float) -> None:
    vary, cone = draft.vary, orbital_cone(s)
    draft.paint(Common((shell(cone, 2.0), HalfSpace((0, -1, 0), 82))), plain(950, 60))
    draft.paint(Common((cone, HalfSpace((0, -1, 0), 86))), plain(FAT_HU + 4, 5))
    draft.paint(Tube(mirrored(s, (18, -41, 23), (11, -32, 25.5)), (5.5, 4.5)), plain(850, 60))
    draft.paint(Tube(mirrored(s, (18.5, -42, 22.5), (9, -29, 27)), (3.2, 3.2)), plain(-10, 5))

    x, y, z = vary.near((s * 32, -76, 16), 0.7)
    radius = 12.4 * vary.factor(0.035)
    for dx, dz in ((10.5, 0), (-10.5, 0), (0, 10.5), (0, -10.5)):
        belly = (x - s * 4 + dx * 0.75, y + 18, z + 2 + dz * 0.75)
        draft.paint(Tube(((x + dx, y + 2, z + dz), belly, (s * 17, -42, 21.5)), (1.8, 2.3, 1.6)), plain(50, 3))
    draft.paint(Ellipsoid((s * 44, -78, 26), (4, 7, 6), yaw_deg=s * 30), plain(38, 4))
    gaze_deg = vary.normal(6)
    sin, cos = float(np.sin(np.radians(gaze_deg))), float(np.cos(np.radians(gaze_deg)))
    sag = vary.normal(1.5)
    nerve = Tube(
        (
            (x - s * 2 - sin * 3, y + radius - 0.8, z),
            (s * 27.5 + vary.normal(0.5), -57, z + 0.8 + sag * 0.7),
            (s * 23 + vary.normal(0.5), -48.5, z + 3 + sag),
            (s * 17.3, -40.5, 23),
            (s * 12, -33.5, 25.8),
            nerve_end,
        ),
        tuple(r * vary.factor(0.03) for r in (2.3, 2.2, 2.2, 2.0, 2.0, 2.2)),
    )
    globe = Ellipsoid((x, y, z), (radius, radius, radius))
    draft.organ(f"optic_nerve_{name}", Without(nerve, globe), plain(38, 2), contrast)
    draft.organ(f"eye_{name}", globe, plain(45, 2))
    draft.paint(Grown(globe, -1.2), plain(10, 1))
    centre = (x + sin * 8.2, y - cos * 8.2, z + vary.normal(0.6))
    draft.organ(f"lens_{name}", Ellipsoid(centre, vary.sized((4.7, 2.4, 4.7), 0.05), yaw_deg=-gaze_deg), plain(95, 2))


def paint_ear(draft: Draft, name: str, s: int) -> None:
    """Labyrinth in its dense capsule, air-filled tympanic cavity, ear canal, mastoid cells."""
    vary = draft.vary
    dx, dy, dz = vary.near((0, 0, 0), 0.6)

    def at(*points: Vector) -> tuple[Vector, ...]:
        return tuple((s * (x + dx), y + dy, z + dz) for x, y, z in points)

    cells = Common((Ellipsoid((s * 55, 19, -7), (9, 12.5, 16)), HalfSpace((0, -1, 0), -8)))
    draft.paint(cells, air_cells(450, vary.between(0.5, 0.8)))
    cochlea, vestibule, ring = at((26, -8.5, 4), (30.5, -4.5, 6), (33.5, 0, 7.5))
    k = vary.factor(0.05)
    inner = Union(
        (
            Ellipsoid(cochlea, (4.0 * k, 3.8 * k, 3.7 * k)),
            Ellipsoid(vestibule, (3.5 * k, 3.1 * k, 3.5 * k), yaw_deg=s * 30),
            Ellipsoid(ring, (3.7 * k, 3.1 * k, 3.3 * k), yaw_deg=s * 30),
        ),
        blend_mm=2,
    )
    draft.paint(Grown(inner, 3.0), plain(1550, 60))
    draft.organ(f"inner_ear_{name}", inner, plain(420, 160))
    draft.paint(Tube(at((23.5, -6, 5), (11, -1, 6)), (2.2, 3.0)), plain(15, 2))
    draft.paint(Grown(Tube(at((45, -1, 1), (52, 0, 0.5)), (3.6, 3.6)), 2), plain(800, 60))
    draft.paint(Tube(at((44, -1, 1), (58, 1, 0), (84, 4, 0)), (3.2, 3.2, 4.0)), air)
    drum, ossicles = at((38.5, -5.5, 3.5), (39.5, -5, 7))
    draft.organ(
        f"middle_ear_{name}", Ellipsoid(drum, vary.sized((4.3, 6.4, 8.2), 0.06), yaw_deg=-s * 15), plain(-900, 40)
    )
    draft.paint(Ellipsoid(ossicles, (1.3, 1.6, 2.2)), plain(700, 50))
