"""One case in a worker, on this machine or another."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from focusnet.errors import FocusNetError
from focusnet.io.atomic import unwritable
from focusnet.outputs import Output, plan_outputs, remove_output
from focusnet.segment import Case, CaseResult, SegmentOptions, attempt_case, failure, make_predictor

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
        _remove(outputs)
        predictor = predictor_of(options.model, options.device, options.precision, options.fast)
    except FocusNetError as error:
        return failure(task.case.name, error)
    return attempt_case(task.case, outputs, predictor, options)


@lru_cache(maxsize=1)
def predictor_of(model: str | None, device: str, precision: str, fast: bool) -> Predictor:
    """The model of this process, loaded once."""
    return make_predictor(SegmentOptions(model, device=device, precision=precision, fast=fast))


def _remove(outputs: Iterable[Output]) -> None:
    for output in outputs:
        try:
            remove_output(output)
        except OSError as error:
            raise unwritable(output.path, error) from error
