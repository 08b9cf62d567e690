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
from focusnet.io.atomic import atomic_path
from focusnet.organs import CATALOGUE, PHANTOM_26

from focusnet_training.phantom_anatomy import build_anatomy
from focusnet_training.phantom_pose import Pose
from focusnet_training.phantom_scanner import Scanner

WEAK_CONTRAST = 0.06
_NOISE_HU = (5.0, 12.0)
_LARGE_TO_SMALL = sorted(PHANTOM_26, key=lambda key: -sum(CATALOGUE[key].volume_range_ml))


@dataclass(frozen=True)
class PhantomOptions:
    """What may be fixed about a phantom; what is None is drawn at random.

    Attributes:
        spacing_xyz: Voxel size in mm; random is 0.8–1.5 in plane, 1.5–3.5 between slices.
        shape_zyx: Grid size; random covers the head and neck.
        centre_xyz_mm: Where the middle of the grid aims at, in the patient's frame (``phantom_anatomy``); by default
            midway down the head and neck.
        metal: Probability (or certainty) of metal fillings with streaks.
        weak_boundaries: Optic nerves and chiasm with almost no contrast to their surroundings.
        noise_hu: Standard deviation of the noise in the head; None draws 5–12.
        couch: Paint the couch, head rest and mask.
    """

    spacing_xyz: tuple[float, float, float] | None = None
    shape_zyx: tuple[int, int, int] | None = None
    centre_xyz_mm: tuple[float, float, float] | None = None
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
    """Make one patient's CT with its truth.

    Args:
        seed: Any non-negative integer; the same seed and options give the same bytes. Pose and anatomy depend on the
            seed alone.
        options: What to fix.

    Raises:
        FocusNetError: ``E_USAGE`` for a negative seed.
    """
    draft = _Draw(seed, options)
    has_metal = draft.scan_rng.random() < float(options.metal)
    noise_hu = draft.scan_rng.uniform(*_NOISE_HU)
    scanner = Scanner(
        draft.pose, draft.geometry, draft.scan_rng, noise_hu if options.noise_hu is None else options.noise_hu
    )
    hu = scanner.scan(draft.anatomy, couch=options.couch, metal=has_metal)
    volume = Volume(np.clip(np.rint(hu), -1024, 3071).astype(np.int16), draft.geometry)
    return Phantom(volume, draft.labels())


def make_labels(seed: int, options: PhantomOptions = PhantomOptions()) -> LabelMap:
    """Truth of ``make_phantom`` without the CT, in a fraction of the time."""
    return _Draw(seed, options).labels()


class _Draw:
    """All that a seed decides about a patient, with the grid that it is scanned on."""

    def __init__(self, seed: int, options: PhantomOptions) -> None:
        if seed < 0:
            raise FocusNetError("E_USAGE", f"Phantom seed {seed}; give a whole number from 0 up.")
        grid_rng, pose_rng, body_rng, self.scan_rng = np.random.default_rng(seed).spawn(4)
        self.geometry = _draw_grid(grid_rng, options)
        self.anatomy = build_anatomy(body_rng, WEAK_CONTRAST if options.weak_boundaries else 1.0)
        self.pose = Pose(pose_rng)

    def labels(self) -> LabelMap:
        """Label of each voxel whose centre is inside an organ; the smaller organ keeps a shared voxel."""
        array = np.zeros(self.geometry.shape_zyx, np.uint8)
        for slices, _, block in self.pose.blocks(self.geometry):
            for key in _LARGE_TO_SMALL:
                window = block.window(self.anatomy.organs[key], 0.0)
                if window is not None:
                    inside = self.anatomy.organs[key].distance(block.points[window]) < 0
                    array[slices][window][inside] = PHANTOM_26.index(key) + 1
        return LabelMap(array, self.geometry, {i + 1: key for i, key in enumerate(PHANTOM_26)})


def _draw_grid(rng: np.random.Generator, options: PhantomOptions) -> Geometry:
    in_plane, slices = rng.uniform(0.8, 1.5), rng.uniform(1.5, 3.5)
    spacing = options.spacing_xyz or (in_plane, in_plane, slices)
    top, bottom, width = rng.uniform(100, 145), rng.uniform(-195, -160), rng.uniform(240, 300)
    off_centre = (rng.normal(0, 6), rng.normal(0, 6), 0.0)
    aim = np.add(options.centre_xyz_mm or (0.0, 4.0, (top + bottom) / 2), off_centre)
    extent = np.array((width, width, top - bottom))
    if options.shape_zyx is None:
        shape = tuple(int(np.ceil(e / s)) for e, s in zip(extent[::-1], spacing[::-1], strict=True))
    else:
        shape = options.shape_zyx
    origin = aim - (np.array(shape[::-1]) - 1) / 2 * np.array(spacing)
    return Geometry.from_parts(shape, spacing_xyz=spacing, origin_xyz=tuple(origin))  # type: ignore[arg-type]


def write_dataset(folder: Path | str, cases: int, seed: int, options: PhantomOptions = PhantomOptions()) -> list[str]:
    """Write phantoms as an nnU-Net v2 raw dataset: each fifth case, or else the last of several, for validation.

    Args:
        folder: New or empty folder; gets imagesTr, labelsTr, cases.json, splits_final.json and last dataset.json.
        cases: Number of phantoms.
        seed: Case i has the seed ``case_seed(seed, i)``, so a longer set begins with the shorter one.
        options: As for ``make_phantom``.

    Returns:
        The case names in order.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS`` where the folder holds anything; ``E_OUTPUT_WRITE`` where it can't be
            written; ``E_USAGE`` for no case or a negative seed.
    """
    root = Path(folder)
    if cases < 1 or seed < 0:
        raise FocusNetError("E_USAGE", f"{cases} phantoms with seed {seed}; give at least 1 and a seed from 0 up.")
    if root.is_file() or (root.is_dir() and any(root.iterdir())):
        raise FocusNetError("E_OUTPUT_EXISTS", f"'{root.name}' is not an empty folder; choose a new one.")
    listed: dict[str, dict[str, Any]] = {}
    for number in range(1, cases + 1):
        name = f"phantom_{number:04d}"
        phantom = make_phantom(case_seed(seed, number), options)
        _write(phantom.volume, root / "imagesTr" / f"{name}_0000.nrrd")
        _write(phantom.labels, root / "labelsTr" / f"{name}.nrrd")
        held_out = number % 5 == 0 or (number == cases and 1 < cases < 5)
        listed[name] = {
            "split": "validation" if held_out else "training",
            "annotated": list(PHANTOM_26),
            "scored": [PHANTOM_26[value - 1] for value in np.unique(phantom.labels.array) if value > 0],
            "spacing_mm": [round(s, 4) for s in phantom.volume.geometry.spacing_xyz],
            "size": list(phantom.volume.array.shape[::-1]),
        }
    split = {
        key: [name for name, case in listed.items() if case["split"] == part]
        for key, part in (("train", "training"), ("val", "validation"))
    }
    description = {
        "name": "Procedural head-and-neck CT phantoms",
        "description": f"{cases} synthetic patients with exact truth, seed {seed}; no real person's data",
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{key: i + 1 for i, key in enumerate(PHANTOM_26)}},
        "file_ending": ".nrrd",
        "numTraining": cases,
        "numTest": 0,
        "annotations": "cases.json",
    }
    for file, content in (
        ("cases.json", {"cases": listed}),
        ("splits_final.json", [split]),
        ("dataset.json", description),
    ):
        with atomic_path(root / file) as path:
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return list(listed)


def case_seed(seed: int, number: int) -> int:
    """Seed of one case of a dataset."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0])


def _write(item: Volume | LabelMap, target: Path) -> None:
    with atomic_path(target) as path:
        try:
            sitk.WriteImage(to_sitk(item), str(path), True)
        except RuntimeError as error:
            raise FocusNetError("E_OUTPUT_WRITE", f"'{target.name}' can't be written; check the disk.") from error
