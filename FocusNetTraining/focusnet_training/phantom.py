"""Procedural head-and-neck CT with exact truth for every organ: data to learn, test and demonstrate with.

The anatomy (``phantom_anatomy``) is a set of implicit bodies in a patient frame. A patient is one random draw of the
bodies, a pose (rotation, scale, bend of the neck) and a smooth deformation; a scan is one random grid, point spread,
noise and, where there are metal fillings, streaks. Everything follows from one seed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, LabelMap, Volume, to_sitk
from focusnet.organs import PHANTOM_26
from numpy.typing import NDArray

from focusnet_training.phantom_anatomy import Anatomy, build_anatomy
from focusnet_training.phantom_pose import Block, Pose, sample_axes
from focusnet_training.phantom_scanner import Scanner
from focusnet_training.phantom_shapes import Window

WEAK_CONTRAST = 0.06


@dataclass(frozen=True)
class PhantomOptions:
    """What may be fixed about a phantom; what is None is drawn at random.

    Attributes:
        spacing_xyz: Voxel size in mm; random is 0.8–1.5 in plane, 1.5–3.5 between slices.
        shape_zyx: Grid size; random covers the head and neck.
        metal: Probability (or certainty) of metal fillings with streaks.
        weak_boundaries: Optic nerves and chiasm with almost no contrast to their surroundings.
        noise_hu: Standard deviation of the noise in the head; None draws 6–14.
        couch: Paint the couch, head rest and mask.
    """

    spacing_xyz: tuple[float, float, float] | None = None
    shape_zyx: tuple[int, int, int] | None = None
    metal: bool | float = 0.35
    weak_boundaries: bool = False
    noise_hu: float | None = None
    couch: bool = True

    def __post_init__(self) -> None:
        if self.spacing_xyz is not None and not all(0.3 <= s <= 10 for s in self.spacing_xyz):
            raise FocusNetError("E_USAGE", f"Phantom spacing {self.spacing_xyz} mm; give three values from 0.3 to 10.")
        if self.shape_zyx is not None and not all(8 <= n <= 1024 for n in self.shape_zyx):
            raise FocusNetError("E_USAGE", f"Phantom shape {self.shape_zyx}; give three sizes from 8 to 1024.")
        if not 0 <= float(self.metal) <= 1:
            raise FocusNetError("E_USAGE", f"Probability of metal {self.metal}; give a value from 0 to 1.")
        if self.noise_hu is not None and not 0 <= self.noise_hu <= 500:
            raise FocusNetError("E_USAGE", f"Noise {self.noise_hu} HU; give a value from 0 to 500.")


@dataclass(frozen=True, eq=False)
class Phantom:
    """A CT (int16 HU) and its truth (uint8, value i + 1 for organ i of ``PHANTOM_26``) on the same grid."""

    volume: Volume
    labels: LabelMap


def make_phantom(seed: int, options: PhantomOptions = PhantomOptions()) -> Phantom:
    """Make one patient's CT.

    Args:
        seed: Any non-negative integer; the same seed and options give the same bytes.
        options: What to fix.
    """
    rng = np.random.default_rng(seed)
    grid_rng, pose_rng, body_rng, scan_rng = rng.spawn(4)
    geometry = _draw_grid(grid_rng, options)
    anatomy = build_anatomy(body_rng, WEAK_CONTRAST if options.weak_boundaries else 1.0)
    pose = Pose(pose_rng)
    block = Block(pose.points(sample_axes(geometry, 1)))
    labels = _truth(block, anatomy, geometry)
    has_metal = scan_rng.random() < float(options.metal)
    noise_hu = scan_rng.uniform(6, 14) if options.noise_hu is None else options.noise_hu
    scanner = Scanner(pose, geometry, scan_rng, noise_hu)
    hu = scanner.scan(anatomy, block, couch=options.couch, metal=has_metal)
    volume = Volume(np.clip(np.rint(hu), -1024, 3071).astype(np.int16), geometry)
    return Phantom(volume, labels)


def _draw_grid(rng: np.random.Generator, options: PhantomOptions) -> Geometry:
    in_plane, slices = rng.uniform(0.8, 1.5), rng.uniform(1.5, 3.5)
    spacing = options.spacing_xyz or (in_plane, in_plane, slices)
    top, bottom, width = rng.uniform(100, 145), rng.uniform(-185, -150), rng.uniform(240, 300)
    aim = np.array((rng.normal(0, 6), rng.normal(4, 6), (top + bottom) / 2))
    extent = np.array((width, width, top - bottom))
    if options.shape_zyx is None:
        shape = tuple(int(np.ceil(e / s)) for e, s in zip(extent[::-1], spacing[::-1], strict=True))
    else:
        shape = options.shape_zyx
    origin = aim - (np.array(shape[::-1]) - 1) / 2 * np.array(spacing)
    return Geometry.from_parts(shape, spacing_xyz=spacing, origin_xyz=tuple(origin))  # type: ignore[arg-type]


def _truth(block: Block, anatomy: Anatomy, geometry: Geometry) -> LabelMap:
    """Label of each voxel whose centre is inside an organ; the smaller organ keeps a shared voxel."""
    masks: dict[str, tuple[Window, NDArray[np.bool_]]] = {}
    for key in PHANTOM_26:
        window = block.window(anatomy.organs[key], 0.0)
        if window is not None:
            masks[key] = window, anatomy.organs[key].distance(block.points[window]) < 0
    labels = np.zeros(geometry.shape_zyx, np.uint8)
    for key in sorted(masks, key=lambda k: int(masks[k][1].sum()), reverse=True):
        window, mask = masks[key]
        labels[window][mask] = PHANTOM_26.index(key) + 1
    return LabelMap(labels, geometry, {i + 1: key for i, key in enumerate(PHANTOM_26)})


def write_dataset(folder: Path | str, cases: int, seed: int, options: PhantomOptions = PhantomOptions()) -> list[str]:
    """Write phantoms as an nnU-Net v2 raw dataset, each fifth case for validation.

    Args:
        folder: New or empty folder; gets imagesTr, labelsTr, dataset.json, cases.json and splits_final.json.
        cases: Number of phantoms, at least 2.
        seed: Case i uses a seed derived from (seed, i), so a longer set begins with the shorter one.
        options: As for ``make_phantom``.

    Returns:
        The case names in order.

    Raises:
        FocusNetError: E_OUTPUT_EXISTS where the folder holds anything; E_USAGE for fewer than 2 cases.
    """
    root = Path(folder)
    if cases < 2:
        raise FocusNetError("E_USAGE", f"{cases} phantoms asked; a dataset needs at least 2 (training and validation).")
    if root.exists() and any(root.iterdir()):
        raise FocusNetError("E_OUTPUT_EXISTS", f"Folder {root.name} is not empty; choose a new one.")
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True, exist_ok=True)
    listed: dict[str, Any] = {}
    for i in range(1, cases + 1):
        name = f"phantom_{i:04d}"
        phantom = make_phantom(case_seed(seed, i), options)
        sitk.WriteImage(to_sitk(phantom.volume), str(root / "imagesTr" / f"{name}_0000.nrrd"), True)
        sitk.WriteImage(to_sitk(phantom.labels), str(root / "labelsTr" / f"{name}.nrrd"), True)
        present = [key for value, key in phantom.labels.organs.items() if np.any(phantom.labels.array == value)]
        listed[name] = {
            "split": "validation" if i % 5 == 0 or i == cases else "training",
            "annotated": list(PHANTOM_26),
            "scored": present,
            "spacing_mm": [round(s, 4) for s in phantom.volume.geometry.spacing_xyz],
            "size": list(phantom.volume.array.shape[::-1]),
        }
    names = list(listed)
    split = {
        "train": [n for n in names if listed[n]["split"] == "training"],
        "val": [n for n in names if listed[n]["split"] == "validation"],
    }
    description = {
        "name": "Procedural head-and-neck CT phantoms",
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{key: i + 1 for i, key in enumerate(PHANTOM_26)}},
        "file_ending": ".nrrd",
        "numTraining": cases,
        "numTest": 0,
        "annotations": "cases.json",
        "seed": seed,
    }
    for file, content in (
        ("cases.json", {"cases": listed}),
        ("splits_final.json", [split]),
        ("dataset.json", description),
    ):
        (root / file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return names


def case_seed(seed: int, number: int) -> int:
    """Seed of one case of a dataset."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
