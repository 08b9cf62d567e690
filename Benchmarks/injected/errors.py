"""Gross errors of segmentations and scans, each with the flags that are meant for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from focusnet.geometry import Box, Geometry, Volume, bounding_box
from focusnet.organs import CATALOGUE
from focusnet.quality_contacts import may_touch
from numpy.typing import NDArray
from scipy import ndimage

from injected.cases import Case

AIR_HU = -1000


@dataclass(frozen=True)
class Error:
    """What was injected, and any one of the findings that would catch it."""

    kind: str
    case: Case
    wanted: frozenset[tuple[str, str | None]]


def lose(case: Case, key: str, rng: np.random.Generator) -> Error:
    """The organ is not found."""
    array = np.where(case.labels.mask(key), 0, case.labels.array)
    return Error("missing", case.with_labels(array), frozenset({("missing", key)}))


def swap(case: Case, key: str, rng: np.random.Generator) -> Error | None:
    """The pair's labels are exchanged."""
    partner = CATALOGUE[key].partner
    if partner not in case.organs:
        return None
    mine, theirs = case.labels.label_of(key), case.labels.label_of(str(partner))
    array = case.labels.array.copy()
    array[case.labels.array == mine], array[case.labels.array == theirs] = theirs, mine
    return Error("sides swapped, one pair", case.with_labels(array), frozenset({("sides_swapped", key)}))


def swap_all(case: Case, key: str, rng: np.random.Generator) -> Error | None:
    """Left and right are exchanged in every pair, as by an unnoticed flip."""
    if CATALOGUE[key].partner not in case.organs:
        return None
    lookup = np.arange(256, dtype=np.uint8)
    values = {k: v for v, k in case.labels.organs.items()}
    for value, other in case.labels.organs.items():
        lookup[value] = values.get(CATALOGUE[other].partner or other, value)
    return Error(
        "sides swapped, all pairs", case.with_labels(lookup[case.labels.array]), frozenset({("sides_swapped", key)})
    )


def swap_alone(case: Case, key: str, rng: np.random.Generator) -> Error | None:
    """The organ carries its partner's name and the partner is not there."""
    partner = CATALOGUE[key].partner
    if partner not in case.organs:
        return None
    array = case.labels.array.copy()
    theirs = case.labels.label_of(str(partner))
    array[case.labels.array == theirs] = 0
    array[case.labels.array == case.labels.label_of(key)] = theirs
    return Error("side wrong, organ alone", case.with_labels(array), frozenset({("sides_swapped", partner)}))


def stray(case: Case, key: str, rng: np.random.Generator) -> Error | None:
    """A ball of 3 to 30 % of the organ's volume, at least 3 voxels, lies 10 to 60 mm from it."""
    if not CATALOGUE[key].single_component:
        return None
    array = case.labels.array.copy()
    region = array[case.around(key, 70)]
    spacing = np.asarray(case.labels.geometry.spacing_zyx)
    mask = region == case.labels.label_of(key)
    distance = ndimage.distance_transform_edt(~mask, spacing)
    volume_mm3 = max(rng.uniform(0.03, 0.3) * mask.sum(), 3) * case.labels.geometry.voxel_volume_ml * 1000
    radius = (volume_mm3 * 3 / (4 * np.pi)) ** (1 / 3)
    places = np.argwhere((region == 0) & (distance > 10 + radius) & (distance < 60 + radius))
    if len(places) == 0:
        return None
    free = np.argwhere(region == 0)
    ball = free[(((free - rng.choice(places)) * spacing) ** 2).sum(axis=1) <= radius**2]
    if len(ball) < 3:
        return None
    region[tuple(ball.T)] = case.labels.label_of(key)
    return Error("stray piece", case.with_labels(array), frozenset({("several_components", key)}))


def shrink(case: Case, key: str, rng: np.random.Generator) -> Error | None:
    """Only the innermost 5 to 30 % of the organ are found."""
    if case.is_cut(key):
        return None
    array = case.labels.array.copy()
    region = array[case.around(key, 5)]
    mask = region == case.labels.label_of(key)
    depth = ndimage.distance_transform_edt(mask, case.labels.geometry.spacing_zyx)
    lost = int(mask.sum() * (1 - rng.uniform(0.05, 0.3)))
    outer_first = np.argsort(depth[mask], kind="stable")
    region[tuple(np.argwhere(mask)[outer_first[:lost]].T)] = 0
    return Error("too small (5 to 30 %)", case.with_labels(array), _size_flags(key))


def grow(case: Case, key: str, rng: np.random.Generator) -> Error | None:
    """The organ spreads into the background to 3 to 5 times its volume."""
    if case.is_cut(key):
        return None
    array = case.labels.array.copy()
    region = array[case.around(key, 40)]
    mask, free = region == case.labels.label_of(key), region == 0
    gained = int(mask.sum() * rng.uniform(2, 4))
    if free.sum() < gained:
        return None
    distance = ndimage.distance_transform_edt(~mask, case.labels.geometry.spacing_zyx)
    near_first = np.argsort(distance[free], kind="stable")
    region[tuple(np.argwhere(free)[near_first[:gained]].T)] = case.labels.label_of(key)
    return Error("too large (3 to 5 times)", case.with_labels(array), _size_flags(key))


def _size_flags(key: str) -> frozenset[tuple[str, str | None]]:
    return frozenset({("volume_out_of_range", key), ("asymmetric", key)})


def push_out(case: Case, key: str, rng: np.random.Generator) -> Error | None:
    """The organ is moved in the axial plane until half of it is in the air outside the patient."""
    if case.volume is None:
        return None
    outside = _outer_air(case.volume.array)
    voxels = np.argwhere(case.labels.mask(key))
    angle = rng.uniform(0, 2 * np.pi)
    step = np.array([0, np.sin(angle), np.cos(angle)])
    for distance in range(1, max(case.labels.array.shape)):
        moved = voxels + np.rint(distance * step).astype(int)
        if ((moved < 0) | (moved >= outside.shape)).any():
            return None
        if outside[tuple(moved.T)].mean() >= 0.5:
            array = np.where(case.labels.mask(key), 0, case.labels.array)
            array[tuple(moved.T)] = case.labels.label_of(key)
            return Error("outside the body", case.with_labels(array), frozenset({("outside_body", key)}))
    return None


def _outer_air(hu: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Air that is connected to the border of its axial slice, after small openings are closed."""
    solid = ndimage.binary_closing(hu > -500, np.ones((1, 5, 5)))
    outer = np.zeros(hu.shape, bool)
    for solid_slice, outer_slice in zip(solid, outer, strict=True):
        outer_slice[:] = ~ndimage.binary_fill_holes(solid_slice)
    return outer


def push_together(case: Case, key: str, rng: np.random.Generator) -> Error | None:
    """The organ is moved onto the surface of one that it can't touch."""
    others = [k for k in case.organs if k != key and not may_touch(k, key)]
    if not others:
        return None
    other = str(rng.choice(others))
    mask, target = case.labels.mask(key), case.labels.mask(other)
    near = case.around(other, 1)
    surface = np.argwhere(target[near] & ~ndimage.binary_erosion(target[near])) + [s.start for s in near]
    voxels = np.argwhere(mask)
    moved = voxels - rng.choice(voxels) + rng.choice(surface)
    moved = moved[((moved >= 0) & (moved < mask.shape)).all(axis=1)]
    array = np.where(mask, 0, case.labels.array)
    array[tuple(moved.T)] = case.labels.label_of(key)
    if not (array == case.labels.label_of(other)).any():
        return None
    return Error("in a wrong neighbour", case.with_labels(array), frozenset({("touching", key), ("touching", other)}))


def cut(case: Case, key: str, rng: np.random.Generator) -> Error | None:
    """The scan ends in the middle of the organ."""
    if case.is_cut(key):
        return None
    box = case.boxes[key]
    axis = int(rng.integers(3))
    middle = (box.start_zyx[axis] + box.stop_zyx[axis]) // 2
    start, stop = [0, 0, 0], list(case.labels.array.shape)
    if rng.random() < 0.5:
        start[axis] = middle
    else:
        stop[axis] = middle + 1
    part = Box(tuple(start), tuple(stop))  # type: ignore[arg-type]
    volume = case.volume.crop(part) if case.volume else None
    cropped = replace(case, labels=case.labels.crop(part), volume=volume)
    return Error("cut by the image's edge", cropped, frozenset({("cut_by_field_of_view", key)}))


INJECTIONS: tuple[Callable[[Case, str, np.random.Generator], Error | None], ...] = (
    lose,
    swap,
    swap_all,
    swap_alone,
    stray,
    shrink,
    grow,
    push_out,
    push_together,
    cut,
)


# --- errors of the input ---------------------------------------------------------------------------------------------


def input_errors(case: Case, rng: np.random.Generator) -> Iterator[tuple[str, Volume, str]]:
    """Kind, spoiled scan and the flag that should be raised."""
    if case.volume is None:
        return
    volume, hu = case.volume, case.volume.array.astype(np.float32)
    yield "rescale missing", volume.with_array(hu + 1024), "not_hu"
    yield "normalised to 0–1", volume.with_array((hu.clip(-1000, 1000) + 1000) / 2000), "not_hu"
    yield "contrast as in MR", volume.with_array(np.where(hu < -700, 0, 300 - 0.2 * hu.clip(-200, 1200))), "not_hu"
    yield "no patient", volume.with_array(rng.normal(AIR_HU, 10, hu.shape)), "not_hu"
    step_mm = volume.geometry.spacing_zyx
    length = int(60 / step_mm[0])
    start = int(rng.integers(0, max(1, hu.shape[0] - length)))
    yield "60 mm long", volume.crop(Box((start, 0, 0), (min(start + length, hu.shape[0]), *hu.shape[1:]))), "truncated"
    body = ~_outer_air(case.volume.array)
    area_cm2 = body.sum(axis=(1, 2)) * step_mm[1] * step_mm[2] / 100
    chest = np.flatnonzero(area_cm2 > 450)
    if len(chest) * step_mm[0] > 90:
        yield "chest only", volume.crop(Box((0, 0, 0), (int(chest.max()) + 1, *hu.shape[1:]))), "not_head_and_neck"
    head = bounding_box(body[area_cm2 < 300])
    if head is not None:
        middle = (head.start_zyx[2] + head.stop_zyx[2]) // 2
        left = middle - int(rng.uniform(0, 40) / step_mm[2])
        yield "head cut at the side", volume.crop(Box((0, 0, left), hu.shape)), "truncated"  # type: ignore[arg-type]


def other_bodies(rng: np.random.Generator, count: int) -> Iterator[tuple[str, Volume, str]]:
    """Simple scans of a leg, an abdomen and a water phantom."""
    geometry = Geometry.from_parts((60, 120, 130), (3.5, 3.5, 4.0))
    z, y, x = np.ogrid[-120:120:60j, -210:210:120j, -227:227:130j]
    for _ in range(count):
        a, b = rng.uniform(60, 95, 2)
        leg = np.where((x / a) ** 2 + (y / b) ** 2 < 1, 40.0, AIR_HU) + 0 * z
        leg[np.broadcast_to((x - 10) ** 2 + y**2 < rng.uniform(12, 18) ** 2, leg.shape)] = 900
        a, b = rng.uniform(140, 210), rng.uniform(100, 150)
        abdomen = np.where((x / a) ** 2 + (y / b) ** 2 < 1, -90.0, AIR_HU) + 0 * z
        abdomen[np.broadcast_to((x / (a - 25)) ** 2 + (y / (b - 20)) ** 2 < 1, leg.shape)] = 50
        abdomen[np.broadcast_to(x**2 + (y - b + 50) ** 2 < 25**2, leg.shape)] = 400
        gas = x**2 + (y + 40) ** 2 + z**2 < rng.uniform(15, 40) ** 2
        abdomen[np.broadcast_to(gas, leg.shape)] = AIR_HU
        water = np.where(x**2 + y**2 < rng.uniform(70, 120) ** 2, 0.0, AIR_HU) + 0 * z
        for kind, array in (("leg", leg), ("abdomen", abdomen), ("water phantom", water)):
            yield f"{kind} only", Volume(array + rng.normal(0, 12, array.shape), geometry), "not_head_and_neck"
