"""Checkpoints that survive a crash: written aside, flushed to the disk, renamed; read without unpickling code."""

from __future__ import annotations

import os
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from focusnet.devices import is_out_of_memory
from focusnet.errors import FocusNetError

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings and containers of them) so that ``path`` is whole at every moment.

    Raises:
        FocusNetError: ``E_CHECKPOINT_WRITE`` when the disk is full or read-only; the file that was there stays.
    """
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _flush_name(path.parent)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            partial.unlink()
        raise FocusNetError(
            "E_CHECKPOINT_WRITE",
            f"Can't write {path.name} ({error}); free space, then resume from the last checkpoint.",
        ) from error


def _flush_name(folder: Path) -> None:
    """The new name, too, must outlive a power cut; Windows has no way to say so."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        FocusNetError: ``E_CHECKPOINT`` when the file is missing, damaged, of another format or holds code.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load does not compare the checksums
            if damaged := archive.testzip():
                raise ValueError(f"wrong checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails in any way
        if is_out_of_memory(error):
            raise
        raise FocusNetError(
            "E_CHECKPOINT", f"{path.name} is not a readable checkpoint; start the stage anew."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise FocusNetError("E_CHECKPOINT", f"{path.name} is not a checkpoint of this version (format {FORMAT}).")
    return state
