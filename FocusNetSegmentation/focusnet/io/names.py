"""Names of structures to organs of the catalogue, with a table for a department's own spellings."""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydicom
from pydicom.uid import SegmentationStorage

from focusnet import organs
from focusnet.errors import FocusNetError
from focusnet.io.dicom_headers import is_dicom
from focusnet.io.rtstruct_parse import parse_rtstruct
from focusnet.io.segmentation import read_segmentation

COLUMNS = ("name", "organ")


@dataclass(frozen=True)
class NameMatch:
    """What a structure's name stands for.

    Attributes:
        name: As it stands in the file.
        organ: Canonical key, or None where the name is unknown or the table leaves it out.
        tg263: TG-263 name of the organ, or None.
        source: ``table`` or ``catalogue``; None where neither knows the name.
        suggestions: Keys of organs with close names, for unknown names.
    """

    name: str
    organ: str | None
    tg263: str | None
    source: Literal["table", "catalogue"] | None
    suggestions: tuple[str, ...] = ()


def structure_names(path: str | Path) -> list[str]:
    """Names of the structures in a file, in order; no image is needed.

    Args:
        path: RTSTRUCT or DICOM SEG file, ``.seg.nrrd``, or a label map with its ``NAME.labels.json``.

    Raises:
        FocusNetError: As the reader of that kind of file.
    """
    path = Path(path)
    if not is_dicom(path):
        return read_segmentation(path).names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = pydicom.dcmread(path, specific_tags=["SOPClassUID", "SegmentSequence"], stop_before_pixels=True)
            if header.get("SOPClassUID") == SegmentationStorage:
                return [str(item.get("SegmentLabel", "")) for item in header.get("SegmentSequence") or ()]
        except Exception as error:  # the parser may stumble over anything in a damaged file
            raise FocusNetError("E_UNREADABLE", "The file is damaged or truncated; copy it again.") from error
    return [roi.name for roi in parse_rtstruct(path).rois]


def match_names(names: Iterable[str], table: Mapping[str, str] | None = None) -> list[NameMatch]:
    """Look up each name, first in the user's table, then in the catalogue; one answer per name, in order.

    Args:
        names: Names of structures in any spelling and language.
        table: From :func:`read_name_table`; an empty organ leaves a name out on purpose.
    """
    own = {_folded(name): organ for name, organ in (table or {}).items()}
    return [_match(name, own) for name in names]


def read_name_table(path: str | Path) -> dict[str, str]:
    """Read a table of own spellings.

    Args:
        path: ``.csv`` with the columns ``name, organ`` (comma or semicolon, UTF-8), or ``.json`` with one object
            ``{"name": "organ"}``. The organ is a canonical key, a TG-263 name or any name the catalogue knows; empty
            to leave the structure out.

    Returns:
        Canonical key (or an empty string) by name.

    Raises:
        FocusNetError: ``E_NAME_TABLE`` when the table can't be read, ``E_UNKNOWN_ORGAN`` when it names an organ that
            the catalogue doesn't have.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _json_rows(text) if path.suffix.lower() == ".json" else _csv_rows(text)
    except (OSError, ValueError, csv.Error) as error:
        raise FocusNetError(
            "E_NAME_TABLE",
            'The name table can\'t be read; give a UTF-8 CSV file with the columns name and organ, or JSON {"name": '
            '"organ"}.',
        ) from error
    table: dict[str, str] = {}
    for name, meaning in rows:
        found = organs.find(meaning) if meaning else None
        if meaning and found is None:
            raise FocusNetError(
                "E_UNKNOWN_ORGAN",
                f"The name table gives '{name}' the organ '{meaning}', which is not in the catalogue"
                f"{_close(meaning)}; correct that row.",
            )
        key = found.key if found else ""
        if table.setdefault(name, key) != key:
            raise FocusNetError("E_NAME_TABLE", f"The name table gives '{name}' two organs; keep one row.")
    return table


def _match(name: str, own: Mapping[str, str]) -> NameMatch:
    if (folded := _folded(name)) in own:
        key = own[folded] or None
        return NameMatch(name, key, organs.organ(key).tg263 if key else None, "table")
    if (found := organs.find(name)) is not None:
        return NameMatch(name, found.key, found.tg263, "catalogue")
    return NameMatch(name, None, None, None, tuple(organs.suggest(name)))


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())


def _close(name: str) -> str:
    close = organs.suggest(name)
    return f" (close: {', '.join(close)})" if close else ""


def _json_rows(text: str) -> list[tuple[str, str]]:
    content = json.loads(text)
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise ValueError("not an object of strings")
    return [(name.strip(), value.strip()) for name, value in content.items()]


def _csv_rows(text: str) -> list[tuple[str, str]]:
    heading = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=";" if ";" in heading else ",", strict=True)
    if not set(COLUMNS) <= {(field or "").strip().lower() for field in reader.fieldnames or ()}:
        raise ValueError("columns")
    rows = [{(key or "").strip().lower(): value for key, value in row.items()} for row in reader]
    if any(not isinstance(row[column], str) for row in rows for column in COLUMNS):
        raise ValueError("a row is too short")
    return [(row["name"].strip(), row["organ"].strip()) for row in rows]
