"""The files of a data set: nnU-Net v2 raw folders, and those of the Medical Segmentation Decathlon, as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from focusnet import organs as catalogue
from focusnet.errors import FocusNetError
from focusnet.io.image import image_suffix

CHANNEL = "_0000"
STATEMENT_FIELDS = ("description", "reference", "licence")


@dataclass(frozen=True)
class Layout:
    """What ``dataset.json`` and the folder say, before any image is opened.

    Attributes:
        name: Name of the data set.
        labels: Organ key of each label value, without the background.
        files: Image and label map of each case.
        statement: Description, reference and licence as sentences.
    """

    name: str
    labels: dict[int, str]
    files: dict[str, tuple[Path, Path]]
    statement: str


def read_layout(folder: Path) -> Layout:
    """Read ``dataset.json`` and find the training cases.

    nnU-Net v2 names its labels ``{"name": value}`` and finds ``imagesTr/CASE_0000.EXT`` by ``labelsTr/CASE.EXT``; the
    Decathlon writes ``{"value": "name"}`` and lists its training files.

    Raises:
        FocusNetError: ``E_DATASET`` when a file is missing or contradicts another, ``E_UNKNOWN_ORGAN`` for a label name
            the catalogue does not know.
    """
    description = read_json(folder / "dataset.json")
    if not isinstance(description, dict) or not isinstance(description.get("labels"), dict):
        raise FocusNetError("E_DATASET", "dataset.json holds no table 'labels' of organ names and label values.")
    channels = description.get("channel_names") or description.get("modality") or {}
    if len(channels) > 1:
        raise FocusNetError("E_DATASET", f"The images have {len(channels)} channels; a data set of one CT is needed.")
    labels = _labels(description["labels"])
    listed = description.get("training")
    if isinstance(listed, list):
        files = {}
        for item in listed:
            case, pair = _listed_case(folder, item)
            if case in files:
                raise FocusNetError("E_DATASET", f"dataset.json lists case {case} twice.")
            files[case] = pair
    else:
        files = _nnunet_files(folder, str(description.get("file_ending", ".nii.gz")))
    name = str(description.get("name", folder.name))
    sentences = (str(description[key]).rstrip(".") for key in STATEMENT_FIELDS if description.get(key))
    statement = f"{name}. {'. '.join(sentences)}".rstrip(". ") + "."
    return Layout(name, labels, dict(sorted(files.items())), statement)


def organ_key(name: str) -> str:
    """Canonical key of an organ's name in any spelling.

    Raises:
        FocusNetError: ``E_UNKNOWN_ORGAN``.
    """
    organ = catalogue.find(name)
    if organ is None:
        hint = ", ".join(catalogue.suggest(name)) or "see the organ catalogue"
        raise FocusNetError("E_UNKNOWN_ORGAN", f"No organ is called '{name}'; near: {hint}.")
    return organ.key


def read_json(path: Path) -> Any:
    """Content of a JSON file of a data set.

    Raises:
        FocusNetError: ``E_DATASET`` when it is missing or damaged.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise FocusNetError("E_DATASET", f"{path.name} is missing; give a folder in nnU-Net v2 raw layout.") from error
    except (OSError, ValueError) as error:
        raise FocusNetError("E_DATASET", f"{path.name} can't be read: {error}.") from error


def _labels(table: Mapping[str, Any]) -> dict[int, str]:
    labels: dict[int, str] = {}
    for key, value in table.items():
        name, number = (value, key) if isinstance(value, str) else (key, value)
        try:
            number = int(number)
        except (TypeError, ValueError):
            raise FocusNetError(
                "E_DATASET", f"The label of '{name}' in dataset.json is no single number; label each organ on its own."
            ) from None
        if number == 0:
            continue
        organ = organ_key(name)
        if number in labels or organ in labels.values() or not 0 < number < 256:
            raise FocusNetError(
                "E_DATASET", f"'{name}' = {number} in dataset.json: organs and values from 1 to 255 stand once each."
            )
        labels[number] = organ
    if not labels:
        raise FocusNetError("E_DATASET", "dataset.json names no organ.")
    return labels


def _nnunet_files(folder: Path, ending: str) -> dict[str, tuple[Path, Path]]:
    files = {}
    for label in (folder / "labelsTr").glob(f"*{ending}"):
        if label.name.startswith("."):
            continue
        name = label.name[: -len(ending)]
        image = folder / "imagesTr" / f"{name}{CHANNEL}{ending}"
        if not image.exists():
            raise FocusNetError("E_DATASET", f"Case {name} has a label but no image {image.name} in imagesTr.")
        files[name] = image, label
    if not files:
        raise FocusNetError("E_DATASET", f"No cases in {folder.name}/labelsTr with the ending {ending}.")
    return files


def _listed_case(folder: Path, item: Any) -> tuple[str, tuple[Path, Path]]:
    """A pair of the Decathlon's list; nnU-Net v1 adds the channel to the image's name on disk only."""
    try:
        image, label = (folder / item[key] for key in ("image", "label"))
    except (TypeError, KeyError):
        raise FocusNetError("E_DATASET", "dataset.json lists a training case without 'image' and 'label'.") from None
    if not all(path.resolve().is_relative_to(folder.resolve()) for path in (image, label)):
        raise FocusNetError("E_DATASET", f"dataset.json lists {label.name} outside the data set's folder.")
    ending = image_suffix(label) or label.suffix
    stem = label.name[: len(label.name) - len(ending)]
    if not image.exists():
        ending = image_suffix(image) or image.suffix
        image = image.with_name(f"{image.name[: len(image.name) - len(ending)]}{CHANNEL}{ending}")
    for path in (image, label):
        if not path.is_file():
            raise FocusNetError("E_DATASET", f"dataset.json lists {path.name}, which is not there.")
    return stem, (image, label)
