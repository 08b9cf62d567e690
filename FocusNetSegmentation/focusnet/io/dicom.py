"""A CT from a folder of DICOM files: sorted by position, checked, straightened, in HU."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.uid import ImplicitVRLittleEndian

from focusnet.errors import FocusNetError, lacks_memory, out_of_memory
from focusnet.geometry import Geometry, Volume
from focusnet.io.dicom_headers import MIN_SLICES, Series, SliceHeader, find_series, is_dicom, read_tags, select_series
from focusnet.io.hounsfield import AIR_HU, check_hu
from focusnet.io.image import compact, path_for_itk
from focusnet.io.shear import straighten

__all__ = [
    "SeriesReference",
    "SliceReference",
    "find_series",
    "is_dicom",
    "read_series",
    "read_series_reference",
]

SAME_PLACE_MM = 0.05
POSITION_TOLERANCE_MM = 0.1
POSITION_TOLERANCE_STEPS = 0.02
DIRECTION_TOLERANCE = 1e-3
SPACING_TOLERANCE_MM = 1e-3
WHOLE_STEPS_TOLERANCE = 0.1
HU_RANGE = (-1000.0, 3071.0)
PATIENT_STUDY_TAGS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate",
    "StudyTime", "StudyDescription", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class SliceReference:
    """One slice as other DICOM objects refer to it.

    Attributes:
        position_mm: LPS position of the centre of its first pixel.
        frame: Frame index in a multi-frame file, else None.
    """

    sop_class_uid: str
    sop_instance_uid: str
    position_mm: tuple[float, float, float]
    frame: int | None


@dataclass(frozen=True, eq=False)
class SeriesReference:
    """What an RTSTRUCT or DICOM SEG needs to refer to a CT series; slices in order along their normal.

    Attributes:
        row_direction: Unit vector from column to column; ``column_direction`` from row to row (LPS).
        spacing_mm: Distance between rows and between columns.
        shape: Rows and columns.
        tags: Patient and study attributes by keyword, for copying into the new object and nowhere else.
    """

    study_uid: str
    series_uid: str
    frame_of_reference: str | None
    slices: tuple[SliceReference, ...]
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]
    spacing_mm: tuple[float, float]
    shape: tuple[int, int]
    tags: dict[str, str] = field(repr=False)


def read_series(
    folder: str | Path | Sequence[Path], *, series_uid: str | None = None, series_number: int | None = None
) -> Volume:
    """Read the CT series of a folder.

    Slices are sorted by their position along the slice normal; file names and instance numbers play no part, nor does
    the stated patient position. Slices of a tilted gantry are shifted in their planes onto a right-angled grid.

    Args:
        folder: Searched with its subfolders; or one multi-frame file; or the files of the series.
        series_uid: Series to read where the folder holds several.
        series_number: The same by number.

    Returns:
        Volume in HU, int16 or float32, ``(z, y, x)``, LPS mm, with the frame of reference; padding is -1024 HU.

    Raises:
        FocusNetError: ``E_NO_SERIES``, ``E_MULTIPLE_SERIES``, ``E_NOT_CT``, ``E_MULTIFRAME``, ``E_UNREADABLE``,
            ``E_TOO_FEW_SLICES``, ``E_MISSING_SLICES``, ``E_DUPLICATE_SLICES``, ``E_UNEVEN_SPACING``,
            ``E_MIXED_ORIENTATION``, ``E_FRAME_OF_REFERENCE``, ``E_BAD_GEOMETRY``, ``E_GANTRY_TILT``, ``E_NO_RESCALE``,
            ``E_NOT_HU``, ``E_EMPTY_IMAGE``.
    """
    series = select_series(_source(folder), series_uid, series_number)
    unscaled = _lacks_rescale(series)
    slices, repeated = _in_order(series)
    geometry = _geometry(slices, _frame_of_reference(series))
    decoder = _Decoder()
    array = np.stack([decoder.hounsfield(item) for item in slices])
    for index, item in repeated:
        if not np.array_equal(decoder.hounsfield(item), array[index]):
            raise FocusNetError(
                "E_DUPLICATE_SLICES",
                f"{len(repeated)} positions hold two different slices (two phases or reconstructions in one series?); "
                "export one of them.",
            )
    volume = Volume(array, geometry)
    return straighten(_check_unscaled(volume) if unscaled else check_hu(volume), fill=AIR_HU)


def read_series_reference(
    folder: str | Path | Sequence[Path], *, series_uid: str | None = None, series_number: int | None = None
) -> SeriesReference:
    """Identifiers and positions of the slices that :func:`read_series` reads; pixels are not touched.

    Raises:
        FocusNetError: As :func:`read_series`, apart from what only pixels can show.
    """
    series = select_series(_source(folder), series_uid, series_number)
    slices, _ = _in_order(series)
    first = slices[0]
    return SeriesReference(
        study_uid=series.study_uid,
        series_uid=series.uid,
        frame_of_reference=_frame_of_reference(series),
        slices=tuple(
            SliceReference(s.sop_class_uid, s.sop_instance_uid, _triple(s.position_mm), s.frame) for s in slices
        ),
        row_direction=_triple(first.row_direction),
        column_direction=_triple(first.column_direction),
        spacing_mm=first.spacing_mm,
        shape=first.shape,
        tags=read_tags(first.path, PATIENT_STUDY_TAGS),
    )


def _source(folder: str | Path | Sequence[Path]) -> Path | Sequence[Path]:
    return Path(folder) if isinstance(folder, str) else folder


def _in_order(series: Series) -> tuple[list[SliceHeader], list[tuple[int, SliceHeader]]]:
    """Slices along their normal, one per position; and the repeated ones with the index of the slice they repeat."""
    first = series.slices[0]
    _check_alike(first, series.slices)
    height = {id(item): float(item.position_mm @ first.normal) for item in series.slices}
    kept: list[SliceHeader] = []
    repeated: list[tuple[int, SliceHeader]] = []
    for item in sorted(series.slices, key=lambda item: (height[id(item)], item.sop_instance_uid)):
        if kept and height[id(item)] - height[id(kept[-1])] < SAME_PLACE_MM:
            if np.linalg.norm(item.position_mm - kept[-1].position_mm) > SAME_PLACE_MM:
                raise FocusNetError(
                    "E_DUPLICATE_SLICES", "Two slices lie side by side in one plane; export one field of view."
                )
            repeated.append((len(kept) - 1, item))
        else:
            kept.append(item)
    if len(kept) < MIN_SLICES:
        raise FocusNetError(
            "E_TOO_FEW_SLICES", f"The series has {len(kept)} different positions; at least {MIN_SLICES} are needed."
        )
    return kept, repeated


def _check_alike(first: SliceHeader, slices: Sequence[SliceHeader]) -> None:
    for item in slices:
        turned = max(
            np.abs(item.row_direction - first.row_direction).max(),
            np.abs(item.column_direction - first.column_direction).max(),
        )
        if turned > DIRECTION_TOLERANCE:
            raise FocusNetError(
                "E_MIXED_ORIENTATION",
                "The slices of the series have different orientations (a localizer or reformats among them?); "
                "export the axial slices alone.",
            )
        if item.shape != first.shape or not np.allclose(item.spacing_mm, first.spacing_mm, atol=SPACING_TOLERANCE_MM):
            raise FocusNetError(
                "E_BAD_GEOMETRY",
                "The slices of the series differ in their number of pixels or pixel spacing; "
                "export one reconstruction.",
            )


def _geometry(slices: list[SliceHeader], frame_of_reference: str | None) -> Geometry:
    """Grid through evenly spaced slices; sheared where they step aside (gantry tilt)."""
    first = slices[0]
    positions = np.array([item.position_mm for item in slices])
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    even = positions[0] + np.arange(len(slices))[:, None] * step
    astray = np.linalg.norm(positions - even, axis=1).max()
    tolerance = max(POSITION_TOLERANCE_MM, POSITION_TOLERANCE_STEPS * float(np.linalg.norm(step)))
    if astray > tolerance:
        _refuse_spacing(positions @ first.normal, positions)
    along = (step @ first.normal) * first.normal
    if np.linalg.norm(step - along) * (len(slices) - 1) <= POSITION_TOLERANCE_MM:
        step = along
    affine = np.eye(4)
    affine[:3, 0] = first.row_direction * first.spacing_mm[1]
    affine[:3, 1] = first.column_direction * first.spacing_mm[0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return Geometry((len(slices), *first.shape), affine, frame_of_reference)


def _refuse_spacing(heights: NDArray[np.float64], positions: NDArray[np.float64]) -> None:
    steps = np.diff(heights)
    usual = float(np.median(steps))
    multiples = steps / usual
    gaps = np.round(multiples) > 1
    whole = np.abs(multiples - np.round(multiples)) <= WHOLE_STEPS_TOLERANCE
    if gaps.any() and whole.all() and gaps.mean() < 0.5:
        missing = int((np.round(multiples) - 1)[gaps].sum())
        after = int(np.argmax(gaps)) + 1
        raise FocusNetError(
            "E_MISSING_SLICES",
            f"{missing} slices are missing in {int(gaps.sum())} gaps (first after slice {after} of {len(heights)}, "
            f"usual step {usual:.2f} mm); export the whole series.",
        )
    raise FocusNetError(
        "E_UNEVEN_SPACING",
        f"The {len(positions)} slices are not evenly spaced (steps of {steps.min():.2f} to {steps.max():.2f} mm); "
        "export one reconstruction with a constant step.",
    )


def _frame_of_reference(series: Series) -> str | None:
    if len(series.frames_of_reference) > 1:
        raise FocusNetError(
            "E_FRAME_OF_REFERENCE",
            "The slices of the series belong to different frames of reference; export one scan alone.",
        )
    return next(iter(series.frames_of_reference)) or None


def _lacks_rescale(series: Series) -> bool:
    """Whether no slice states how its values become HU; refused when only some do."""
    lacking = sum(not item.slope or item.intercept is None for item in series.slices)
    if 0 < lacking < len(series.slices) or any(item.slope == 0 for item in series.slices):
        raise FocusNetError(
            "E_NO_RESCALE",
            f"{lacking} of {len(series.slices)} slices lack a valid rescale slope and intercept, so their HU are "
            "unknown; export again.",
        )
    return lacking > 0


def _check_unscaled(volume: Volume) -> Volume:
    try:
        return check_hu(volume)
    except FocusNetError as error:
        if error.code not in ("E_NOT_HU", "E_NOT_CT"):
            raise
        raise FocusNetError(
            "E_NO_RESCALE",
            "The slices have no rescale slope and intercept, and their values are not HU as they are; "
            "export again with the original headers.",
        ) from error


def _triple(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in vector)
    return x, y, z


class _Decoder:
    """Pixels of slices in HU; the last file stays open in memory for the frames of a multi-frame file."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._array: NDArray[Any] = np.empty(0)
        self._is_rescaled = False

    def hounsfield(self, item: SliceHeader) -> NDArray[Any]:
        """HU of one slice, int16 or float32, ``(rows, columns)``."""
        if item.path != self._path:
            self._array, self._is_rescaled = _decode(item.path, item.frame is not None)
            self._path = item.path
        stored = self._array if item.frame is None else self._array.reshape(-1, *item.shape)[item.frame]
        if stored.shape != item.shape:
            raise FocusNetError("E_UNREADABLE", "A slice holds another number of pixels than its header states.")
        slope, intercept = item.slope or 1.0, item.intercept or 0.0
        whole = np.issubdtype(stored.dtype, np.integer) and slope.is_integer() and intercept.is_integer()
        hu = stored.astype(np.int64 if whole else np.float64)
        if not self._is_rescaled:
            hu = hu * (int(slope) if whole else slope) + (int(intercept) if whole else intercept)
        if item.padding is not None:
            # A padding value inside the range of tissue is a wrong header more often than it is padding.
            low, high = sorted(value * slope + intercept for value in item.padding)
            if not HU_RANGE[0] < low <= HU_RANGE[1] and not HU_RANGE[0] < high <= HU_RANGE[1]:
                hu[(hu >= low) & (hu <= high)] = AIR_HU
        return compact(hu)


def _decode(path: Path, is_multiframe: bool) -> tuple[NDArray[Any], bool]:
    """Pixels of a file, and whether the rescale is applied already (GDCM, which decodes compressed files, does so)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True)
            syntax = dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
            if not syntax.is_compressed:
                dataset.file_meta.TransferSyntaxUID = syntax
                return dataset.pixel_array, False
        # GDCM turns the values of MONOCHROME1 round, and the order of its frames is its own.
        if is_multiframe or dataset.PhotometricInterpretation != "MONOCHROME2":
            raise FocusNetError(
                "E_MULTIFRAME" if is_multiframe else "E_UNREADABLE",
                "The CT is stored in a compressed form that is not read; export it uncompressed, a file per slice.",
            )
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(path_for_itk(path))
        return sitk.GetArrayFromImage(reader.Execute())[0], True
    except FocusNetError:
        raise
    except Exception as error:  # decoders raise all sorts of errors on damaged data
        if lacks_memory(error):
            raise out_of_memory() from error
        raise FocusNetError(
            "E_UNREADABLE", "The pixels of a DICOM file are damaged, truncated or wrongly encoded; copy it again."
        ) from error
