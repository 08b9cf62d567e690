"""What a run folder tells of a training, whoever started it and whether or not it still runs; Qt-free, no torch.

request.json   what was asked for
worker.log     output of the training process, with its messages (:mod:`FocusNetSegmentationLib.protocol`)
worker.lock    locked as long as the process lives; ``lock`` is the trainer's own, of runs of the command line too
stop           its presence asks the trainer to write a checkpoint and end
status.json    how far the trainer is, see :mod:`focusnet_training.monitor`
log.jsonl      a row per validation: stage, step, losses, DSC
last.pt        the checkpoint from which a run is resumed
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from focusnet.errors import FocusNetError
from focusnet.io.atomic import atomic_path
from FocusNetSegmentationLib import protocol

from FocusNetTrainingLib.run_lock import RunLock, is_locked

State = Literal["new", "starting", "training", "pausing", "paused", "interrupted", "failed", "finished"]
ALIVE: tuple[State, ...] = ("starting", "training", "pausing")


@dataclass(frozen=True)
class TrainingRequest:
    """What a run is to do.

    Attributes:
        data: Folder of the data set.
        preset: Name of a shipped configuration, or the path of a TOML file.
        name: Name of the model.
        settings: Changed values, ``key=value``.
        until: Last stage, all stages when None.
        device: ``auto``, ``cpu``, ``cuda[:n]`` or ``mps``.
        hours: Time budget, 0 for none.
    """

    data: str
    preset: str
    name: str
    settings: tuple[str, ...] = ()
    until: str | None = None
    device: str = "auto"
    hours: float = 0.0


@dataclass(frozen=True)
class RunStatus:
    """How a run stands.

    Attributes:
        state: ``new`` where the folder holds no run; ``interrupted`` where its process is gone without a word.
        stage: Stage it is in.
        steps_done: Over all stages.
        steps_total: Over all stages.
        seconds_left: Estimate, None while unknown.
        error: Why it failed.
        resumable: Whether there is a checkpoint to go on from.
    """

    state: State = "new"
    stage: str = ""
    steps_done: int = 0
    steps_total: int = 0
    seconds_left: float | None = None
    error: FocusNetError | None = None
    resumable: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether a process works on it."""
        return self.state in ALIVE

    @property
    def share(self) -> float:
        """Finished share of all steps in [0, 1]."""
        return self.steps_done / self.steps_total if self.steps_total else 0.0


class RunFolder:
    """Reads a run folder again and again, each time only what is new.

    Args:
        path: The folder; it need not exist.

    Attributes:
        rows: Rows of the validations so far, in the order of training.
        log: Lines of the process, its messages left out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self.log: list[str] = []
        self._messages: list[dict[str, Any]] = []
        self._rows_file = _Tail(path / "log.jsonl")
        self._log_file = _Tail(path / "worker.log")

    @property
    def lock(self) -> RunLock:
        """The lock that the training process takes."""
        return RunLock(self.path / "worker.lock")

    @property
    def log_path(self) -> Path:
        """Where the process writes."""
        return self.path / "worker.log"

    def write_request(self, request: TrainingRequest) -> None:
        """Keep what is asked for.

        Raises:
            OSError: The folder can't be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path / "request.json") as path:
            path.write_text(json.dumps(asdict(request), indent=1), "utf-8")

    def read_request(self) -> TrainingRequest | None:
        """What the run was asked for; None where it was not started from here, or the file is damaged."""
        try:
            content = json.loads((self.path / "request.json").read_text("utf-8"))
            return TrainingRequest(**{**content, "settings": tuple(content["settings"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def ask_pause(self, wanted: bool = True) -> None:
        """Ask the process to pause, or take that back."""
        if wanted:
            (self.path / "stop").touch()
        else:
            (self.path / "stop").unlink(missing_ok=True)

    def pause_asked(self) -> bool:
        """Whether the process is asked to pause."""
        return (self.path / "stop").exists()

    @property
    def starts(self) -> int:
        """How many processes have begun to work on the run so far."""
        return sum(message["kind"] == "started" for message in self._messages)

    def process_group(self) -> int | None:
        """What :func:`FocusNetSegmentationLib.process.end_tree` takes to end the process.

        None before it has begun, and for a run of the command line.
        """
        if not is_locked(self.path / "worker.lock"):
            return None
        started = [m for m in self._messages if m["kind"] == "started"]
        return int(started[-1]["group"]) if started else None

    def refresh(self) -> RunStatus:
        """Read what is new and tell how the run stands."""
        # Before the files, which a process that ends writes first. The trainer's lock is left alone where ours is held.
        alive = is_locked(self.path / "worker.lock") or is_locked(self.path / "lock")
        self._read()
        status = _json(self.path / "status.json")
        state, error = self._state(alive, self._since_start(), status)
        estimate = status.get("seconds_left")
        return RunStatus(
            state=state,
            stage=str(status.get("stage") or (self.rows[-1]["stage"] if self.rows else "")),
            steps_done=int(status.get("steps_done", 0)),
            steps_total=int(status.get("steps_total", 0)),
            seconds_left=float(estimate) if state == "training" and isinstance(estimate, int | float) else None,
            error=error,
            resumable=(self.path / "last.pt").exists(),
        )

    def _state(
        self, alive: bool, since: list[dict[str, Any]], status: dict[str, Any]
    ) -> tuple[State, FocusNetError | None]:
        last = since[-1] if since else {}
        if alive:
            if self.pause_asked():
                return "pausing", None
            return ("starting" if last.get("kind") == "started" else "training"), None
        if last.get("kind") == "error":
            return "failed", FocusNetError(str(last.get("code")), str(last.get("message")))
        if last.get("kind") == "outcome":
            return ("finished" if last.get("state") == "finished" else "paused"), None
        if since:
            return "interrupted", None
        # Started by the command line: the trainer's own word is all there is.
        told, message = status.get("state"), str(status.get("message", ""))
        if told in ("finished", "paused"):
            return told, None
        if told == "failed":
            code, separator, rest = message.partition(": ")
            return "failed", FocusNetError(code, rest) if separator else FocusNetError("E_RUN", message)
        return ("interrupted" if (self.path / "last.pt").exists() else "new"), None

    def _since_start(self) -> list[dict[str, Any]]:
        starts = [n for n, message in enumerate(self._messages) if message["kind"] == "started"]
        return self._messages[starts[-1] :] if starts else []

    def _read(self) -> None:
        lines = self._log_file.new_lines()
        if self._log_file.restarted:
            self.log, self._messages = [], []
        for line in lines:
            message = protocol.parse(line)
            if message is not None:
                self._messages.append(message)
                if message["kind"] == "error":
                    self.log.append(f"{message.get('code')}: {message.get('message')}")
            elif line.strip():
                self.log.append(line)
        new = self._rows_file.new_lines()
        if self._rows_file.restarted:
            self.rows = []
        for line in new:
            row = _parsed(line)
            if "note" in row:
                self.log.append(str(row["note"]))
            elif "stage" in row and "step" in row:
                self.rows.append(row)


class _Tail:
    """The lines that a growing file got since it was read last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._inode = 0
        self.restarted = False

    def new_lines(self) -> list[str]:
        """Whole lines only; ``restarted`` says that the file has been made anew."""
        self.restarted = False
        try:
            with self._path.open("rb") as file:
                about = os.fstat(file.fileno())
                if about.st_size < self._offset or about.st_ino != self._inode:
                    self._inode, self.restarted, self._offset = about.st_ino, self._offset > 0, 0
                file.seek(self._offset)
                content = file.read()
        except OSError:
            self.restarted, self._offset = self._offset > 0, 0
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        return whole.decode("utf-8", "replace").splitlines()


def _json(path: Path) -> dict[str, Any]:
    try:
        return _parsed(path.read_text("utf-8"))
    except OSError:
        return {}


def _parsed(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
