"""RT structure sets as they stand in their files: references, structures, contours. No image is needed."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import RTStructureSetStorage

from focusnet.errors import FocusNetError
from focusnet.io.contour_stack import Contour
from focusnet.io.dicom_headers import is_dicom

CLOSED_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
FARTHEST_MM = 1e4
THINNEST_MM = 1e-3
UNDEFINED = 0xFFFFFFFF


@dataclass(eq=False)
class Roi:
    """One region of interest as the file has it.

    Attributes:
        number: ROI number, negative where the file has none.
        name: Name for people, never empty.
        frame: Frame of reference UID, or None.
        colour: RGB, 0 to 255, or None.
        spacing_mm: Distance of the pixel planes that the contours were made from, or None.
        contours: Closed contours that can be filled, ``(n, 3)`` LPS points in mm.
        left_out: Number of the other contours, by what is wrong with them.
        notes: Remarks, one line each.
    """

    number: int
    name: str
    frame: str | None
    colour: tuple[int, int, int] | None = None
    spacing_mm: float | None = None
    contours: list[Contour] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class RawStructureSet:
    """Content of an RTSTRUCT file.

    Attributes:
        label: Structure set label.
        frames: Frames of reference that the file names.
        series_uids: Image series that it names.
        rois: In the order of the file; contours without a listed ROI come last, each under a name of its own.
    """

    label: str
    frames: frozenset[str]
    series_uids: tuple[str, ...]
    rois: tuple[Roi, ...]


def parse_rtstruct(path: str | Path) -> RawStructureSet:
    """Read a structure set without filling its contours.

    Raises:
        FocusNetError: ``E_UNREADABLE``, ``E_NOT_RTSTRUCT``, ``E_NO_STRUCTURES``, ``E_DUPLICATE_ROI``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path, force=True)
            _check_kind(dataset)
            _check_whole(dataset)
            frames, series_uids = _references(dataset)
            rois = _rois(dataset, next(iter(frames)) if len(frames) == 1 else None)
            label = _text(dataset.get("StructureSetLabel"))
        except FocusNetError:
            raise
        except OSError as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else "can't be opened"
            raise FocusNetError("E_UNREADABLE", f"The structure set {reason}; check the path.") from error
        except Exception as error:  # the parser may stumble over anything in a damaged file
            raise FocusNetError(
                "E_UNREADABLE", "The structure set is damaged or truncated; copy or export it again."
            ) from error
    if not rois:
        raise FocusNetError("E_NO_STRUCTURES", "The structure set lists no structures; export it again.")
    return RawStructureSet(label, frames, series_uids, tuple(rois))


def find_structure_sets(folder: str | Path) -> list[Path]:
    """RTSTRUCT files below a folder, sorted by name; damaged files are passed over."""
    return [path for path in sorted(Path(folder).rglob("*")) if is_dicom(path) and _is_rtstruct(path)]


def _is_rtstruct(path: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = pydicom.dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
        except Exception:  # the parser may stumble over anything in a damaged file
            return False
        return bool(header.get("SOPClassUID") == RTStructureSetStorage)


def _check_kind(dataset: Dataset) -> None:
    kind, modality = dataset.get("SOPClassUID"), dataset.get("Modality")
    if kind == RTStructureSetStorage or (kind is None and (modality == "RTSTRUCT" or "ROIContourSequence" in dataset)):
        return
    what = "no DICOM object" if kind is None else f"a DICOM object of modality {modality or 'unknown'}"
    raise FocusNetError("E_NOT_RTSTRUCT", f"The file is {what}, not an RT structure set; give the RTSTRUCT file.")


def _check_whole(dataset: Dataset) -> None:
    """Refuse a file that ends within an element: pydicom reads it without the rest."""
    for element in dataset.values():
        value = element.value
        if isinstance(element, RawDataElement) and isinstance(value, bytes) and len(value) < element.length < UNDEFINED:
            raise FocusNetError(
                "E_UNREADABLE", "The structure set is truncated, so contours are missing; copy it again."
            )


def _references(dataset: Dataset) -> tuple[frozenset[str], tuple[str, ...]]:
    """Frames of reference and image series that a structure set names."""
    frames: set[str] = set()
    series: dict[str, None] = {}
    for frame in _items(dataset, "ReferencedFrameOfReferenceSequence"):
        frames.add(_text(frame.get("FrameOfReferenceUID")))
        for study in _items(frame, "RTReferencedStudySequence"):
            for item in _items(study, "RTReferencedSeriesSequence"):
                series[_text(item.get("SeriesInstanceUID"))] = None
    for item in _items(dataset, "StructureSetROISequence"):
        frames.add(_text(item.get("ReferencedFrameOfReferenceUID")))
    return frozenset(frames - {""}), tuple(uid for uid in series if uid)


def _rois(dataset: Dataset, only_frame: str | None) -> list[Roi]:
    is_plain = str(dataset.get("SpecificCharacterSet") or "") in ("", "ISO_IR 6")
    rois: dict[int, Roi] = {}
    for place, item in enumerate(_items(dataset, "StructureSetROISequence")):
        number = _integer(item.get("ROINumber"), -1 - place)
        if number in rois:
            raise FocusNetError(
                "E_DUPLICATE_ROI",
                f"Two structures have the ROI number {number}, so their contours can't be told apart; export again.",
            )
        name = _name(item.get("ROIName"), is_plain) or (f"ROI {number}" if number >= 0 else "ROI without number")
        rois[number] = Roi(number, name, _text(item.get("ReferencedFrameOfReferenceUID")) or only_frame)
    for place, item in enumerate(_items(dataset, "ROIContourSequence")):
        number = _integer(item.get("ReferencedROINumber"), -100_000 - place)
        if number not in rois:
            rois[number] = Roi(number, f"unlisted ROI {number}" if number >= 0 else "unlisted ROI", only_frame)
            rois[number].notes.append("the file has contours for this structure but doesn't list it")
        _read_contours(item, rois[number])
    return list(rois.values())


def _read_contours(item: Dataset, roi: Roi) -> None:
    roi.colour = roi.colour or _colour(item.get("ROIDisplayColor"))
    planes = next(iter(_items(item, "SourcePixelPlanesCharacteristicsSequence")), None)
    if planes is not None and (spacing := float(planes.get("SpacingBetweenSlices") or 0.0)) > 0:
        roi.spacing_mm = spacing
    known = {_vertices(points) for points in roi.contours}
    for contour in _items(item, "ContourSequence"):
        points, reason = _points(contour)
        if points is None:
            roi.left_out[reason] += 1
        elif (vertices := _vertices(points)) in known:
            roi.left_out["drawn twice"] += 1
        else:
            known.add(vertices)
            roi.contours.append(points)
            if reason:
                roi.notes.append(reason)


def _points(contour: Dataset) -> tuple[Contour | None, str]:
    """Points ``(n, 3)`` of a closed contour and a remark, or None and the reason why there are none."""
    kind = _text(contour.get("ContourGeometricType")).upper()
    if kind == "POINT":
        return None, "single point(s)"
    if kind.startswith("OPEN"):
        return None, "open contour(s)"
    if kind and kind not in CLOSED_TYPES:
        return None, "contour(s) of unknown type"
    try:
        values = _numbers(contour)
    except (ValueError, TypeError, UnicodeDecodeError):
        return None, "contour(s) with unreadable coordinates"
    if values.size == 0:
        return None, "contour(s) without coordinates"
    if values.size % 3:
        return None, "contour(s) with an incomplete point"
    if not np.isfinite(values).all() or np.abs(values).max() > FARTHEST_MM:
        return None, "contour(s) with impossible coordinates"
    points = values.reshape(-1, 3)
    moved = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1) > 0.0
    stated = _integer(contour.get("NumberOfContourPoints"), len(points))
    points = points[moved]
    if len(points) < 3:
        return None, "contour(s) of one or two points"
    if np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[1] < THINNEST_MM:
        return None, "contour(s) without area"
    if stated != values.size // 3:
        return points, f"a contour states {stated} points and has {values.size // 3}; all were taken"
    return points, "" if kind else "a contour has no type; taken as closed"


def _numbers(contour: Dataset) -> NDArray[np.float64]:
    element: Any = contour.get_item("ContourData")
    if element is None:
        return np.empty(0)
    value = element.value
    if isinstance(element, RawDataElement) and isinstance(value, bytes):
        text = value.strip(b" \0")
        return np.array(text.split(b"\\"), dtype=np.bytes_).astype(np.float64) if text else np.empty(0)
    return np.atleast_1d(np.array([] if value is None else value, dtype=np.float64))


def _vertices(points: Contour) -> bytes:
    """The same for contours through the same points, wherever they start and whichever way they run."""
    rounded = np.round(points, 3) + 0.0
    return rounded[np.lexsort(rounded.T)].tobytes()


def _items(dataset: Dataset, keyword: str) -> Sequence[Dataset]:
    value = dataset.get(keyword)
    if value is None:
        return ()
    if not isinstance(value, pydicom.Sequence):
        raise TypeError(f"{keyword} is no sequence")
    return value


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _integer(value: Any, default: int) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return default


def _name(value: Any, is_plain: bool) -> str:
    """Printable name; UTF-8 bytes in a file that declares no character set are read as such."""
    name = _text("\\".join(value) if isinstance(value, MultiValue) else value)
    if is_plain and not name.isascii():
        with contextlib.suppress(UnicodeError):
            name = name.encode("latin-1").decode("utf-8")
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())


def _colour(value: Any) -> tuple[int, int, int] | None:
    try:
        red, green, blue = (int(v) for v in value)
    except (TypeError, ValueError):
        return None
    return (red, green, blue) if all(0 <= v <= 255 for v in (red, green, blue)) else None
