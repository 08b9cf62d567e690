"""What goes to the child process that evaluates, and what comes back: plain files in a folder, no Qt, no MRML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from focusnet.evaluation.case import Row
from focusnet.evaluation.masks import CroppedMask
from focusnet.geometry import Box, Geometry, Volume
from focusnet.io.names import match_names

REQUEST_FILE = "request.json"
RESULT_FILE = "metrics.json"
REPORT_FILE = "report.html"
TABLE_FILE = "metrics.csv"
CT_FILE = "ct.npy"
SIDES = ("reference", "prediction")
Masks = Sequence[tuple[str, CroppedMask | None]]


@dataclass(frozen=True)
class EvaluationRequest:
    """What is to be compared.

    Attributes:
        reference: Path of the contours held to be true; empty where they come from the scene.
        prediction: Path of the contours to be judged; empty likewise.
        ct: Path of the CTs, or empty.
        case: Name of the case, for contours from the scene.
        spellings: Organ key by name; an empty key leaves a name out.
        ct_affine: Index-to-world matrix of the CT from the scene, or None.
    """

    reference: str = ""
    prediction: str = ""
    ct: str = ""
    case: str = ""
    spellings: Mapping[str, str] = field(default_factory=dict)
    ct_affine: list[list[float]] | None = None


@dataclass(frozen=True)
class NameRow:
    """A structure's name and the organ it stands for.

    Attributes:
        name: As it stands in the scene or a file.
        sides: Where it comes from: ``reference``, ``prediction``.
        organ: Organ key, or empty where it is not compared.
    """

    name: str
    sides: tuple[str, ...]
    organ: str


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What an evaluation found.

    Attributes:
        rows: Measures of each organ in each case.
        unmapped: Names that stand for no organ, with the sides that hold them.
        failed: Reason by case that could not be evaluated.
        notes: What was not compared, a line each.
        files: Content of the files a user may want, by name; without the report where jinja2 is missing.
    """

    rows: tuple[Row, ...]
    unmapped: Mapping[str, tuple[str, ...]]
    failed: Mapping[str, str]
    notes: tuple[str, ...]
    files: Mapping[str, bytes]


def name_rows(reference: Sequence[str], prediction: Sequence[str], spellings: Mapping[str, str]) -> list[NameRow]:
    """Every name of both sides once, with its organ by the user's choice or the catalogue; unknown ones first."""
    names = list(dict.fromkeys([*reference, *prediction]))
    rows = []
    for name, match in zip(names, match_names(names), strict=True):
        sides = tuple(side for side, held in zip(SIDES, (reference, prediction), strict=True) if name in held)
        rows.append(NameRow(name, sides, spellings.get(name, match.organ or "")))
    return sorted(rows, key=lambda row: bool(row.organ))


def write_request(folder: Path, request: EvaluationRequest) -> None:
    """Put a request into a folder."""
    (folder / REQUEST_FILE).write_text(json.dumps(asdict(request)), encoding="utf-8")


def read_request(folder: Path) -> EvaluationRequest:
    """What :func:`write_request` wrote."""
    return EvaluationRequest(**json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8")))


def write_side(folder: Path, side: str, grid: Geometry, masks: Masks) -> None:
    """Put the structures of one side from the scene into a folder."""
    arrays: dict[str, Any] = {f"mask{n}": mask.array for n, (_, mask) in enumerate(masks) if mask is not None}
    starts = [None if mask is None else list(mask.box.start_zyx) for _, mask in masks]
    about = {"names": [name for name, _ in masks], "starts": starts, "shape": grid.shape_zyx}
    np.savez(folder / f"{side}.npz", affine=grid.affine, about=np.array(json.dumps(about)), **arrays)


def read_side(folder: Path, side: str) -> tuple[Geometry, list[tuple[str, CroppedMask | None]]]:
    """What :func:`write_side` wrote."""
    with np.load(folder / f"{side}.npz", allow_pickle=False) as content:
        about = json.loads(str(content["about"]))
        masks: list[tuple[str, CroppedMask | None]] = []
        for number, (name, start) in enumerate(zip(about["names"], about["starts"], strict=True)):
            if start is None:
                masks.append((name, None))
                continue
            array = content[f"mask{number}"]
            stop = tuple(int(s + n) for s, n in zip(start, array.shape, strict=True))
            masks.append((name, CroppedMask(array, Box(tuple(start), stop))))  # type: ignore[arg-type]
        return Geometry(tuple(about["shape"]), content["affine"]), masks


def read_ct(folder: Path, request: EvaluationRequest) -> Volume | None:
    """The CT from the scene, mapped from its file."""
    if request.ct_affine is None:
        return None
    array = np.load(folder / CT_FILE, mmap_mode="r", allow_pickle=False)
    return Volume(array, Geometry(array.shape, np.asarray(request.ct_affine)))


def read_evaluated(folder: Path) -> Evaluated:
    """What the child has left in its folder."""
    content = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
    (rows, *_) = content["rows"].values()
    left = content["not_compared"]
    failed = {case: about["error"]["message"] for case, about in content["cases"].items() if "error" in about}
    present = [folder / name for name in (REPORT_FILE, TABLE_FILE, RESULT_FILE) if (folder / name).is_file()]
    return Evaluated(
        tuple(Row(**row) for row in rows),
        {name: tuple(sides) for name, sides in left["unmapped"].items()},
        failed,
        tuple(_notes(left, failed)),
        {path.name: path.read_bytes() for path in present},
    )


def file_name(name: str) -> str:
    """A case's name as part of a file's."""
    return re.sub(r"[^\w-]+", "_", name).strip("_") or "case"


def _notes(left: Mapping[str, Any], failed: Mapping[str, str]) -> list[str]:
    lines = {
        "Only in the reference": [key for keys in left["not_predicted"].values() for key in keys],
        "Only in the prediction": left["no_reference"],
        "Cases without prediction": left["reference_only"],
        "Cases without reference": left["prediction_only"],
        "Names without an organ": left["unmapped"],
        "Failed": [f"{case} ({message})" for case, message in failed.items()],
    }
    return [f"{title}: {', '.join(names)}" for title, names in lines.items() if names]
