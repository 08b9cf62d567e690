"""The phantom's neck and shoulders: muscles, spine with cord, larynx, trachea, esophagus, vessels."""

from __future__ import annotations

import numpy as np

from focusnet_training.phantom_shapes import Body, Column, Common, Ellipsoid, Grown, HalfSpace, Tube, shell
from focusnet_training.phantom_tissue import (
    FAT_HU,
    MUSCLE_HU,
    SIDES,
    Draft,
    air,
    bone,
    marbled,
    mirrored,
    muscle,
    plain,
)

_DEEP_MUSCLE = (
    (-20.0, 0.0, 34.0, 46.0, 42.0),
    (-60.0, 0.0, 26.0, 46.0, 42.0),
    (-100.0, 0.0, 18.0, 46.0, 44.0),
    (-130.0, 0.0, 18.0, 55.0, 48.0),
    (-150.0, 0.0, 22.0, 80.0, 52.0),
    (-175.0, 0.0, 26.0, 130.0, 60.0),
    (-240.0, 0.0, 26.0, 180.0, 80.0),
)
_LONG_MUSCLES = (
    (((18, 42, -20), (20, 44, -90), (24, 58, -150), (28, 70, -230)), 14, (1, 1, 1)),
    (((8, 52, -25), (9, 58, -100), (10, 72, -170)), 7, (1, 1, 1)),
    (((38, 22, -40), (40, 26, -100), (60, 40, -160)), 9, (0.8, 1.2, 1)),
    (((30, 2, -95), (34, 8, -130), (46, 14, -170)), 8, (1, 1, 1)),
    (((22, 58, -30), (38, 52, -90), (80, 50, -150)), 7, (1.4, 0.8, 1)),
    (((57, 18, -18), (50, 4, -70), (36, -22, -125), (16, -36, -170)), 9, (1.1, 0.8, 1)),
)
# (z, y) of the middle of the spinal canal
_CANAL = ((-14, 18), (-24, 18), (-40, 19), (-80, 21), (-110, 25), (-140, 34), (-180, 47), (-240, 58))
_LEVELS = 11


def paint_neck_muscles(draft: Draft) -> None:
    """Deep muscles as one mass, the long ones apart between planes of fat."""
    draft.paint(Column(_DEEP_MUSCLE, boxiness=0.2), muscle)
    for _, s in SIDES:
        for nodes, radius, stretch in _LONG_MUSCLES:
            path = mirrored(s, *(draft.vary.near((float(x), float(y), float(z)), 1) for x, y, z in nodes))
            thick = (float(radius) * draft.vary.factor(0.06),) * len(nodes)
            draft.embed(Tube(path, thick, stretch), plain(MUSCLE_HU + 3, 6), 0.45)


def paint_spine(draft: Draft) -> None:
    """Vertebrae with discs, arches and processes; cord in the fluid of the canal."""
    vary = draft.vary
    rows = [(z, y - 18, 9.5 + max(0.0, -z - 60) * 0.04, 8.2 + max(0.0, -z - 60) * 0.02) for z, y in _CANAL if z <= -36]
    bodies = Column(tuple((float(z), 0.0, float(y), rx, ry) for z, y, rx, ry in rows))
    spongy = bone(290, 1.4, 850)
    draft.paint(bodies, spongy)
    draft.paint(Tube(((0, 2, -40), (0, 3, -18)), (6, 5)), plain(700, 60))
    curve = np.array(_CANAL[::-1], float)
    height, top = 17.5 * vary.factor(0.03), -52 + vary.normal(2)
    for level in range(_LEVELS):
        z = top - level * height
        y = float(np.interp(z, curve[:, 0], curve[:, 1]))
        draft.paint(Common((bodies, Ellipsoid((0, y - 18, z), (30, 30, 2.6)))), plain(85, 6))
        z += height / 2
        y = float(np.interp(z, curve[:, 0], curve[:, 1]))
        for _, s in SIDES:
            arch = mirrored(s, (14, y - 6, z + 2), (14, y + 5, z), (0, y + 13, z - 3))
            draft.paint(Tube(arch, (4, 4.5, 3.5), (1, 1, 1.3)), spongy)
            draft.paint(Tube(mirrored(s, (12, y - 8, z), (23, y - 6, z - 2)), (3.2, 3.0)), spongy)
        reach = 26.0 if level < 5 else 38.0
        draft.paint(Tube(((0, y + 12, z - 3), (0, y + reach, z - 11)), (3, 2.6)), spongy)
    for _, s in SIDES:
        atlas = mirrored(s, (0, -5, -25), (12, 2, -24), (20, 12, -24), (14, 27, -26), (0, 32, -26))
        draft.paint(Tube(atlas, (4, 5.5, 6.5, 4, 4)), spongy)
    draft.paint(Column(tuple((float(z), 0.0, float(y), 11.5, 8.6) for z, y in _CANAL)), plain(12, 1))
    thick = vary.factor(0.04)
    swelling = {-80: 0.5, -110: 0.8}
    cord = tuple((float(z), 0.0, float(y), (6.6 + swelling.get(z, 0.0)) * thick, 5 * thick) for z, y in _CANAL[2:])
    draft.organ("spinal_cord", Column(((-23.9, 0.0, 17.6, 6.9 * thick, 5.6 * thick), *cord)), plain(40, 1))
    draft.paint(Common((draft.organs["brainstem"], HalfSpace((0, 0, 1), -12))), plain(32, 1.5))


def paint_vessels(draft: Draft) -> None:
    """Carotid arteries, jugular veins and thyroid gland, with or without contrast medium."""
    medium = draft.vary.between(-80, 150)
    bright = max(0.0, medium)
    for _, s in SIDES:
        draft.embed(
            Tube(mirrored(s, (18, -22, -128), (18, -20, -150)), (8, 7), (1, 1.2, 1)), plain(105 + bright * 0.4, 6)
        )
        artery = mirrored(
            s, (18, -4, -180), (22, -12, -150), (26, -12, -105), (28, -8, -70), (24, -4, -30), (22, -6, -6)
        )
        draft.embed(Tube(artery, (3.6, 3.4, 3.8, 2.8, 2.6, 2.4)), plain(50 + bright, 2))
        vein = mirrored(s, (26, -10, -180), (31, -10, -150), (34, -4, -105), (36, 0, -70), (32, 8, -28), (28, 8, -10))
        radii = tuple(r * draft.vary.factor(0.12) for r in (6, 5.5, 5, 4.5, 4.2, 3.5))
        draft.embed(Tube(vein, radii), plain(46 + bright * 0.8, 2))


def paint_shoulders(draft: Draft) -> None:
    """Clavicles, shoulder blades, first ribs and the apices of the lungs."""
    for _, s in SIDES:
        draft.paint(Grown(Ellipsoid((s * 50, 14, -206), (34, 36, 36)), 4), plain(50, 6))
        draft.paint(Ellipsoid((s * 50, 14, -206), (34, 36, 36)), plain(-860, 25))
        for nodes, radii in (
            (((14, -34, -172), (50, -34, -164), (90, -8, -156), (140, 10, -152)), (8, 5.5, 5, 6)),
            (((60, 78, -195), (100, 66, -172), (150, 34, -158)), (3, 4, 6)),
            (((22, 38, -170), (60, 44, -176), (84, 12, -186), (66, -24, -196)), (3.5,) * 4),
            (((22, 44, -190), (60, 50, -196), (88, 14, -206), (70, -24, -216)), (3.5,) * 4),
        ):
            path = mirrored(s, *((float(x), float(y), float(z)) for x, y, z in nodes))
            draft.paint(Tube(path, tuple(map(float, radii)), (1, 1, 1.2)), bone(350, 1.8))


def paint_throat(draft: Draft) -> None:
    """Hyoid, larynx with cartilages and airway, trachea, esophagus behind it."""
    vary = draft.vary
    drop, k = vary.normal(2), vary.factor(0.04)
    rows = (
        (-98, -30, 14, 12),
        (-104, -30, 16, 15),
        (-114, -30, 16.5, 16),
        (-122, -28.5, 14.5, 14.5),
        (-130, -27, 12.5, 12.5),
    )
    larynx = Column(tuple((z + drop, 0.0, y, rx * k, ry * k) for z, y, rx, ry in rows), boxiness=0.1)
    draft.paint(Grown(larynx, 3), plain(FAT_HU, 6))
    for _, s in SIDES:
        strap = mirrored(s, (12, -46, -98), (14, -44, -125), (10, -40, -165))
        draft.paint(Tube(strap, (4, 4, 4), (1.6, 0.7, 1)), plain(58, 5))
        draft.paint(
            Tube(mirrored(s, (8, -2, -40), (9, -4, -100), (9, 2, -140)), (5, 6, 6), (1.1, 0.6, 1)), plain(56, 5)
        )
        hyoid = mirrored(s, (19, -28, -90), (14, -42, -93), (0, -48, -94))
        draft.paint(Tube(hyoid, (2.4,) * 3, (1, 1, 1.4)), plain(600, 60))
    draft.organ("larynx", larynx, marbled(52, -40, 0.25))
    _paint_cartilages(draft, larynx, drop)
    trachea = ((-131 + drop, -26, 8.5, 8.5), (-150, -20, 8.8, 8.5), (-180, -8, 9, 8.5), (-240, 4, 9, 8.5))
    tube = Column(tuple((z, 0.0, float(y), rx, ry) for z, y, rx, ry in trachea))
    draft.paint(Grown(tube, 1.8), plain(95, 20))
    draft.paint(tube, air)
    x = 2 + vary.normal(1.5)
    gullet = (
        (-130 + drop, x * 0.4, -8.5, 9, 4.4),
        (-150, x, -2.6, 9, 5.2),
        (-180, x + 1, 10, 9, 5.8),
        (-240, x + 1, 22, 9.2, 6.2),
    )
    esophagus = Column(gullet)
    draft.paint(Grown(esophagus, 1.6), plain(FAT_HU + 20, 5))
    draft.organ("esophagus", esophagus, plain(42, 3))
    gas = ((x, -2.6, -150), (x + 1, 10, -180), (x + 1, 22, -240))
    draft.paint(Tube(gas, (1.4, 1.6, 1.8), (1.8, 1, 1)), plain(-300, 250))


def _paint_cartilages(draft: Draft, larynx: Body, drop: float) -> None:
    front, above, below = (
        HalfSpace((0, 1, 0), -26),
        HalfSpace((0, 0, -1), 122 - drop),
        HalfSpace((0, 0, 1), -122 + drop),
    )
    draft.paint(Common((shell(larynx, -1.0, -3.6), front, above, HalfSpace((0, 0, 1), -101 + drop))), plain(190, 60))
    draft.paint(Common((shell(larynx, -0.5, -3.6), below)), plain(220, 50))
    for _, s in SIDES:
        draft.paint(Ellipsoid((s * 5.5, -20, -114 + drop), (2.2, 2.4, 4)), plain(210, 20))
    rows = (
        (-95, -21, 9, 6),
        (-103, -26, 6.5, 7),
        (-110, -29, 4.5, 9),
        (-114, -29, 2.6, 9),
        (-118, -28, 5, 9),
        (-125, -27, 7.5, 8.5),
        (-133, -26, 8.5, 8.5),
    )
    draft.paint(Column(tuple((z + drop, 0.0, float(y), rx, ry) for z, y, rx, ry in rows)), air)
