"""One case in a worker, on this machine or another."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from focusnet.errors import FocusNetError
from focusnet.io.segmentation import labels_path
from focusnet.outputs import LABELMAPS, Output, plan_outputs
from focusnet.segment import Case, CaseResult, SegmentOptions, attempt_case, make_predictor

if TYPE_CHECKING:
    from focusnet.inference import Predictor


@dataclass(frozen=True)
class Task:
    """A case with its number. Its repr, which schedulers log, tells nothing of the input.

    Attributes:
        number: Number of the case.
        case: The case, under the name that its outputs are given.
        out: Folder of the outputs.
        options: How to segment.
        input_sha256: Hash of its content.
        input_name: Name of the input.
    """

    number: int
    case: Case = field(repr=False)
    out: Path = field(repr=False)
    options: SegmentOptions = field(repr=False)
    input_sha256: str = ""
    input_name: str = field(default="", repr=False)


def run_task(task: Task) -> CaseResult:
    """Segment a case; what an earlier, interrupted attempt has written of it is removed first."""
    options = replace(task.options, output=replace(task.options.output, overwrite=True))
    try:
        outputs = plan_outputs(task.case.name, task.case.path, task.out, options.output, several=True)
        for output in outputs:
            _remove(output)
        predictor = predictor_of(options.model, options.device, options.precision, options.fast)
    except FocusNetError as error:
        return CaseResult(task.case.name, "failed", 0.0, error=(error.code, error.message))
    except OSError as error:
        return CaseResult(task.case.name, "failed", 0.0, error=("E_OUTPUT_WRITE", str(error.strerror)))
    return attempt_case(task.case, outputs, predictor, options)


@lru_cache(maxsize=1)
def predictor_of(model: str | None, device: str, precision: str, fast: bool) -> Predictor:
    """The model of this process, loaded once."""
    return make_predictor(SegmentOptions(model, device=device, precision=precision, fast=fast))


def _remove(output: Output) -> None:
    if output.is_folder and output.path.is_dir():
        shutil.rmtree(output.path)
        return
    output.path.unlink(missing_ok=True)
    if output.formats[0] in LABELMAPS:
        labels_path(output.path).unlink(missing_ok=True)
