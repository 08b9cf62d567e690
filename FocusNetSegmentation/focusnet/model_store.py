"""Where model bundles live: shipped, installed by the user, or in folders of ``$FOCUSNET_MODELS``."""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from focusnet.bundle import FILE_LIMITS, SPEC_NAME, BundleSpec, holds_bundle, load_bundle, read_spec
from focusnet.errors import FocusNetError

DEFAULT_MODEL = "openkbp7"
MAX_COMPRESSION = 100
# What reading a damaged, encrypted or foreign archive raises.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
)
ENVIRONMENT_VARIABLE = "FOCUSNET_MODELS"


@dataclass(frozen=True)
class Listing:
    """A bundle found on this computer.

    Attributes:
        name: Name of its folder, by which it is asked for.
        folder: Where it lies.
        spec: Its description, None where it is unreadable.
        problem: Why it is unreadable, None where it is not.
    """

    name: str
    folder: Path
    spec: BundleSpec | None
    problem: str | None = None


def user_folder() -> Path:
    """The folder of installed bundles, by the custom of the operating system; not created."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "FocusNet" / "Models"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "FocusNet" / "Models"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "focusnet" / "models"


def search_folders() -> list[Path]:
    """Folders that are searched, first match wins: ``$FOCUSNET_MODELS``, the user's, the shipped ones."""
    named = [Path(part) for part in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if part]
    package = Path(__file__).resolve().parent
    return [*named, user_folder(), package / "Models", package.parents[1] / "Models"]


def list_bundles() -> list[Listing]:
    """Every bundle of the search folders, sorted by name; a name that comes twice is the first one found."""
    found: dict[str, Listing] = {}
    for parent in search_folders():
        for spec_path in sorted(parent.glob(f"*/{SPEC_NAME}")) if parent.is_dir() else []:
            folder = spec_path.parent
            if folder.name in found or folder.name.startswith("."):
                continue
            try:
                found[folder.name] = Listing(folder.name, folder, read_spec(folder))
            except FocusNetError as error:
                found[folder.name] = Listing(folder.name, folder, None, str(error))
    return [found[name] for name in sorted(found)]


def find_bundle(name_or_path: str | Path | None = None) -> Path:
    """Folder of a bundle, by path or by name; the default model where nothing is asked for.

    Raises:
        FocusNetError: ``E_UNKNOWN_MODEL`` with the names there are.
    """
    wanted = str(name_or_path) if name_or_path is not None else DEFAULT_MODEL
    path = Path(wanted).expanduser()
    if path.is_file() or (path / SPEC_NAME).is_file() or (path.name != wanted and path.exists()):
        return path  # a file is refused by `load_bundle`, which says why
    names = []
    for listing in list_bundles():
        if listing.name == wanted:
            return listing.folder
        names.append(listing.name)
    there = f"there are {', '.join(names)}" if names else "none is installed"
    raise FocusNetError(
        "E_UNKNOWN_MODEL",
        f"No model '{wanted}'; {there}. Give one of these names, a bundle's folder, or run 'focusnet models install'.",
    )


def install_bundle(source: Path | str, *, overwrite: bool = False, destination: Path | None = None) -> Path:
    """Copy a bundle from a folder or a zip file into the user's models, after verifying it whole.

    Args:
        source: Bundle folder, or a zip with the three files at its root or in one folder.
        overwrite: Replace an installed model of the same name.
        destination: Parent folder; `user_folder` by default.

    Returns:
        The installed bundle's folder.

    Raises:
        FocusNetError: ``E_BUNDLE_*`` when the source is no sound bundle, ``E_OUTPUT_EXISTS`` when the name is taken,
            ``E_OUTPUT_WRITE`` when there is no space to unpack or install it.
    """
    from focusnet.io.atomic import new_folder

    source = Path(source)
    destination = destination or user_folder()
    with tempfile.TemporaryDirectory(prefix="focusnet-install-") as scratch:
        unpacked = Path(scratch, "bundle")
        unpacked.mkdir()
        if source.is_file():
            _unpack(source, unpacked)
        else:
            _copy(source, unpacked)
        name = load_bundle(unpacked).spec.name
        with new_folder(destination / name, overwrite, holds_bundle) as folder:
            for file in FILE_LIMITS:
                shutil.copyfile(unpacked / file, folder / file)
    return destination / name


def _copy(source: Path, target: Path) -> None:
    read_spec(source)
    for name in FILE_LIMITS:
        path = source / name
        if path.is_symlink() or not path.is_file() or path.stat().st_size > FILE_LIMITS[name]:
            raise FocusNetError(
                "E_BUNDLE_FORMAT", f"{name} of '{source.name}' is missing, a link or too large; get the bundle again."
            )
        try:
            shutil.copyfile(path, target / name)
        except OSError as error:
            raise FocusNetError(
                "E_BUNDLE_FORMAT", f"{name} of '{source.name}' can't be copied: {error.strerror}."
            ) from error


def _unpack(source: Path, target: Path) -> None:
    """Unpack the three files of a bundle by their own names, whatever paths and sizes the archive claims."""
    try:
        archive = zipfile.ZipFile(source)
    except DAMAGED as error:
        raise _damaged(source.name, error) from None
    with archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        _check_members(source.name, members)
        for member in members:
            name = PurePosixPath(member.filename).name
            try:
                with (target / name).open("wb") as file:
                    file.writelines(_blocks(archive, member, source.name))
            except OSError as error:
                raise FocusNetError(
                    "E_OUTPUT_WRITE", f"{name} can't be unpacked: {error.strerror}; free space for temporary files."
                ) from error


def _check_members(source: str, members: list[zipfile.ZipInfo]) -> None:
    paths = [PurePosixPath(member.filename) for member in members]
    if sorted(path.name for path in paths) != sorted(FILE_LIMITS) or len({path.parent for path in paths}) != 1:
        raise FocusNetError(
            "E_BUNDLE_FORMAT", f"'{source}' must hold {', '.join(FILE_LIMITS)} in one folder and nothing else."
        )
    for member, path in zip(members, paths, strict=True):
        unsafe = path.is_absolute() or ".." in path.parts or len(path.parts) > 2 or "\\" in member.filename
        if unsafe or stat.S_ISLNK(member.external_attr >> 16):
            raise FocusNetError("E_BUNDLE_FORMAT", f"'{source}' has links or paths out of its folder; not unpacked.")
        if member.file_size > 2**20 and member.file_size > MAX_COMPRESSION * member.compress_size:
            raise FocusNetError("E_BUNDLE_FORMAT", f"'{source}' is compressed more than weights can be; not unpacked.")


def _blocks(archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: str) -> Iterator[bytes]:
    """Content of one file of the archive, never more than its limit."""
    name = PurePosixPath(member.filename).name
    left = FILE_LIMITS[name]
    try:
        with archive.open(member) as stream:
            while block := stream.read(2**20):
                left -= len(block)
                if left < 0:
                    raise FocusNetError(
                        "E_BUNDLE_FORMAT", f"{name} unpacks to more than {FILE_LIMITS[name]} bytes; not unpacked."
                    )
                yield block
    except DAMAGED as error:
        raise _damaged(source, error) from None


def _damaged(source: str, error: Exception) -> FocusNetError:
    return FocusNetError("E_BUNDLE_FORMAT", f"'{source}' is no readable zip of a bundle ({error}); get it again.")
