"""Headers of a DICOM folder: which CT series it holds, and what places its slices. Pixels are not read.

Nothing that identifies a patient is read here, except by :func:`read_tags` on request.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from focusnet.errors import FocusNetError

MIN_SLICES = 3
AXIAL_COSINE = 0.7
UNIT_TOLERANCE = 1e-2
RIGHT_ANGLE_TOLERANCE = 1e-3
DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
ENHANCED_CT = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
DIRECTORY = "1.2.840.10008.1.3.10"
HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID",
    "Modality", "ImageType", "NumberOfFrames", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient",
    "ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "SamplesPerPixel", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class SliceHeader:
    """One slice: a file, or a frame of a multi-frame file.

    Attributes:
        path: File; ``frame`` is its frame index, None in a single-frame file.
        position_mm: LPS position of the centre of the first pixel.
        row_direction: Unit vector along a row (from column to column); ``column_direction`` down a column.
        spacing_mm: Distance between rows and between columns.
        shape: Rows and columns.
        slope: Rescale slope and ``intercept``; None where the header has none.
        padding: Stored values that mean "no data", lowest and highest; None where there are none.
    """

    path: Path
    frame: int | None
    sop_class_uid: str
    sop_instance_uid: str
    position_mm: NDArray[np.float64]
    row_direction: NDArray[np.float64]
    column_direction: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]
    slope: float | None
    intercept: float | None
    padding: tuple[float, float] | None

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit normal of the slice."""
        return np.cross(self.row_direction, self.column_direction)


@dataclass(frozen=True, eq=False)
class Series:
    """The CT slices of one series, unsorted; localizers are left out."""

    uid: str
    number: int | None
    study_uid: str
    frames_of_reference: frozenset[str]
    slices: tuple[SliceHeader, ...]

    @property
    def is_axial(self) -> bool:
        """Whether the slices cut the patient across rather than along."""
        return bool(abs(self.slices[0].normal[2]) > AXIAL_COSINE)

    @property
    def description(self) -> str:
        """Number and size for a message, without anything about the patient."""
        name = "unnumbered" if self.number is None else f"number {self.number}"
        return f"{name} ({len(self.slices)} slices)"


def ct_series_uid(path: Path) -> str | None:
    """Series of a file that is a CT slice; None for any other file, and for one that is still being written."""
    try:
        header = _read_header(path)
        is_ct = header is not None and header.get("Modality") == "CT" and "Rows" in header and _is_slice(header)
    except Exception:  # a damaged file may raise anything where a value of it is read
        return None
    return str(header.get("SeriesInstanceUID") or "") or None if is_ct and header is not None else None


def is_dicom(path: Path) -> bool:
    """Whether a file starts as DICOM files do."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:  # a folder, gone, or not ours to read
        return False


def select_series(source: Path | Sequence[Path], series_uid: str | None, series_number: int | None) -> Series:
    """The one CT series of a folder (searched with its subfolders) or of some files, or the one asked for.

    Localizers, secondary captures and other modalities are passed over. Axial series of at least three slices go
    before others. Where several remain, the caller must choose: a guess could be another patient's or phase's scan.

    Raises:
        FocusNetError: ``E_NO_SERIES``, ``E_NOT_CT``, ``E_TOO_FEW_SLICES``, ``E_MULTIPLE_SERIES``, and those of
            :func:`find_series`.
    """
    found = find_series(source)
    if series_uid is not None or series_number is not None:
        found = [
            s for s in found if series_uid in (None, s.uid) and (series_number is None or series_number == s.number)
        ]
        if not found:
            raise FocusNetError("E_NO_SERIES", "The folder holds no CT series of that UID or number; list it first.")
    long_enough = [series for series in found if len(series.slices) >= MIN_SLICES]
    if not long_enough:
        counts = ", ".join(str(len(series.slices)) for series in found)
        raise FocusNetError(
            "E_TOO_FEW_SLICES",
            f"The CT series has too few slices ({counts}), at least {MIN_SLICES} are needed; give the whole folder.",
        )
    candidates = [series for series in long_enough if series.is_axial] or long_enough
    if len(candidates) > 1:
        listed = ", ".join(series.description for series in candidates)
        raise FocusNetError(
            "E_MULTIPLE_SERIES", f"The folder holds {len(candidates)} CT series: {listed}; choose one of them."
        )
    return candidates[0]


def find_series(source: Path | Sequence[Path]) -> list[Series]:
    """All CT series below a folder or among some files, in order of their numbers. Other files are passed over.

    Raises:
        FocusNetError: ``E_NO_SERIES`` when there are no DICOM images, ``E_NOT_CT`` when there are but no CT,
            ``E_UNREADABLE`` when a file is damaged, ``E_BAD_GEOMETRY``, ``E_MULTIFRAME``.
    """
    groups: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    modalities: Counter[str] = Counter()
    damaged = 0
    for path in _files(source):
        header = _read_header(path)
        if header is None:
            continue
        if "SeriesInstanceUID" not in header or "Modality" not in header:
            damaged += 1
        elif "Rows" in header:
            modalities[str(header.Modality)] += 1
            if header.Modality == "CT" and _is_slice(header):
                groups[str(header.SeriesInstanceUID)].append((path, header))
    if damaged:
        raise FocusNetError("E_UNREADABLE", f"{damaged} DICOM files are damaged or truncated; copy the series again.")
    if groups:
        found = [_series(uid, headers) for uid, headers in groups.items()]
        return sorted(found, key=lambda series: (series.number is None, series.number, series.uid))
    if not modalities:
        raise FocusNetError("E_NO_SERIES", "The folder holds no DICOM images; give the folder of a CT series.")
    if "CT" in modalities:
        raise FocusNetError(
            "E_TOO_FEW_SLICES", "The folder holds CT localizers or captures only; give the folder of a CT series."
        )
    listed = ", ".join(f"{count} {modality}" for modality, count in sorted(modalities.items()))
    raise FocusNetError("E_NOT_CT", f"The folder holds no CT but {listed} images; give the folder of a CT series.")


def _files(source: Path | Sequence[Path]) -> Sequence[Path]:
    if not isinstance(source, Path):
        return source
    return (
        [source]
        if source.is_file()
        else sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith("."))
    )


def read_tags(path: Path, keywords: Iterable[str]) -> dict[str, str]:
    """Text of the named attributes of a file, several values joined by backslashes; empty ones are left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(keywords), force=True)
        values = {keyword: header.get(keyword) for keyword in keywords}
    texts = {keyword: _text(value) for keyword, value in values.items()}
    return {keyword: text for keyword, text in texts.items() if text}


def _text(value: Any) -> str:
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def _read_header(path: Path) -> Dataset | None:
    """Header, empty where it can't be parsed; None where the file is not DICOM, or only the index of a disc."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = _parsed(path)
        except InvalidDicomError:
            if path.suffix.lower() not in DICOM_SUFFIXES:
                return None
        except Exception:  # the parser may stumble over anything in a damaged file
            return Dataset()
        else:
            return None if header.file_meta.get("MediaStorageSOPClassUID") == DIRECTORY else header
        try:  # files of some systems lack the 128-byte preamble
            return _parsed(path, force=True)
        except Exception:  # not DICOM at all
            return Dataset()


def _parsed(path: Path, *, force: bool = False) -> Dataset:
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=HEADER_TAGS, force=force)
    for _ in header:  # values are parsed when they are asked for: damage shows here, not later
        continue
    return header


def _is_slice(header: Dataset) -> bool:
    """Neither a localizer nor a screen capture, which has no place in the patient."""
    if "LOCALIZER" in (header.get("ImageType") or []):
        return False
    return "ImagePositionPatient" in header or int(header.get("NumberOfFrames") or 1) > 1


def _series(uid: str, headers: list[tuple[Path, Dataset]]) -> Series:
    try:
        slices = [item for path, header in headers for item in _slices(path, header)]
        number = _number(headers[0][1], "SeriesNumber")
        return Series(
            uid=uid,
            number=None if number is None else int(number),
            study_uid=str(headers[0][1].get("StudyInstanceUID", "")),
            frames_of_reference=frozenset(str(header.get("FrameOfReferenceUID") or "") for _, header in headers),
            slices=tuple(slices),
        )
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise FocusNetError(
            "E_BAD_GEOMETRY",
            "A CT header lacks a valid position, orientation, size or pixel spacing; export the series again.",
        ) from error


def _slices(path: Path, header: Dataset) -> list[SliceHeader]:
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise FocusNetError("E_NOT_3D", "The series holds colour images; give the original CT slices.")
    frames = int(header.get("NumberOfFrames") or 1)
    if header.SOPClassUID in ENHANCED_CT:
        return [_slice(path, header, _frame_groups(header, frame), frame) for frame in range(frames)]
    if frames > 1:
        raise FocusNetError(
            "E_MULTIFRAME", "The series is a multi-frame capture without positions; export the original CT slices."
        )
    return [_slice(path, header, header, None)]


def _slice(path: Path, header: Dataset, place: Dataset, frame: int | None) -> SliceHeader:
    """``place``: dataset with the geometry and rescale of this slice, the header itself in a single-frame file."""
    row, column = _directions(place.ImageOrientationPatient)
    position = np.array([float(v) for v in place.ImagePositionPatient])
    between_rows, between_columns = (float(v) for v in place.PixelSpacing)
    if position.shape != (3,) or not np.isfinite(position).all() or not min(between_rows, between_columns) > 0:
        raise ValueError("position or pixel spacing")
    return SliceHeader(
        path=path,
        frame=frame,
        sop_class_uid=str(header.SOPClassUID),
        sop_instance_uid=str(header.SOPInstanceUID),
        position_mm=position,
        row_direction=row,
        column_direction=column,
        spacing_mm=(between_rows, between_columns),
        shape=(int(header.Rows), int(header.Columns)),
        slope=_number(place, "RescaleSlope"),
        intercept=_number(place, "RescaleIntercept"),
        padding=_padding(header),
    )


def _number(header: Dataset, keyword: str) -> float | None:
    """Value of an attribute, None where it is absent or empty."""
    value = header.get(keyword)
    return None if value in (None, "") else float(value)


def _directions(orientation: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors at an exact right angle from the six rounded numbers of the header."""
    row, column = np.array([float(v) for v in orientation]).reshape(2, 3)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1.0, atol=UNIT_TOLERANCE) or abs(row @ column) > RIGHT_ANGLE_TOLERANCE:
        raise ValueError("orientation")
    row = row / lengths[0]
    column = column - (column @ row) * row
    return row, column / np.linalg.norm(column)


def _frame_groups(header: Dataset, frame: int) -> Dataset:
    """Geometry and rescale of one frame of an enhanced CT, gathered from its functional groups."""
    gathered = Dataset()
    try:
        groups = [header.SharedFunctionalGroupsSequence[0], header.PerFrameFunctionalGroupsSequence[frame]]
        for group in groups:
            for name in (
                "PixelMeasuresSequence",
                "PlaneOrientationSequence",
                "PlanePositionSequence",
                "PixelValueTransformationSequence",
            ):
                if name in group:
                    gathered.update(group[name].value[0])
    except (AttributeError, IndexError) as error:
        raise FocusNetError(
            "E_MULTIFRAME", "The multi-frame CT lacks its functional groups; export it as single-frame slices."
        ) from error
    return gathered


def _padding(header: Dataset) -> tuple[float, float] | None:
    value = header.get("PixelPaddingValue")
    if value is None:
        return None
    limit = header.get("PixelPaddingRangeLimit")
    low, high = sorted((_signed(value, header), _signed(value if limit is None else limit, header)))
    return low, high


def _signed(value: Any, header: Dataset) -> float:
    """Some systems store a negative padding value as unsigned."""
    number = int.from_bytes(value[:2], "little") if isinstance(value, bytes) else int(value)
    return float(number - 65536 if header.get("PixelRepresentation") == 1 and number > 32767 else number)
