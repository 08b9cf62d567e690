"""Labelled scans on disk: finding the cases of a folder and reading the organs of one case.

A place is a file, a folder of cases, the folder of one case, or a path with one ``*`` that stands for the name of the
case, such as ``contours/*/oncologist.seg.nrrd``. A case is one of

- a ``.seg.nrrd`` file (segments by name, overlapping ones too),
- a label map with the names of its values beside it: ``CASE.labels.json``, or ``dataset.json`` in its folder or the one
  above (nnU-Net),
- an RTSTRUCT file, with the CT it was drawn on, or a DICOM SEG file,
- a folder with one of these, with the DICOM files of an RTSTRUCT or SEG and its CT, or with one binary mask per organ.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.uid import SegmentationStorage

from focusnet import organs
from focusnet.errors import FocusNetError
from focusnet.evaluation.masks import CroppedMask, OrganMasks, keys_of_names, not_left_out
from focusnet.geometry import Geometry
from focusnet.io import read_volume
from focusnet.io.dicom import is_dicom
from focusnet.io.dicom_headers import read_tags
from focusnet.io.dicom_seg import read_dicom_seg
from focusnet.io.image import SUFFIXES, image_suffix, load_sitk
from focusnet.io.rtstruct import NO_CONTOURS, RTStructRules, find_structure_sets, read_rtstruct
from focusnet.io.segmentation import SEGMENTATION_SUFFIX, labels_path, read_segmentation

CHANNEL_ENDING = re.compile(r"_0000$")
UNNAMED = re.compile(r"label \d+")
MASK_FOLDER = "structures"


@dataclass(frozen=True)
class ReadSettings:
    """How labelled scans are to be read.

    Attributes:
        label_names: Name of each label value; None to look beside the files.
        spellings: Organ of names that the catalogue does not know, see :func:`focusnet.io.names.read_name_table`.
        ct: CT that an RTSTRUCT was drawn on (image file or DICOM folder); None to look in the case's folder.
        drawn_only: Leave out structures of an RTSTRUCT without contours: in a reference they come from a template, and
            nobody has said that the organ is not there. Else they are organs that were not found.
    """

    label_names: Mapping[int, str] | None = None
    spellings: Mapping[str, str] | None = None
    ct: Path | None = None
    drawn_only: bool = False


def find_cases(place: str | Path) -> dict[str, Path]:
    """File or folder of each labelled scan, by name of the case.

    Args:
        place: File, folder, or a path with one ``*`` for the name of the case.

    Returns:
        Paths by case, in the order of their names.

    Raises:
        FocusNetError: ``E_NO_CASES`` when nothing is found, ``E_USAGE`` for a pattern with several ``*``.
    """
    place = Path(place)
    if "*" in str(place):
        found = _match_pattern(place)
    elif place.is_dir():
        found = _cases_of_folder(place)
    else:
        found = {case_name(place): place} if place.is_file() else {}
    if not found:
        raise FocusNetError(
            "E_NO_CASES",
            f"No labelled scan at '{place.name}'; give a file, a folder of files named by case, or a path with * for "
            "the case.",
        )
    return dict(sorted(found.items()))


def find_images(place: str | Path) -> dict[str, Path]:
    """CT of each case by its name: image files (a channel ending ``_0000`` is dropped), or DICOM folders.

    Raises:
        FocusNetError: ``E_NO_CASES``, ``E_USAGE``.
    """
    place = Path(place)
    if "*" in str(place):
        found = _match_pattern(place)
    elif place.is_dir():
        children = _visible(place)
        found = {case_name(p): p for p in children if p.is_dir() or image_suffix(p)}
        if any(p.is_file() and is_dicom(p) for p in children):
            found = {place.name: place}
    else:
        found = {case_name(place): place} if place.is_file() else {}
    if not found:
        raise FocusNetError("E_NO_CASES", f"No CT at '{place.name}'; give an image file, or a folder with one a case.")
    return {CHANNEL_ENDING.sub("", name): path for name, path in sorted(found.items())}


def case_name(path: Path) -> str:
    """Name of a case: the file's name without its known ending."""
    name = path.name
    for ending in (SEGMENTATION_SUFFIX, *SUFFIXES, ".dcm"):
        if path.is_file() and name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return name


def read_case(path: str | Path, settings: ReadSettings | None = None) -> OrganMasks:
    """Organs of one labelled scan.

    Args:
        path: As :func:`find_cases` returns it.
        settings: Label names and CT.

    Returns:
        Cropped masks by organ, and the names that the organ catalogue does not know.

    Raises:
        FocusNetError: ``E_UNREADABLE``, ``E_LABEL_NAMES`` (label values without names), ``E_AMBIGUOUS_CASE`` (several
            labelled files), ``E_AMBIGUOUS_ORGAN``, ``E_NO_CASES``, and those of the readers of each format.
    """
    path, settings = Path(path), settings or ReadSettings()
    files = label_files(path)
    if len(files) > 1:
        return read_masks(files, settings.spellings)
    (file,) = files
    if image_suffix(file) is None:
        if _is_segmentation(file):
            return OrganMasks.of_segmentation(read_dicom_seg(file), settings.spellings)
        return _read_structures(file, settings.ct or (path if path.is_dir() else path.parent), settings)
    names = settings.label_names or _names_beside(file)
    segmentation = read_segmentation(file, names)
    if names is None and all(UNNAMED.fullmatch(name) for name in segmentation.names):
        raise FocusNetError(
            "E_LABEL_NAMES",
            f"Nothing says which organs the label values of '{file.name}' are; put {labels_path(file).name} or "
            "dataset.json beside it, or name a table of labels.",
        )
    return OrganMasks.of_segmentation(segmentation, settings.spellings)


def label_files(path: Path) -> list[Path]:
    """Files that hold the organs of one case; several only when each is the mask of one organ.

    Raises:
        FocusNetError: ``E_NO_CASES``, ``E_AMBIGUOUS_CASE``.
    """
    if path.is_file():
        return [path]
    folder = path / MASK_FOLDER if (path / MASK_FOLDER).is_dir() else path
    files = [p for p in _visible(folder) if p.is_file()]
    labelled = [p for p in files if image_suffix(p) and not CHANNEL_ENDING.search(case_name(p))]
    masks = [p for p in labelled if organs.find(case_name(p))]
    if labelled and (folder.name == MASK_FOLDER or len(masks) > 1):
        return labelled if folder.name == MASK_FOLDER else masks
    candidates = labelled or _drawn(folder)
    if not candidates:
        raise FocusNetError("E_NO_CASES", f"The folder '{path.name}' holds no labelled scan.")
    if len(candidates) > 1:
        names = ", ".join(p.name for p in candidates[:4])
        raise FocusNetError(
            "E_AMBIGUOUS_CASE",
            f"The folder '{path.name}' holds several labelled scans ({names}); choose with a path such as "
            f"'*/{candidates[0].name}', where * is the case.",
        )
    return candidates


def read_label_names(path: str | Path) -> dict[int, str]:
    """Name of each label value from a JSON file; the background is left out.

    Args:
        path: ``{"name": value}``, ``{"value": "name"}``, or either under the key ``labels`` (nnU-Net's dataset.json).

    Raises:
        FocusNetError: ``E_LABEL_NAMES`` when the file holds no such table.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        table = content.get("labels", content)
        pairs = [(int(key), value) if isinstance(value, str) else (value, key) for key, value in table.items()]
        if not all(isinstance(value, int) for value, _ in pairs):
            raise ValueError("label values are whole numbers")
    except (OSError, ValueError, AttributeError) as error:
        raise FocusNetError(
            "E_LABEL_NAMES", f"'{path.name}' holds no table of label names; write {{\"Parotid_L\": 1}} for each label."
        ) from error
    return {value: name for value, name in pairs if value != 0}


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _match_pattern(pattern: Path) -> dict[str, Path]:
    text = pattern.as_posix()
    if text.count("*") != 1:
        raise FocusNetError("E_USAGE", f"'{text}' has more than one *; exactly one stands for the name of the case.")
    star = next(i for i, part in enumerate(pattern.parts) if "*" in part)
    root = Path(*pattern.parts[:star]) if star else Path()
    before, after = text.split("*")
    name = re.compile(re.escape(before) + r"([^/]+)" + re.escape(after))
    matches = ((name.fullmatch(path.as_posix()), path) for path in root.glob("/".join(pattern.parts[star:])))
    return {match.group(1): path for match, path in matches if match}


def _cases_of_folder(folder: Path) -> dict[str, Path]:
    children = _visible(folder)
    images = [p for p in children if p.is_file() and image_suffix(p)]
    if images:
        one_case = all(organs.find(case_name(p)) for p in images)
        return {folder.name: folder} if one_case else {case_name(p): p for p in images}
    dicom = [p for p in children if p.is_file() and is_dicom(p)]
    if dicom:
        structures = [p for p in _drawn(folder) if p in dicom]
        return {case_name(p): p for p in structures} if len(structures) == len(dicom) else {folder.name: folder}
    if (folder / MASK_FOLDER).is_dir():
        return {folder.name: folder}
    return {p.name: p for p in children if p.is_dir() and any(image_suffix(f) or is_dicom(f) for f in p.rglob("*"))}


def _names_beside(path: Path) -> dict[int, str] | None:
    places = [labels_path(path), *(folder / "dataset.json" for folder in (path.parent, path.parent.parent))]
    return next((read_label_names(place) for place in places if place.is_file()), None)


def read_masks(files: Sequence[Path], spellings: Mapping[str, str] | None = None) -> OrganMasks:
    """Organs of binary masks, each a file named after its organ.

    Raises:
        FocusNetError: ``E_NO_CASES`` when no file is named after a known organ, ``E_BAD_GEOMETRY`` for masks on
            different grids, ``E_AMBIGUOUS_ORGAN``, ``E_NOT_3D``, ``E_UNREADABLE`` (also for values that are neither 0
            nor one positive number).
    """
    keys = keys_of_names([case_name(file) for file in files], spellings)
    masks: dict[str, CroppedMask | None] = {}
    geometry: Geometry | None = None
    for file in files:
        if case_name(file) not in keys:
            continue
        image = load_sitk(file)
        if geometry is None:
            geometry = image.geometry
        elif not geometry.is_close(image.geometry):
            raise FocusNetError("E_BAD_GEOMETRY", f"'{file.name}' lies on another grid than the masks beside it.")
        if image.array.ndim != 3:
            raise FocusNetError("E_NOT_3D", f"'{file.name}' has several values per voxel and is no mask.")
        low, high = image.array.min(), image.array.max()
        if not (low >= 0 and np.isfinite(high) and np.isin(image.array, (0, high)).all()):
            raise FocusNetError(
                "E_UNREADABLE",
                f"'{file.name}' is no mask: its values are not 0 and one positive number (probabilities? give masks).",
            )
        masks[keys[case_name(file)]] = CroppedMask.of(image.array)
    if geometry is None:
        raise FocusNetError("E_NO_CASES", f"No file in '{files[0].parent.name}' is named after a known organ.")
    unmapped = [case_name(file) for file in files if case_name(file) not in keys]
    return OrganMasks(geometry, masks, not_left_out(unmapped, spellings))


def _drawn(folder: Path) -> list[Path]:
    """RTSTRUCT and DICOM SEG files below a folder."""
    return sorted({*find_structure_sets(folder), *filter(_is_segmentation, folder.rglob("*"))})


def _is_segmentation(path: Path) -> bool:
    if not is_dicom(path):
        return False
    try:
        return read_tags(path, ["SOPClassUID"]).get("SOPClassUID") == SegmentationStorage
    except Exception:  # the parser may stumble over anything in a damaged file
        return False


def _read_structures(path: Path, ct: Path, settings: ReadSettings) -> OrganMasks:
    if not is_dicom(path):
        raise FocusNetError("E_UNREADABLE", f"'{path.name}' is neither a label map nor an RTSTRUCT or DICOM SEG.")
    geometry = read_volume(ct).geometry
    found = read_rtstruct(path, geometry, RTStructRules(names=settings.spellings))
    structures = found.structures
    # A structure whose contours were all refused is not one that is empty.
    kept = (s for s in structures if s.organ and (s.box or (s.notes == (NO_CONTOURS,) and not settings.drawn_only)))
    masks = {s.organ: CroppedMask.of(s.crop, s.box.start_zyx) if s.box else None for s in kept if s.organ}
    notes = (*found.notes, *(f"{s.name}: {note}" for s in structures if s.organ for note in s.notes))
    unmapped = [structure.name for structure in structures if structure.organ is None]
    return OrganMasks(geometry, masks, not_left_out(unmapped, settings.spellings), notes)
