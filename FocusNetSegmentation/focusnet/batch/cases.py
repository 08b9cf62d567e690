"""The cases of an archive, and what tells one from another: its content."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path

from focusnet.errors import FocusNetError
from focusnet.segment import Case, case_name, holds_dicom, is_image

PATH_COLUMN, SERIES_COLUMN = "path", "series"


def find_archive(source: Path) -> list[Case]:
    """The cases of a folder or of a table.

    Args:
        source: Folder with image files and DICOM folders at any depth, taken in order of their paths; or a CSV file
            with the column ``path`` (absolute, or from the table's folder) and, where a folder holds several series,
            ``series`` (its number), taken in order of its rows. Paths that aren't there are cases that fail.

    Raises:
        FocusNetError: ``E_UNREADABLE`` when the source can't be read, ``E_CASE_TABLE`` when it is no such table,
            ``E_NO_SERIES`` when it has no case.
    """
    try:
        if source.is_dir():
            cases = list(_below(source))
        elif source.suffix.lower() == ".csv" and source.is_file():
            cases = _rows(source)
        else:
            raise FocusNetError("E_UNREADABLE", "The archive is neither a folder nor a CSV file; check the path.")
    except OSError as error:
        raise FocusNetError("E_UNREADABLE", f"The archive can't be read: {error.strerror}.") from error
    if not cases:
        raise FocusNetError("E_NO_SERIES", "The archive holds no case: no NRRD, NIfTI, MHA or DICOM files.")
    return cases


def case_files(case: Case) -> list[Path]:
    """All files of a case, sorted."""
    if case.files:
        return sorted(case.files)
    return sorted(p for p in case.path.rglob("*") if p.is_file()) if case.path.is_dir() else [case.path]


def content_hash(case: Case) -> str:
    """SHA-256 of what a case holds, whatever its files are called and wherever they lie.

    Raises:
        OSError: A file can't be read.
    """
    digests = []
    files = case_files(case)
    if not files:  # also of a folder that can't be listed; two of these are not the same
        raise FileNotFoundError(case.path)
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").digest())
    series = b"" if case.series is None else f"series {case.series}".encode()
    return hashlib.sha256(b"".join(sorted(digests)) + series).hexdigest()


def _below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Case]:
    own = folder.resolve()
    if own in above:  # a link that leads back up
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # a folder that can't be read is a case that fails, not the end of the others
        yield Case(case_name(folder), folder)
        return
    if holds_dicom(folder):
        yield Case(case_name(folder), folder)
        return
    for path in entries:
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _below(path, above | {own})
        elif is_image(path):
            yield Case(case_name(path), path)


def _rows(table: Path) -> list[Case]:
    try:
        text = table.read_text(encoding="utf-8-sig")
        delimiter = ";" if ";" in text.partition("\n")[0] else ","
        reader = csv.DictReader(text.splitlines(), delimiter=delimiter, strict=True)
        if PATH_COLUMN not in (reader.fieldnames or ()):
            raise ValueError("columns")
        cases = []
        for row in reader:
            name = (row[PATH_COLUMN] or "").strip()
            if not name:
                continue
            path = table.parent / name
            series = (row.get(SERIES_COLUMN) or "").strip()
            cases.append(Case(case_name(path), path, series=int(series) if series else None))
    except (ValueError, csv.Error) as error:
        raise FocusNetError(
            "E_CASE_TABLE",
            "The table of cases can't be read; give a UTF-8 CSV file with the column path and, where needed, series "
            "(a number).",
        ) from error
    return cases
