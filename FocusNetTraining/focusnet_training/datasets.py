"""Training data: the nnU-Net v2 raw layout, with the organs that were annotated in each case.

dataset.json            labels by name (any spelling the organ catalogue knows), file ending
imagesTr/CASE_0000.EXT  CT in HU
labelsTr/CASE.EXT       label values
cases.json              optional: per case "split", "patient", "annotated" and "scored" organs
splits_final.json       optional: folds of "train" and "val" cases

A folder of the Medical Segmentation Decathlon, whose ``dataset.json`` lists the files, is read as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry, LabelMap, Volume, bounding_box
from focusnet.io.atomic import atomic_path
from focusnet.io.image import load_sitk, read_image
from focusnet.preprocessing import body_box, labels_to_grid, to_working_grid
from numpy.typing import ArrayLike, NDArray

from focusnet_training.layouts import organ_key, read_json, read_layout
from focusnet_training.splits import DEFAULT_FOLDS, SPLITS_FILE, Fold, check_disjoint, make_folds, read_folds

CACHE_VERSION = 3
GRID_TOLERANCE_MM = 0.1


@dataclass(frozen=True)
class Case:
    """One scan: its files, what was drawn in it, and whose it is."""

    name: str
    image: Path
    label: Path
    annotated: frozenset[str]
    scored: frozenset[str]
    patient: str


@dataclass(frozen=True)
class Dataset:
    """Cases with one label set and a split by patient.

    ``statement`` says what they are, for model cards. ``test`` are those that ``cases.json`` keeps out of training and
    validation.
    """

    name: str
    labels: dict[int, str]
    cases: dict[str, Case]
    training: tuple[str, ...]
    validation: tuple[str, ...]
    statement: str = ""
    test: tuple[str, ...] = ()

    @property
    def organs(self) -> tuple[str, ...]:
        """Organ keys in the order of their label values."""
        return tuple(self.labels[value] for value in sorted(self.labels))

    def without(self, names: Collection[str]) -> Dataset:
        """The data set without some cases.

        Raises:
            FocusNetError: ``E_DATASET`` when no case is left to train on or to validate with.
        """
        training = tuple(n for n in self.training if n not in names)
        validation = tuple(n for n in self.validation if n not in names)
        if not training or not validation:
            raise FocusNetError("E_DATASET", "No sound case is left for training or for validation; correct the data.")
        return replace(self, training=training, validation=validation)


def read_dataset(folder: Path, fold: int | None = 0) -> Dataset:
    """Read the description of a data set; images are not opened.

    Without ``cases.json`` every case counts as annotated with all organs and as a patient of its own. Without
    ``splits_final.json`` and without ``split`` in ``cases.json`` the patients are shared out by `splits.make_folds`.

    Args:
        folder: Folder of the data set.
        fold: Which fold to train; None takes all cases for training, the test cases too, and looks at no split.

    Raises:
        FocusNetError: ``E_DATASET`` when a file is missing or contradicts another, ``E_UNKNOWN_ORGAN`` for a label name
            the catalogue does not know, ``E_SPLIT_LEAK`` for a patient in two parts of a split, ``E_SPLIT`` where there
            is one patient only.
    """
    layout = read_layout(folder)
    details = _read_details(folder / "cases.json")
    everything = frozenset(layout.labels.values())
    cases = {}
    for name, (image, label) in layout.files.items():
        detail = details.get(name, {})
        annotated = frozenset(organ_key(n) for n in detail["annotated"]) if "annotated" in detail else everything
        scored = frozenset(organ_key(n) for n in detail["scored"]) if "scored" in detail else annotated
        cases[name] = Case(name, image, label, annotated, scored, str(detail.get("patient", name)))
    stated = {name: str(details[name]["split"]) for name in cases if "split" in details.get(name, {})}
    test = tuple(name for name, part in stated.items() if part not in ("training", "validation"))
    split = Fold(tuple(cases), ())
    if fold is not None:
        split = _choose_fold(_folds(folder, cases, stated), cases, test, fold)
    return Dataset(layout.name, layout.labels, cases, split.training, split.validation, layout.statement, test)


def _read_details(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = read_json(path)
    details = content.get("cases") if isinstance(content, dict) else None
    if not isinstance(details, dict) or not all(isinstance(detail, dict) for detail in details.values()):
        raise FocusNetError("E_DATASET", "cases.json holds no table 'cases' with an entry per case.")
    return details


def _folds(folder: Path, cases: Mapping[str, Case], stated: Mapping[str, str]) -> list[Fold]:
    """Folds of ``splits_final.json``, else of ``cases.json``, else made here."""
    if (folder / SPLITS_FILE).exists():
        return read_folds(folder / SPLITS_FILE)
    if stated:
        training = tuple(name for name in cases if stated.get(name, "training") == "training")
        return [Fold(training, tuple(name for name in cases if stated.get(name) == "validation"))]
    patients = {name: case.patient for name, case in cases.items()}
    count = min(DEFAULT_FOLDS, len(set(patients.values())))
    return make_folds({name: case.annotated for name, case in cases.items()}, patients, count)


def _choose_fold(folds: Sequence[Fold], cases: Mapping[str, Case], test: Collection[str], number: int) -> Fold:
    if not 0 <= number < len(folds):
        raise FocusNetError("E_DATASET", f"Fold {number} of {len(folds)} does not exist.")
    patients = {name: case.patient for name, case in cases.items()}
    for fold in folds:
        unknown = {*fold.training, *fold.validation} - set(cases)
        if unknown:
            raise FocusNetError("E_DATASET", f"The split names cases without files: {', '.join(sorted(unknown)[:5])}.")
        check_disjoint({"training": fold.training, "validation": fold.validation, "test": test}, patients)
    if not folds[number].training or not folds[number].validation:
        raise FocusNetError("E_DATASET", "Training and validation need at least one case each; check the split.")
    return folds[number]


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case on the working grid, cropped to the body.

    Attributes:
        name: Case name.
        ct: CT in HU, int16 (z, y, x), memory-mapped.
        labels: uint8 (z, y, x), class c of organ ``organs[c - 1]``.
        geometry: Grid of both.
        annotated: bool (len(organs),).
        scored: bool (len(organs),).
    """

    name: str
    ct: NDArray[np.int16]
    labels: NDArray[np.uint8]
    geometry: Geometry
    annotated: NDArray[np.bool_]
    scored: NDArray[np.bool_]

    @cached_property
    def voxels(self) -> dict[int, NDArray[np.int64]]:
        """Flat voxel indices of each class that is present."""
        flat = np.asarray(self.labels).ravel()
        return {int(c): np.flatnonzero(flat == c) for c in np.unique(flat) if c}

    @cached_property
    def boxes(self) -> dict[int, Box]:
        """Bounding box of each class that is present."""
        found = {c: bounding_box(np.asarray(self.labels) == c) for c in self.voxels}
        return {c: box for c, box in found.items() if box is not None}


def prepare(
    dataset: Dataset,
    names: Sequence[str],
    organs: Sequence[str],
    spacing_xyz: tuple[float, float, float],
    cache: Path,
) -> list[PreparedCase]:
    """Bring cases onto the working grid, once: the result is kept in ``cache`` and memory-mapped afterwards.

    Raises:
        FocusNetError: See `read_case`.
    """
    cache.mkdir(parents=True, exist_ok=True)

    def written(name: str) -> Path:
        case = dataset.cases[name]
        stem = cache / f"{name}-{_cache_key(case, dataset, organs, spacing_xyz)}"
        if not _file(stem, ".json").exists():
            _write_prepared(case, dataset, organs, spacing_xyz, stem)
        return stem

    with ThreadPoolExecutor(2) as pool:
        stems = list(pool.map(written, names))
    # Not in the threads: numpy parses the files' heads with Python's parser, which in 3.11 is not safe there.
    return [_open_prepared(dataset.cases[name], stem, organs) for name, stem in zip(names, stems, strict=True)]


def _open_prepared(case: Case, stem: Path, organs: Sequence[str]) -> PreparedCase:
    meta = json.loads(_file(stem, ".json").read_text())
    return PreparedCase(
        case.name,
        np.load(_file(stem, ".ct.npy"), mmap_mode="r"),
        np.load(_file(stem, ".labels.npy"), mmap_mode="r"),
        Geometry(tuple(meta["shape_zyx"]), np.asarray(meta["affine"])),
        np.array([o in case.annotated for o in organs]),
        np.array([o in case.scored for o in organs]),
    )


def _file(stem: Path, ending: str) -> Path:
    """A file of a prepared case; the case's name may hold points."""
    return stem.with_name(stem.name + ending)


def _cache_key(case: Case, dataset: Dataset, organs: Sequence[str], spacing_xyz: tuple[float, float, float]) -> str:
    files = [(p.stat().st_size, p.stat().st_mtime_ns) for p in (case.image, case.label)]
    meaning = sorted(dataset.labels.items()), sorted(_drawn(case)), tuple(organs)
    return hashlib.sha256(repr((CACHE_VERSION, files, meaning, spacing_xyz)).encode()).hexdigest()[:16]


def _drawn(case: Case) -> frozenset[str]:
    """Organs whose labels mean something; what is labelled beside them was not finished and is not learned."""
    return case.annotated | case.scored


def _write_prepared(
    case: Case, dataset: Dataset, organs: Sequence[str], spacing_xyz: tuple[float, float, float], stem: Path
) -> None:
    image, labels = read_case(dataset, case.name)
    drawn = {value: key for value, key in labels.organs.items() if key in _drawn(case)}
    ct, labels = prepare_pair(image, LabelMap(labels.array, labels.geometry, drawn), organs, spacing_xyz)
    meta = {"shape_zyx": ct.array.shape, "affine": ct.geometry.affine.tolist()}
    # Under names of their own first: another run may prepare the same case, or have its arrays mapped already.
    for ending, array in ((".ct.npy", ct.array), (".labels.npy", labels.array)):
        with atomic_path(_file(stem, ending)) as path, path.open("wb") as file:
            np.save(file, array)
    # Written last: its presence says that the arrays are whole.
    with atomic_path(_file(stem, ".json")) as path:
        path.write_text(json.dumps(meta))


def read_case(dataset: Dataset, name: str) -> tuple[Volume, LabelMap]:
    """CT in HU and labels of one case on its native grid.

    Raises:
        FocusNetError: ``E_BAD_GEOMETRY`` when image and label do not share a grid, ``E_LABELS`` for label values that
            are not defined or no whole numbers, and those of `focusnet.io.image.read_image`.
    """
    case = dataset.cases[name]
    image, label = read_image(case.image), load_sitk(case.label)
    if not image.geometry.is_close(label.geometry, atol_mm=GRID_TOLERANCE_MM):
        raise FocusNetError("E_BAD_GEOMETRY", f"Image and label of {name} lie on different grids.")
    strange = set(np.unique(label.array).tolist()) - set(dataset.labels) - {0}
    if strange:
        listed = ", ".join(f"{value:g}" for value in sorted(strange)[:5])
        raise FocusNetError("E_LABELS", f"Label values {listed} of {name} are not defined in dataset.json.")
    return image, LabelMap(label.array.astype(np.uint8), image.geometry, dataset.labels)


def prepare_pair(
    image: Volume, labels: LabelMap, organs: Sequence[str], spacing_xyz: tuple[float, float, float]
) -> tuple[Volume, LabelMap]:
    """CT (int16 HU) and labels of one case on the body-cropped working grid; label c is ``organs[c - 1]``."""
    classes = np.zeros(256, np.uint8)
    for value, key in labels.organs.items():
        if key in organs:
            classes[value] = organs.index(key) + 1
    chosen = LabelMap(classes[labels.array], labels.geometry, {c + 1: o for c, o in enumerate(organs)})
    ct = to_working_grid(image, spacing_xyz)
    ct = ct.crop(body_box(ct))
    on_grid = labels_to_grid(chosen, ct.geometry)
    return ct.with_array(np.round(ct.array).astype(np.int16)), on_grid


def small_organs(
    cases: Sequence[PreparedCase], organs: Sequence[str], limit: float, roi_zyx: Sequence[int]
) -> list[str]:
    """Organs that SOL- and SOS-Net take over, by `is_small` on the working grid."""
    small = []
    for index, organ in enumerate(organs):
        shown = [c for c in cases if c.annotated[index] and index + 1 in c.voxels]
        voxels = [c.voxels[index + 1].size for c in shown]
        if shown and is_small(voxels, [c.boxes[index + 1].shape_zyx for c in shown], limit, roi_zyx):
            small.append(organ)
    return small


def is_small(voxels: ArrayLike, extents_zyx: ArrayLike, limit: float, roi_zyx: Sequence[int]) -> bool:
    """The volume rule for one organ: FocusNet v1's, and that the ROI holds it.

    Args:
        voxels: (n,) voxels in each case, at working spacing; their mean is below ``limit`` for a small organ.
        extents_zyx: (n, 3) voxels from end to end; 95 % of the cases fit the ROI along each axis.
        limit: Greatest mean volume.
        roi_zyx: ROI of SOS-Net.
    """
    extent = np.percentile(np.asarray(extents_zyx, float), 95, axis=0)
    return bool(np.asarray(voxels, float).mean() < limit and np.all(extent <= np.asarray(roi_zyx)))
