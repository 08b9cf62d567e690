"""What a model loses when a scan is not like those it learned from: one factor at a time, at three strengths.

Every factor changes validation CTs, never their contours, except where it takes tissue away: there the contours go with
it, and an organ of which less than half is left is not scored. DSC is on the native grid, mean over organs of the mean
over patients, against the same organs of the same patients without the change.

    python Benchmarks/stress.py --model openkbp7 --data DATA --cases 8 --seed 1
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from focusnet.bundle import load_bundle
from focusnet.errors import FocusNetError
from focusnet.evaluation.overlap import dice
from focusnet.geometry import Box, Geometry, LabelMap, Volume, resample
from focusnet.inference import Predictor
from focusnet.model_store import find_bundle
from focusnet.organs import organ
from focusnet.preprocessing import AIR_HU, BODY_THRESHOLD_HU
from focusnet_training.datasets import read_case, read_dataset
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))
STRENGTHS = ("mild", "medium", "strong")


@dataclass(frozen=True, eq=False)
class Scan:
    """A CT with its contours and where the patient is in it."""

    ct: Volume
    labels: LabelMap

    @property
    def body(self) -> NDArray[np.bool_]:
        """The patient without couch: the largest dense component, its air spaces included."""
        dense, _ = ndimage.label(self.ct.array > BODY_THRESHOLD_HU)
        largest = dense == np.argmax(np.bincount(dense.ravel())[1:]) + 1
        return np.stack([ndimage.binary_fill_holes(plane) for plane in largest])

    def with_ct(self, array: NDArray[np.floating]) -> Scan:
        """Other HU on the same grid."""
        return Scan(self.ct.with_array(np.clip(array, AIR_HU, 3071).astype(np.float32)), self.labels)

    def without(self, gone: NDArray[np.bool_]) -> Scan:
        """Air in place of the voxels in ``gone``, contours cut to match."""
        labels = LabelMap(np.where(gone, 0, self.labels.array), self.labels.geometry, self.labels.organs)
        return Scan(self.ct.with_array(np.where(gone, AIR_HU, self.ct.array)), labels)


Change = Callable[[Scan, float, np.random.Generator], Scan]


def coarse_in_plane(scan: Scan, factor: float, rng: np.random.Generator) -> Scan:
    """Pixels ``factor`` times larger."""
    return _through_grid(scan, (factor, factor, 1.0))


def thick_slices(scan: Scan, factor: float, rng: np.random.Generator) -> Scan:
    """Slices ``factor`` times thicker."""
    return _through_grid(scan, (1.0, 1.0, factor))


def soft_kernel(scan: Scan, fwhm_mm: float, rng: np.random.Generator) -> Scan:
    """Blur of this full width at half maximum, in plane."""
    return scan.with_ct(_blur_in_plane(scan, fwhm_mm))


def sharp_kernel(scan: Scan, amount: float, rng: np.random.Generator) -> Scan:
    """Edges and noise raised by ``amount`` times their difference from a 6 mm blur."""
    return scan.with_ct(scan.ct.array + amount * (scan.ct.array - _blur_in_plane(scan, 6.0)))


def noise(scan: Scan, sigma_hu: float, rng: np.random.Generator) -> Scan:
    """White noise inside the scan."""
    return scan.with_ct(scan.ct.array + rng.normal(0, sigma_hu, scan.ct.array.shape))


def hu_shift(scan: Scan, shift_hu: float, rng: np.random.Generator) -> Scan:
    """All HU of the patient too high."""
    return scan.with_ct(scan.ct.array + shift_hu * scan.body)


def hu_scale(scan: Scan, share: float, rng: np.random.Generator) -> Scan:
    """HU scaled about air by this share less, as with a wrong calibration."""
    return scan.with_ct((scan.ct.array + 1000) * (1 - share) - 1000)


def contrast_agent(scan: Scan, rise_hu: float, rng: np.random.Generator) -> Scan:
    """Soft tissue enhanced unevenly, by up to ``rise_hu``."""
    array = scan.ct.array
    field = ndimage.gaussian_filter(rng.normal(size=array.shape), 8.0 / np.asarray(scan.ct.geometry.spacing_zyx))
    field = (field - field.min()) / np.ptp(field)
    return scan.with_ct(array + rise_hu * field * ((array > 0) & (array < 120)))


def couch_and_mask(scan: Scan, parts: float, rng: np.random.Generator) -> Scan:
    """A couch below; from 2 on also a head rest that touches the skin; from 3 on a mask close round the body."""
    array, body = scan.ct.array.astype(np.float32), scan.body
    _, mm_y, _ = scan.ct.geometry.spacing_zyx
    rows = np.flatnonzero(body.any(axis=(0, 2)))
    back = rows[-1]
    below = np.zeros(array.shape, bool)
    below[:, min(back + max(round(8 / mm_y), 1), array.shape[1] - 1) :] = True
    array[below & ~body] = -150
    if parts >= 2:
        for z in range(array.shape[0] // 2, array.shape[0]):
            y, x = np.nonzero(body[z])
            if len(y):
                left, right = np.quantile(x, (0.3, 0.7)).astype(int)
                rest = array[z, max(y.max() - 2, 0) :, left:right]
                rest[~body[z, max(y.max() - 2, 0) :, left:right]] = -60
    if parts >= 3:
        distance = ndimage.distance_transform_edt(~body, scan.ct.geometry.spacing_zyx)
        array[(distance > 3) & (distance < 8)] = 120
    return scan.with_ct(array)


def field_of_view(scan: Scan, share: float, rng: np.random.Generator) -> Scan:
    """Shoulders cut off: nothing outside a circle that takes ``share`` of the body's half width away."""
    body = scan.body
    columns = np.flatnonzero(body.any(axis=(0, 1)))
    rows = np.flatnonzero(body.any(axis=(0, 2)))
    _, mm_y, mm_x = scan.ct.geometry.spacing_zyx
    radius_mm = (1 - share) * np.ptp(columns) * mm_x / 2
    y, x = np.indices(body.shape[1:])
    far = np.hypot((y - rows.mean()) * mm_y, (x - columns.mean()) * mm_x) > radius_mm
    return scan.without(np.broadcast_to(far, body.shape))


def head_only(scan: Scan, share: float, rng: np.random.Generator) -> Scan:
    """The lowest slices missing; the array keeps its head end."""
    first = round(share * scan.ct.array.shape[0])
    depth, *plane = scan.ct.array.shape
    box = Box((first, 0, 0), (depth, plane[0], plane[1]))
    return Scan(scan.ct.crop(box), scan.labels.crop(box))


def rotation(scan: Scan, angle_deg: float, rng: np.random.Generator) -> Scan:
    """The patient tilted about an axis between nodding, turning and leaning."""
    axis = np.array([0.7, 0.3, 0.65])
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec(np.deg2rad(angle_deg) * axis / np.linalg.norm(axis)).as_matrix()
    geometry = scan.ct.geometry.transformed(turn)
    return Scan(Volume(scan.ct.array, geometry), LabelMap(scan.labels.array, geometry, scan.labels.organs))


def metal(scan: Scan, amplitude_hu: float, rng: np.random.Generator) -> Scan:
    """Fillings on both sides with bright and dark streaks through 20 mm of slices."""
    array, body = scan.ct.array.astype(np.float32), scan.body
    mm_z, mm_y, mm_x = scan.ct.geometry.spacing_zyx
    dense = np.argwhere((array > 700) & body)
    if len(dense) == 0:
        return scan
    z, y, x = dense[rng.integers(len(dense))]
    planes = np.abs(np.arange(array.shape[0]) - z) * mm_z < 10
    rows, columns = np.indices(array.shape[1:])
    angle = np.arctan2((rows - y) * mm_y, (columns - x) * mm_x)
    distance_mm = np.hypot((rows - y) * mm_y, (columns - x) * mm_x)
    streaks = sum(rng.normal() * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(5, 14))
    streaks *= amplitude_hu / np.abs(streaks).max() * np.exp(-distance_mm / 60)
    array[planes] += streaks * body[planes]
    array[planes] = np.where(distance_mm < 5, 3000, array[planes])
    return scan.with_ct(array)


FACTORS: dict[str, tuple[Change, tuple[float, float, float], str]] = {
    "coarse in plane": (coarse_in_plane, (1.15, 1.3, 1.6), "times the pixel"),
    "thick slices": (thick_slices, (1.5, 2.0, 3.0), "times the slice"),
    "soft kernel": (soft_kernel, (3.0, 5.0, 8.0), "mm FWHM"),
    "sharp kernel": (sharp_kernel, (0.5, 1.0, 2.0), "times the edges"),
    "noise": (noise, (20.0, 50.0, 100.0), "HU"),
    "HU shift": (hu_shift, (15.0, 30.0, 60.0), "HU"),
    "HU scale": (hu_scale, (0.03, 0.06, 0.12), "share less"),
    "contrast agent": (contrast_agent, (30.0, 60.0, 120.0), "HU"),
    "couch and mask": (couch_and_mask, (1, 2, 3), "parts"),
    "field of view": (field_of_view, (0.1, 0.25, 0.4), "of the half width cut"),
    "head only": (head_only, (0.15, 0.3, 0.45), "of the slices missing"),
    "rotation": (rotation, (5.0, 10.0, 15.0), "degrees"),
    "metal": (metal, (100.0, 300.0, 800.0), "HU"),
}


def _through_grid(scan: Scan, factors_xyz: tuple[float, float, float]) -> Scan:
    geometry = scan.ct.geometry
    factors = np.asarray(factors_xyz)
    shape = np.maximum(np.ceil(np.array(geometry.shape_zyx[::-1]) / factors), 1).astype(int)
    affine = geometry.affine.copy()
    affine[:3, :3] *= factors
    affine[:3, 3] = geometry.index_to_world(((factors - 1) / 2)[::-1])
    x, y, z = (int(n) for n in shape)
    coarse = resample(scan.ct, Geometry((z, y, x), affine), fill=AIR_HU)
    return scan.with_ct(resample(coarse, geometry, fill=AIR_HU).array)


def _blur_in_plane(scan: Scan, fwhm_mm: float) -> NDArray[np.floating]:
    sigma = FWHM_TO_SIGMA * fwhm_mm / np.asarray(scan.ct.geometry.spacing_zyx)
    return ndimage.gaussian_filter(scan.ct.array, (0, *sigma[1:]))


def changed(scan: Scan, number: int, seed: int) -> Iterator[tuple[str, str, Scan]]:
    """The scan as it is, then under every factor and strength; the draws depend on seed, patient and factor only."""
    yield "none", "", scan
    for index, (name, (change, values, _)) in enumerate(FACTORS.items()):
        for strength, value in zip(STRENGTHS, values, strict=True):
            yield name, strength, change(scan, value, np.random.default_rng([seed, number, index]))


def sides_swapped(labels: LabelMap) -> list[str]:
    """Left organs that lie to the right of their partners, in the patient as he lies in the scan."""
    direction = labels.geometry.direction
    column = int(np.argmax(np.abs(direction[0])))
    to_left = direction[:, column] * np.sign(direction[0, column])
    wrong = []
    for key in labels.organs.values():
        partner = organ(key).partner
        if organ(key).side != "left" or partner not in labels.organs.values():
            continue
        places = [np.argwhere(labels.mask(k)) for k in (key, partner)]
        if all(len(p) for p in places):
            left, right = (labels.geometry.index_to_world(p.mean(0)) @ to_left for p in places)
            if left <= right:
                wrong.append(key)
    return wrong


def run(args: argparse.Namespace) -> dict[str, object]:
    """Scores of every factor and strength, and what swapped or failed."""
    predictor = Predictor(load_bundle(find_bundle(args.model)), args.device, grids=args.grids)
    dataset = read_dataset(args.data)
    names = dataset.validation[:: max(len(dataset.validation) // args.cases, 1)][: args.cases]
    scores: dict[tuple[str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    swapped, failed = [], []
    for number, name in enumerate(names):
        ct, labels = read_case(dataset, name)
        whole = {key: int(labels.mask(key).sum()) for key in labels.organs.values()}
        for factor, strength, scan in changed(Scan(ct, labels), number, args.seed):
            try:
                found = predictor.predict(scan.ct).labelmap
            except FocusNetError as error:
                failed.append(f"{name}, {factor}, {strength}: {error}")
                continue
            swapped += [f"{name}, {factor}, {strength}: {key}" for key in sides_swapped(found)]
            for key in predictor.spec.organs:
                left = scan.labels.mask(key)
                if key in dataset.cases[name].scored and left.sum() > 0.5 * whole[key]:
                    scores[factor, strength][name, key] = dice(left, found.mask(key))
        print(f"{number + 1} of {len(names)} patients", flush=True)
    clean = scores["none", ""]
    rows = []
    for factor, (_, values, unit) in FACTORS.items():
        for strength, value in zip(STRENGTHS, values, strict=True):
            got = scores[factor, strength]
            rows.append(
                {
                    "factor": factor,
                    "strength": strength,
                    "value": f"{value:g} {unit}",
                    "organs": len(got),
                    "dsc": _mean_over_organs(got),
                    "change": _mean_over_organs(got) - _mean_over_organs({k: clean[k] for k in got}),
                }
            )
    return {
        "clean": _mean_over_organs(clean),
        "patients": len(names),
        "rows": rows,
        "swapped": swapped,
        "failed": failed,
    }


def _mean_over_organs(scores: dict[tuple[str, str], float]) -> float:
    organs = defaultdict(list)
    for (_, key), value in scores.items():
        organs[key].append(value)
    return float(np.mean([np.mean(values) for values in organs.values()])) if organs else float("nan")


def table(result: dict[str, object]) -> str:
    """The result as Markdown, a row per factor."""
    rows = result["rows"]
    assert isinstance(rows, list)
    lines = [
        f"Mean DSC without a change: {result['clean']:.3f} over {result['patients']} patients.",
        "",
        "| factor | " + " | ".join(STRENGTHS) + " | strengths |",
        "|---|---|---|---|---|",
    ]
    for factor in FACTORS:
        mine = [row for row in rows if row["factor"] == factor]
        cells = [f"{row['dsc']:.3f} ({row['change']:+.3f})" for row in mine]
        unit = FACTORS[factor][2]
        values = " / ".join(f"{value:g}" for value in FACTORS[factor][1])
        lines.append(f"| {factor} | " + " | ".join(cells) + f" | {values} {unit} |")
    for title in ("swapped", "failed"):
        entries = result[title]
        assert isinstance(entries, list)
        lines += ["", f"{title.capitalize()}: {'; '.join(entries) or 'none'}."]
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write all numbers where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="openkbp7", help="name or folder of a model")
    parser.add_argument("--grids", type=int, choices=[1, 4], help="instead of the model's own number")
    parser.add_argument("--data", type=Path, required=True, help="data set in nnU-Net v2 raw layout")
    parser.add_argument("--cases", type=int, default=8, help="validation patients, spread over the list")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="also write all numbers here")
    args = parser.parse_args()
    result = run(args)
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1), "utf-8")


if __name__ == "__main__":
    main()
