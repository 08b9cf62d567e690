"""Our structure sets read by independent programs, and theirs read by us. Each is skipped where it is not installed.

Plastimatch and dcmrtstruct2nii test voxel centres, as a contour through the voxel edges wants it, and must give our
mask exactly. rt-utils rounds contour points to whole pixels and fills the outline's own pixels too (``fillPoly`` of
OpenCV), so its masks are up to one pixel larger all round; the tests say how much larger and nothing more.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from focusnet import cli
from focusnet.geometry import Geometry, LabelMap
from focusnet.io.dicom import read_series_reference
from focusnet.io.rtstruct import read_rtstruct, write_rtstruct
from focusnet.io.segmentation import read_segmentation
from focusnet.io.shapes import native_geometry
from focusnet.organs import find
from scipy import ndimage

ORGANS = {1: "brain", 2: "brainstem", 3: "parotid_l", 4: "parotid_r", 5: "lens_l"}


def labels_on(geometry: Geometry) -> LabelMap:
    """A shell with an island, a pair and a lens, at rising x on the patient's left."""
    depth, height, width = geometry.shape_zyx
    z, y, x = (np.linspace(-1, 1, n) for n in (depth, height, width))
    z, y, x = np.ix_(z, y, x)

    def ball(cz, cy, cx, r):
        return (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < r**2

    array = np.zeros(geometry.shape_zyx, dtype=np.uint8)
    array[ball(0, 0, 0, 0.8)] = 1
    array[ball(0, 0, 0, 0.4)] = 0
    array[ball(0, 0, 0.05, 0.22)] = 2
    array[ball(0, 0.1, 0.62, 0.3)] = 3
    array[ball(0, 0.1, -0.62, 0.3)] = 4
    array[ball(0.3, -0.7, 0.2, 0.07)] = 5
    return LabelMap(array, geometry, ORGANS)


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def write_case(ct_series, folder: Path, shape: tuple[int, int], spacing_mm: tuple[float, float]):
    """CT folder, structure set on it, and the masks."""

    def complete(ds, _):
        ds.StudyTime = ds.PatientBirthDate = ds.PatientSex = ds.StudyID = ""

    series = ct_series(count=14, spacing_mm=spacing_mm, step_mm=(0.0, 0.0, 3.0), shape=shape, edit=complete)
    ct = series.write(folder / "ct")
    reference = read_series_reference(ct)
    labels = labels_on(native_geometry(reference))
    write_rtstruct(labels, reference, folder / "rs.dcm")
    return ct, folder / "rs.dcm", labels


@pytest.fixture(scope="module")
def case(ct_series, tmp_path_factory):
    """Square pixels and images, since rt-utils takes rows for columns."""
    return write_case(ct_series, tmp_path_factory.mktemp("square"), (110, 110), (1.1, 1.1))


@pytest.fixture(scope="module")
def oblong(ct_series, tmp_path_factory):
    """Pixels and images that aren't square."""
    return write_case(ct_series, tmp_path_factory.mktemp("oblong"), (90, 120), (1.3, 0.9))


def test_plastimatch_gives_the_same_masks(oblong, tmp_path):
    check_plastimatch(*oblong, tmp_path)


def check_plastimatch(ct: Path, path: Path, labels: LabelMap, tmp_path: Path) -> None:
    pytest.importorskip("plastimatch")
    program = shutil.which("plastimatch", path=str(Path(sys.executable).parent)) or shutil.which("plastimatch")
    if program is None:
        pytest.skip("the program of plastimatch is not on the path")
    command = [program, "convert", "--input", str(path), "--referenced-ct", str(ct)]
    subprocess.run(
        [*command, "--output-prefix", str(tmp_path), "--prefix-format", "nrrd"], check=True, capture_output=True
    )
    for structure in read_rtstruct(path, labels.geometry).structures:
        theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"{structure.name}.nrrd"))) > 0
        np.testing.assert_array_equal(theirs, structure.mask)
        np.testing.assert_array_equal(theirs, labels.mask(structure.organ))


def test_dcmrtstruct2nii_gives_the_same_masks(oblong, monkeypatch):
    check_dcmrtstruct2nii(*oblong, monkeypatch)


def check_dcmrtstruct2nii(ct: Path, path: Path, labels: LabelMap, monkeypatch) -> None:
    monkeypatch.setattr(pydicom, "read_file", pydicom.dcmread, raising=False)  # its name until pydicom 3
    convert = pytest.importorskip("dcmrtstruct2nii.adapters.convert.rtstructcontour2mask")
    reader = pytest.importorskip("dcmrtstruct2nii.adapters.input.contours.rtstructinputadapter")
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(ct)))
    ours = {structure.name: structure for structure in read_rtstruct(path, labels.geometry).structures}
    rois = reader.RtStructInputAdapter().ingest(str(path))
    assert {roi["name"] for roi in rois} == set(ours)
    for roi in rois:
        mask = sitk.GetArrayFromImage(convert.DcmPatientCoords2Mask().convert(roi["sequence"], image, 0, 1)) > 0
        assert dice(mask, ours[roi["name"]].mask) == 1.0


@pytest.fixture(scope="module")
def rt_utils() -> ModuleType:
    return pytest.importorskip("rt_utils")


def rt_utils_mask(builder, name, geometry):
    """rt-utils gives rows, columns, slices in the order of its series."""
    mask = np.moveaxis(builder.get_roi_mask_by_name(name), 2, 0)
    heights = [float(item.ImagePositionPatient[2]) for item in builder.series_data]
    first = geometry.index_to_world((0, 0, 0))[2]
    return mask if abs(heights[0] - first) < 1 else mask[::-1]


def test_rt_utils_gives_our_masks_and_the_pixels_of_the_outline(case, rt_utils):
    ct, path, labels = case
    builder = rt_utils.RTStructBuilder.create_from(str(ct), str(path))
    assert builder.get_roi_names() == ["Brain", "Brainstem", "Parotid_L", "Parotid_R", "Lens_L"]
    for structure in read_rtstruct(path, labels.geometry).structures:
        theirs, ours = rt_utils_mask(builder, structure.name, labels.geometry), structure.mask
        check_rt_utils(theirs, ours)
        if structure.organ == "brain":
            assert dice(theirs, ours) > 0.97


def check_rt_utils(theirs, ours):
    """Its masks differ from ours in the pixels of the outline only."""
    cross = ndimage.generate_binary_structure(2, 2)[None]
    rim = ndimage.binary_dilation(ours, cross) & ~ndimage.binary_erosion(ours, cross)
    assert not ((theirs != ours) & ~rim).any()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_structure_set_of_rt_utils_is_read_as_its_mask(case, rt_utils, tmp_path):
    """rt-utils draws through the centres of the outermost voxels: inside, all is there; at most the rim is lost."""
    ct, _, labels = case
    builder = rt_utils.RTStructBuilder.create_new(str(ct))
    heights = [float(item.ImagePositionPatient[2]) for item in builder.series_data]
    is_rising = heights[0] < heights[-1]
    for name, key in (("Parotid_L", "parotid_l"), ("Parotid_R", "parotid_r")):
        mask = labels.mask(key)
        builder.add_roi(mask=np.moveaxis(mask if is_rising else mask[::-1], 0, 2), name=name)
    builder.save(str(tmp_path / "theirs.dcm"))
    found = read_rtstruct(tmp_path / "theirs.dcm", labels.geometry)
    cross = ndimage.generate_binary_structure(2, 2)[None]
    for key in ("parotid_l", "parotid_r"):
        mask, structure = labels.mask(key), found.find(key)
        assert not (structure.mask & ~mask).any()
        assert (structure.mask | ~ndimage.binary_erosion(mask, cross)).all()


@pytest.mark.realdata
@pytest.mark.slow
def test_the_planning_ct_passes_and_is_read_alike(shared_data, tmp_path, rt, rt_utils, monkeypatch):
    """Drawn shapes at real resolution: series, structure set, independent readers and the IOD checkers."""
    ct = shared_data / "dicom" / "hn_planning_ct"
    reference = read_series_reference(ct)
    labels = labels_on(native_geometry(reference))
    path = tmp_path / "rs.dcm"
    write_rtstruct(labels, reference, path)
    check_planning_ct(rt, rt_utils, ct, path, labels, monkeypatch)
    check_plastimatch(ct, path, labels, tmp_path)


@pytest.mark.realdata
@pytest.mark.slow
def test_the_segmented_planning_ct_passes_and_is_read_alike(shared_data, tmp_path, rt, rt_utils, monkeypatch):
    """What ``focusnet segment CT -o out.dcm`` makes of it with the model of real patients."""
    ct = shared_data / "dicom" / "hn_planning_ct"
    formats = ["--format", "rtstruct", "--format", "seg.nrrd"]
    command = ["segment", str(ct), "-o", str(tmp_path), *formats, "--model", "openkbp7", "--fast", "--device", "cpu"]
    assert cli.run(command) == 0
    found = read_segmentation(tmp_path / "hn_planning_ct.seg.nrrd")
    organs = {number: find(name).key for number, name in enumerate(found.names, start=1)}
    array = np.zeros(found.geometry.shape_zyx, dtype=np.uint8)
    for number, name in enumerate(found.names, start=1):
        array[found[name].mask] = number
    frame = read_series_reference(ct).frame_of_reference
    labels = LabelMap(array, Geometry(array.shape, found.geometry.affine, frame), organs)
    check_planning_ct(rt, rt_utils, ct, tmp_path / "hn_planning_ct.rtstruct.dcm", labels, monkeypatch)
    check_plastimatch(ct, tmp_path / "hn_planning_ct.rtstruct.dcm", labels, tmp_path)


def check_planning_ct(rt, rt_utils, ct: Path, path: Path, labels: LabelMap, monkeypatch) -> None:
    found = read_rtstruct(path, labels.geometry)
    assert {structure.organ for structure in found.structures} == {
        key for key in labels.organs.values() if labels.mask(key).any()
    }
    builder = rt_utils.RTStructBuilder.create_from(str(ct), str(path))
    for structure in found.structures:
        np.testing.assert_array_equal(structure.mask, labels.mask(structure.organ))
        theirs = rt_utils_mask(builder, structure.name, labels.geometry)
        check_rt_utils(theirs, structure.mask)
        print(f"{structure.name}: {structure.volume_ml:.1f} ml, DSC with rt-utils {dice(theirs, structure.mask):.4f}")
        if structure.volume_ml > 1000:
            assert dice(theirs, structure.mask) >= 0.99
    check_dcmrtstruct2nii(ct, path, labels, monkeypatch)
    result = rt.validate(pydicom.dcmread(path))
    assert result.errors == 0, result.module_errors
    if shutil.which("dciodvfy"):
        done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        assert "Error" not in done.stderr + done.stdout
