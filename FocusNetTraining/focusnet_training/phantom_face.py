"""The phantom's skin and face: facial bones, sinuses, jaw and teeth, mouth, pharynx, salivary glands."""

from __future__ import annotations

from focusnet_training.phantom_brain import joint_roof
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
    marbled,
    mirrored,
    muscle,
    plain,
)

_FACE = (
    (34.0, 0.0, -28.0, 66.0, 64.0),
    (15.0, 0.0, -30.0, 72.0, 66.0),
    (0.0, 0.0, -30.0, 73.0, 67.0),
    (-30.0, 0.0, -28.0, 71.0, 70.0),
    (-60.0, 0.0, -32.0, 62.0, 64.0),
    (-80.0, 0.0, -38.0, 48.0, 55.0),
    (-92.0, 0.0, -36.0, 32.0, 50.0),
    (-100.0, 0.0, -30.0, 22.0, 40.0),
)
_NECK = (
    (20.0, 0.0, 40.0, 55.0, 50.0),
    (-40.0, 0.0, 24.0, 58.0, 56.0),
    (-70.0, 0.0, 14.0, 56.0, 60.0),
    (-100.0, 0.0, 8.0, 56.0, 61.0),
    (-125.0, 0.0, 9.0, 62.0, 63.0),
    (-145.0, 0.0, 12.0, 92.0, 68.0),
    (-170.0, 0.0, 18.0, 150.0, 80.0),
    (-240.0, 0.0, 22.0, 200.0, 100.0),
)
_TEETH = ((3.5, -87.0), (10.0, -84.5), (16.0, -79.0), (20.5, -72.0), (24.0, -63.5), (26.5, -54.0))


def paint_skin(draft: Draft) -> Body:
    """Outer surface from the vertex to the shoulders, with the fat under it."""
    stout = 1 + draft.vary.normal(0.03)
    neck = Column(tuple((z, x, y, rx * stout, ry * stout) for z, x, y, rx, ry in _NECK), boxiness=0.2)
    skin = Kept(
        Union(
            (
                Ellipsoid((0, 2, 48), (77, 97, 82)),
                Column(_FACE, boxiness=0.4),
                neck,
                Tube(((0, -88, 22), (0, -104, -2), (0, -108, -8)), (8, 10, 11)),
                Ellipsoid((0, -80, -78), (24, 15, 14)),
                *(Ellipsoid((s * 77, 10, 6), (5, 15, 29), yaw_deg=-s * 22, pitch_deg=8) for _, s in SIDES),
            ),
            blend_mm=14,
        )
    )
    draft.paint(skin, plain(25))
    draft.paint(Grown(skin, -2.2), plain(FAT_HU, 8))
    face = Common(
        (shell(skin, -6.5, -8.5), HalfSpace((0, 1, 0), -20), HalfSpace((0, 0, 1), 5), HalfSpace((0, 0, -1), 84))
    )
    draft.paint(face, plain(30, 8), opacity=0.8)
    return skin


def paint_facial_bones(draft: Draft) -> None:
    """Zygoma, orbital rims, nasal bones, palate."""
    for _, s in SIDES:
        for nodes, radii, hu in (
            (((44, -74, -6), (62, -48, -4), (66, -24, 3), (60, -12, 6)), (5, 3.2, 3, 4), 900),
            (((48, -78, 26), (51, -76, 12), (44, -78, -4)), (4, 3.5, 4), 1000),
            (((47, -78, 26), (30, -88, 36), (12, -90, 34)), (4, 4.5, 5), 1000),
            (((3, -89, 30), (5, -93, 20), (4, -99, 10)), (3.5, 2.4, 1.6), 900),
            (((6, -92, 20), (12, -87, 2), (15, -83, -18), (17, -78, -30)), (2.2, 2.4, 3, 4), 800),
        ):
            draft.paint(Tube(mirrored(s, *nodes), tuple(map(float, radii))), plain(hu, 80))
        draft.paint(Ellipsoid((s * 42, -70, -8), (10, 10, 11)), plain(850, 100))
    draft.paint(Ellipsoid((0, -62, -27), (25, 30, 3)), plain(700, 80))
    half = ((0.0, -90.0, -32.0), (12.0, -85.0, -32.0), (22.0, -70.0, -32.0), (25.0, -52.0, -32.0))
    for _, s in SIDES:
        draft.paint(Tube(mirrored(s, *half), (5.0,) * 4, (1, 1, 1.4)), plain(750, 100))


def paint_sinuses(draft: Draft) -> None:
    """Maxillary, ethmoid and frontal sinuses and the nasal cavity with septum and turbinates."""
    vary = draft.vary
    for _, s in SIDES:
        x, y, z = vary.near((s * 27, -61, -13.5), 1)
        k = vary.factor(0.05)
        rows = ((13, -1, 9, 11), (8, 0, 12.5, 15), (-4, 0, 13, 15), (-12, 1, 9, 12), (-15, 2, 5, 8))
        sinus = Column(tuple((z + dz, x, y + dy, rx * k, ry * k) for dz, dy, rx, ry in rows), boxiness=0.6)
        draft.paint(Grown(sinus, 1.5), plain(800, 60))
        draft.paint(sinus, air)
        draft.paint(Ellipsoid((s * 7, -60, 14), (6.5, 22, 12.5)), air_cells(150, 0.7))
        draft.paint(Ellipsoid((s * 7, -70, -12), (6, 26, 17)), air)
        draft.paint(Ellipsoid((s * 8.5, -64, -14), (3.4, 18, 4.5)), plain(40, 5))
        draft.paint(Ellipsoid((s * 8, -62, -3), (2.8, 15, 3.5)), plain(40, 5))
        draft.paint(Ellipsoid((s * 10, -85, 38), (9, 3.5, 8)), air)
    draft.paint(Ellipsoid((0, -62, -8), (1.2, 32, 22)), plain(280, 20))


def paint_mouth(draft: Draft) -> None:
    """Tongue, floor of the mouth, lips, cheeks, tonsils, soft palate and the airway down to the larynx."""
    wide = draft.vary.factor(0.12)
    draft.paint(Ellipsoid((0, -58, -72), (34, 31, 14)), muscle)
    draft.paint(Ellipsoid((0, -92, -48), (22, 4, 13)), plain(45, 6))
    for _, s in SIDES:
        draft.paint(
            Tube(mirrored(s, (33, -76, -46), (38, -52, -46), (34, -34, -44)), (1.6, 1.8, 1.8), (1, 1, 9)), plain(48, 5)
        )
        draft.paint(Ellipsoid((s * 23, -33, -54), (6, 11, 16)), plain(54, 5))
    airway = Column(
        tuple(
            (z, 0.0, y, rx * wide, ry)
            for z, y, rx, ry in (
                (-4, -28, 9, 7),
                (-18, -27, 12, 9),
                (-30, -20, 10, 6),
                (-45, -16, 9, 5.5),
                (-60, -15, 10, 6),
                (-75, -16, 13, 6),
                (-90, -19, 13, 7),
                (-99, -22, 11, 7),
            )
        )
    )
    draft.paint(Ellipsoid((0, -55, -54), (26, 32, 22)), marbled(60, 25, 0.3))
    draft.paint(Grown(airway, 4.5), plain(56, 5))
    draft.paint(Tube(((0, -34, -30), (0, -22, -42)), (4.5, 3.5), (1.8, 1, 1)), plain(52, 3))
    draft.paint(airway, air)
    draft.paint(Ellipsoid((0, -58, -34), (16, 20, 1.8)), air)


def paint_jaw(draft: Draft) -> tuple[Vector, ...]:
    """Chewing muscles, mandible with its joints, teeth; gives the crowns that may carry a filling."""
    vary = draft.vary
    for _, s in SIDES:
        draft.embed(masseter(s), plain(60, 6))
        draft.embed(Ellipsoid((s * 40, -23, -40), (5.5, 14, 23), yaw_deg=s * 20), plain(58, 6))
        draft.paint(Tube(mirrored(s, (22, -34, -14), (42, -18, -5)), (6.5, 5.5)), plain(58, 6))
        draft.paint(
            Tube(mirrored(s, (54, -36, -16), (62, -34, 10), (68, -22, 34)), (6, 7, 4), (0.8, 2, 1)), plain(58, 6)
        )
    mandible = _mandible(draft)
    for name, s in SIDES:
        draft.organs[f"mandible_{name}"] = Common((mandible, HalfSpace((-s, 0, 0), 0)))
        draft.organs[f"tmj_{name}"] = Ellipsoid(
            vary.near((s * 50, -14, -0.5), 0.5), vary.sized((10.2, 6.2, 5.8), 0.05), yaw_deg=-s * 12
        )
        draft.paint(joint_roof(s), plain(850, 60))
        draft.paint(Common((Ellipsoid((s * 50, -14, -1.5), (11, 6.8, 6.8)), HalfSpace((0, 0, 1), 5))), plain(60, 6))
        draft.paint(Common((Ellipsoid((s * 50, -14, -8), (13.5, 9.5, 8)), HalfSpace((0, 0, 1), -5))), plain(20, 6))
    draft.paint(mandible, bone(320, 2.2))
    crowns: list[Vector] = []
    for _, s in SIDES:
        draft.paint(Tube(mirrored(s, (40, -48, -70), (20, -78, -74)), (1.4, 1.4)), plain(60, 5))
        for x, y in _TEETH:
            wide = 2.6 if x < 12 else 4.2
            for top, up in ((-38, 1), (-60, -1)):
                crown = (s * x, y, top - up * 5.0)
                draft.paint(Tube(mirrored(s, (x, y, top + up * 9), (x, y, top)), (1.6, wide * 0.8)), plain(1500, 40))
                draft.paint(Ellipsoid(crown, (wide, wide * 1.1, 5.5)), plain(2300, 60))
                if x > 18:
                    crowns.append(crown)
    return tuple(crowns)


def masseter(side: int) -> Body:
    """Muscle on the outside of the ramus."""
    return Ellipsoid((side * 56, -27, -42), (6.5, 17, 28))


def _mandible(draft: Draft) -> Body:
    high, wide = draft.vary.factor(0.05), draft.vary.factor(0.03)
    rows = ((0, -87, -76), (10, -86, -76), (21, -80, -75), (33, -64, -72), (42, -45, -69), (48, -26, -64))
    x = 50 * wide
    parts: list[Body] = []
    for _, s in SIDES:
        arch = mirrored(s, *((a * wide, b, c) for a, b, c in rows))
        parts += [
            Tube(arch, tuple(r * high for r in (6.2, 6.2, 6.1, 6.0, 6.0, 5.2)), (1, 1, 2.1)),
            Tube(mirrored(s, (x - 1, -24, -60), (x, -21, -40), (x, -20, -24)), (4.8, 4.4, 3.8), (1, 3.6, 1)),
            Tube(mirrored(s, (x, -17, -26), (50, -14, -10), (50, -14, -3)), (5, 4.4, 4.2)),
            Tube(mirrored(s, (x, -29, -26), (x - 1, -33, -10)), (4.5, 2.4), (0.8, 1.2, 1)),
            Ellipsoid((s * 50, -14, -2.5), (8.4, 4.4, 4.6), yaw_deg=-s * 12),
        ]
    return Union(tuple(parts), blend_mm=4)


def paint_glands(draft: Draft, name: str, s: int, skin: Body) -> None:
    """Fatty parotid round the back of the ramus; submandibular gland inside the angle of the jaw."""
    vary, jaw = draft.vary, draft.organs[f"mandible_{name}"]
    k = vary.factor(0.06)
    lobes = Union(
        (
            Ellipsoid(vary.near((s * 61, -8, -31), 0.8), (10 * k, 24 * k, 29 * k), yaw_deg=s * 8),
            Ellipsoid(vary.near((s * 53, 4, -31), 0.8), (14.5 * k, 12 * k, 25 * k)),
        ),
        blend_mm=5,
    )
    parotid = Common((Without(lobes, Union((Grown(jaw, 1.5), masseter(s)))), Grown(skin, -3.5)))
    draft.organ(f"parotid_{name}", parotid, marbled(22, FAT_HU, vary.between(0.1, 0.4)))
    draft.paint(Tube(mirrored(s, (53, -3, -14), (52, -2, -48)), (2.4, 2.4)), plain(60, 2))
    shape = Ellipsoid(
        vary.near((s * 31, -38, -80), 1.2), vary.sized((10.5, 16, 12.5), 0.06), yaw_deg=-s * 25, pitch_deg=-10
    )
    gland = Without(shape, Grown(jaw, 1.2))
    draft.paint(Grown(gland, 2.2), plain(FAT_HU, 6))
    draft.organ(f"submandibular_{name}", gland, plain(42, 9))
