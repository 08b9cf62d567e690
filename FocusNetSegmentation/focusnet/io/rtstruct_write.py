"""Masks to an RT structure set that refers to a CT series."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from focusnet import DISCLAIMER, __version__
from focusnet.errors import FocusNetError
from focusnet.geometry import LabelMap
from focusnet.io.atomic import atomic_path
from focusnet.io.contour_stack import Contour, slice_contours, slice_normal
from focusnet.io.dicom import SeriesReference
from focusnet.io.segmentation import Segmentation
from focusnet.io.shapes import (
    MANUFACTURER,
    Provenance,
    Shape,
    check_same_frame,
    native_geometry,
    place_on_slices,
    set_patient_and_study,
    shapes_of,
    share_outside,
    software_versions,
)
from focusnet.organs import Organ
from focusnet.terminology import SIDE_MODIFIERS

Holes = Literal["keyhole", "inner", "xor"]

STUDY_COMPONENT_CLASS = "1.2.840.10008.3.1.2.3.1"
CONTOUR_DATA = Tag("ContourData")


@dataclass(frozen=True)
class RTStructOptions:
    """How a structure set is written.

    Attributes:
        label: Structure set label, at most 16 characters.
        series_description: At most 64 characters.
        series_number: Number of the new series.
        holes: ``keyhole`` joins holes to their outline by a channel of zero width (read by every planning system);
            ``inner`` writes them as closed contours of their own, ``xor`` the same under the type that the standard
            has for it since 2019.
        tolerance_mm: Greatest distance between the written contours and those through the voxel edges; at most one
            pixel is taken. Up to a quarter of a pixel the mask comes back voxel for voxel; from half a pixel on the
            steps of the voxels are smoothed out, with a third of the points.
        provenance: Model that made the masks.
    """

    label: str = "FocusNet"
    series_description: str = "FocusNet OAR, UNREVIEWED"
    series_number: int = 1
    holes: Holes = "keyhole"
    tolerance_mm: float = 0.05
    provenance: Provenance | None = None


@dataclass(frozen=True)
class RTStructSummary:
    """What was written.

    Attributes:
        sop_instance_uid: UID of the new structure set.
        contours: Number of contours by ROI name.
        left_out: Names of structures without contours (empty, or wholly above or below the CT).
        cut: Names of structures of which a part lies above or below the CT and is missing.
    """

    sop_instance_uid: str
    contours: dict[str, int]
    left_out: tuple[str, ...]
    cut: tuple[str, ...]


def write_rtstruct(
    masks: LabelMap | Segmentation,
    reference: SeriesReference,
    path: str | Path,
    options: RTStructOptions | None = None,
    *,
    overwrite: bool = False,
) -> RTStructSummary:
    """Write masks as an RT structure set on the slices of a CT series.

    Contours run through the voxel edges by marching squares; reading them back by voxel centres gives the mask again.
    Each ROI has its TG-263 name, SNOMED CT code and colour, is of type ORGAN, made AUTOMATIC, and the set is
    UNAPPROVED. Patient and study are those of the CT.

    Args:
        masks: On the CT's grid, on a part of it, or on any other grid of the same frame of reference.
        reference: The CT series, from :func:`focusnet.io.dicom.read_series_reference`.
        path: File to write; appears complete or not at all.
        options: Options.
        overwrite: Replace an existing file.

    Returns:
        What was written and what was left out.

    Raises:
        FocusNetError: ``E_FRAME_OF_REFERENCE``, ``E_NO_STRUCTURES`` when nothing is left to write,
            ``E_OUTPUT_EXISTS``, ``E_OUTPUT_WRITE``.
    """
    options = options or RTStructOptions()
    check_same_frame(masks.geometry, reference)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote the patient's attributes
        dataset = _header(reference, options)
    contours: dict[str, int] = {}
    left_out: list[str] = []
    cut: list[str] = []
    for shape in shapes_of(masks):
        stack = _contours(shape, reference, options)
        if not stack:
            left_out.append(shape.name)
            continue
        contours[shape.name] = len(stack)
        if share_outside(shape, reference) > 0:
            cut.append(shape.name)
        _add_roi(dataset, shape, stack, reference, options)
    if not contours:
        raise FocusNetError(
            "E_NO_STRUCTURES", "No structure has a voxel on the slices of the CT; there is nothing to write."
        )
    with atomic_path(path, overwrite=overwrite) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(temporary, dataset)
    return RTStructSummary(str(dataset.SOPInstanceUID), contours, tuple(left_out), tuple(cut))


def _contours(shape: Shape, reference: SeriesReference, options: RTStructOptions) -> list[tuple[int, Contour]]:
    """Pairs of CT slice number and contour, the points exactly in the plane of the slice."""
    placed = place_on_slices(shape, reference)
    if placed is None:
        return []
    normal, _ = slice_normal(native_geometry(reference))
    stack = slice_contours(
        placed.membership,
        placed.geometry,
        tolerance_mm=options.tolerance_mm,
        keyholes=options.holes == "keyhole",
    )
    found = []
    for own_number, contours in stack:
        number = int(placed.slices[own_number])
        height = np.dot(reference.slices[number].position_mm, normal)
        found += [(number, points + np.outer(height - points @ normal, normal)) for points in contours]
    return sorted(found, key=lambda pair: pair[0])


def _header(reference: SeriesReference, options: RTStructOptions) -> FileDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    # In implicit encoding contour data may be longer than 64 kB, which explicit DS values may not.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    meta.ImplementationClassUID = pydicom.uid.PYDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"FOCUSNET {__version__}"[:16]
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128, is_implicit_VR=True, is_little_endian=True)
    now = datetime.datetime.now().astimezone()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    set_patient_and_study(dataset, reference)
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = generate_uid(prefix=None)
    dataset.SeriesNumber = str(options.series_number)
    dataset.SeriesDate, dataset.SeriesTime = date, time
    dataset.SeriesDescription = options.series_description[:64]
    dataset.OperatorsName = ""
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = "FocusNetv2"
    dataset.SoftwareVersions = software_versions()
    dataset.FrameOfReferenceUID = reference.frame_of_reference
    dataset.InstanceNumber = "1"
    dataset.StructureSetLabel = options.label[:16]
    dataset.StructureSetName = options.series_description[:64]
    dataset.StructureSetDescription = _description(options)
    dataset.StructureSetDate, dataset.StructureSetTime = date, time
    dataset.ReferencedFrameOfReferenceSequence = [_referenced_frame(reference)]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _description(options: RTStructOptions) -> str:
    parts = [f"UNREVIEWED. {DISCLAIMER}", *software_versions()]
    if options.provenance is not None:
        origin = options.provenance
        parts.append(f"Model {origin.model} {origin.version}, weights SHA-256 {origin.weights_sha256}")
    parts.append(f"Contours within {options.tolerance_mm:g} mm of the voxel edges.")
    return "; ".join(parts)[:1024]


def _referenced_frame(reference: SeriesReference) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = reference.series_uid
    series.ContourImageSequence = [_image(reference, number) for number in range(len(reference.slices))]
    study = Dataset()
    study.ReferencedSOPClassUID = STUDY_COMPONENT_CLASS
    study.ReferencedSOPInstanceUID = reference.study_uid
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = reference.frame_of_reference
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(reference: SeriesReference, number: int) -> Dataset:
    source = reference.slices[number]
    image = Dataset()
    image.ReferencedSOPClassUID = source.sop_class_uid
    image.ReferencedSOPInstanceUID = source.sop_instance_uid
    if source.frame is not None:
        image.ReferencedFrameNumber = str(source.frame + 1)
    return image


def _add_roi(
    dataset: Dataset,
    shape: Shape,
    stack: list[tuple[int, Contour]],
    reference: SeriesReference,
    options: RTStructOptions,
) -> None:
    number = len(dataset.StructureSetROISequence) + 1
    dataset.StructureSetROISequence.append(_roi(number, shape, reference, options))
    contour = Dataset()
    contour.ROIDisplayColor = list(shape.colour)
    contour.ReferencedROINumber = number
    contour.SourcePixelPlanesCharacteristicsSequence = [_pixel_planes(reference)]
    kind = "CLOSEDPLANAR_XOR" if options.holes == "xor" else "CLOSED_PLANAR"
    contour.ContourSequence = list(_contour_items(stack, reference, kind))
    dataset.ROIContourSequence.append(contour)
    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    if shape.organ is not None:
        observation.RTROIIdentificationCodeSequence = [_organ_code(shape.organ)]
    observation.RTROIInterpretedType = "ORGAN"
    observation.ROIInterpreter = ""
    dataset.RTROIObservationsSequence.append(observation)


def _roi(number: int, shape: Shape, reference: SeriesReference, options: RTStructOptions) -> Dataset:
    roi = Dataset()
    roi.ROINumber = number
    roi.ReferencedFrameOfReferenceUID = reference.frame_of_reference
    roi.ROIName = shape.name
    roi.ROIDescription = (shape.organ.name if shape.organ else shape.name)[:1024]
    roi.ROIVolume = f"{shape.volume_ml:.6g}"
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    algorithm = Dataset()
    algorithm.AlgorithmFamilyCodeSequence = [_code("123110", "DCM", "Artificial Intelligence")]
    algorithm.AlgorithmSource = MANUFACTURER
    algorithm.AlgorithmName = "FocusNetv2"
    algorithm.AlgorithmVersion = __version__
    if options.provenance is not None:
        algorithm.AlgorithmName = options.provenance.model[:64]
        algorithm.AlgorithmVersion = options.provenance.version[:64]
        algorithm.AlgorithmParameters = f"weights SHA-256 {options.provenance.weights_sha256}"
        roi.ROIGenerationDescription = options.provenance.line
    roi.ROIDerivationAlgorithmIdentificationSequence = [algorithm]
    return roi


def _pixel_planes(reference: SeriesReference) -> Dataset:
    native = native_geometry(reference)
    planes = Dataset()
    planes.SpacingBetweenSlices = _decimal(slice_normal(native)[1])
    planes.ImagePositionPatient = [_decimal(v) for v in reference.slices[0].position_mm]
    planes.ImageOrientationPatient = [_decimal(v) for v in (*reference.row_direction, *reference.column_direction)]
    planes.NumberOfFrames = str(len(reference.slices))
    planes.Rows, planes.Columns = reference.shape
    planes.PixelSpacing = [_decimal(v) for v in reference.spacing_mm]
    return planes


def _contour_items(stack: list[tuple[int, Contour]], reference: SeriesReference, kind: str) -> Iterator[Dataset]:
    for place, (number, points) in enumerate(stack):
        item = Dataset()
        item.ContourImageSequence = [_image(reference, number)]
        item.ContourGeometricType = kind
        item.NumberOfContourPoints = len(points)
        item.ContourNumber = place + 1
        # As bytes in the encoding of the file: pydicom would check each number apart, which takes most of the time.
        data = _coordinates(points)
        item[CONTOUR_DATA] = RawDataElement(CONTOUR_DATA, "DS", len(data), data, 0, True, True)
        item.set_original_encoding(is_implicit_vr=True, is_little_endian=True, character_encoding="iso8859")
        yield item


def _coordinates(points: NDArray[np.float64]) -> bytes:
    """Decimal strings of 0.1 µm, each of at most 16 characters."""
    text = "\\".join([f"{value:.4f}" for value in (np.round(points, 4) + 0.0).ravel().tolist()])
    return (text + " " * (len(text) % 2)).encode("ascii")


def _organ_code(organ: Organ) -> Dataset:
    code = _code(organ.snomed_code, "SCT", organ.snomed_meaning)
    if organ.side is not None:
        value, meaning = SIDE_MODIFIERS[organ.side]
        code.SegmentedPropertyTypeModifierCodeSequence = [_code(value, "SCT", meaning)]
    return code


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _decimal(value: float) -> str:
    """Decimal string of at most 16 characters."""
    return f"{value + 0.0:.10g}"[:16]
