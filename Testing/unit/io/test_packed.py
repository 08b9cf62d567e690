"""Packed voxels: whole, or refused."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, Volume, to_sitk
from focusnet.io import read_image, write_image

PACKED = ["ct.nrrd", "ct.nii.gz", "ct.mha", "ct.nhdr", "ct.mhd"]
SHAPE = (10, 40, 48)


def noisy() -> np.ndarray:
    """Noise is hardly compressed, so that every byte of the stream is a voxel's."""
    array = np.random.default_rng(0).integers(0, 9, SHAPE).astype(np.int16)
    array[:, :8] -= 1000
    return array


@pytest.fixture
def nifti(tmp_path) -> Path:
    write_image(Volume(noisy(), Geometry.from_parts(SHAPE, (1, 1, 3))), tmp_path / "plain.nii")
    return tmp_path / "plain.nii"


def packed(folder: Path, name: str, array: np.ndarray) -> tuple[Path, Path]:
    """A compressed image and the file that holds its voxels."""
    image = to_sitk(Volume(array, Geometry.from_parts(array.shape, (1, 1, 3))))
    sitk.WriteImage(image, str(folder / name), useCompression=True)
    voxels = {".nhdr": "ct.raw.gz", ".mhd": "ct.zraw"}.get(Path(name).suffix, name)
    return folder / name, folder / voxels


def refusal(path: Path) -> FocusNetError:
    with pytest.raises(FocusNetError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", PACKED)
def test_damage_in_packed_voxels_is_seen(tmp_path, name):
    """A flipped bit or lost bytes inside the stream: refused, or the values are right all the same."""
    path, voxels = packed(tmp_path, name, noisy())
    np.testing.assert_array_equal(read_image(path).array, noisy())
    content = voxels.read_bytes()
    for place in range(len(content) // 2, len(content) // 2 + 300, 10):
        voxels.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        assert refusal(path).code == "E_UNREADABLE"
    middle = len(content) // 2
    voxels.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    assert refusal(path).code == "E_UNREADABLE"


@pytest.mark.parametrize("name", PACKED)
def test_packed_voxels_without_their_end_are_refused(tmp_path, name):
    path, voxels = packed(tmp_path, name, noisy())
    content = voxels.read_bytes()
    for lost in (1, 4, 2000):
        voxels.write_bytes(content[:-lost])
        assert refusal(path).code == "E_UNREADABLE"


def test_damage_in_stored_blocks_shows_in_the_check_sum_only(tmp_path, nifti):
    content = bytearray(gzip.compress(nifti.read_bytes(), 0))
    content[len(content) // 2] ^= 0xFF
    path = tmp_path / "rot.nii.gz"
    path.write_bytes(content)
    assert refusal(path).code == "E_UNREADABLE"


def test_packed_voxels_of_another_number_than_stated_are_refused(tmp_path, nifti):
    path, _ = packed(tmp_path, "ct.mha", noisy())
    path.write_bytes(path.read_bytes().replace(b"DimSize = 48 40 10", b"DimSize = 48 40 09"))
    assert refusal(path).code == "E_UNREADABLE"
    (tmp_path / "ct.nii.gz").write_bytes(gzip.compress(nifti.read_bytes() + bytes(2 << 20)))
    assert refusal(tmp_path / "ct.nii.gz").code == "E_UNREADABLE"


def test_nrrd_of_several_gzip_members_is_whole(tmp_path):
    path, voxels = packed(tmp_path, "ct.nhdr", noisy())
    raw = gzip.decompress(voxels.read_bytes())
    voxels.write_bytes(gzip.compress(raw[:5000]) + gzip.compress(raw[5000:]))
    np.testing.assert_array_equal(read_image(path).array, noisy())


def test_gzip_of_several_members_is_whole(tmp_path, nifti):
    raw = nifti.read_bytes()
    path = tmp_path / "members.nii.gz"
    path.write_bytes(gzip.compress(raw[:5000]) + gzip.compress(raw[5000:]))
    np.testing.assert_array_equal(read_image(path).array, noisy())
    path.write_bytes(gzip.compress(raw[:5000]) + gzip.compress(raw[5000:-10]))
    assert refusal(path).code == "E_UNREADABLE"
