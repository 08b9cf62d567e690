"""Which files below a folder make a scan: its CT, and what was drawn on it.

Three arrangements are understood: a folder per patient; a folder per patient with a folder per scan; and one folder of
files, where ``NAME.nrrd`` and ``NAME.seg.nrrd`` belong together. A CT is an image file or a DICOM series. Drawn organs
are a ``.seg.nrrd``, an RTSTRUCT, a label map whose values are named, or one mask per organ (named after it, or in a
folder ``structures``).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from focusnet.errors import FocusNetError
from focusnet.evaluation.reading import MASK_FOLDER, case_name
from focusnet.io.dicom import is_dicom
from focusnet.io.image import image_suffix, load_sitk
from focusnet.io.rtstruct import find_structure_sets
from focusnet.io.segmentation import SEGMENTATION_SUFFIX, labels_path

HIGHEST_MINIMUM_OF_CT_HU = -200
ROLE = re.compile(r"[ ._-]+(ct|image|img|0000|seg|segmentation|labels?|labelmap|masks?|contours?)$", re.IGNORECASE)


@dataclass(frozen=True)
class Scan:
    """Files that belong together.

    Attributes:
        name: Path of the folder (or name of the pair of files) below the source, for the user's eyes only.
        patient: First part of it: scans with the same one are of the same patient.
        folder: Where a DICOM series is looked for.
        files: All files of the scan.
    """

    name: str
    patient: str
    folder: Path
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Parts:
    """The files of a scan by what they are.

    Attributes:
        image: CT as an image file; None where it is a DICOM series.
        labels: One file with all drawn organs, a ``.seg.nrrd`` or a label map.
        masks: Instead of it, a mask per organ.
        structure_sets: Instead of both, RTSTRUCT files, of which one is to fit the CT.
    """

    image: Path | None
    labels: Path | None = None
    masks: tuple[Path, ...] = ()
    structure_sets: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Patterns of file names (``*``, ``?``) where a folder holds several CTs or several drawings; None takes all."""

    image: str | None = None
    labels: str | None = None


def find_scans(source: Path) -> list[Scan]:
    """The scans below a folder, sorted by name.

    Raises:
        FocusNetError: ``E_NO_CASES`` when there is none.
    """
    scans: list[Scan] = []
    if source.is_dir():
        own = [path for path in _visible(source) if path.is_file() and (image_suffix(path) or is_dicom(path))]
        scans = _pairs(source, own) if own else [s for p in _visible(source) if p.is_dir() for s in _of_patient(p)]
    if not scans:
        raise FocusNetError(
            "E_NO_CASES", f"No images below '{source.name}'; give a folder with one folder per patient."
        )
    return scans


def sort_parts(scan: Scan, choice: Choice, is_organ: Callable[[str], bool]) -> Parts:
    """Tell CT and drawn organs apart.

    Args:
        scan: Files.
        choice: Which of several files to take.
        is_organ: Whether a file's name is that of an organ.

    Raises:
        FocusNetError: ``E_NO_CT``, ``E_NO_LABELS``, ``E_AMBIGUOUS_CASE`` when there are several CTs or several sorts of
            drawn organs, and those of reading an image.
    """
    images = [path for path in scan.files if image_suffix(path)]
    segmentations = [p for p in images if p.name.lower().endswith(SEGMENTATION_SUFFIX)]
    plain = [p for p in images if p not in segmentations]
    masks = [p for p in plain if p.parent.name == MASK_FOLDER or is_organ(case_name(p))]
    structure_sets = [p for p in find_structure_sets(scan.folder) if p in scan.files]
    has_series = any(is_dicom(path) and path not in structure_sets for path in scan.files)
    alone = len(plain) - len(masks) == 1 and not has_series
    maps = [p for p in plain if p not in masks and not _is_ct(p, alone=alone)]
    cts = _matching([p for p in plain if p not in masks and p not in maps], choice.image)
    if not cts and not has_series:
        raise FocusNetError("E_NO_CT", "There is no CT: neither an image file in Hounsfield units nor a DICOM series.")
    if len(cts) > 1:
        raise FocusNetError(
            "E_AMBIGUOUS_CASE", f"There are several CTs ({_names(cts)}); choose by a pattern of the file name (--ct)."
        )
    image = cts[0] if cts else None
    masks, structure_sets = _matching(masks, choice.labels), _matching(structure_sets, choice.labels)
    sorts = [Parts(image, labels=path) for path in _matching([*segmentations, *maps], choice.labels)]
    sorts += [Parts(image, masks=tuple(masks))] if masks else []
    sorts += [Parts(image, structure_sets=tuple(structure_sets))] if structure_sets else []
    if not sorts:
        raise FocusNetError("E_NO_LABELS", "Nothing is drawn: no .seg.nrrd, RTSTRUCT, label map or masks.")
    if len(sorts) > 1:
        raise FocusNetError(
            "E_AMBIGUOUS_CASE",
            f"Several files hold organs ({_names([*segmentations, *maps, *masks, *structure_sets])}); choose by a "
            "pattern of the file name (--labels).",
        )
    return sorts[0]


def _pairs(source: Path, files: list[Path]) -> list[Scan]:
    """Scans of a folder of files: by the common part of their names, or all one scan where nothing is paired."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        groups[ROLE.sub("", case_name(path))].append(path)
    if sum(len(group) > 1 for group in groups.values()) == 0 or any(is_dicom(path) for path in files):
        return [Scan(source.name, source.name, source, tuple(_below(source)))]
    return [Scan(name, name, source, tuple(group)) for name, group in sorted(groups.items())]


def _of_patient(folder: Path) -> list[Scan]:
    inner = [path for path in _visible(folder) if path.is_dir()]
    direct = any(image_suffix(path) or is_dicom(path) for path in _visible(folder) if path.is_file())
    complete = [] if direct else [path for path in inner if _is_complete(path)]
    if len(complete) > 1:
        return [Scan(f"{folder.name}/{path.name}", folder.name, path, tuple(_below(path))) for path in complete]
    files = tuple(_below(folder))
    has_images = any(image_suffix(path) or is_dicom(path) for path in files)
    return [Scan(folder.name, folder.name, folder, files)] if has_images else []


def _is_complete(folder: Path) -> bool:
    """Whether a folder seems to hold both a CT and drawn organs."""
    files = _below(folder)
    images = [path for path in files if image_suffix(path)]
    structure_sets = find_structure_sets(folder)
    has_series = any(is_dicom(path) for path in files if path not in structure_sets)
    return len(images) + len(structure_sets) > (0 if has_series else 1)


def _is_ct(path: Path, *, alone: bool) -> bool:
    """A CT holds air; where a file is alone it is taken for the CT, and reading it tells whether it is one."""
    if labels_path(path).is_file():
        return False
    return alone or float(load_sitk(path).array.min()) < HIGHEST_MINIMUM_OF_CT_HU


def _matching(files: Iterable[Path], pattern: str | None) -> list[Path]:
    return [path for path in files if pattern is None or fnmatch(path.name, pattern)]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _names(files: Iterable[Path]) -> str:
    names = [path.name for path in files]
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
