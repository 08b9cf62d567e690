"""DICOM series with the faults of the field: each gives the right volume or the right refusal."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from focusnet.errors import FocusNetError
from focusnet.geometry import Volume
from focusnet.io import read_volume
from focusnet.io.dicom import find_series, read_series, read_series_reference
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless, generate_uid

MARKER_LPS = np.array([22.0, -14.0, 9.0])
MARKER_RADIUS_MM = 9.0


def refusal(folder: Path, **choice) -> FocusNetError:
    with pytest.raises(FocusNetError) as caught:
        read_series(folder, **choice)
    message = str(caught.value)
    assert "\n" not in message
    assert not any(secret in message for secret in ("Secret", "SECRET", "1999", "1.2.826", str(folder)))
    return caught.value


def marker_centroid(volume: Volume) -> np.ndarray:
    """Centroid of the dense ball, weighted by how far a voxel rises above the body."""
    weight = np.clip(volume.array.astype(float) - 40, 0, None)
    index = np.argwhere(weight > 0)
    return np.average(volume.geometry.index_to_world(index), axis=0, weights=weight[tuple(index.T)])


def rotation(axis: int, degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    matrix[[first, first, second, second], [first, second, first, second]] = c, -s, s, c
    return matrix


def oblique(turn: np.ndarray) -> dict:
    """Series arguments for the standard stack with its axes turned about the origin."""
    return {
        "orientation": tuple(np.concatenate([turn[:, 0], turn[:, 1]])),
        "first_mm": tuple(turn @ [-72.0, -56.0, -15.0]),
        "step_mm": tuple(turn @ [0.0, 0.0, 4.0]),
    }


# --- what is read ---------------------------------------------------------------------------------------------------


def test_values_and_places_are_exact_for_shuffled_file_names(ct_series, tmp_path):
    series = ct_series(spacing_mm=(1.5, 0.75))
    volume = read_series(series.write(tmp_path / "ct"))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, series.array())
    assert volume.geometry.spacing_xyz == pytest.approx((0.75, 1.5, 4.0))
    assert volume.geometry.origin_xyz == pytest.approx((-72.0, -56.0, -15.0))
    assert volume.geometry.frame_of_reference == series.frame_uid


def test_instance_numbers_play_no_part(ct_series, tmp_path):
    def scramble(ds, index):
        ds.InstanceNumber = (index * 5) % 12

    series = ct_series(edit=scramble)
    np.testing.assert_array_equal(read_series(series.write(tmp_path)).array, series.array())


def test_feet_first_and_prone_are_placed_by_geometry_alone(ct_series, tmp_path):
    head_first = read_series(ct_series().write(tmp_path / "hfs"))

    def say_feet_first(ds, index):
        ds.PatientPosition = "FFP"

    feet_first = ct_series(
        orientation=(-1, 0, 0, 0, -1, 0), first_mm=(71, 55, 29), step_mm=(0, 0, -4.0), edit=say_feet_first
    )
    volume = read_series(feet_first.write(tmp_path / "ffp"))
    assert np.linalg.det(volume.geometry.direction) == pytest.approx(1)
    np.testing.assert_allclose(marker_centroid(volume), marker_centroid(head_first), atol=0.3)
    np.testing.assert_array_equal(volume.array[:, ::-1, ::-1], head_first.array)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("degrees", [-20, 20])
def test_oblique_series_is_placed_right(ct_series, tmp_path, axis, degrees):
    volume = read_series(ct_series(count=16, **oblique(rotation(axis, degrees))).write(tmp_path))
    assert volume.geometry.is_orthogonal
    assert volume.geometry.shape_zyx == (16, 112, 144)
    np.testing.assert_allclose(marker_centroid(volume), MARKER_LPS, atol=0.4)


def test_coronal_series_is_read_where_there_is_no_axial_one(ct_series, tmp_path):
    series = ct_series(
        count=40, orientation=(1, 0, 0, 0, 0, -1), first_mm=(-72, -70, 60), step_mm=(0, 3.0, 0), shape=(120, 144)
    )
    volume = read_series(series.write(tmp_path))
    np.testing.assert_allclose(marker_centroid(volume), MARKER_LPS, atol=0.4)


def test_rescale_of_each_slice_is_honoured(ct_series, tmp_path):
    def own_rescale(ds, index):
        stored = np.frombuffer(ds.PixelData, np.int16) - 1024  # HU
        ds.RescaleSlope, ds.RescaleIntercept = index % 3 + 1, -1000 * (index % 2)
        stored = (stored + 1000 * (index % 2)) / (index % 3 + 1)
        ds.PixelData = np.rint(stored).astype(np.int16).tobytes()

    series = ct_series(edit=own_rescale)
    np.testing.assert_allclose(read_series(series.write(tmp_path)).array, series.array(), atol=1.5)


def test_fractional_slope_gives_float32(ct_series, tmp_path):
    series = ct_series(slope=0.5, intercept=-1024.25)
    volume = read_series(series.write(tmp_path))
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, series.array(), atol=0.26)


def test_unsigned_twelve_bit_pixels(ct_series, tmp_path):
    def unsigned(ds, index):
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit = 0, 12, 11

    series = ct_series(edit=unsigned)
    np.testing.assert_array_equal(read_series(series.write(tmp_path)).array, series.array())


@pytest.mark.parametrize("padding_hu", [-2000, -3024])
def test_padding_below_air_becomes_air(ct_series, tmp_path, padding_hu):
    def pad(ds, index):
        stored = np.frombuffer(ds.PixelData, np.int16).reshape(112, 144).copy()
        stored[:5] = padding_hu + 1024
        ds.PixelData = stored.tobytes()

    volume = read_series(ct_series(edit=pad).write(tmp_path))
    assert (volume.array[:, :5] == -1024).all()
    assert volume.array.min() == -1024


def test_stated_padding_value_above_bone_becomes_air(ct_series, tmp_path):
    def pad(ds, index):
        stored = np.frombuffer(ds.PixelData, np.int16).reshape(112, 144).copy()
        stored[:5] = 32000
        ds.PixelData, ds.PixelPaddingValue = stored.tobytes(), 32000

    assert (read_series(ct_series(edit=pad).write(tmp_path)).array[:, :5] == -1024).all()


def test_stated_padding_value_that_is_tissue_is_left_alone(ct_series, tmp_path):
    def mistaken(ds, index):
        ds.PixelPaddingValue = 1024 + 40  # the body

    series = ct_series(edit=mistaken)
    np.testing.assert_array_equal(read_series(series.write(tmp_path)).array, series.array())


def test_identical_duplicates_are_dropped(ct_series, tmp_path):
    series = ct_series()
    series.write(tmp_path)
    files = sorted(tmp_path.iterdir())
    shutil.copy(files[3], tmp_path / "copy.dcm")
    again = pydicom.dcmread(files[5])
    again.SOPInstanceUID = again.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    again.save_as(tmp_path / "sent_twice.dcm")
    np.testing.assert_array_equal(read_series(tmp_path).array, series.array())
    assert len(read_series_reference(tmp_path).slices) == 12


def test_localizers_and_other_objects_in_the_folder_are_passed_over(ct_series, tmp_path):
    series = ct_series(count=13, edit=lambda ds, index: localizer(ds) if index == 12 else None)
    series.write(tmp_path / "ct")
    ct_series(count=2, edit=lambda ds, index: localizer(ds), number=1).write(tmp_path / "scout")
    ct_series(count=1, edit=as_structure_set, number=9).write(tmp_path / "rt")
    (tmp_path / "ct" / "notes.txt").write_text("no DICOM")
    ct_series(count=1, edit=as_disc_index, name="DICOMDIR").write(tmp_path)
    np.testing.assert_array_equal(read_series(tmp_path).array, series.array()[:12])


def localizer(ds: Dataset) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def as_structure_set(ds: Dataset, index: int) -> None:
    ds.Modality, ds.SOPClassUID = "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3"
    for keyword in ("Rows", "Columns", "PixelData", "ImagePositionPatient"):
        delattr(ds, keyword)


def as_disc_index(ds: Dataset, index: int) -> None:
    ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    for keyword in ("SOPClassUID", "SeriesInstanceUID", "Modality", "Rows", "PixelData"):
        delattr(ds, keyword)


def test_axial_series_goes_before_a_reformat(ct_series, tmp_path):
    axial = ct_series()
    axial.write(tmp_path / "axial")
    ct_series(count=40, number=3, orientation=(1, 0, 0, 0, 0, -1), first_mm=(-72, -70, 60), step_mm=(0, 3, 0)).write(
        tmp_path / "coronal"
    )
    assert read_series_reference(tmp_path).series_uid == axial.series_uid


def test_series_is_chosen_by_uid_or_number(ct_series, tmp_path):
    thick = ct_series(number=4, count=8)
    thick.write(tmp_path / "a")
    thin = ct_series(number=7)
    thin.write(tmp_path / "b")
    error = refusal(tmp_path)
    assert error.code == "E_MULTIPLE_SERIES"
    assert "number 4 (8 slices)" in error.message
    assert "number 7 (12 slices)" in error.message
    assert len(read_series(tmp_path, series_uid=thick.series_uid).array) == 8
    assert len(read_series(tmp_path, series_number=7).array) == 12
    assert refusal(tmp_path, series_number=5).code == "E_NO_SERIES"
    assert [series.uid for series in find_series(tmp_path)] == [thick.series_uid, thin.series_uid]


def test_files_without_preamble_are_read(ct_series, tmp_path):
    series = ct_series()
    series.write(tmp_path)
    for path in tmp_path.iterdir():
        ds = pydicom.dcmread(path)
        pydicom.dcmwrite(path, strip_meta(ds), implicit_vr=True, little_endian=True, overwrite=True)
    assert b"DICM" not in next(tmp_path.iterdir()).read_bytes()[:132]
    np.testing.assert_array_equal(read_series(tmp_path).array, series.array())


def strip_meta(ds: Dataset) -> Dataset:
    bare = Dataset()
    bare.update(ds)
    return bare


def test_empty_series_number(ct_series, tmp_path):
    def forget(ds, index):
        ds.SeriesNumber = None

    ct_series(edit=forget).write(tmp_path / "a")
    ct_series(edit=forget).write(tmp_path / "b")
    assert "unnumbered (12 slices), unnumbered (12 slices)" in refusal(tmp_path).message
    assert read_series(tmp_path / "a").array.shape == (12, 112, 144)


def test_folder_names_with_spaces_and_other_scripts(ct_series, tmp_path):
    series = ct_series(name="срез ß ")
    np.testing.assert_array_equal(read_series(series.write(tmp_path / "Müller 頭頸部 CT")).array, series.array())


# --- encodings ------------------------------------------------------------------------------------------------------


def test_run_length_encoding(ct_series, tmp_path):
    series = ct_series(edit=lambda ds, index: ds.compress(RLELossless))
    np.testing.assert_array_equal(read_series(series.write(tmp_path)).array, series.array())


def test_jpeg2000(ct_series, tmp_path):
    series = ct_series()
    jpeg2000(series.write(tmp_path / "plain"), tmp_path / "jpeg2000")
    one = next((tmp_path / "jpeg2000").iterdir())
    assert pydicom.dcmread(one).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.90"
    np.testing.assert_array_equal(read_series(tmp_path / "jpeg2000").array, series.array())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_paths_that_are_no_utf_8_are_read_or_refused(ct_series, tmp_path):
    series = ct_series()
    plain = series.write(tmp_path / os.fsdecode(b"\xff"))
    np.testing.assert_array_equal(read_series(plain).array, series.array())
    jpeg2000(ct_series().write(tmp_path / "plain"), tmp_path / "jpeg2000")
    (tmp_path / "jpeg2000").rename(tmp_path / os.fsdecode(b"\xfe"))
    with pytest.raises(FocusNetError, match=r"E_UNREADABLE.*no valid UTF-8"):
        read_series(tmp_path / os.fsdecode(b"\xfe"))


def test_lack_of_memory_while_pixels_are_decoded_is_told_as_such(ct_series, tmp_path, monkeypatch):
    folder = ct_series().write(tmp_path)

    def short(dataset):
        raise MemoryError

    monkeypatch.setattr(pydicom.FileDataset, "pixel_array", property(short))
    assert refusal(folder).code == "E_OUT_OF_MEMORY"


def jpeg2000(source: Path, target: Path) -> None:
    """Compress by GDCM; the place and series, which ITK rewrites, are put back."""
    target.mkdir()
    for path in source.iterdir():
        original = pydicom.dcmread(path)
        image = sitk.GetImageFromArray(original.pixel_array.astype(np.uint16))
        sitk.WriteImage(image, str(target / path.name), True)
        packed = pydicom.dcmread(target / path.name)
        pixels = packed["PixelData"]
        original.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
        original.BitsStored, original.HighBit, original.PixelRepresentation = packed.BitsStored, packed.HighBit, 0
        original["PixelData"] = pixels
        original.save_as(target / path.name, enforce_file_format=True)


def test_compressed_monochrome1_is_refused_as_gdcm_would_invert_it(ct_series, tmp_path):
    def inverted_display(ds, index):
        ds.PhotometricInterpretation = "MONOCHROME1"
        ds.compress(RLELossless)

    assert refusal(ct_series(edit=inverted_display).write(tmp_path)).code == "E_UNREADABLE"


def test_enhanced_multiframe_ct(ct_series, tmp_path):
    series = ct_series()
    path = tmp_path / "enhanced.dcm"
    series.enhanced().save_as(path, enforce_file_format=True)
    for source in (tmp_path, path):
        volume = read_volume(source)
        np.testing.assert_array_equal(volume.array, series.array())
        assert volume.geometry.spacing_xyz == pytest.approx((1, 1, 4))
    assert [item.frame for item in read_series_reference(tmp_path).slices] == list(range(11, -1, -1))


def test_multiframe_without_functional_groups_is_refused(ct_series, tmp_path):
    ds = ct_series().enhanced()
    del ds.PerFrameFunctionalGroupsSequence
    ds.save_as(tmp_path / "enhanced.dcm", enforce_file_format=True)
    assert refusal(tmp_path).code == "E_MULTIFRAME"


def test_multiframe_capture_is_refused(ct_series, tmp_path):
    def stack_frames(ds, index):
        ds.NumberOfFrames, ds.PixelData = 3, ds.PixelData * 3

    assert refusal(ct_series(count=1, edit=stack_frames).write(tmp_path)).code == "E_MULTIFRAME"


# --- gantry tilt ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [-20, -15, -10, -5, 5, 10, 15, 20])
def test_gantry_tilt_is_straightened(ct_series, tmp_path, degrees):
    turn = rotation(0, degrees)
    # The gantry is tilted, so the planes are turned; the table moves straight along the patient.
    tilted = oblique(turn) | {"step_mm": (0.0, 0.0, 3.0), "first_mm": tuple(turn @ [-72.0, -56.0, 0.0] - [0, 0, 24.0])}
    series = ct_series(count=24, **tilted)
    volume = read_series(series.write(tmp_path))
    assert volume.geometry.is_orthogonal
    np.testing.assert_allclose(volume.geometry.direction, turn, atol=1e-6)
    assert volume.geometry.spacing_xyz[2] == pytest.approx(3.0 * np.cos(np.radians(degrees)))
    np.testing.assert_allclose(marker_centroid(volume), MARKER_LPS, atol=0.5)
    shift_mm = 23 * 3.0 * np.sin(np.radians(abs(degrees)))
    assert volume.array.shape == (24, 112 + int(np.ceil(shift_mm)), 144)
    assert volume.array.min() == -1024  # outside the slices
    mass = (volume.array.astype(float) + 1024).sum()
    assert mass == pytest.approx((series.array().astype(float) + 1024).sum(), rel=1e-4)


def test_naive_stacking_of_a_tilted_series_would_be_wrong(ct_series, tmp_path):
    """The tilt test can fail: the same slices along the normal put the marker far off."""
    turn = rotation(0, 15)
    tilted = oblique(turn) | {"step_mm": (0.0, 0.0, 3.0), "first_mm": tuple(turn @ [-72.0, -56.0, 0.0] - [0, 0, 24.0])}
    straight = read_series(ct_series(count=24, **tilted).write(tmp_path))
    naive = ct_series(count=24, **tilted)
    affine = straight.geometry.affine.copy()
    affine[:3, 3] = naive.first_mm
    index = np.argwhere(naive.array() == 1000)
    world = index[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
    assert np.linalg.norm(world.mean(axis=0) - MARKER_LPS) > 5


def test_shift_by_whole_pixels_is_exact(ct_series, tmp_path):
    series = ct_series(step_mm=(2.0, -1.0, 4.0))
    volume = read_series(series.write(tmp_path))
    for index, plane in enumerate(series.array()):
        part = volume.array[index, 11 - index : 11 - index + 112, 2 * index : 2 * index + 144]
        np.testing.assert_array_equal(part, plane)
    np.testing.assert_allclose(volume.geometry.index_to_world([0, 11, 0]), series.first_mm, atol=1e-9)
    np.testing.assert_allclose(marker_centroid(volume), MARKER_LPS, atol=0.3)


def test_shear_beyond_any_gantry_is_refused(ct_series, tmp_path):
    assert refusal(ct_series(step_mm=(0, 5.0, 4.0)).write(tmp_path)).code == "E_GANTRY_TILT"


def test_rounded_positions_are_no_tilt_and_no_unevenness(ct_series, tmp_path):
    def rounded(ds, index):
        ds.ImagePositionPatient = [f"{float(v):.1f}" for v in ds.ImagePositionPatient]

    series = ct_series(step_mm=(0.0, 0.0, 0.625), edit=rounded, count=30)
    volume = read_series(series.write(tmp_path))
    assert volume.array.shape == (30, 112, 144)
    assert volume.geometry.spacing_xyz[2] == pytest.approx(0.625, abs=0.004)


def test_ten_millimetre_slices(ct_series, tmp_path):
    volume = read_series(ct_series(step_mm=(0, 0, 10.0), count=6).write(tmp_path))
    assert volume.geometry.spacing_xyz == pytest.approx((1, 1, 10))


# --- what is refused ------------------------------------------------------------------------------------------------


def test_missing_slices(ct_series, tmp_path):
    error = refusal(ct_series(count=20, edit=lambda ds, index: index not in (7, 8, 15)).write(tmp_path))
    assert error.code == "E_MISSING_SLICES"
    assert "3 slices are missing in 2 gaps (first after slice 7 of 17" in error.message


@pytest.mark.parametrize("gone", [1, 118])
def test_one_missing_slice_in_a_long_series(ct_series, tmp_path, gone):
    series = ct_series(count=120, shape=(16, 16), spacing_mm=(9, 9), step_mm=(0, 0, 1.0))
    series.edit = lambda ds, index: index != gone
    assert refusal(series.write(tmp_path)).code == "E_MISSING_SLICES"


def test_uneven_spacing(ct_series, tmp_path):
    def jump(ds, index):
        if index > 5:
            ds.ImagePositionPatient = [-72, -56, float(ds.ImagePositionPatient[2]) + 1.7]

    assert refusal(ct_series(edit=jump).write(tmp_path)).code == "E_UNEVEN_SPACING"


def test_two_spacings_in_one_series(ct_series, tmp_path):
    def thicker(ds, index):
        if index > 5:
            ds.ImagePositionPatient = [-72, -56, -15 + 20 + (index - 5) * 6.0]

    assert refusal(ct_series(edit=thicker).write(tmp_path)).code == "E_UNEVEN_SPACING"


def test_conflicting_duplicates(ct_series, tmp_path):
    series = ct_series()
    series.write(tmp_path)
    other = series.dataset(4)
    other.PixelData = series.dataset(9).PixelData[:-2] + b"\1\0"
    other.save_as(tmp_path / "other.dcm", enforce_file_format=True)
    assert refusal(tmp_path).code == "E_DUPLICATE_SLICES"


def test_two_fields_of_view_in_one_plane(ct_series, tmp_path):
    series = ct_series()
    series.write(tmp_path)
    other = series.dataset(4)
    other.ImagePositionPatient = [100, -56, 1]
    other.save_as(tmp_path / "other.dcm", enforce_file_format=True)
    assert refusal(tmp_path).code == "E_DUPLICATE_SLICES"


def test_no_rescale_of_values_that_are_not_hu(ct_series, tmp_path):
    def forget(ds, index):
        del ds.RescaleSlope, ds.RescaleIntercept

    assert refusal(ct_series(edit=forget).write(tmp_path)).code == "E_NO_RESCALE"


@pytest.mark.parametrize("padding", [-2000, -3024])
def test_no_rescale_is_not_hidden_by_padding(ct_series, tmp_path, padding):
    """Padding must not pass for air, nor the air that was measured for tissue."""

    def forget(ds, index):
        del ds.RescaleSlope, ds.RescaleIntercept
        stored = np.frombuffer(ds.PixelData, np.int16).reshape(112, 144).copy()
        stored[:5] = padding
        ds.PixelData, ds.PixelPaddingValue = stored.tobytes(), padding

    assert refusal(ct_series(edit=forget).write(tmp_path)).code == "E_NO_RESCALE"


def test_no_rescale_of_values_that_are_hu_already(ct_series, tmp_path):
    def forget(ds, index):
        del ds.RescaleSlope, ds.RescaleIntercept

    series = ct_series(intercept=0.0, edit=forget)
    np.testing.assert_array_equal(read_series(series.write(tmp_path)).array, series.array())


@pytest.mark.parametrize("slope", [None, 0])
def test_rescale_lost_in_one_slice(ct_series, tmp_path, slope):
    def forget(ds, index):
        if index == 3:
            ds.RescaleSlope = slope

    assert refusal(ct_series(edit=forget).write(tmp_path)).code == "E_NO_RESCALE"


@pytest.mark.parametrize("modality", ["MR", "PT"])
def test_other_modalities(ct_series, tmp_path, modality):
    def relabel(ds, index):
        ds.Modality = modality

    error = refusal(ct_series(edit=relabel).write(tmp_path))
    assert error.code == "E_NOT_CT"
    assert f"12 {modality}" in error.message


def test_mr_values_in_a_series_labelled_ct(ct_series, tmp_path):
    def mr_values(ds, index):
        stored = np.frombuffer(ds.PixelData, np.int16)
        ds.RescaleIntercept = 0
        ds.PixelData = np.where(stored > 100, 400 + stored // 8, stored).astype(np.int16).tobytes()

    assert refusal(ct_series(edit=mr_values).write(tmp_path)).code == "E_NOT_CT"


def test_mixed_orientations(ct_series, tmp_path):
    def turn(ds, index):
        if index == 6:
            ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    assert refusal(ct_series(edit=turn).write(tmp_path)).code == "E_MIXED_ORIENTATION"


def test_mixed_frames_of_reference(ct_series, tmp_path):
    def move(ds, index):
        if index > 6:
            ds.FrameOfReferenceUID = "1.2.3"

    assert refusal(ct_series(edit=move).write(tmp_path)).code == "E_FRAME_OF_REFERENCE"


def test_mixed_pixel_spacing(ct_series, tmp_path):
    def zoom(ds, index):
        if index == 6:
            ds.PixelSpacing = [0.9, 0.9]

    assert refusal(ct_series(edit=zoom).write(tmp_path)).code == "E_BAD_GEOMETRY"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PixelSpacing", None),
        ("PixelSpacing", [0, 0]),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0]),
        ("ImageOrientationPatient", [1, 0, 0]),
        ("ImagePositionPatient", None),
    ],
)
def test_header_without_a_valid_place(ct_series, tmp_path, keyword, value):
    def spoil(ds, index):
        setattr(ds, keyword, value)

    assert refusal(ct_series(edit=spoil).write(tmp_path)).code == "E_BAD_GEOMETRY"


def test_one_slice_given_as_a_file(ct_series, tmp_path):
    folder = ct_series().write(tmp_path)
    with pytest.raises(FocusNetError) as caught:
        read_volume(next(folder.iterdir()))
    assert caught.value.code == "E_TOO_FEW_SLICES"
    assert "folder" in caught.value.message


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_slices(ct_series, tmp_path, count):
    assert refusal(ct_series(count=count).write(tmp_path)).code == "E_TOO_FEW_SLICES"


def test_localizers_alone(ct_series, tmp_path):
    folder = ct_series(count=5, edit=lambda ds, index: localizer(ds)).write(tmp_path)
    assert refusal(folder).code == "E_TOO_FEW_SLICES"


def test_empty_air(ct_series, tmp_path):
    def nothing(ds, index):
        noise = np.random.default_rng(index).integers(10, 40, 112 * 144)
        ds.PixelData = noise.astype(np.int16).tobytes()

    assert refusal(ct_series(edit=nothing).write(tmp_path)).code == "E_EMPTY_IMAGE"


def test_empty_folder_and_folder_without_dicom(tmp_path):
    assert refusal(tmp_path).code == "E_NO_SERIES"
    (tmp_path / "readme.txt").write_text("nothing here")
    assert refusal(tmp_path).code == "E_NO_SERIES"


@pytest.mark.parametrize("keep", [200, 0.5])
def test_truncated_file(ct_series, tmp_path, keep):
    ct_series().write(tmp_path)
    victim = sorted(tmp_path.iterdir())[4]
    content = victim.read_bytes()
    victim.write_bytes(content[: keep if keep > 1 else int(len(content) * keep)])
    assert refusal(tmp_path).code == "E_UNREADABLE"


def test_file_of_noise_with_a_dicom_name(ct_series, tmp_path):
    ct_series().write(tmp_path)
    (tmp_path / "broken.dcm").write_bytes(np.random.default_rng(0).bytes(5000))
    assert refusal(tmp_path).code == "E_UNREADABLE"


# --- references -----------------------------------------------------------------------------------------------------


def test_reference_lists_the_slices_in_the_order_of_the_volume(ct_series, tmp_path):
    series = ct_series(spacing_mm=(1.5, 0.75))
    series.write(tmp_path)
    reference = read_series_reference(tmp_path)
    by_uid = {ds.SOPInstanceUID: ds for ds in map(pydicom.dcmread, tmp_path.iterdir())}
    for index, item in enumerate(reference.slices):
        assert item.position_mm == pytest.approx(series.position(index))
        assert by_uid[item.sop_instance_uid].ImagePositionPatient == pytest.approx(item.position_mm)
        assert item.sop_class_uid == "1.2.840.10008.5.1.4.1.1.2"
        assert item.frame is None
    assert (reference.study_uid, reference.series_uid) == (series.study_uid, series.series_uid)
    assert reference.frame_of_reference == series.frame_uid
    assert reference.spacing_mm == (1.5, 0.75)
    assert reference.shape == (112, 144)
    assert reference.tags["PatientID"] == "SECRET-ID"
    assert reference.tags["StudyDate"] == "19990101"
    assert "Secret" not in repr(reference)


def test_patient_tags_in_any_script(ct_series, tmp_path):
    def rename(ds, index):
        ds.SpecificCharacterSet, ds.PatientName, ds.StudyDescription = "ISO_IR 192", "Ямада^太郎", ""

    tags = read_series_reference(ct_series(edit=rename).write(tmp_path)).tags
    assert tags["PatientName"] == "Ямада^太郎"
    assert "StudyDescription" not in tags


def test_headers_are_enough_for_a_reference(ct_series, tmp_path):
    ct_series().write(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[: -112 * 144])  # half of the pixels
    assert len(read_series_reference(tmp_path).slices) == 12


def test_volume_carries_nothing_about_the_patient(ct_series, tmp_path):
    assert "ecret" not in repr(read_series(ct_series().write(tmp_path)))


# --- the real thing -------------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_planning_ct_equals_simpleitk_voxel_by_voxel(shared_data):
    folder = shared_data / "dicom" / "hn_planning_ct"
    volume = read_series(folder)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    assert volume.array.shape == (90, 511, 511)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))
    for index in ((0, 0, 0), (89, 510, 510), (40, 100, 300)):
        expected = image.TransformIndexToPhysicalPoint([int(i) for i in reversed(index)])
        np.testing.assert_allclose(volume.geometry.index_to_world(index), expected, atol=1e-6)
