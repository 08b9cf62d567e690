"""Masks to a DICOM Segmentation object and back, through highdicom (imported when it is needed)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage, generate_uid

from focusnet import DISCLAIMER, __version__
from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry, LabelMap, bounding_box
from focusnet.io.atomic import atomic_path
from focusnet.io.dicom import SeriesReference
from focusnet.io.segmentation import Segmentation
from focusnet.io.shapes import (
    MANUFACTURER,
    PATIENT_STUDY_KEYWORDS,
    Part,
    Provenance,
    Shape,
    check_same_frame,
    native_geometry,
    pack_segments,
    place_on_grid,
    set_patient_and_study,
    shapes_of,
    software_versions,
)
from focusnet.terminology import CATEGORY, SIDE_MODIFIERS

UNSPECIFIED_TYPE = ("91723000", "Anatomical structure")


@dataclass(frozen=True)
class DicomSegOptions:
    """How a DICOM SEG is written.

    Attributes:
        series_description: At most 64 characters.
        series_number: Number of the new series.
        provenance: Model that made the masks.
    """

    series_description: str = "FocusNet OAR, UNREVIEWED"
    series_number: int = 1
    provenance: Provenance | None = None


@dataclass(frozen=True)
class DicomSegSummary:
    """What was written.

    Attributes:
        sop_instance_uid: UID of the new object.
        segments: Segment labels in order of their numbers.
        left_out: Names of structures without a voxel on the CT.
    """

    sop_instance_uid: str
    segments: tuple[str, ...]
    left_out: tuple[str, ...]


def write_dicom_seg(
    masks: LabelMap | Segmentation,
    reference: SeriesReference,
    path: str | Path,
    options: DicomSegOptions | None = None,
    *,
    overwrite: bool = False,
) -> DicomSegSummary:
    """Write all structures as the binary segments of one DICOM Segmentation on the frames of a CT series.

    Args:
        masks: On the CT's grid, on a part of it, or on any other grid of the same frame of reference.
        reference: The CT series, from :func:`focusnet.io.dicom.read_series_reference`.
        path: File to write; appears complete or not at all.
        options: Options.
        overwrite: Replace an existing file.

    Raises:
        FocusNetError: ``E_MISSING_PACKAGE`` without highdicom, ``E_FRAME_OF_REFERENCE``, ``E_UNEVEN_SPACING``,
            ``E_MULTIFRAME`` for frames that can't be referred to, ``E_NO_STRUCTURES`` when nothing is left to write,
            ``E_OUTPUT_EXISTS``, ``E_OUTPUT_WRITE``.
    """
    options = options or DicomSegOptions()
    highdicom = require_highdicom()
    check_source_frames(reference)
    check_same_frame(masks.geometry, reference)
    native = native_geometry(reference)
    shapes = shapes_of(masks)
    placed = [(shape, found) for shape in shapes if (found := place_on_grid(shape, native)) is not None]
    if not placed:
        raise FocusNetError(
            "E_NO_STRUCTURES", "No structure has a voxel on the slices of the CT; there is nothing to write."
        )
    kept = [shape for shape, _ in placed]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # highdicom's warnings quote the patient's name
        dataset = _segmentation(highdicom, kept, _frames([found for _, found in placed], native), reference, options)
        with atomic_path(path, overwrite=overwrite) as temporary:
            dataset.save_as(temporary)
    names = {shape.name for shape in kept}
    return DicomSegSummary(
        str(dataset.SOPInstanceUID),
        tuple(shape.name for shape in kept),
        tuple(shape.name for shape in shapes if shape.name not in names),
    )


def check_source_frames(reference: SeriesReference) -> None:
    """Refuse a multi-frame CT whose slices are not all frames of one file, each once.

    Raises:
        FocusNetError: ``E_MULTIFRAME``.
    """
    frames = [item.frame for item in reference.slices if item.frame is not None]
    if not frames:
        return
    files = {item.sop_instance_uid for item in reference.slices}
    if len(files) > 1 or sorted(frames) != list(range(len(reference.slices))):
        raise FocusNetError(
            "E_MULTIFRAME",
            "The frames of the multi-frame CT lie in several files or repeat, which a DICOM SEG can't refer to; write "
            "rtstruct or seg.nrrd instead.",
        )


def read_dicom_seg(path: str | Path) -> Segmentation:
    """Read a binary or fractional DICOM Segmentation (fractions from a half on count as inside).

    Returns:
        All segments under their labels, on the smallest grid of the object's own voxels that holds its frames.

    Raises:
        FocusNetError: ``E_MISSING_PACKAGE``, ``E_UNREADABLE``, ``E_NOT_SEG``, ``E_BAD_GEOMETRY`` when the frames don't
            form a regular grid.
    """
    highdicom = require_highdicom()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = highdicom.imread(path)
        except OSError as error:
            raise FocusNetError("E_UNREADABLE", "The segmentation can't be opened; check the path.") from error
        except Exception as error:  # the parser may stumble over anything in a damaged or foreign file
            raise FocusNetError(
                "E_UNREADABLE", "The file is no DICOM image, or is damaged or truncated; copy it again."
            ) from error
        if dataset.SOPClassUID != SegmentationStorage:
            raise FocusNetError("E_NOT_SEG", "The file is a DICOM image, but no segmentation; give the SEG file.")
        try:
            segmentation = highdicom.seg.segread(path)
            return _read_segments(segmentation)
        except (ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
            raise FocusNetError(
                "E_BAD_GEOMETRY",
                "The frames of the segmentation form no regular grid, or are damaged; export it again.",
            ) from error


def _segmentation(
    highdicom: ModuleType,
    shapes: list[Shape],
    frames: NDArray[np.uint8],
    reference: SeriesReference,
    options: DicomSegOptions,
) -> Any:
    descriptions = [
        _description(highdicom, number, shape, options.provenance) for number, shape in enumerate(shapes, start=1)
    ]
    dataset = highdicom.seg.Segmentation(
        source_images=_source_images(reference),
        pixel_array=_as_in_source(frames, reference),
        segmentation_type="BINARY",
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(prefix=None),
        series_number=options.series_number,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name="FocusNetv2",
        software_versions=software_versions()[0],
        device_serial_number=options.provenance.weights_sha256[:64] if options.provenance else __version__,
        content_label="FOCUSNET",
        content_description="UNREVIEWED; research use only, not a medical device",
        content_creator_name=f"{MANUFACTURER}^",
    )
    set_patient_and_study(dataset, reference)
    dataset.SeriesDescription = options.series_description[:64]
    dataset.ImageComments = f"UNREVIEWED. {DISCLAIMER}"
    return dataset


def _read_segments(segmentation: Any) -> Segmentation:
    geometry: Geometry | None = None
    parts: list[Part] = []
    for number in segmentation.segment_numbers:
        volume = segmentation.get_volume(segment_numbers=[number])
        mask = np.asarray(volume.array)[..., 0] >= 0.5
        # highdicom's matrix takes (slice, row, column), ours (column, row, slice), and ours is right-handed.
        affine = np.asarray(volume.affine)[:, [2, 1, 0, 3]]
        if np.linalg.det(affine) < 0:
            mask = mask[::-1]
            affine[:, 3] += (len(mask) - 1) * affine[:, 2]
            affine[:, 2] *= -1
        if geometry is None:
            frame = segmentation.get("FrameOfReferenceUID")
            geometry = Geometry(mask.shape, affine, str(frame) if frame else None)
        box = bounding_box(mask)
        description = segmentation.get_segment_description(number)
        colour = description.get("RecommendedDisplayCIELabValue")
        parts.append(
            Part(
                name=str(description.segment_label),
                colour=None if colour is None else _rgb(colour),
                box=box,
                crop=mask[box.slices] if box else mask[:0],
            )
        )
    if geometry is None:
        raise ValueError("no segments")
    return pack_segments(geometry, parts)


def _frames(placed: list[tuple[Box, NDArray[np.bool_]]], native: Geometry) -> NDArray[np.uint8]:
    """Segment numbers ``(slices, rows, columns)``, or where structures overlap a mask per segment in a last axis."""
    labels = np.zeros(native.shape_zyx, dtype=np.uint8 if len(placed) < 256 else np.uint16)
    for number, (box, mask) in enumerate(placed, start=1):
        if labels[box.slices][mask].any():
            break
        labels[box.slices][mask] = number
    else:
        return labels
    masks = np.zeros((*native.shape_zyx, len(placed)), dtype=np.uint8)
    for number, (box, mask) in enumerate(placed):
        masks[(*box.slices, number)] = mask
    return masks


def _description(highdicom: ModuleType, number: int, shape: Shape, provenance: Provenance | None) -> Any:
    code = highdicom.sr.CodedConcept
    organ_type = (shape.organ.snomed_code, shape.organ.snomed_meaning) if shape.organ else UNSPECIFIED_TYPE
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=provenance.model[:64] if provenance else "FocusNetv2",
        version=provenance.version[:64] if provenance else __version__,
        family=code("123110", "DCM", "Artificial Intelligence"),
        source=MANUFACTURER,
        parameters={"weights_sha256": provenance.weights_sha256} if provenance else None,
    )
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=shape.name,
        segmented_property_category=code(CATEGORY[0], "SCT", CATEGORY[1]),
        segmented_property_type=code(organ_type[0], "SCT", organ_type[1]),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_uid=generate_uid(prefix=None),
        tracking_id=shape.name,
        display_color=highdicom.color.CIELabColor.from_rgb(*shape.colour),
    )
    if shape.organ is not None and shape.organ.side is not None:
        value, meaning = SIDE_MODIFIERS[shape.organ.side]
        property_type = description.SegmentedPropertyTypeCodeSequence[0]
        property_type.SegmentedPropertyTypeModifierCodeSequence = [code(value, "SCT", meaning)]
    return description


def _as_in_source(frames: NDArray[np.uint8], reference: SeriesReference) -> NDArray[np.uint8]:
    order = _order_of_source(reference)
    return frames if order == list(range(len(order))) else frames[order]


def _order_of_source(reference: SeriesReference) -> list[int]:
    """Numbers of the slices in the order that `_source_images` lists them: that of the frames of a file."""
    return sorted(range(len(reference.slices)), key=lambda number: reference.slices[number].frame or 0)


def _source_images(reference: SeriesReference) -> list[Dataset]:
    """Headers of the CT as far as highdicom needs them to refer to it."""
    if reference.slices[0].frame is not None:
        return [_multiframe_image(reference)]
    images = []
    for source in reference.slices:
        image = _image(reference, source.sop_class_uid, source.sop_instance_uid)
        image.ImagePositionPatient = list(source.position_mm)
        image.ImageOrientationPatient = [*reference.row_direction, *reference.column_direction]
        image.PixelSpacing = list(reference.spacing_mm)
        image.SliceThickness = _thickness_mm(reference)
        images.append(image)
    return images


def _multiframe_image(reference: SeriesReference) -> Dataset:
    first = reference.slices[0]
    image = _image(reference, first.sop_class_uid, first.sop_instance_uid)
    image.NumberOfFrames = len(reference.slices)
    orientation, measures, shared = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [*reference.row_direction, *reference.column_direction]
    measures.PixelSpacing = list(reference.spacing_mm)
    measures.SliceThickness = _thickness_mm(reference)
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [measures]
    image.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number in _order_of_source(reference):
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = list(reference.slices[number].position_mm)
        group.PlanePositionSequence = [position]
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = groups
    return image


def _image(reference: SeriesReference, sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    image = Dataset()
    for keyword in PATIENT_STUDY_KEYWORDS:  # highdicom refuses values that clinics have; they are set afterwards
        setattr(image, keyword, "")
    image.SpecificCharacterSet = "ISO_IR 192"
    image.Modality = "CT"
    image.SOPClassUID, image.SOPInstanceUID = sop_class_uid, sop_instance_uid
    image.StudyInstanceUID, image.SeriesInstanceUID = reference.study_uid, reference.series_uid
    image.FrameOfReferenceUID = reference.frame_of_reference
    image.Rows, image.Columns = reference.shape
    return image


def _thickness_mm(reference: SeriesReference) -> float:
    first, second = (np.array(item.position_mm) for item in reference.slices[:2])
    return float(np.linalg.norm(second - first))


def _rgb(lab: Any) -> tuple[int, int, int]:
    highdicom = require_highdicom()
    red, green, blue = (int(v) for v in highdicom.color.CIELabColor.from_dicom_value(tuple(lab)).to_rgb())
    return red, green, blue


def require_highdicom() -> ModuleType:
    """The package highdicom.

    Raises:
        FocusNetError: ``E_MISSING_PACKAGE``.
    """
    try:
        return import_module("highdicom")
    except ImportError as error:
        raise FocusNetError(
            "E_MISSING_PACKAGE", "DICOM SEG needs the package highdicom; install it with 'pip install highdicom'."
        ) from error
