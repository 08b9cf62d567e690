"""Small models for the tests of bundles, prediction and the command line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from focusnet import cli
from focusnet.bundle import Architecture, Bundle, ModelSpec, save_bundle
from focusnet.geometry import Geometry, Volume
from focusnet.io.image import write_image
from focusnet.networks import builders
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SMALL = ("lens_l", "optic_chiasm")
ARGUMENTS = {
    "num_classes": 6,
    "num_small": len(SMALL),
    "widths": (4, 6, 8),
    "growth": 4,
    "dilations": (1, 2),
    "roi_shape_zyx": (4, 16, 16),
}
SPEC = ModelSpec(
    name="tiny",
    description="Random weights for tests.",
    architecture=Architecture(name="focusnetv2", arguments=ARGUMENTS),
    organs=("brainstem", "parotid_l", "parotid_r", *SMALL),
    small_organs=SMALL,
    spacing_mm_xyz=(4.0, 4.0, 4.0),
    chunk_shape_zyx=(16, 48, 48),
    overlap_zyx=(4, 8, 8),
    roi_shape_zyx=(4, 16, 16),
    peak_threshold=0.01,
    training_data="None: random weights.",
)


@pytest.fixture(scope="session")
def tiny_spec() -> ModelSpec:
    """Description of a model with two small organs."""
    return SPEC


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of that model with random weights; don't change its folder."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = builders.build("focusnetv2", **ARGUMENTS)
    folder: Path = tmp_path_factory.mktemp("models") / "tiny"
    return save_bundle(folder, SPEC, network, "# tiny\n\nRandom weights.")


def small_ct(shape_zyx: tuple[int, int, int] = (14, 40, 44)) -> Volume:
    """A short, coarse CT: soft tissue with a dense core in air."""
    geometry = Geometry.from_parts(shape_zyx, (4.0, 4.0, 5.0), (-86.0, -78.0, -30.0))
    _, y, x = np.indices(shape_zyx)
    radius = np.hypot((y - 20) / 15, (x - 22) / 17)
    hu = np.where(radius < 1, 40, -1000) + np.where(radius < 0.3, 500, 0)
    noise = np.random.default_rng(7).normal(0, 15, shape_zyx)
    return Volume((hu + noise).astype(np.int16), geometry)


@pytest.fixture(scope="session")
def ct() -> Volume:
    """A small CT; don't change its array."""
    return small_ct()


@pytest.fixture
def ct_file(ct: Volume, tmp_path: Path) -> Path:
    """The same CT as ``pt_1_0000.nrrd``."""
    path = tmp_path / "input" / "pt_1_0000.nrrd"
    write_image(ct, path)
    return path


@pytest.fixture
def dicom_folder(ct: Volume, tmp_path: Path) -> Path:
    """The same CT as a DICOM series."""
    folder = tmp_path / "series"
    folder.mkdir()
    study, series, frame = (generate_uid() for _ in range(3))
    for k, plane in enumerate(ct.array):
        header = FileMetaDataset()
        header.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = Dataset()
        dataset.file_meta = header
        dataset.SOPClassUID = header.MediaStorageSOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = header.MediaStorageSOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 1, k + 1
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [float(v) for v in ct.geometry.index_to_world((k, 0, 0))]
        dataset.PixelSpacing = [4.0, 4.0]
        dataset.Rows, dataset.Columns = plane.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
        dataset.PixelData = plane.tobytes()
        dataset.save_as(folder / f"{k}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture
def tiny_model(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name under which the small model is found."""
    monkeypatch.setenv("FOCUSNET_MODELS", str(tiny_bundle.folder.parent))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tiny_bundle.folder.name


@pytest.fixture
def focusnet(capsys):
    """Run a command line in this process: exit code, lines of stdout, lines of stderr."""

    def call(*arguments: object) -> tuple[int, list[str], list[str]]:
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out.splitlines(), captured.err.splitlines()

    return call
