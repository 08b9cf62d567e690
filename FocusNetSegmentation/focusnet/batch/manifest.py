"""The folder of a batch: its lock, its settings and its manifest, which is all that a resumption needs."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal

from focusnet.errors import FocusNetError
from focusnet.io.atomic import atomic_path
from focusnet.io.lock import try_lock

MANIFEST, SETTINGS, LOCK = "manifest.csv", "batch.json", ".lock"
LEFTOVER = re.compile(r"\.[0-9a-f]{12}(\..*)?|\.scene-.+|\..+-[a-z0-9_]{8}")
Status = Literal["done", "failed", "duplicate"]


@dataclass(frozen=True)
class Row:
    """What became of one case; nothing in it tells whose it is.

    Attributes:
        number: Number of the case, by which its outputs are called.
        input_sha256: Hash of its content; empty where it could not be read.
        status: ``done``, ``failed``, or ``duplicate`` of a case with the same content.
        reason_code: Why it failed, else empty.
        flags: Codes of the findings, ``code`` for the scan or ``code:organ``, joined by semicolons.
        seconds: Time it took.
        name: Name of the input, only where names were asked for.
    """

    number: int
    input_sha256: str
    status: Status
    reason_code: str = ""
    flags: str = ""
    seconds: float = 0.0
    name: str = ""


COLUMNS = tuple(field.name for field in fields(Row))


class Manifest:
    """A batch's folder, held by one process at a time.

    A row is the last thing that is written of a case, and on the disk before the next case is begun: after any
    interruption a case either has its row and its outputs, or is done again.

    Args:
        folder: New or empty, or an earlier batch's with the same settings.
        settings: What the outputs depend on.
        names: Keep the names of the inputs.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS`` for a folder with other files, ``E_BATCH_SETTINGS``, ``E_BATCH_RUNNING``,
            ``E_OUTPUT_WRITE``.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, names: bool = False) -> None:
        self.folder = folder
        self._columns = COLUMNS if names else COLUMNS[:-1]
        self._file: IO[str] | None = None
        try:
            _refuse_strangers(folder)
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder / LOCK)
            try:
                _check_settings(folder, {**settings, "names": names})
                _sweep(folder)
                self.rows = read_manifest(folder)
                self._rewrite()
            except BaseException:
                self._lock.close()
                raise
        except OSError as error:
            raise _unwritable(error) from error

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(FocusNetError, OSError):
            self._rewrite()
            _sweep(self.folder)
        self._close()
        self._lock.close()

    def add(self, row: Row) -> None:
        """Put a row on the disk.

        Raises:
            FocusNetError: ``E_OUTPUT_WRITE``.
        """
        try:
            if self._file is None:
                self._file = (self.folder / MANIFEST).open("a", encoding="utf-8", newline="")
            self._file.write(_lines([row], self._columns))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(error) from error
        self.rows.append(row)

    def forget(self, rows: list[Row]) -> None:
        """Drop rows, whose cases are then to be done again."""
        self.rows = [row for row in self.rows if row not in rows]
        self._rewrite()

    def _rewrite(self) -> None:
        self.rows.sort(key=lambda row: row.number)
        self._close()
        with atomic_path(self.folder / MANIFEST) as temporary:
            heading = ",".join(self._columns) + "\n"
            temporary.write_text(heading + _lines(self.rows, self._columns), encoding="utf-8", newline="")

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def read_manifest(folder: Path) -> list[Row]:
    """The rows of a batch's manifest; a last line that was cut off is left out.

    Raises:
        FocusNetError: ``E_BATCH_SETTINGS`` when the manifest is not one of a batch.
    """
    path = folder / MANIFEST
    if not path.exists():
        return []
    try:
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
        rows = [dict(row) for row in csv.DictReader(io.StringIO(whole), strict=True)]
        return [Row(**{**row, "number": int(row["number"]), "seconds": float(row["seconds"])}) for row in rows]
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise FocusNetError(
            "E_BATCH_SETTINGS", f"{MANIFEST} of the batch was changed or damaged; use another folder."
        ) from error


def _lines(rows: list[Row], columns: tuple[str, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(astuple(row)[: len(columns)] for row in rows)
    return text.getvalue()


def _refuse_strangers(folder: Path) -> None:
    if folder.is_dir() and not (folder / SETTINGS).is_file():
        others = [path for path in folder.iterdir() if path.name != LOCK and not LEFTOVER.fullmatch(path.name)]
        if others:
            raise FocusNetError(
                "E_OUTPUT_EXISTS", "The folder of the results holds other files; name a new or empty folder."
            )


def _locked(path: Path) -> IO[str]:
    """The open file of the batch's lock; on a file system without locks the batch goes on unguarded."""
    file = path.open("a+", encoding="utf-8")
    with suppress(OSError):
        if not try_lock(file):
            file.close()
            raise FocusNetError(
                "E_BATCH_RUNNING", "Another process is at work in the folder of the results; wait until it has ended."
            )
    return file


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    path = folder / SETTINGS
    wanted = json.loads(json.dumps(settings))
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        different = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
    except (ValueError, TypeError, AttributeError) as error:
        raise FocusNetError("E_BATCH_SETTINGS", f"{SETTINGS} of the batch is damaged; use another folder.") from error
    if different:
        raise FocusNetError(
            "E_BATCH_SETTINGS",
            f"The folder holds a batch with other settings ({', '.join(different)}); go on with the same settings or "
            "use another folder.",
        )


def _sweep(folder: Path) -> None:
    """Remove what an interrupted run has left half written."""
    for path in folder.iterdir():
        if LEFTOVER.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _unwritable(error: OSError) -> FocusNetError:
    return FocusNetError(
        "E_OUTPUT_WRITE",
        f"The folder of the results can't be written: {error.strerror or type(error).__name__}; check free space and "
        "permissions, then run again.",
    )
