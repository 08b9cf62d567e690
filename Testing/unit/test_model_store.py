import errno
import os
import shutil
import stat
import sys
import zipfile
from pathlib import Path

import pytest
from focusnet import model_store
from focusnet.bundle import Bundle
from focusnet.errors import FocusNetError
from focusnet.model_store import find_bundle, install_bundle, list_bundles, search_folders, user_folder

FILES = ("bundle.json", "weights.safetensors", "MODEL_CARD.md")


@pytest.fixture(autouse=True)
def no_other_models(tmp_path, monkeypatch):
    """Only the folders of this test are searched."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FOCUSNET_MODELS", raising=False)
    monkeypatch.setattr(model_store, "__file__", str(tmp_path / "house" / "focusnet" / "model_store.py"))


def archive(bundle: Bundle, path: Path, prefix: str = "tiny/") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in FILES:
            file.writestr(zipfile.ZipInfo(prefix + name), (bundle.folder / name).read_bytes())
    return path


def refused(code: str, call, *args, words: str = "", **kwargs) -> None:
    with pytest.raises(FocusNetError) as caught:
        call(*args, **kwargs)
    assert caught.value.code == code
    assert words in caught.value.message


def test_a_bundle_is_found_by_path_and_by_name(tiny_bundle, monkeypatch, tmp_path):
    assert find_bundle(tiny_bundle.folder) == tiny_bundle.folder
    refused("E_UNKNOWN_MODEL", find_bundle, "tiny", words="none is installed")
    monkeypatch.setenv("FOCUSNET_MODELS", os.pathsep.join(map(str, [tmp_path / "nowhere", tiny_bundle.folder.parent])))
    assert find_bundle("tiny") == tiny_bundle.folder
    refused("E_UNKNOWN_MODEL", find_bundle, "tinny", words="tiny")
    refused("E_UNKNOWN_MODEL", find_bundle, "../tiny")


def test_the_default_is_the_model_of_real_patients(tiny_bundle, tmp_path):
    refused("E_UNKNOWN_MODEL", find_bundle, words="openkbp7")
    shipped = tmp_path / "Models" / "openkbp7"
    shutil.copytree(tiny_bundle.folder, shipped)
    assert find_bundle() == shipped


def test_a_folder_that_only_has_the_name_does_not_hide_the_model(tiny_bundle, monkeypatch, tmp_path):
    monkeypatch.setenv("FOCUSNET_MODELS", str(tiny_bundle.folder.parent))
    (tmp_path / "work" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    assert find_bundle("tiny") == tiny_bundle.folder


def test_a_file_is_handed_on_so_that_loading_can_say_what_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.pt").write_bytes(b"PK")
    assert find_bundle("model.pt") == Path("model.pt")


def test_search_order_is_environment_user_package_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("FOCUSNET_MODELS", str(tmp_path / "first"))
    assert search_folders() == [
        tmp_path / "first",
        tmp_path / "data" / "focusnet" / "models",
        tmp_path / "house" / "focusnet" / "Models",
        tmp_path / "Models",
    ]


def test_each_system_keeps_models_where_its_users_expect_them(monkeypatch, tmp_path):
    for platform, part in (("win32", "data/FocusNet"), ("darwin", "Application Support"), ("linux", "data/focusnet")):
        monkeypatch.setattr(sys, "platform", platform)
        assert part in user_folder().as_posix()


def test_a_listing_names_broken_bundles_instead_of_hiding_them(tiny_bundle, tmp_path):
    models = tmp_path / "Models"
    shutil.copytree(tiny_bundle.folder, models / "good")
    shutil.copytree(tiny_bundle.folder, models / "broken")
    (models / "broken" / "bundle.json").write_text("{}")
    (models / "no-bundle").mkdir()
    shutil.copytree(tiny_bundle.folder, user_folder() / "good")
    broken, good = list_bundles()
    assert (broken.name, broken.spec) == ("broken", None)
    assert broken.problem is not None
    assert broken.problem.startswith("E_BUNDLE_SCHEMA")
    assert (good.folder, good.problem) == (user_folder() / "good", None)


@pytest.mark.parametrize("prefix", ["", "tiny/", "any name/"])
def test_a_zip_is_installed_under_the_model_s_name(tiny_bundle, tmp_path, prefix):
    installed = install_bundle(archive(tiny_bundle, tmp_path / "download (1).zip", prefix))
    assert installed == user_folder() / "tiny"
    assert sorted(path.name for path in installed.iterdir()) == sorted(FILES)
    assert find_bundle("tiny") == installed
    refused("E_OUTPUT_EXISTS", install_bundle, tiny_bundle.folder)
    assert install_bundle(tiny_bundle.folder, overwrite=True) == installed


def test_a_damaged_bundle_is_not_installed(tiny_bundle, tmp_path):
    copy = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "copy"))
    (copy / "weights.safetensors").write_bytes(b"nonsense")
    refused("E_BUNDLE_HASH", install_bundle, copy)
    assert not user_folder().exists()


@pytest.mark.parametrize("name", ["../evil/", "/evil/", "a/b/", "..\\evil\\", "C:\\evil\\"])
def test_a_zip_that_leaves_its_folder_is_refused(tiny_bundle, tmp_path, name):
    source = archive(tiny_bundle, tmp_path / "slip.zip", name)
    refused("E_BUNDLE_FORMAT", install_bundle, source)
    assert not list(tmp_path.rglob("evil*"))


def test_a_zip_with_a_link_is_refused(tiny_bundle, tmp_path):
    source = tmp_path / "link.zip"
    with zipfile.ZipFile(source, "w") as file:
        for name in FILES[1:]:
            file.write(tiny_bundle.folder / name, name)
        link = zipfile.ZipInfo("bundle.json")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    refused("E_BUNDLE_FORMAT", install_bundle, source, words="link")


@pytest.mark.parametrize("extra", ["setup.py", "tiny/setup.py", "other/bundle.json"])
def test_a_zip_with_anything_else_is_refused(tiny_bundle, tmp_path, extra):
    source = archive(tiny_bundle, tmp_path / "more.zip")
    with zipfile.ZipFile(source, "a") as file:
        file.writestr(extra, "print()")
    refused("E_BUNDLE_FORMAT", install_bundle, source, words="nothing else")


def test_a_zip_bomb_is_not_unpacked(tiny_bundle, tmp_path, monkeypatch):
    source = tmp_path / "bomb.zip"
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as file:
        for name in FILES[::2]:
            file.write(tiny_bundle.folder / name, name)
        file.writestr("weights.safetensors", bytes(2**24))
    refused("E_BUNDLE_FORMAT", install_bundle, source, words="compressed")
    # A size field that lies is caught while unpacking.
    monkeypatch.setattr(model_store, "MAX_COMPRESSION", 10**9)
    monkeypatch.setitem(model_store.FILE_LIMITS, "weights.safetensors", 2**20)
    refused("E_BUNDLE_FORMAT", install_bundle, source, words="unpacks to more")


@pytest.mark.parametrize("filling", [0xFF, 0x00])
def test_a_damaged_download_is_refused_wherever_the_damage_is(tiny_bundle, tmp_path, filling):
    """Bad checksums, bad block types and bad directories each fail in their own way inside the archive reader."""
    with zipfile.ZipFile(tmp_path / "whole.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name in FILES:
            file.write(tiny_bundle.folder / name, name)
    data = (tmp_path / "whole.zip").read_bytes()
    damaged = tmp_path / "damaged.zip"
    for start in range(0, len(data) - 64, len(data) // 40):
        damaged.write_bytes(data[:start] + bytes([filling]) * 64 + data[start + 64 :])
        refused("E_BUNDLE_FORMAT", install_bundle, damaged)


def test_no_space_to_unpack_is_not_called_a_bad_archive(tiny_bundle, tmp_path, monkeypatch):
    source = archive(tiny_bundle, tmp_path / "whole.zip")
    opened = Path.open

    def full(path, mode="r", *args, **kwargs):
        if "w" in mode and path.name == "weights.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(path, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    refused("E_OUTPUT_WRITE", install_bundle, source, words="No space left")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"not a zip"])
def test_a_file_that_is_no_zip_is_refused(tmp_path, data):
    (tmp_path / "x.zip").write_bytes(data)
    refused("E_BUNDLE_FORMAT", install_bundle, tmp_path / "x.zip")


def test_an_absent_source_is_refused(tmp_path):
    refused("E_BUNDLE_FORMAT", install_bundle, tmp_path / "absent.zip")
