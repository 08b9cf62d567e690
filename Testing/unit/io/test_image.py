"""Image files: right places and values, or the right refusal."""

import itertools
import os
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from focusnet.devices import is_out_of_memory
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, LabelMap, Volume, to_sitk
from focusnet.io import check_hu, read_image, read_volume, write_image
from focusnet.io.nifti import read_nifti_header
from focusnet.io.segmentation import write_segmentation
from focusnet.io.shear import straighten
from hypothesis import given, settings
from hypothesis import strategies as st

FORMATS = ["ct.nrrd", "ct.nii.gz", "ct.nii", "ct.mha"]
SHAPE = (10, 40, 48)
MARKER_ZYX = (3, 12, 30)


def patient(shape=SHAPE, dtype=np.int16) -> np.ndarray:
    """Air, a body, a dense mark away from all symmetry planes."""
    y, x = np.indices(shape)[1:]
    centre = (np.array(shape) - 1) / 2
    inside = ((y - centre[1]) / (0.4 * shape[1])) ** 2 + ((x - centre[2]) / (0.4 * shape[2])) ** 2 < 1
    array = np.where(inside, 40, -1000).astype(dtype)
    array[MARKER_ZYX] = 1500
    return array


def oblique_geometry(permutation=(0, 1, 2), signs=(1, 1, 1), shape=SHAPE) -> Geometry:
    a, b = np.radians(20), np.radians(-13)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    )
    return Geometry.from_parts(shape, (0.9, 1.1, 2.5), (-31, 12, -250), (turn * signs)[:, list(permutation)])


def refusal(path: Path, **options) -> FocusNetError:
    with pytest.raises(FocusNetError) as caught:
        read_image(path, **options)
    assert "\n" not in str(caught.value)
    return caught.value


def write_raw(path: Path, array: np.ndarray, is_vector: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=is_vector), str(path))
    return path


# --- places and values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, 1, -1)])
@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3)))[::2])
def test_round_trip_over_orientations_keeps_world_and_values(tmp_path, name, signs, permutation):
    volume = Volume(patient(), oblique_geometry(permutation, signs))
    write_image(volume, tmp_path / name)
    again = read_volume(tmp_path / name)
    np.testing.assert_array_equal(again.array, volume.array)
    assert again.array.dtype == np.int16
    assert again.geometry.is_close(volume.geometry, atol_mm=1e-3)
    expected = volume.geometry.index_to_world(MARKER_ZYX)
    np.testing.assert_allclose(again.geometry.index_to_world(np.argwhere(again.array == 1500)[0]), expected, atol=1e-3)


@pytest.mark.parametrize("name", FORMATS)
def test_left_mark_stays_left(tmp_path, name):
    """Voxels counted towards the patient's right (direction -1 along x): a high index is the right side."""
    geometry = Geometry.from_parts(SHAPE, (1, 1, 3), (24, -20, 0), np.diag([-1.0, 1.0, 1.0]))
    write_image(Volume(patient(), geometry), tmp_path / name)
    again = read_volume(tmp_path / name)
    mark = again.geometry.index_to_world(np.argwhere(again.array == 1500)[0])
    assert mark[0] == pytest.approx(24 - 30)
    assert mark[0] < again.geometry.center_mm[0]


def test_ras_nrrd_is_brought_to_lps(tmp_path):
    path = tmp_path / "ras.nrrd"
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: right-anterior-superior\nsizes: 48 40 10\n"
        "space directions: (1,0,0) (0,2,0) (0,0,3)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
        "space origin: (5,6,7)\n\n"
    )
    path.write_bytes(header.encode() + patient().tobytes())
    geometry = read_image(path).geometry
    np.testing.assert_allclose(geometry.index_to_world([1, 1, 1]), [-6, -8, 10])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.int16, np.int16),
        (np.int32, np.int16),
        (np.int64, np.int16),
        (np.float32, np.float32),
        (np.float64, np.float32),
    ],
)
def test_value_types(tmp_path, dtype, expected):
    volume = read_image(write_raw(tmp_path / "ct.mha", patient(dtype=dtype)))
    assert volume.array.dtype == expected
    np.testing.assert_array_equal(volume.array, patient())


def test_values_beyond_int16_are_kept(tmp_path):
    array = patient(dtype=np.int32)
    array[0, 20, 24] = 60000
    volume = read_image(write_raw(tmp_path / "ct.nrrd", array))
    assert volume.array.dtype == np.float32
    assert volume.array.max() == 60000


def test_fourth_axis_of_length_one_is_dropped(tmp_path):
    image = sitk.JoinSeries([sitk.GetImageFromArray(patient())])
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    assert read_image(tmp_path / "ct.nii.gz").array.shape == SHAPE


def test_names_with_spaces_and_other_scripts(tmp_path):
    folder = tmp_path / "Fälle 頭頸部"
    folder.mkdir()
    write_image(Volume(patient(), oblique_geometry()), folder / "CT größe 1.NRRD.nii.gz")
    assert read_volume(folder / "CT größe 1.NRRD.nii.gz").array.shape == SHAPE


def test_other_images_are_read_without_the_hu_check(tmp_path):
    array = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    write_image(Volume(array, oblique_geometry()), tmp_path / "uncertainty.nrrd")
    np.testing.assert_array_equal(read_image(tmp_path / "uncertainty.nrrd", hounsfield=False).array, array)
    assert refusal(tmp_path / "uncertainty.nrrd").code == "E_NOT_HU"


# --- NIfTI orientation ----------------------------------------------------------------------------------------------


def edit_nifti(path: Path, *fields: tuple[str, int, tuple]) -> None:
    """Overwrite header fields of a .nii file: (struct format, offset, values)."""
    raw = bytearray(path.read_bytes())
    for form, offset, values in fields:
        struct.pack_into("<" + form, raw, offset, *values)
    path.write_bytes(raw)


@pytest.fixture
def nifti(tmp_path) -> Path:
    write_image(Volume(patient(), oblique_geometry()), tmp_path / "ct.nii")
    return tmp_path / "ct.nii"


def test_contradicting_qform_and_sform_are_refused(nifti):
    edit_nifti(nifti, ("4f", 280, (0.9, 0, 0, 31)), ("4f", 296, (0, 1.1, 0, -12)), ("4f", 312, (0, 0, 2.5, -250)))
    error = refusal(nifti)
    assert error.code == "E_BAD_GEOMETRY"
    assert "contradict" in error.message


def test_mirrored_sform_is_refused(nifti):
    header = read_nifti_header(nifti)
    edit_nifti(nifti, ("4f", 280, tuple(-header.sform[0])))
    assert refusal(nifti).code == "E_BAD_GEOMETRY"


@pytest.mark.parametrize("code_offset", [252, 254])
def test_either_transform_alone_is_followed(nifti, code_offset):
    edit_nifti(nifti, ("h", code_offset, (0,)))
    assert read_image(nifti).geometry.is_close(oblique_geometry(), atol_mm=1e-3)


def test_nifti_without_orientation_is_refused(nifti):
    edit_nifti(nifti, ("2h", 252, (0, 0)))
    error = refusal(nifti)
    assert error.code == "E_BAD_GEOMETRY"
    assert "left and right" in error.message


def test_metres_become_millimetres(nifti):
    header = read_nifti_header(nifti)
    rows = (header.sform[:3] / 1000).ravel()
    edit_nifti(nifti, ("B", 123, (1,)), ("h", 252, (0,)), ("12f", 280, tuple(rows)))
    assert read_image(nifti).geometry.is_close(oblique_geometry(), atol_mm=1e-2)


def test_big_endian_and_nifti2_headers(tmp_path, nifti):
    header = read_nifti_header(nifti)
    rows = [float(v) for v in header.sform[:3].ravel()]
    raw = bytearray(544)
    struct.pack_into(">i", raw, 0, 540)
    struct.pack_into(">8s", raw, 4, b"n+2\0\r\n\x1a\n")
    struct.pack_into(">hh", raw, 12, 4, 16)
    struct.pack_into(">8q", raw, 16, 3, 48, 40, 10, 1, 1, 1, 1)
    struct.pack_into(">8d", raw, 104, 1, 0.9, 1.1, 2.5, 1, 1, 1, 1)
    struct.pack_into(">q", raw, 168, 544)
    struct.pack_into(">d", raw, 176, 1.0)
    struct.pack_into(">2i", raw, 344, 0, 1)
    struct.pack_into(">12d", raw, 400, *rows)
    struct.pack_into(">i", raw, 500, 2)
    path = tmp_path / "two.nii"
    path.write_bytes(bytes(raw) + patient().astype(">i2").tobytes())
    volume = read_image(path)
    np.testing.assert_array_equal(volume.array, patient())
    assert volume.geometry.is_close(oblique_geometry(), atol_mm=1e-3)


def test_sheared_nifti_is_straightened(nifti):
    """ITK refuses such a grid or makes it orthogonal, by its version; the content must stay where the sform puts it."""
    header = read_nifti_header(nifti)
    sheared = header.sform.copy()
    sheared[:3, 2] += 0.3 * sheared[:3, 1]
    edit_nifti(nifti, ("h", 252, (0,)), ("12f", 280, tuple(sheared[:3].ravel())))
    volume = read_image(nifti)
    assert volume.geometry.is_orthogonal
    expected = np.diag([-1, -1, 1]) @ (sheared @ [30, 12, 3, 1])[:3]
    weight = np.clip(volume.array.astype(float) - 40, 0, None)
    index = np.argwhere(weight > 0)
    centre = np.average(volume.geometry.index_to_world(index), axis=0, weights=weight[tuple(index.T)])
    np.testing.assert_allclose(centre, expected, atol=0.05)


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"), [(1, -1024, np.int16), (0.5, -1000.5, np.float32), (0, 7, np.int16)]
)
def test_nifti_scaling(nifti, slope, intercept, expected):
    """A slope of zero means unscaled, by the standard."""
    edit_nifti(nifti, ("2f", 112, (slope, intercept)))
    volume = read_image(nifti, hounsfield=False)
    assert volume.array.dtype == expected
    np.testing.assert_array_equal(volume.array, patient() * slope + intercept if slope else patient())


def test_nifti_colour_is_refused(nifti):
    edit_nifti(nifti, ("2h", 70, (128, 24)))
    assert refusal(nifti).code == "E_NOT_3D"


# --- shear ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    permutation=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from((1.0, -1.0))] * 3),
    shear=st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6)),
)
def test_straightening_moves_no_mass_in_any_axis_order(permutation, signs, shear):
    linear = np.diag([0.9, 1.1, 2.5]) @ np.array([[1, 0, shear[0]], [0, 1, shear[1]], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = (linear * signs)[:, list(permutation)]
    affine[:3, 3] = (4, 5, 6)
    rng = np.random.default_rng(1)
    array = rng.random((5, 6, 7)).astype(np.float32)
    volume = Volume(array, Geometry(array.shape, affine))
    straight = straighten(volume, fill=0)
    assert straight.geometry.is_orthogonal
    assert straight.array.sum() == pytest.approx(array.sum(), rel=1e-5)

    def centroid(v: Volume) -> np.ndarray:
        index = np.argwhere(np.ones(v.array.shape))
        return np.average(v.geometry.index_to_world(index), axis=0, weights=v.array.ravel())

    np.testing.assert_allclose(centroid(straight), centroid(volume), atol=1e-3)
    assert straight.geometry.voxel_volume_ml == pytest.approx(volume.geometry.voxel_volume_ml)


def test_right_angled_volume_is_returned_as_it_is():
    volume = Volume(patient(), oblique_geometry())
    assert straighten(volume, fill=-1024) is volume


def test_shear_in_every_plane_is_refused():
    affine = np.eye(4)
    affine[:3, :3] += 0.2 * np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]])
    with pytest.raises(FocusNetError) as caught:
        straighten(Volume(patient(), Geometry(SHAPE, affine)), fill=-1024)
    assert caught.value.code == "E_BAD_GEOMETRY"


# --- what is refused ------------------------------------------------------------------------------------------------


def test_absent_file_and_unknown_format(tmp_path):
    assert refusal(tmp_path / "absent.nrrd").code == "E_UNREADABLE"
    (tmp_path / "ct.png").write_bytes(b"")
    assert refusal(tmp_path / "ct.png").code == "E_UNREADABLE"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.999])
def test_truncated_files(tmp_path, name, keep):
    path = tmp_path / name
    rng = np.random.default_rng(0)
    write_image(Volume(patient() + rng.integers(0, 9, SHAPE).astype(np.int16), oblique_geometry()), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert refusal(path).code == "E_UNREADABLE"


def test_nifti_with_voxels_inside_its_header_is_refused(nifti):
    edit_nifti(nifti, ("f", 108, (0.0,)))
    assert refusal(nifti).code == "E_UNREADABLE"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("name", ["ct.nrrd", "ct.nii.gz", "ct.mha", "ct.nhdr", "ct.mhd"])
def test_paths_that_are_no_utf_8_are_read_or_refused(tmp_path, name):
    """In SimpleITK they would end the whole process."""
    folder = tmp_path / os.fsdecode(b"\xff")
    image = to_sitk(Volume(patient(), Geometry.from_parts(SHAPE, (1, 1, 3))))
    sitk.WriteImage(image, str(tmp_path / name), useCompression=True)
    shutil.copytree(tmp_path, folder)
    if name == "ct.nii.gz":
        np.testing.assert_array_equal(read_image(folder / name).array, patient())
    else:
        error = refusal(folder / name)
        assert (error.code, "no valid UTF-8" in error.message) == ("E_UNREADABLE", True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
@pytest.mark.parametrize("name", ["ct.nrrd", "ct.nii.gz"])
def test_paths_that_are_no_utf_8_are_not_written(tmp_path, name):
    folder = tmp_path / os.fsdecode(b"\xff")
    volume = Volume(patient(), oblique_geometry())
    with pytest.raises(FocusNetError, match="no valid UTF-8") as caught:
        write_image(volume, folder / name)
    assert caught.value.code == "E_OUTPUT_WRITE"
    labels = LabelMap((patient() > 1000).astype(np.uint8), volume.geometry, {1: "brain"})
    with pytest.raises(FocusNetError, match="no valid UTF-8"):
        write_segmentation(labels, folder / name)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("text", ["Failed to allocate memory for image.", "std::bad_alloc"])
def test_lack_of_memory_in_itk_is_told_as_such(tmp_path, monkeypatch, text):
    path = tmp_path / "ct.nrrd"
    write_image(Volume(patient(), oblique_geometry()), path)

    def short(reader):
        raise RuntimeError(f"Exception thrown in SimpleITK ImageFileReader_Execute: ...\n{text}")

    monkeypatch.setattr(sitk.ImageFileReader, "Execute", short)
    assert refusal(path).code == "E_OUT_OF_MEMORY"
    assert is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize("name", ["noise.nrrd", "noise.nii", "noise.nii.gz", "noise.mha"])
def test_noise(tmp_path, name):
    (tmp_path / name).write_bytes(np.random.default_rng(1).bytes(4096))
    assert refusal(tmp_path / name).code == "E_UNREADABLE"


def test_header_that_states_more_than_the_file_holds(tmp_path, nifti):
    edit_nifti(nifti, ("4h", 40, (3, 32000, 32000, 32000)))
    assert refusal(nifti).code == "E_UNREADABLE"
    path = tmp_path / "bomb.nrrd"
    path.write_text(
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 100000 100000 100000\n"
        "space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: gzip\nspace origin: (0,0,0)\n\n"
    )
    assert refusal(path).code == "E_UNREADABLE"


def test_two_four_dimensional_and_colour_images(tmp_path):
    assert refusal(write_raw(tmp_path / "flat.nrrd", patient()[0])).code == "E_NOT_3D"
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(patient())] * 2), str(tmp_path / "time.nii.gz"))
    assert refusal(tmp_path / "time.nii.gz").code == "E_NOT_3D"
    colour = np.stack([patient()] * 3, axis=-1)
    assert refusal(write_raw(tmp_path / "colour.nrrd", colour, is_vector=True)).code == "E_NOT_3D"


@pytest.mark.parametrize("shape", [(1, 40, 48), (2, 40, 48), (40, 2, 48)])
def test_too_few_slices(tmp_path, shape):
    assert refusal(write_raw(tmp_path / "ct.nrrd", np.zeros(shape, np.int16))).code == "E_TOO_FEW_SLICES"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values(tmp_path, value):
    array = patient(dtype=np.float32)
    array[5, 5, 5] = value
    error = refusal(write_raw(tmp_path / "ct.nrrd", array))
    assert error.code == "E_NON_FINITE"
    assert "1 voxels" in error.message


@pytest.mark.parametrize("place", ["spacings: 1 1 3", "space: scanner-xyz\nspace directions: (1,0,0) (0,1,0) (0,0,3)"])
def test_nrrd_without_a_patient_space(tmp_path, place):
    path = tmp_path / "ct.nrrd"
    header = f"NRRD0004\ntype: short\ndimension: 3\n{place}\nsizes: 48 40 10\nendian: little\nencoding: raw\n\n"
    path.write_bytes(header.encode() + patient().tobytes())
    error = refusal(path)
    assert error.code == "E_BAD_GEOMETRY"
    assert "left and right" in error.message


@pytest.mark.parametrize("spacing", [(0.001, 1, 1), (1, 1, 80)])
def test_impossible_spacing(tmp_path, spacing):
    image = sitk.GetImageFromArray(patient())
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
    assert refusal(tmp_path / "ct.nrrd").code == "E_BAD_GEOMETRY"


def test_directory_is_read_as_dicom(tmp_path):
    with pytest.raises(FocusNetError) as caught:
        read_volume(tmp_path)
    assert caught.value.code == "E_NO_SERIES"


# --- Hounsfield units -----------------------------------------------------------------------------------------------


def ct(array: np.ndarray) -> Volume:
    return Volume(array, Geometry.from_parts(array.shape))


def mr() -> np.ndarray:
    rng = np.random.default_rng(2)
    return np.where(patient() > -500, rng.integers(200, 900, SHAPE), rng.integers(0, 20, SHAPE)).astype(np.int16)


@pytest.mark.parametrize(
    ("array", "code"),
    [
        pytest.param(mr(), "E_NOT_CT", id="mr"),
        pytest.param(mr().astype(np.float32) * 30, "E_NOT_CT", id="pet"),
        pytest.param((patient() + 1000).astype(np.float32) / 2500, "E_NOT_HU", id="zero to one"),
        pytest.param((patient() / 500.0).astype(np.float32), "E_NOT_HU", id="standardised"),
        pytest.param(np.clip((patient() + 200) / 4, 0, 255).astype(np.uint8), "E_NOT_HU", id="eight bits"),
        pytest.param((patient() + 1024).astype(np.uint16), "E_NOT_HU", id="no rescale"),
        pytest.param(patient() - 1024, "E_EMPTY_IMAGE", id="rescaled twice"),
        pytest.param(patient() * 10, "E_NOT_HU", id="wrong slope"),
        pytest.param(np.zeros(SHAPE, np.int16), "E_EMPTY_IMAGE", id="zeros"),
        pytest.param(np.full(SHAPE, -1000, np.int16), "E_EMPTY_IMAGE", id="constant air"),
        pytest.param(
            np.random.default_rng(3).integers(-1020, -980, SHAPE).astype(np.int16), "E_EMPTY_IMAGE", id="noisy air"
        ),
    ],
)
def test_values_that_are_no_ct(array, code):
    with pytest.raises(FocusNetError) as caught:
        check_hu(ct(array))
    assert caught.value.code == code


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda a: a, id="plain"),
        pytest.param(lambda a: np.where(a < -900, 0, a) - 1000 * (np.indices(SHAPE)[0] == 5) * (a > 0), id="defaced"),
        pytest.param(lambda a: np.where(np.indices(SHAPE)[2] > 30, a + 8000, a), id="metal"),
        pytest.param(lambda a: np.where((a > 0) & (np.indices(SHAPE)[0] < 8), -820, a), id="mostly lung"),
        pytest.param(lambda a: a + np.random.default_rng(0).normal(0, 60, SHAPE), id="noisy"),
    ],
)
def test_unusual_but_real_ct_passes(change):
    array = change(patient()).astype(np.float32)
    assert check_hu(ct(array)).array.min() >= -1024


@pytest.mark.parametrize("padding", [-2000, -3024, -32768])
def test_padding_becomes_air_and_the_rest_is_untouched(padding):
    array = patient()
    array[:, :4] = padding
    original = array.copy()
    result = check_hu(ct(array)).array
    assert (result[:, :4] == -1024).all()
    np.testing.assert_array_equal(result[:, 4:], array[:, 4:])
    np.testing.assert_array_equal(array, original)
    assert result.dtype == np.int16


def test_volume_without_padding_is_returned_as_it_is():
    volume = ct(patient())
    assert check_hu(volume) is volume


# --- writing --------------------------------------------------------------------------------------------------------


def test_existing_image_is_kept_unless_overwriting_is_allowed(tmp_path):
    volume = Volume(patient(), oblique_geometry())
    write_image(volume, tmp_path / "ct.nrrd")
    with pytest.raises(FocusNetError) as caught:
        write_image(volume, tmp_path / "ct.nrrd")
    assert caught.value.code == "E_OUTPUT_EXISTS"
    write_image(volume.with_array(patient() + 1), tmp_path / "ct.nrrd", overwrite=True)
    assert read_image(tmp_path / "ct.nrrd").array.max() == 1501
    assert [path.name for path in tmp_path.iterdir()] == ["ct.nrrd"]


@pytest.mark.parametrize("name", ["ct.png", "ct", "ct.mhd"])
def test_unknown_output_format(tmp_path, name):
    with pytest.raises(FocusNetError) as caught:
        write_image(Volume(patient(), oblique_geometry()), tmp_path / name)
    assert caught.value.code == "E_OUTPUT_FORMAT"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.realdata
def test_training_cts_pass_the_hu_check(shared_data):
    paths = sorted((shared_data / "openkbp" / "imagesTr").glob("*.nrrd"))
    assert len(paths) == 196
    for path in paths[::4]:
        assert read_volume(path).geometry.axis_codes == "LPS"
