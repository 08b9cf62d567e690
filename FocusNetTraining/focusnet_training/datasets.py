"""Training data: the nnU-Net v2 raw layout, with the organs that were annotated in each case.

dataset.json            labels by name (any spelling the organ catalogue knows), file ending
imagesTr/CASE_0000.EXT  CT in HU
labelsTr/CASE.EXT       label values
cases.json              optional: per case "split", "annotated" and "scored" organs
splits_final.json       optional: folds of "train" and "val" cases
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from focusnet import organs as catalogue
from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry, LabelMap, Volume, bounding_box, from_sitk
from focusnet.preprocessing import body_box, labels_to_grid, to_working_grid
from numpy.typing import NDArray

CACHE_VERSION = 1
DEFAULT_FOLDS = 5


@dataclass(frozen=True)
class Case:
    """One patient: files and what was drawn in it."""

    name: str
    image: Path
    label: Path
    annotated: frozenset[str]
    scored: frozenset[str]


@dataclass(frozen=True)
class Dataset:
    """Cases with one label set and a split by patient; ``statement`` says what they are, for model cards."""

    name: str
    labels: dict[int, str]
    cases: dict[str, Case]
    training: tuple[str, ...]
    validation: tuple[str, ...]
    statement: str = ""

    @property
    def organs(self) -> tuple[str, ...]:
        """Organ keys in the order of their label values."""
        return tuple(self.labels[value] for value in sorted(self.labels))


def read_dataset(folder: Path, fold: int = 0) -> Dataset:
    """Read the description of a data set; images are not opened.

    Raises:
        FocusNetError: ``E_DATASET`` when a file is missing or contradicts another, ``E_UNKNOWN_ORGAN`` for a label name
            the catalogue does not know.
    """
    description = _read_json(folder / "dataset.json")
    labels = {int(value): _organ_key(name) for name, value in description["labels"].items() if int(value) != 0}
    ending = description.get("file_ending", ".nii.gz")
    details = _read_json(folder / "cases.json")["cases"] if (folder / "cases.json").exists() else {}
    cases = {}
    for label in sorted((folder / "labelsTr").glob(f"*{ending}")):
        name = label.name[: -len(ending)]
        image = folder / "imagesTr" / f"{name}_0000{ending}"
        if not image.exists():
            raise FocusNetError("E_DATASET", f"Case {name} has a label but no image {image.name} in imagesTr.")
        detail = details.get(name, {})
        annotated = frozenset(_organ_key(n) for n in detail.get("annotated", ())) or frozenset(labels.values())
        scored = frozenset(_organ_key(n) for n in detail["scored"]) if "scored" in detail else annotated
        cases[name] = Case(name, image, label, annotated, scored)
    if not cases:
        raise FocusNetError("E_DATASET", f"No cases in {folder.name}/labelsTr with the ending {ending}.")
    training, validation = _split(folder, sorted(cases), details, fold)
    name = description.get("name", folder.name)
    statement = ". ".join(
        str(description[key]).rstrip(".") for key in ("description", "reference", "licence") if description.get(key)
    )
    return Dataset(name, labels, cases, training, validation, f"{name}. {statement}".rstrip(". ") + ".")


def _split(
    folder: Path, names: list[str], details: dict[str, Any], fold: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if (folder / "splits_final.json").exists():
        folds = _read_json(folder / "splits_final.json")
        if not 0 <= fold < len(folds):
            raise FocusNetError("E_DATASET", f"Fold {fold} of {len(folds)} does not exist.")
        training, validation = tuple(folds[fold]["train"]), tuple(folds[fold]["val"])
    elif details:
        training = tuple(n for n in names if details.get(n, {}).get("split", "training") == "training")
        validation = tuple(n for n in names if details.get(n, {}).get("split") == "validation")
    else:
        order = np.random.default_rng(12345).permutation(names)
        validation = tuple(sorted(order[fold % DEFAULT_FOLDS :: DEFAULT_FOLDS]))
        training = tuple(n for n in names if n not in validation)
    both = set(training) & set(validation)
    if both:
        raise FocusNetError("E_DATASET", f"In training and validation at once: {', '.join(sorted(both))}.")
    unknown = (set(training) | set(validation)) - set(names)
    if unknown:
        raise FocusNetError("E_DATASET", f"The split names cases without files: {', '.join(sorted(unknown)[:5])}.")
    if not training or not validation:
        raise FocusNetError("E_DATASET", "Training and validation need at least one case each; check the split.")
    return training, validation


def _organ_key(name: str) -> str:
    organ = catalogue.find(name)
    if organ is None:
        hint = ", ".join(catalogue.suggest(name)) or "see the organ catalogue"
        raise FocusNetError("E_UNKNOWN_ORGAN", f"No organ is called '{name}'; near: {hint}.")
    return organ.key


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise FocusNetError("E_DATASET", f"{path.name} is missing; give a folder in nnU-Net v2 raw layout.") from error
    except (OSError, json.JSONDecodeError) as error:
        raise FocusNetError("E_DATASET", f"{path.name} can't be read: {error}.") from error


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
        FocusNetError: ``E_DATASET`` when image and label of a case do not share a grid, or a label value is unknown.
    """
    cache.mkdir(parents=True, exist_ok=True)

    def one(name: str) -> PreparedCase:
        case = dataset.cases[name]
        stem = cache / f"{name}-{_cache_key(case, organs, spacing_xyz)}"
        if not stem.with_suffix(".json").exists():
            _write_prepared(case, dataset, organs, spacing_xyz, stem)
        meta = json.loads(stem.with_suffix(".json").read_text())
        return PreparedCase(
            name,
            np.load(stem.with_suffix(".ct.npy"), mmap_mode="r"),
            np.load(stem.with_suffix(".labels.npy"), mmap_mode="r"),
            Geometry(tuple(meta["shape_zyx"]), np.asarray(meta["affine"])),
            np.array([o in case.annotated for o in organs]),
            np.array([o in case.scored for o in organs]),
        )

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, names))


def _cache_key(case: Case, organs: Sequence[str], spacing_xyz: tuple[float, float, float]) -> str:
    files = [(p.stat().st_size, p.stat().st_mtime_ns) for p in (case.image, case.label)]
    return hashlib.sha256(repr((CACHE_VERSION, files, tuple(organs), spacing_xyz)).encode()).hexdigest()[:16]


def _write_prepared(
    case: Case, dataset: Dataset, organs: Sequence[str], spacing_xyz: tuple[float, float, float], stem: Path
) -> None:
    image, labels = read_case(dataset, case.name)
    ct, labels = prepare_pair(image, labels, organs, spacing_xyz)
    np.save(stem.with_suffix(".ct.npy"), ct.array)
    np.save(stem.with_suffix(".labels.npy"), labels.array)
    meta = {"shape_zyx": ct.array.shape, "affine": ct.geometry.affine.tolist()}
    # Written last: its presence says that the arrays are whole.
    partial = stem.with_suffix(".part")
    partial.write_text(json.dumps(meta))
    partial.rename(stem.with_suffix(".json"))


def read_case(dataset: Dataset, name: str) -> tuple[Volume, LabelMap]:
    """CT in HU and labels of one case on its native grid.

    Raises:
        FocusNetError: ``E_DATASET`` when image and label do not share a grid, or a label value is not defined.
    """
    case = dataset.cases[name]
    image, label = from_sitk(sitk.ReadImage(str(case.image))), from_sitk(sitk.ReadImage(str(case.label)))
    if not image.geometry.is_close(label.geometry, atol_mm=0.1):
        raise FocusNetError("E_DATASET", f"Image and label of {name} lie on different grids.")
    strange = set(np.unique(label.array).tolist()) - set(dataset.labels) - {0}
    if strange:
        raise FocusNetError("E_DATASET", f"Label values {sorted(strange)} of {name} are not defined in dataset.json.")
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
    """Organs that SOL- and SOS-Net take over: the volume rule of METHOD §6.

    An organ is small when its mean volume at working spacing is below ``limit`` voxels and its extent fits the ROI in
    95 % of the cases that show it.
    """
    small = []
    for index, organ in enumerate(organs):
        shown = [c for c in cases if c.annotated[index] and index + 1 in c.voxels]
        if not shown:
            continue
        mean = np.mean([c.voxels[index + 1].size for c in shown])
        extent = np.percentile([c.boxes[index + 1].shape_zyx for c in shown], 95, axis=0)
        if mean < limit and np.all(extent <= np.asarray(roi_zyx)):
            small.append(organ)
    return small
