"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from focusnet.errors import FocusNetError

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = True) -> Iterator[Path]:
    """Temporary name in the target's folder, renamed to the target on success and removed on failure.

    The temporary name keeps all suffixes of the target, so that writers which choose a format by suffix work.
    Missing folders are made. An existing target is untouched until the new file is complete.

    Args:
        path: Target file.
        overwrite: Replace an existing file; otherwise it is refused before anything is written.

    Yields:
        Path to write to.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS`` when the target exists and may not be replaced, or is a folder;
            ``E_OUTPUT_WRITE`` when the folder can't be written or the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f".{secrets.token_hex(6)}{_suffixes(target)}")
    try:
        check_target(target, overwrite=overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        check_target(target, overwrite=overwrite)
        _flush_to_disk(temporary)
        temporary.replace(target)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_target(path: str | Path, *, overwrite: bool) -> None:
    """Refuse a target that exists and may not be replaced.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS``; ``E_OUTPUT_WRITE`` for a name that the file system does not take.
    """
    target = Path(path)
    try:
        _refuse_existing(target, overwrite)
    except OSError as error:
        raise unwritable(target, error) from error


def check_folder(folder: Path, overwrite: bool, is_ours: Callable[[Path], bool]) -> None:
    """Refuse a target of :func:`new_folder` that must stay.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS``.
    """
    if not folder.exists():
        return
    if not overwrite:
        raise FocusNetError("E_OUTPUT_EXISTS", f"'{folder}' is there; choose another place or allow overwriting.")
    if not folder.is_dir() or (any(folder.iterdir()) and not is_ours(folder)):
        raise FocusNetError("E_OUTPUT_EXISTS", f"'{folder}' holds something else and is kept; choose another place.")


@contextmanager
def new_folder(folder: Path, overwrite: bool, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Temporary sibling that becomes ``folder`` when the block succeeds and is removed when it fails.

    Args:
        folder: Target; missing parents are made.
        overwrite: Replace a folder that is there.
        is_ours: Whether a folder that is there is of the same kind; any other is kept.

    Yields:
        The folder to write into.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS`` when the folder is there and may not be replaced, ``E_OUTPUT_WRITE`` when the
            disk is full or the place can't be written.
    """
    try:
        check_folder(folder, overwrite, is_ours)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            new.mkdir()
            yield new
            for path in new.rglob("*"):
                if path.is_file():
                    _flush_to_disk(path)
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
    except OSError as error:
        raise unwritable(folder, error) from error


def check_folder_writable(folder: Path) -> None:
    """Refuse a folder that can't be made or written; nothing is made, and a file without a name gone at once.

    Raises:
        FocusNetError: ``E_OUTPUT_WRITE``.
    """
    try:
        there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), folder)
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise unwritable(folder.absolute(), error) from error


def unwritable(path: Path, error: OSError) -> FocusNetError:
    """The refusal of an output whose writing failed."""
    return FocusNetError("E_OUTPUT_WRITE", f"'{path.name}' can't be written: {_reason(error)}.")


def concerns_all_outputs(error: BaseException | None) -> bool:
    """Whether the cause of an ``E_OUTPUT_WRITE`` would stop every other file too: no space, no permission, unknown."""
    return not isinstance(error, OSError) or error.errno in FULL or error.errno in CLOSED


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise FocusNetError("E_OUTPUT_EXISTS", f"'{target.name}' is a folder; name a file.")
    if not overwrite and (target.exists() or target.is_symlink()):
        raise FocusNetError(
            "E_OUTPUT_EXISTS", f"'{target.name}' exists and is kept; choose another name or allow overwriting."
        )


def _suffixes(path: Path) -> str:
    """Last two suffixes at most: ``.seg.nrrd``, ``.nii.gz``, ``.json``."""
    return "".join(path.suffixes[-2:])


def _flush_to_disk(path: Path) -> None:
    """Contents before name, so that a power cut can't leave a renamed but empty file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _reason(error: OSError) -> str:
    if error.errno in FULL:
        return "the disk is full; free some space and run again"
    return f"{error.strerror or type(error).__name__}; check the folder and its permissions"
