"""Structure sets written by hand with pydicom, so that the reader is not tested against our own writer."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from focusnet.geometry import Geometry
from focusnet.io.dicom import SeriesReference, SliceReference
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

FRAME = "1.2.826.0.1.3680043.8.498.1"
SERIES = "1.2.826.0.1.3680043.8.498.2"
STUDY = "1.2.826.0.1.3680043.8.498.3"


def square(z, half=8.0, centre=(10.0, 5.0)):
    """Corners of an axial square, ``(4, 3)``."""
    x, y = centre
    return np.array(
        [
            [x - half, y - half, z],
            [x + half, y - half, z],
            [x + half, y + half, z],
            [x - half, y + half, z],
        ]
    )


def contour(points, kind="CLOSED_PLANAR", **attributes) -> Dataset:
    item = Dataset()
    points = np.asarray(points, dtype=float)
    with pydicom.config.disable_value_validation():
        item.ContourGeometricType = kind
        item.NumberOfContourPoints = len(points)
        item.ContourData = [f"{value:.4f}" for value in points.ravel()]
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item


@dataclass
class RTStructFile:
    """A small, valid structure set; ``edit(dataset)`` may spoil it before it is written."""

    rois: dict[str, list[Dataset]] = field(default_factory=dict)
    frame: str = FRAME
    series: str = SERIES
    edit: Callable[[Dataset], None] | None = None

    def dataset(self) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = RTStructureSetStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ImplicitVRLittleEndian
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.SOPClassUID, ds.SOPInstanceUID = RTStructureSetStorage, meta.MediaStorageSOPInstanceUID
        ds.PatientName, ds.PatientID = "Secret^Person", "SECRET-ID"
        ds.Modality, ds.StructureSetLabel = "RTSTRUCT", "OAR"
        series, study, frame = Dataset(), Dataset(), Dataset()
        series.SeriesInstanceUID = self.series
        study.RTReferencedSeriesSequence = [series]
        frame.FrameOfReferenceUID = self.frame
        frame.RTReferencedStudySequence = [study]
        ds.ReferencedFrameOfReferenceSequence = [frame]
        ds.StructureSetROISequence, ds.ROIContourSequence = [], []
        for number, (name, contours) in enumerate(self.rois.items(), start=1):
            roi, drawn = Dataset(), Dataset()
            roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, self.frame
            drawn.ReferencedROINumber, drawn.ROIDisplayColor = number, [255, 0, number]
            drawn.ContourSequence = contours
            ds.StructureSetROISequence.append(roi)
            ds.ROIContourSequence.append(drawn)
        return ds

    def write(self, path: Path) -> Path:
        ds = self.dataset()
        if self.edit is not None:
            self.edit(ds)
        with pydicom.config.disable_value_validation():
            ds.save_as(path)
        return path


def reference_of(geometry: Geometry, **tags: str) -> SeriesReference:
    """A CT series whose pixels lie on the grid."""
    direction = geometry.direction
    return SeriesReference(
        study_uid=STUDY,
        series_uid=SERIES,
        frame_of_reference=geometry.frame_of_reference,
        slices=tuple(
            SliceReference(
                str(CTImageStorage), f"{SERIES}.{k}", tuple(geometry.index_to_world((k, 0, 0)).tolist()), None
            )
            for k in range(geometry.shape_zyx[0])
        ),
        row_direction=tuple(direction[:, 0].tolist()),
        column_direction=tuple(direction[:, 1].tolist()),
        spacing_mm=(geometry.spacing_xyz[1], geometry.spacing_xyz[0]),
        shape=geometry.shape_zyx[1:],
        tags=tags,
    )


@lru_cache
def standard_tables() -> tuple[dict, dict, dict]:
    """The standard's tables for RT structure sets, from highdicom's copy, in the form that dicom-validator takes.

    Attributes that are required under a condition count as optional but not empty; the tables don't hold conditions.
    """
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    folder = Path(find_spec("highdicom").submodule_search_locations[0]) / "_standard"
    modules_of, attributes_of = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("iod_module_map", "module_attribute_map")
    )
    modules = {}
    for entry in modules_of["rt-structure-set"]:
        root: dict = {}
        for attribute in attributes_of[entry["key"]]:
            level = root
            for parent in attribute["path"]:
                level = level.setdefault(tag_name(tag_for_keyword(parent)), {"name": parent, "type": "3"})
                level = level.setdefault("items", {})
            own = level.setdefault(tag_name(tag_for_keyword(attribute["keyword"])), {})
            own |= {"name": attribute["keyword"], "type": attribute["type"]}
            if dictionary_VR(tag_for_keyword(attribute["keyword"])) == "SQ":
                own.setdefault("items", {})
        modules[entry["key"]] = root
    iod = {
        "title": "RT Structure Set",
        "modules": {e["key"]: {"ref": e["key"], "use": e["usage"]} for e in modules_of["rt-structure-set"]},
        "group_macros": {},
    }
    return {}, {str(RTStructureSetStorage): iod}, modules


def tag_name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def validate(dataset):
    """Result of dicom-validator with the standard's tables."""
    pytest.importorskip("highdicom")
    validator = pytest.importorskip("dicom_validator.validator.iod_validator")
    info = pytest.importorskip("dicom_validator.validator.dicom_info").DicomInfo(*standard_tables())
    return validator.IODValidator(dataset, info).validate()


@pytest.fixture
def grid() -> Geometry:
    """An axial CT grid of 1 x 1 x 3 mm round the origin; a square of 16 mm is 16 x 16 voxels."""
    return Geometry.from_parts((12, 80, 80), (1.0, 1.0, 3.0), (-39.5, -39.5, -15.0), None, FRAME)


@pytest.fixture(scope="session")
def rt():
    """Helpers of this file as one namespace."""
    return SimpleNamespace(
        File=RTStructFile,
        contour=contour,
        square=square,
        reference_of=reference_of,
        validate=validate,
        FRAME=FRAME,
        SERIES=SERIES,
    )
