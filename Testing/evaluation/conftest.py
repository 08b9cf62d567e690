"""Small labelled scans for the evaluation tests."""

import numpy as np
import pytest
from focusnet.geometry import Geometry, LabelMap
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid


@pytest.fixture
def blocks():
    """Function that makes a label map of blocks: organ key to ``(z, y, x)`` slices."""

    def make(places, shape=(10, 12, 14), spacing_xyz=(1.0, 1.0, 2.0), **parts):
        array = np.zeros(shape, dtype=np.uint8)
        for value, place in enumerate(places.values(), start=1):
            if place is not None:
                array[place] = value
        geometry = Geometry.from_parts(shape, spacing_xyz, **parts)
        return LabelMap(array, geometry, dict(enumerate(places, start=1)))

    return make


@pytest.fixture
def write_ct():
    """Function that writes a small axial CT series: a water cylinder in air, 1 x 1 x 2 mm."""

    def write(folder, frame_uid, slices=10):
        folder.mkdir(parents=True, exist_ok=True)
        series, study = generate_uid(), generate_uid()
        rows, columns = np.indices((32, 32))
        stored = np.where((rows - 16) ** 2 + (columns - 16) ** 2 < 200, 1024, 24).astype(np.int16)
        for index in range(slices):
            ds = Dataset()
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame_uid
            ds.Modality, ds.ImageType, ds.SeriesNumber, ds.InstanceNumber = "CT", ["ORIGINAL"], 1, index + 1
            ds.ImagePositionPatient, ds.ImageOrientationPatient = [-16.0, -16.0, 2.0 * index], [1, 0, 0, 0, 1, 0]
            ds.PixelSpacing, ds.Rows, ds.Columns = [1.0, 1.0], 32, 32
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
            ds.RescaleSlope, ds.RescaleIntercept = 1, -1024
            ds.PixelData = stored.tobytes()
            ds["PixelData"].VR = "OW"
            ds.save_as(folder / f"ct{index:03d}.dcm", enforce_file_format=True)
        return folder

    return write
