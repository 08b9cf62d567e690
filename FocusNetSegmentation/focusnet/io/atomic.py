"""Files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from focusnet.errors import FocusNetError


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
    check_target(target, overwrite=overwrite)
    temporary = target.with_name(f".{secrets.token_hex(6)}{_suffixes(target)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        check_target(target, overwrite=overwrite)
        _flush_to_disk(temporary)
        temporary.replace(target)
    except OSError as error:
        raise FocusNetError("E_OUTPUT_WRITE", f"'{target.name}' can't be written: {_reason(error)}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_target(path: str | Path, *, overwrite: bool) -> None:
    """Refuse a target that exists and may not be replaced.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS``.
    """
    target = Path(path)
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
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run again"
    return f"{error.strerror or type(error).__name__}; check the folder and its permissions"
