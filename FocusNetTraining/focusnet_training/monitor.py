"""What a run tells while it trains; all of it can be deleted without harm to the run.

``status.json`` is one flat object, replaced as a whole every few seconds and at each change of state, so that a reader
never sees half of it. Its keys, of which only the first three lines are always there:

- ``state``: ``training``, ``validating``, ``paused`` (resume goes on), ``finished`` or ``failed``
- ``message``: why it paused or failed, one line; empty otherwise
- ``steps_done``, ``steps_total``: of all stages; a stage that stopped early counts in full
- ``stage``, ``step``, ``stage_steps``: name of the stage at work, steps done in it, its steps
- ``seconds``: training so far, earlier sessions included
- ``seconds_left``: estimate to the end of all stages at the pace of this stage, or null
- ``steps_per_second`` without validations, ``waiting_share``: share of a step's time until its chunks are there
- ``skipped``: steps that gave no finite loss and changed nothing; ``learning_rate``: of the last step
- ``loss_TERM``: mean of each term of the loss over the steps since the last validation
- ``score``, ``best_score``: this stage's last and best validation: mean DSC; for SOL-Net minus the mean error in 100 mm
- ``dsc_ORGAN``: validation DSC per organ key
- ``error_mm_ORGAN``: validation distance of the heat map's peak from the organ's centroid
- ``note``: why a stage was undone
- ``picture``: newest picture of validation contours, relative to the run folder

``log.jsonl`` has one object per validation (stage, step, seconds, score, loss_*, dsc_*, error_mm_*), ``metrics.csv``
the same as a table, ``tensorboard/`` the same as TensorBoard events where the package tensorboardX is installed, and
``pictures/STAGE-STEP.png`` contours of the first validation case beside its truth (not for SOL-Net).
"""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from focusnet.errors import FocusNetError
from focusnet.geometry import LabelMap, Volume
from numpy.typing import NDArray

from focusnet_training.config import StageConfig
from focusnet_training.datasets import PreparedCase
from focusnet_training.validation import ValidationResult

STATUS_FILE, LOG_FILE, TABLE_FILE = "status.json", "log.jsonl", "metrics.csv"
INTERVAL_S = 3.0
State = Literal["training", "validating", "paused", "finished", "failed"]
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Position:
    """Where a run stands: number of the stage, steps done in it."""

    stage: int
    step: int


@dataclass(frozen=True)
class Step:
    """One step that is done.

    Attributes:
        terms: Each term of the loss; empty where the step was skipped.
        learning_rate: It was taken with.
        skipped: Steps skipped so far.
        seconds: It took.
        waited_s: Of these, until its chunks were there.
    """

    terms: dict[str, float]
    learning_rate: float
    skipped: int
    seconds: float
    waited_s: float


def read_log(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's log, none where there is no log; a line that a crash cut short is left out."""
    path = run / LOG_FILE
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


class Monitor:
    """Writes status, log, table, TensorBoard events and pictures of one run.

    Args:
        folder: Run folder.
        stages: The stages in order.
        report: Told each status, too.
        writes: False for the processes that only compute: nothing is written or told.

    Attributes:
        position: Where the run stands.
        losses: Sum of each term of the loss and number of steps since the last validation.

    Raises:
        FocusNetError: ``E_OUTPUT_WRITE`` from any method when the disk is full or read-only.
    """

    def __init__(
        self, folder: Path, stages: Sequence[StageConfig], report: Report | None = None, *, writes: bool = True
    ) -> None:
        self.folder, self.stages, self._report, self._writes = folder, tuple(stages), report, writes
        self.losses: dict[str, tuple[float, int]] = {}
        self.position = Position(0, 0)
        self._row: dict[str, Any] = {}  # of the last validation
        self._facts: dict[str, Any] = {}
        self._earlier_s, self._started = 0.0, time.monotonic()
        self._first: tuple[Position, float] | None = None  # first step of this stage in this session, and when
        self._seconds, self._waited_s = 0.0, 0.0  # of the stage's further steps
        self._told = -float("inf")
        self._events: Any = None

    @property
    def seconds(self) -> float:
        """Time of training so far, earlier sessions included."""
        return self._earlier_s + time.monotonic() - self._started

    def resume(self, position: Position, losses: dict[str, tuple[float, int]], seconds: float, *, due: bool) -> None:
        """Go on from a checkpoint: forget what was logged behind it.

        Args:
            position: Of the checkpoint.
            losses: ``losses`` at the checkpoint.
            seconds: ``seconds`` at the checkpoint.
            due: Whether the validation at ``position`` is still to come.
        """
        self.position, self.losses, self._earlier_s = position, dict(losses), seconds
        if not self._writes:
            return
        number = {stage.name: n for n, stage in enumerate(self.stages)}

        def is_behind(row: dict[str, Any]) -> bool:
            at = (number[row["stage"]], row["step"])
            here = (position.stage, position.step)
            return at < here or (at == here and not due and position.step > 0)

        path = self.folder / LOG_FILE
        rows = [row for row in self.rows() if is_behind(row)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if path.exists() and path.read_text("utf-8") != text:
            self._replace(LOG_FILE, text)
            self._write_table(rows)

    def rows(self) -> list[dict[str, Any]]:
        """The log so far."""
        return read_log(self.folder)

    def step(self, position: Position, done: Step) -> None:
        """A step is done."""
        for name, value in done.terms.items():
            total, count = self.losses.get(name, (0.0, 0))
            self.losses[name] = (total + value, count + 1)
        self._facts = {"skipped": done.skipped, "learning_rate": done.learning_rate}
        if self._first is None or self._first[0].stage != position.stage:
            self._first, self._seconds, self._waited_s = (position, time.monotonic()), 0.0, 0.0
            if self._row.get("stage") != self.stages[position.stage].name:
                self._row = {}
        else:  # the first step of a stage is slower: the libraries choose and allocate
            self._seconds += done.seconds
            self._waited_s += done.waited_s
        self.position = position
        if time.monotonic() - self._told > INTERVAL_S:
            self.tell("training")

    def validated(self, position: Position, result: ValidationResult, best: float) -> None:
        """A validation is done: log it and begin new means of the losses."""
        self.position = position
        row = {
            "stage": self.stages[position.stage].name,
            "step": position.step,
            "seconds": round(self.seconds, 1),
            "score": round(result.score, 5),
            **self._means(),
            **{f"dsc_{k}": round(v, 4) for k, v in result.dsc.items()},
            **{f"error_mm_{k}": round(v, 2) for k, v in result.localisation_mm.items()},
        }
        self.losses = {}
        self.log(row)
        self._write_events(row)
        self._row = {k: self._row[k] for k in ("picture",) if k in self._row} | row | {"best_score": round(best, 5)}
        self.tell("training")

    def note(self, position: Position, text: str) -> None:
        """Log a line about the stage, and tell it."""
        self.position = position
        self.log({"stage": self.stages[position.stage].name, "step": position.step, "note": text})
        self._row = self._row | {"note": text}
        self.tell("training")

    def log(self, row: dict[str, Any]) -> None:
        """Append a row with ``stage`` and ``step`` to the log and the table, unless it is there already."""
        if not self._writes or row in self.rows()[-1:]:
            return
        with writing(LOG_FILE), (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._write_table(self.rows())

    def tell(self, state: State, message: str = "") -> None:
        """Replace ``status.json`` and report the status."""
        if not self._writes:
            return
        self._told = time.monotonic()
        total = sum(stage.steps for stage in self.stages)
        done = sum(stage.steps for stage in self.stages[: self.position.stage]) + self.position.step
        status: dict[str, Any] = {
            "state": state, "message": message, "steps_done": done, "steps_total": total, **self._row
        }  # fmt: skip
        if self.position.stage < len(self.stages):
            stage = self.stages[self.position.stage]
            status |= {"stage": stage.name, "step": self.position.step, "stage_steps": stage.steps}
        status |= {"seconds": round(self.seconds, 1), **self._pace(total - done), **self._facts, **self._means()}
        if state == "finished":
            status["seconds_left"] = 0.0
        self._replace(STATUS_FILE, json.dumps(status))
        if self._report is not None:
            self._report(status)

    def last_word(self, state: State, message: str) -> None:
        """`tell` at an error, which must not be hidden where the disk is what failed."""
        with suppress(FocusNetError):
            self.tell(state, message)

    def draw(self, position: Position, case: PreparedCase, predicted: NDArray[Any], organs: Sequence[str]) -> None:
        """Picture of a case's contours and truth; left out where there is nothing to draw or no matplotlib."""
        if not self._writes:
            return
        try:
            from focusnet.pictures import contour_views

            name = self.stages[position.stage].name
            path = Path("pictures", f"{name}-{position.step:06d}.png")
            names = dict(enumerate(organs, start=1))
            contour_views(
                Volume(np.asarray(case.ct), case.geometry),
                LabelMap(np.ascontiguousarray(predicted, np.uint8), case.geometry, names),
                self.folder / path,
                truth=LabelMap(np.asarray(case.labels), case.geometry, names),
                title=f"{name}, step {position.step}: first validation case",
            )
        except ImportError:
            return
        except FocusNetError as error:
            if error.code != "E_EMPTY_IMAGE":
                raise
            return
        self._row["picture"] = path.as_posix()

    def close(self) -> None:
        """Flush the TensorBoard events."""
        if self._events is not None:
            self._events.close()

    def _means(self) -> dict[str, float]:
        return {f"loss_{name}": round(total / count, 8) for name, (total, count) in sorted(self.losses.items())}

    def _pace(self, steps_left: int) -> dict[str, float | None]:
        if self._first is None or self._first[0].stage != self.position.stage:
            return {"seconds_left": None}
        steps = self.position.step - self._first[0].step
        if steps < 1 or self._seconds == 0:
            return {"seconds_left": None}
        return {
            "seconds_left": round((time.monotonic() - self._first[1]) / steps * steps_left, 1),
            "steps_per_second": round(steps / self._seconds, 4),
            "waiting_share": round(self._waited_s / self._seconds, 4),
        }

    def _write_table(self, rows: list[dict[str, Any]]) -> None:
        columns = list({name: None for row in rows for name in row})
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        self._replace(TABLE_FILE, text.getvalue())

    def _write_events(self, row: dict[str, Any]) -> None:
        if not self._writes:
            return
        done = sum(stage.steps for stage in self.stages[: self.position.stage]) + row["step"]
        if self._events is None:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                return
            # What an earlier session wrote from here on is void; the suffix keeps sessions of one second apart.
            folder = str(self.folder / "tensorboard")
            self._events = SummaryWriter(folder, purge_step=done, filename_suffix=f".{done}")
        with writing("tensorboard"):
            for name, value in row.items():
                if isinstance(value, float):
                    group, _, rest = name.partition("_")
                    self._events.add_scalar(f"{group}/{rest}" if rest else name, value, done)
            self._events.flush()

    def _replace(self, name: str, text: str) -> None:
        with writing(name):
            partial = self.folder / f"{name}.part"
            partial.write_text(text, "utf-8")
            partial.replace(self.folder / name)


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Give an error of the disk its clear line; ``name`` is what was written."""
    try:
        yield
    except OSError as error:
        raise FocusNetError(
            "E_OUTPUT_WRITE",
            f"Can't write {name} ({error.strerror or type(error).__name__}); free space or check the permissions of "
            "the run folder, then resume.",
        ) from error


def progress_report(progress: Callable[[str, str, float, float | None], None]) -> Report:
    """A report that feeds a bar or lines of progress (`focusnet.console.shown_progress`)."""
    on_terminal = sys.stderr.isatty()

    def report(status: dict[str, Any]) -> None:
        text = f"{status.get('stage', '')} {status['state']}".strip()
        if "score" in status:
            text += f", validation score {status['score']:.3f}"
        if "note" in status:
            text += f", {status['note']}"
        losses = [value for name, value in status.items() if name.startswith("loss_")]
        if on_terminal and losses:
            text += f", loss {sum(losses):.3f}"
        progress("train", text, status["steps_done"] / status["steps_total"], status.get("seconds_left"))

    return report
