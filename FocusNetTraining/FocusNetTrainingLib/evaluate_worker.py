"""Evaluation in a child process: ``python -m FocusNetTrainingLib.evaluate_worker FOLDER PARENT_PID``.

Needs no torch. The report needs jinja2; without it the numbers come alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from focusnet.errors import FocusNetError
from focusnet.evaluation import EvaluationOptions, compare
from focusnet.evaluation.outputs import write_outputs
from focusnet.io import read_volume
from focusnet.io.hounsfield import AIR_HU
from focusnet.io.image import write_image
from focusnet.io.segmentation import write_segmentation
from focusnet.io.shapes import Part, pack_segments
from focusnet.io.shear import straighten
from FocusNetSegmentationLib.protocol import emit
from FocusNetSegmentationLib.worker import end_with_parent, report_errors

from FocusNetTrainingLib.evaluate_request import (
    REPORT_FILE,
    SIDES,
    EvaluationRequest,
    file_name,
    read_ct,
    read_request,
    read_side,
)

SPELLINGS_FILE = "spellings.json"


def main(folder: Path, parent_pid: int) -> int:
    """Evaluate what the folder asks for and return the exit code."""
    end_with_parent(folder, parent_pid)
    return report_errors(lambda: _evaluate(folder))


def _evaluate(folder: Path) -> None:
    emit("progress", stage="reading", share=0.0, seconds_left=None)
    request = read_request(folder)
    spellings = folder / SPELLINGS_FILE
    spellings.write_text(json.dumps(dict(request.spellings)), encoding="utf-8")
    if request.reference:
        reference, prediction = Path(request.reference), Path(request.prediction)
        ct = Path(request.ct) if request.ct else None
    else:
        reference, prediction, ct = _files_of_scene(folder, request)
    options = EvaluationOptions(ct=ct, spellings=spellings, jobs=1, overwrite=True)
    result = compare(
        reference,
        prediction,
        options,
        lambda done, count, case: emit("progress", stage=f"measured {case}", share=done / count, seconds_left=None),
    )
    emit("progress", stage="writing", share=1.0, seconds_left=None)
    if REPORT_FILE not in write_outputs(result, folder):
        print("The report needs the Python package jinja2.", flush=True)


def _files_of_scene(folder: Path, request: EvaluationRequest) -> tuple[Path, Path, Path | None]:
    case = file_name(request.case)
    nothing = np.zeros((1, 1, 1), bool)
    paths = []
    for side in SIDES:
        grid, masks = read_side(folder, side)
        path = folder / side / f"{case}.seg.nrrd"
        path.parent.mkdir()
        parts = [
            Part(name, None, None, nothing) if mask is None else Part(name, None, mask.box, mask.array)
            for name, mask in masks
        ]
        write_segmentation(pack_segments(grid, parts), path)
        paths.append(path)
    return paths[0], paths[1], _ct_of_scene(folder, request, case)


def _ct_of_scene(folder: Path, request: EvaluationRequest, case: str) -> Path | None:
    """File of the CT, for pictures and flags; a volume that is no CT is left out."""
    volume = read_ct(folder, request)
    if volume is None:
        return None
    path = folder / f"{case}.nrrd"
    try:
        write_image(straighten(volume, fill=AIR_HU), path)
        read_volume(path)
    except FocusNetError as error:
        print(f"The report comes without the volume. {error}", flush=True)
        return None
    return path


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
