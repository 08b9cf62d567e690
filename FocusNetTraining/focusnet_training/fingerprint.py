"""What a data set is like, and what follows for the training: grid, small organs, region of interest.

Rules of the proposal:

- Spacing: the median of the cases, to a quarter of a millimetre, in plane not below 1 mm and between slices not below
  2.5 mm, the finest of the paper (§4). The two axes in plane get one value.
- ROI of SOS-Net: the paper's 24 x 64 x 64 mm in voxels, up to the next multiple of 8, which the autoencoder needs.
- Small organs: mean volume below 1000 voxels at that spacing (FocusNet v1) and extent within the ROI.
- Chunk: 40 slices of 240 x 240 mm, no larger than the median scan, but no smaller than the ROI.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry
from focusnet.io.image import load_sitk
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from focusnet_training.cost import StepCost
from focusnet_training.datasets import Dataset, is_small
from focusnet_training.parallel import in_turn

Triple = tuple[float, float, float]
Voxels = tuple[int, int, int]
Progress = Callable[[int, int, str], None]

SMALL_VOXELS = 1000.0
FINEST_XYZ_MM = (1.0, 1.0, 2.5)
SPACING_STEP_MM = 0.25
ROI_ZYX_MM = (24.0, 64.0, 64.0)
ROI_MULTIPLE = 8
CHUNK_SLICES = 40
CHUNK_IN_PLANE_MM = 240.0
CHUNK_MULTIPLE_ZYX = (2, 4, 4)
PREPARED_BYTES_PER_VOXEL = 3  # int16 HU and a uint8 label


@dataclass(frozen=True)
class Spread:
    """Least, median and greatest value over the cases."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: ArrayLike) -> Spread:
        """Of at least one value."""
        array = np.asarray(values, float)
        return cls(*(round(float(v), 4) for v in (array.min(), np.median(array), array.max())))

    def __str__(self) -> str:
        """Median with the range behind it."""
        return f"{self.median:.4g} ({self.low:.4g} to {self.high:.4g})"


@dataclass(frozen=True)
class OrganFingerprint:
    """One organ over the data set.

    Attributes:
        organ: Canonical key.
        annotated: Cases in which it counts as drawn.
        present: Those of them with a voxel of it.
        volume_ml: Volume where it is present; None where it never is, as the following.
        mean_voxels: Mean volume in voxels of the proposed grid.
        extent_xyz_mm: Length along the patient's axes that 95 % of the cases stay within.
        small: Proposed for SOL- and SOS-Net.
    """

    organ: str
    annotated: int
    present: int
    volume_ml: Spread | None
    mean_voxels: float | None
    extent_xyz_mm: Triple | None
    small: bool


@dataclass(frozen=True)
class Proposal:
    """Values for the configuration of a training."""

    spacing_xyz: Triple
    chunk_zyx: Voxels
    roi_shape_zyx: Voxels
    small_organs: tuple[str, ...]

    def to_toml(self) -> str:
        """The same as lines of a configuration file."""
        lines = ["[network]", f"roi_shape_zyx = {list(self.roi_shape_zyx)}", "[data]"]
        lines += [f"spacing_xyz = {list(self.spacing_xyz)}", f"chunk_zyx = {list(self.chunk_zyx)}"]
        return "\n".join([*lines, f"small_organs = {json.dumps(list(self.small_organs))}"])


@dataclass(frozen=True)
class Fingerprint:
    """What a data set is like.

    Attributes:
        dataset: Its name.
        cases: Number of cases that could be read; ``unreadable`` names the others.
        patients: Number of patients among all cases.
        spacing_xyz_mm: Voxel edges along the patient's left-right, front-back and foot-head axes.
        size_xyz_mm: Lengths of the scans along them.
        organs: In the order of the labels.
        proposal: Values for the configuration.
        prepared_gib: Disk space for the prepared cases of a run on the proposed grid, at most.
    """

    dataset: str
    cases: int
    unreadable: tuple[str, ...]
    patients: int
    spacing_xyz_mm: tuple[Spread, Spread, Spread]
    size_xyz_mm: tuple[Spread, Spread, Spread]
    organs: tuple[OrganFingerprint, ...]
    proposal: Proposal
    prepared_gib: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def to_text(self, cost: StepCost | None = None) -> str:
        """Lines for a person, with what a step of the training costs where that is known."""
        lines = [f"{self.dataset}: {self.cases} cases of {self.patients} patients"]
        lines += [f"not readable: {', '.join(self.unreadable)}"] if self.unreadable else []
        for name, spreads in (("spacing", self.spacing_xyz_mm), ("size", self.size_xyz_mm)):
            lines.append(f"{name} in mm: " + ", ".join(f"{a} {s}" for a, s in zip("xyz", spreads, strict=True)))
        lines.append(f"{'organ':20} {'annotated':>9} {'present':>7} {'ml':>26} {'voxels':>8}")
        for o in self.organs:
            volume = "-" if o.volume_ml is None else str(o.volume_ml)
            voxels = "-" if o.mean_voxels is None else f"{o.mean_voxels:.0f}"
            small = "  small" if o.small else ""
            lines.append(f"{o.organ:20} {o.annotated:9} {o.present:7} {volume:>26} {voxels:>8}{small}")
        lines += ["", "Proposed configuration:", self.proposal.to_toml(), ""]
        lines.append(f"Prepared cases: at most {self.prepared_gib:.2f} GiB on disk")
        return "\n".join(lines + ([] if cost is None else [cost.to_text()]))


def fingerprint(
    dataset: Dataset, *, small_voxels: float = SMALL_VOXELS, progress: Progress | None = None, jobs: int = 2
) -> Fingerprint:
    """Measure a data set by its label maps.

    Args:
        dataset: All of its cases are measured, whatever part of a split they are in.
        small_voxels: Volume rule: mean voxels at the proposed spacing below which an organ is small.
        progress: Told the number of finished cases, of all cases, and the case; what it raises stops the work.
        jobs: Cases at the same time.

    Raises:
        FocusNetError: ``E_DATASET`` when no label map can be read.
    """
    names = list(dataset.cases)
    measured: dict[str, _Measured] = {}
    for number, found in enumerate(in_turn(lambda name: _measure(dataset, name), names, jobs), start=1):
        if found is not None:
            measured[names[number - 1]] = found
        if progress is not None:
            progress(number, len(names), names[number - 1])
    if not measured:
        raise FocusNetError("E_DATASET", "No label map can be read; see 'focusnet check'.")
    spacings = np.array([m.spacing_xyz for m in measured.values()])
    sizes = np.array([m.size_xyz_mm for m in measured.values()])
    spacing = _propose_spacing(spacings)
    roi: Voxels = _up(np.divide(ROI_ZYX_MM, spacing[::-1]), (ROI_MULTIPLE,) * 3)
    organs = tuple(_organ(dataset, key, measured, spacing, (small_voxels, roi)) for key in dataset.organs)
    return Fingerprint(
        dataset=dataset.name,
        cases=len(measured),
        unreadable=tuple(name for name in names if name not in measured),
        patients=len({case.patient for case in dataset.cases.values()}),
        spacing_xyz_mm=_spreads(spacings),
        size_xyz_mm=_spreads(sizes),
        organs=organs,
        proposal=Proposal(spacing, _propose_chunk(sizes, spacing, roi), roi, tuple(o.organ for o in organs if o.small)),
        prepared_gib=float(np.prod(sizes / spacing, axis=1).sum()) * PREPARED_BYTES_PER_VOXEL / 2**30,
    )


@dataclass(frozen=True, eq=False)
class _Measured:
    """One case: grid along the patient's axes, volume (ml) and extent (mm) of the organs with a voxel."""

    spacing_xyz: Triple
    size_xyz_mm: NDArray[np.float64]
    volume_ml: dict[str, float]
    extent_xyz_mm: dict[str, NDArray[np.float64]]


def _measure(dataset: Dataset, name: str) -> _Measured | None:
    try:
        image = load_sitk(dataset.cases[name].label)
    except FocusNetError:
        return None
    labels = image.array.astype(np.uint8)
    counts = np.bincount(labels.ravel(), minlength=256)
    volume, extent = {}, {}
    for value, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is not None and value in dataset.labels:
            start, stop = tuple(s.start for s in place), tuple(s.stop for s in place)
            volume[dataset.labels[value]] = int(counts[value]) * image.geometry.voxel_volume_ml
            extent[dataset.labels[value]] = _lengths(image.geometry.crop(Box(start, stop)))
    return _Measured(_patient_spacing(image.geometry), _lengths(image.geometry), volume, extent)


def _lengths(geometry: Geometry) -> NDArray[np.float64]:
    low, high = geometry.world_bounds()
    return high - low


def _patient_spacing(geometry: Geometry) -> Triple:
    """Voxel edges along x, y, z of the patient, whatever the order of the array's axes."""
    places = ["LR".find, "AP".find, "IS".find]
    found = dict(zip(geometry.axis_codes, geometry.spacing_xyz, strict=True))
    x, y, z = (next(found[code] for code in found if place(code) >= 0) for place in places)
    return x, y, z


def _propose_spacing(spacings: NDArray[np.float64]) -> Triple:
    in_plane, slices = np.median(spacings[:, :2]), np.median(spacings[:, 2])
    rounded = np.round(np.array([in_plane, in_plane, slices]) / SPACING_STEP_MM) * SPACING_STEP_MM
    x, y, z = (float(v) for v in np.maximum(rounded, FINEST_XYZ_MM))
    return x, y, z


def _propose_chunk(sizes: NDArray[np.float64], spacing: Triple, roi: Voxels) -> Voxels:
    scan = np.median(sizes, axis=0)[::-1] / spacing[::-1]
    wanted = np.array([CHUNK_SLICES, CHUNK_IN_PLANE_MM / spacing[1], CHUNK_IN_PLANE_MM / spacing[0]])
    z, y, x = _up(np.minimum(wanted, scan), CHUNK_MULTIPLE_ZYX)
    return max(z, roi[0]), max(y, roi[1]), max(x, roi[2])


def _up(sizes: NDArray[np.float64], multiples: Sequence[int]) -> Voxels:
    """Voxels up to the next multiples; a hair's breadth above a whole number is that number."""
    z, y, x = (int(np.ceil(round(float(s), 3) / m)) * m for s, m in zip(sizes, multiples, strict=True))
    return z, y, x


def _organ(
    dataset: Dataset, key: str, measured: dict[str, _Measured], spacing: Triple, rule: tuple[float, Voxels]
) -> OrganFingerprint:
    annotated = [m for name, m in measured.items() if key in dataset.cases[name].annotated]
    shown = [m for m in annotated if key in m.volume_ml]
    if not shown:
        return OrganFingerprint(key, len(annotated), 0, None, None, None, False)
    volumes = np.array([m.volume_ml[key] for m in shown])
    extents = np.array([m.extent_xyz_mm[key] for m in shown])
    voxels = volumes * 1000.0 / np.prod(spacing)
    x, y, z = (float(v) for v in np.percentile(extents, 95, axis=0))
    extents_zyx = np.ceil(np.round(extents / spacing, 3))[:, ::-1]
    return OrganFingerprint(
        organ=key,
        annotated=len(annotated),
        present=len(shown),
        volume_ml=Spread.of(volumes),
        mean_voxels=round(float(voxels.mean()), 1),
        extent_xyz_mm=(round(x, 1), round(y, 1), round(z, 1)),
        small=is_small(voxels, extents_zyx, *rule),
    )


def _spreads(values: NDArray[np.float64]) -> tuple[Spread, Spread, Spread]:
    x, y, z = (Spread.of(column) for column in values.T)
    return x, y, z
