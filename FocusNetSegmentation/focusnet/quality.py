"""Quality flags: is the input a CT of the head and neck, and is the output anatomically plausible?

Flags don't say that a contour is right. They catch gross errors, so that these are seen before the result is.
Sensitivity and specificity on injected errors are in ``Docs/quality-flags.md``. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from focusnet.geometry import LabelMap, Volume
from focusnet.organs import CATALOGUE, organ
from focusnet.quality_contacts import may_touch

Severity = Literal["info", "warning", "error"]
Code = Literal[
    "not_hu",
    "not_head_and_neck",
    "truncated",
    "missing",
    "sides_swapped",
    "outside_body",
    "several_components",
    "volume_out_of_range",
    "asymmetric",
    "touching",
    "cut_by_field_of_view",
]
SEVERITY: dict[Code, Severity] = {
    "not_hu": "error",
    "not_head_and_neck": "error",
    "truncated": "warning",
    "missing": "error",
    "sides_swapped": "error",
    "outside_body": "error",
    "several_components": "warning",
    "volume_out_of_range": "warning",
    "asymmetric": "warning",
    "touching": "warning",
    "cut_by_field_of_view": "info",
}

BODY_HU = -300.0
COARSE_MM = 3.5
MIN_BODY_ML = 500.0
MAX_DENSE_SHARE = 0.2  # of the body above 700 HU; a missing rescale lifts all soft tissue there
HEAD_AREA_CM2 = (60.0, 420.0)
HEAD_BONE_SHARE = 0.045
HEAD_AIR_CM2 = 0.3
MIN_HEAD_MM = 30.0
MIN_LENGTH_MM = 80.0
MAX_EDGE_MM = 70.0
MIN_CUT_MM = 25.0

STRAY_SHARE = 0.01
MIN_STRAY_VOXELS = 3
ASYMMETRY = 2.0
SMALL_ASYMMETRY = 2.5
SMALL_ML = 1.0
OUTSIDE_SHARE = 0.2
MIDLINE_MARGIN_MM = 8.0
CONTACT_MM2 = 10.0


@dataclass(frozen=True)
class Flag:
    """One finding for a person to look at.

    Attributes:
        code: Stable reason code.
        organ: Canonical key, or None when the flag is about the whole scan.
        severity: ``error`` (don't use it), ``warning`` (look closely) or ``info``.
        message: One line for a person.
    """

    code: Code
    organ: str | None
    severity: Severity
    message: str


def _flag(code: Code, key: str | None, message: str) -> Flag:
    prefix = f"{CATALOGUE[key].name}: " if key else ""
    return Flag(code, key, SEVERITY[code], prefix + message)


@dataclass(frozen=True, eq=False)
class _Body:
    """A CT thinned out to about 3.5 mm, its S-I axis first, and the patient in it.

    Attributes:
        hu: Values, (s, a, b).
        mask: Patient without couch, air inside included, same shape.
        axial: Array axis of the full volume that runs along S-I.
        feet_first: Whether that axis runs from the feet to the head.
        steps: Thinning of each axis of the full volume.
        spacing_mm: Distances along the axes of ``hu``.
    """

    hu: NDArray[np.float32]
    mask: NDArray[np.bool_]
    axial: int
    feet_first: bool
    steps: NDArray[np.intp]
    spacing_mm: tuple[float, float, float]

    def holds(self, index_zyx: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether (n, 3) voxel indices of the full volume lie in the patient."""
        coarse = np.rint(index_zyx / self.steps).astype(int)
        coarse = np.concatenate([coarse[:, [self.axial]], np.delete(coarse, self.axial, axis=1)], axis=1)
        inside = ((coarse >= 0) & (coarse < self.mask.shape)).all(axis=1)
        hit = np.zeros(len(coarse), bool)
        hit[inside] = self.mask[tuple(coarse[inside].T)]
        return hit


def _find_body(volume: Volume) -> _Body:
    geometry = volume.geometry
    spacing = np.asarray(geometry.spacing_zyx)
    steps = np.maximum(np.rint(COARSE_MM / spacing).astype(int), 1)
    codes = geometry.axis_codes[::-1]
    axial = next(axis for axis in range(3) if codes[axis] in "SI")
    thinned = volume.array[tuple(slice(None, None, int(step)) for step in steps)]
    hu = np.nan_to_num(np.moveaxis(thinned, axial, 0).astype(np.float32), nan=-1e4, posinf=3e4, neginf=-1e4)
    s, a, b = (float(v) for v in (spacing * steps)[[axial, *np.delete(np.arange(3), axial)]])
    dense = hu > BODY_HU
    disc = np.ones((1, 3, 3), bool)
    labels, count = ndimage.label(ndimage.binary_opening(dense, disc))
    mask = np.zeros(hu.shape, bool)
    if count:
        core = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
        mask = ndimage.binary_dilation(core, disc, iterations=2) & dense  # gives thin walls back to the airway
        mask = ndimage.binary_closing(np.pad(mask, ((0, 0), (2, 2), (2, 2))), disc, iterations=2)[:, 2:-2, 2:-2]
        for axial_slice in mask:  # with the ear canals and nostrils closed, the airways are holes
            axial_slice[:] = ndimage.binary_fill_holes(axial_slice)
    return _Body(hu, mask, axial, codes[axial] == "S", steps, (s, a, b))


def check_input(volume: Volume) -> list[Flag]:
    """Flags of a scan before it is segmented.

    ``not_hu``: no air, too little body, or a body too dense for Hounsfield units (a missing rescale, an MR, a
    normalised image). ``not_head_and_neck``: no 30 mm of scan that look like face or neck. ``truncated``: shorter than
    80 mm, or the head or neck runs into the side of the image.
    """
    body = _find_body(volume)
    s_mm, a_mm, b_mm = body.spacing_mm
    inside = body.hu[body.mask]
    body_ml = inside.size * s_mm * a_mm * b_mm / 1000.0
    if body.hu.min() > -500:
        return [_flag("not_hu", None, "The image has no air (lowest value above -500); it is not a CT in HU.")]
    if body_ml < MIN_BODY_ML:
        return [_flag("not_hu", None, f"Only {body_ml:.0f} ml are denser than {BODY_HU:.0f} HU; there is no patient.")]
    dense_share = float((inside > 700).mean())
    if dense_share > MAX_DENSE_SHARE:
        return [
            _flag(
                "not_hu",
                None,
                f"{dense_share:.0%} of the body are above 700 HU; the values are not HU (is the rescale missing?).",
            )
        ]
    area = body.mask.sum(axis=(1, 2)) * a_mm * b_mm / 100.0
    bone = ((body.hu > 200) & body.mask).sum(axis=(1, 2)) * a_mm * b_mm / 100.0
    air = ((body.hu < -500) & body.mask).sum(axis=(1, 2)) * a_mm * b_mm / 100.0
    head = (HEAD_AREA_CM2[0] < area) & (area < HEAD_AREA_CM2[1])
    head &= (bone > HEAD_BONE_SHARE * area) & (air > HEAD_AIR_CM2)
    flags = []
    if head.sum() * s_mm < MIN_HEAD_MM:
        flags.append(_flag("not_head_and_neck", None, "No part of the scan looks like a face or neck."))
    length_mm = len(area) * s_mm
    if length_mm < MIN_LENGTH_MM:
        flags.append(_flag("truncated", None, f"The scan is only {length_mm:.0f} mm long; most organs are incomplete."))
    edges = [body.mask[:, end].sum(1) * b_mm for end in (0, -1)]
    edges += [body.mask[:, :, end].sum(1) * a_mm for end in (0, -1)]
    neck = int(np.argmin(np.where(head, area, np.inf)))
    below = slice(None, neck) if body.feet_first else slice(neck + 1, None)
    head[below] = False  # many planning CTs cut the shoulders, which harms no organ of the head and neck
    cut_mm = max(float((head & (edge > MAX_EDGE_MM)).sum() * s_mm) for edge in edges)
    if cut_mm >= MIN_CUT_MM:
        flags.append(_flag("truncated", None, f"The side of the image cuts the head or neck over {cut_mm:.0f} mm."))
    return flags


@dataclass(frozen=True, eq=False)
class _Found:
    """One organ in a label map: its box, its mask in the box and what is measured once.

    Attributes:
        start_zyx: First voxel of the box.
        mask: Mask inside the box.
        volume_ml: Volume.
        centroid_mm: Centroid, LPS.
        cut: Whether it reaches the edge of the array.
    """

    start_zyx: NDArray[np.intp]
    mask: NDArray[np.bool_]
    volume_ml: float
    centroid_mm: NDArray[np.float64]
    cut: bool


def check_output(labelmap: LabelMap, volume: Volume | None, expected_organs: Collection[str]) -> list[Flag]:
    """Flags of a segmentation, errors first.

    Args:
        labelmap: Exclusive labels, any orientation.
        volume: The CT, on any grid in the same world; without it ``outside_body`` is not checked.
        expected_organs: Keys that should be there.

    Raises:
        FocusNetError: ``E_UNKNOWN_ORGAN`` for a key that is not in the catalogue.
    """
    for key in {*expected_organs, *labelmap.organs.values()}:
        organ(key)
    found = _find_organs(labelmap)
    body = _find_body(volume) if volume is not None else None
    flags = [_flag("missing", key, "not found.") for key in expected_organs if key not in found]
    flags += _side_flags(found, volume, body)
    for key, one in found.items():
        if one.cut:
            flags.append(_flag("cut_by_field_of_view", key, "reaches the edge of the image; its volume is not judged."))
        if body is not None and volume is not None:
            flags += _outside_flags(key, one, labelmap, volume, body)
        flags += _component_flags(key, one)
        flags += _volume_flags(key, one, found)
    flags += _contact_flags(labelmap, found)
    order = {"error": 0, "warning": 1, "info": 2}
    return sorted(flags, key=lambda f: order[f.severity])


def _find_organs(labelmap: LabelMap) -> dict[str, _Found]:
    found = {}
    boxes = ndimage.find_objects(labelmap.array)
    geometry = labelmap.geometry
    for value, key in labelmap.organs.items():
        if value > len(boxes) or boxes[value - 1] is None:
            continue
        box = boxes[value - 1]
        mask = labelmap.array[box] == value
        start = np.array([s.start for s in box])
        stop = np.array([s.stop for s in box])
        sums = [mask.sum(axis=tuple(b for b in range(3) if b != axis)) for axis in range(3)]
        centre = start + [float(np.average(np.arange(len(n)), weights=n)) for n in sums]
        found[key] = _Found(
            start_zyx=start,
            mask=mask,
            volume_ml=float(sums[0].sum()) * geometry.voxel_volume_ml,
            centroid_mm=geometry.index_to_world(centre),
            cut=bool((start == 0).any() or (stop == labelmap.array.shape).any()),
        )
    return found


def _side_flags(found: dict[str, _Found], volume: Volume | None, body: _Body | None) -> Iterator[Flag]:
    """Organs on the wrong side of the patient; +x is the patient's left in LPS."""
    for key in found:
        side, partner = CATALOGUE[key].side, CATALOGUE[key].partner
        if side is None or partner is None:
            continue
        sign = 1.0 if side == "left" else -1.0
        here = found[key].centroid_mm
        if partner in found and sign * (here[0] - found[partner].centroid_mm[0]) <= 0:
            yield _flag("sides_swapped", key, f"lies to the {_other(side)} of its partner; left and right are swapped.")
            continue
        middle = _midline_mm(found, here, {key, partner})
        if middle is None and volume is not None and body is not None:
            middle = _body_middle_mm(volume, body, here)
        if middle is not None and sign * (here[0] - middle) < -MIDLINE_MARGIN_MM:
            yield _flag("sides_swapped", key, f"lies on the patient's {_other(side)} side.")


def _other(side: str) -> str:
    return "right" if side == "left" else "left"


def _midline_mm(found: dict[str, _Found], here: NDArray[np.float64], without: set[str]) -> float | None:
    """x of the midline near a point, from unpaired organs and middles of pairs; near ones weigh more (tilted heads)."""
    points = [one.centroid_mm for key, one in found.items() if CATALOGUE[key].side is None]
    for key, one in found.items():
        partner = CATALOGUE[key].partner
        if CATALOGUE[key].side == "left" and partner in found and not {key, partner} & without:
            points.append((one.centroid_mm + found[partner].centroid_mm) / 2)
    if not points:
        return None
    middle = np.array(points)
    weights = 1.0 / (100.0 + ((middle[:, 1:] - here[1:]) ** 2).sum(axis=1))
    return float(np.average(middle[:, 0], weights=weights))


def _body_middle_mm(volume: Volume, body: _Body, here: NDArray[np.float64]) -> float | None:
    """x of the patient's middle on the slice of a point."""
    index = volume.geometry.world_to_index(here)
    level = round(float(index[body.axial]) / int(body.steps[body.axial]))
    if not 0 <= level < len(body.mask) or not body.mask[level].any():
        return None
    a, b = (float(v.mean()) for v in np.nonzero(body.mask[level]))
    centre = np.insert(np.array([a, b]), body.axial, level) * body.steps
    return float(volume.geometry.index_to_world(centre)[0])


def _outside_flags(key: str, one: _Found, labelmap: LabelMap, volume: Volume, body: _Body) -> Iterator[Flag]:
    voxels = np.argwhere(one.mask)
    voxels = voxels[:: max(1, len(voxels) // 2000)] + one.start_zyx
    index = volume.geometry.world_to_index(labelmap.geometry.index_to_world(voxels))
    share = 1.0 - float(body.holds(index).mean())
    if share > OUTSIDE_SHARE:
        yield _flag("outside_body", key, f"{share:.0%} of it lies outside the patient.")


def _component_flags(key: str, one: _Found) -> Iterator[Flag]:
    if not CATALOGUE[key].single_component:
        return
    labels, count = ndimage.label(one.mask, np.ones((3, 3, 3), bool))
    if count < 2:
        return
    sizes = np.sort(np.bincount(labels.ravel())[1:])
    stray = int(sizes[:-1].sum())
    share = stray / int(sizes.sum())
    if share > STRAY_SHARE and stray >= MIN_STRAY_VOXELS:
        yield _flag(
            "several_components", key, f"{count} separate pieces; {share:.0%} of it lies apart from the largest."
        )


def _volume_flags(key: str, one: _Found, found: dict[str, _Found]) -> Iterator[Flag]:
    if one.cut:
        return
    low, high = CATALOGUE[key].volume_range_ml
    if not low <= one.volume_ml <= high:
        message = f"{one.volume_ml:.3g} ml is not plausible ({low:g} to {high:g} ml)."
        yield _flag("volume_out_of_range", key, message)
    partner = found.get(CATALOGUE[key].partner or "")
    if partner is None or partner.cut:
        return
    ratio = one.volume_ml / partner.volume_ml
    limit = SMALL_ASYMMETRY if max(one.volume_ml, partner.volume_ml) < SMALL_ML else ASYMMETRY
    if max(ratio, 1 / ratio) > limit:
        message = f"{one.volume_ml:.3g} ml against {partner.volume_ml:.3g} ml on the other side."
        yield _flag("asymmetric", key, message)


def _contact_flags(labelmap: LabelMap, found: dict[str, _Found]) -> Iterator[Flag]:
    touching = _contacts_mm2(labelmap, found)
    for first, second in combinations(sorted(found), 2):
        area = touching.get((first, second), 0.0)
        if area >= CONTACT_MM2 and not may_touch(first, second):
            for key, other in ((first, second), (second, first)):
                other_name = CATALOGUE[other].name
                yield _flag(
                    "touching", key, f"touches the {other_name[0].lower()}{other_name[1:]} over {area:.0f} mm²."
                )


def _contacts_mm2(labelmap: LabelMap, found: dict[str, _Found]) -> dict[tuple[str, str], float]:
    """Area of the voxel faces that two organs share, by sorted keys."""
    areas: dict[tuple[str, str], float] = {}
    if len(found) < 2:
        return areas
    start = np.min([one.start_zyx for one in found.values()], axis=0)
    stop = np.max([one.start_zyx + one.mask.shape for one in found.values()], axis=0)
    array = labelmap.array[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    edges = np.asarray(labelmap.geometry.spacing_zyx)
    for axis in range(3):
        face_mm2 = float(np.delete(edges, axis).prod())
        for (a, b), count in _face_counts(array, axis).items():
            if a in labelmap.organs and b in labelmap.organs:
                first, second = sorted((labelmap.organs[a], labelmap.organs[b]))
                areas[first, second] = areas.get((first, second), 0.0) + count * face_mm2
    return areas


def _face_counts(array: NDArray[Any], axis: int) -> dict[tuple[int, int], int]:
    """How many faces across ``axis`` each ordered pair of different, non-zero labels shares."""
    before, after = ((slice(None),) * axis + (part,) for part in (slice(None, -1), slice(1, None)))
    lower, upper = array[before], array[after]
    hit = lower != upper
    hit &= lower != 0
    hit &= upper != 0
    pairs, counts = np.unique(np.stack([lower[hit], upper[hit]]), axis=1, return_counts=True)
    return {(int(a), int(b)): int(n) for (a, b), n in zip(pairs.T, counts, strict=True)}
