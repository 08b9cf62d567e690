"""Synthetic CT series with every fault of the field, written with pydicom."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

MARKER_LPS = np.array([22.0, -14.0, 9.0])
MARKER_RADIUS_MM = 9.0
BODY_SEMIAXES_MM = np.array([60.0, 48.0, 200.0])


def patient_hu(world_xyz: np.ndarray) -> np.ndarray:
    """HU at LPS positions: air, an elliptic body of 40 HU round the origin, a dense ball left and in front of it."""
    body = ((world_xyz / BODY_SEMIAXES_MM) ** 2).sum(axis=-1) < 1
    marker = np.linalg.norm(world_xyz - MARKER_LPS, axis=-1) < MARKER_RADIUS_MM
    return np.where(marker, 1000, np.where(body, 40, -1000)).astype(np.int16)


@dataclass
class CTSeries:
    """A stack of slices as a scanner would store it.

    ``edit(dataset, index)`` may change the header or pixels of a slice; where it returns False, none is written.
    """

    count: int = 12
    shape: tuple[int, int] = (112, 144)
    spacing_mm: tuple[float, float] = (1.0, 1.0)
    first_mm: tuple[float, float, float] = (-72.0, -56.0, -15.0)
    step_mm: tuple[float, float, float] = (0.0, 0.0, 4.0)
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0)
    slope: float = 1.0
    intercept: float = -1024.0
    edit: Callable[[Dataset, int], bool | None] | None = None
    series_uid: str = field(default_factory=generate_uid)
    study_uid: str = field(default_factory=generate_uid)
    frame_uid: str = field(default_factory=generate_uid)
    number: int = 2
    name: str = "slice"

    def position(self, index: int) -> np.ndarray:
        return np.add(self.first_mm, np.multiply(index, self.step_mm))

    def hounsfield(self, index: int) -> np.ndarray:
        row, column = np.reshape(self.orientation, (2, 3)).astype(float)
        r, c = np.indices(self.shape)
        world = (
            self.position(index) + r[..., None] * self.spacing_mm[0] * column + c[..., None] * self.spacing_mm[1] * row
        )
        return patient_hu(world)

    def array(self) -> np.ndarray:
        """HU of all slices in order."""
        return np.stack([self.hounsfield(index) for index in range(self.count)])

    def dataset(self, index: int) -> Dataset:
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (
            self.study_uid,
            self.series_uid,
            self.frame_uid,
        )
        ds.PatientName, ds.PatientID, ds.StudyDate = "Secret^Person", "SECRET-ID", "19990101"
        ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.SeriesNumber, ds.InstanceNumber, ds.SeriesDescription = self.number, index + 1, "Secret description"
        ds.ImagePositionPatient = [float(f"{v:.6f}") for v in self.position(index)]
        ds.ImageOrientationPatient = [float(f"{v:.9f}") for v in self.orientation]
        ds.PixelSpacing = list(self.spacing_mm)
        ds.Rows, ds.Columns = self.shape
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = self.slope, self.intercept, "HU"
        set_pixels(ds, np.rint((self.hounsfield(index) - self.intercept) / self.slope).astype(np.int16))
        return ds

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(self.count):
            ds = self.dataset(index)
            if self.edit is None or self.edit(ds, index) is not False:
                # Names in an order that has nothing to do with the positions.
                ds.save_as(folder / f"{self.name}{(index * 700) % 1009:04d}.dcm", enforce_file_format=True)
        return folder

    def enhanced(self, order: Sequence[int] | None = None) -> Dataset:
        """Slices as the frames of one enhanced multi-frame CT; by default all, in reverse order."""
        order = range(self.count - 1, -1, -1) if order is None else order
        ds = self.dataset(0)
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
        ds.NumberOfFrames = len(order)
        ds.PixelData = b"".join(self.dataset(index).PixelData for index in order)
        measures, plane, rescale, shared = Dataset(), Dataset(), Dataset(), Dataset()
        measures.PixelSpacing = ds.PixelSpacing
        plane.ImageOrientationPatient = ds.ImageOrientationPatient
        rescale.RescaleSlope, rescale.RescaleIntercept = ds.RescaleSlope, ds.RescaleIntercept
        shared.PixelMeasuresSequence = [measures]
        shared.PlaneOrientationSequence = [plane]
        shared.PixelValueTransformationSequence = [rescale]
        ds.SharedFunctionalGroupsSequence = [shared]
        ds.PerFrameFunctionalGroupsSequence = []
        for index in order:
            position, frame = Dataset(), Dataset()
            position.ImagePositionPatient = [float(v) for v in self.position(index)]
            frame.PlanePositionSequence = [position]
            ds.PerFrameFunctionalGroupsSequence.append(frame)
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
            delattr(ds, keyword)
        return ds


def set_pixels(ds: Dataset, stored: np.ndarray) -> None:
    ds.add(pydicom.DataElement(0x7FE00010, "OW", np.ascontiguousarray(stored).tobytes()))


@pytest.fixture(scope="session")
def ct_series() -> type[CTSeries]:
    """The factory: ``ct_series(count=..., edit=...).write(folder)``."""
    return CTSeries
