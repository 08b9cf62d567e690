"""Training in a process of its own: ``python -m FocusNetTrainingLib.train_worker RUN``.

Does what ``request.json`` of the run folder says, from the last checkpoint where there is one. It belongs to no other
process: it goes on when 3D Slicer is closed, and whoever opens the folder finds it by its lock.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focusnet.errors import FocusNetError
from FocusNetSegmentationLib.protocol import emit
from FocusNetSegmentationLib.worker import REFUSED, report_errors

from FocusNetTrainingLib.run_folder import RunFolder, TrainingRequest

if TYPE_CHECKING:
    from focusnet_training.config import TrainingConfig

LOCK_WAIT_SECONDS = 3.0
"""A panel that looks whether the lock is taken holds it for a moment."""
WRITE_SECONDS = 1.0
PACES = 120
"""The time left is estimated from the last two minutes, for the stages differ in speed."""


def main(folder: Path) -> int:
    """Train and return the exit code."""
    run = RunFolder(folder)
    lock = run.lock
    if not lock.acquire(LOCK_WAIT_SECONDS):
        print("Another process trains into this folder; this one ends.", flush=True)
        return REFUSED
    emit("started", group=_group())
    try:
        return report_errors(lambda: _train(run))
    finally:
        lock.release()


def request_config(request: TrainingRequest) -> TrainingConfig:
    """The configuration that a request stands for.

    Raises:
        FocusNetError: ``E_UNKNOWN_PRESET``, ``E_CONFIG``.
    """
    from focusnet_training.config import load_config, load_preset

    settings = [f'name="{request.name}"', *request.settings]
    path = Path(request.preset)
    return load_config(path, settings) if path.suffix == ".toml" else load_preset(request.preset, settings)


def _train(run: RunFolder) -> None:
    request = run.read_request()
    if request is None:
        raise FocusNetError("E_RUN", f"'{run.path.name}' has no readable request.json; start a new run.")
    config = request_config(request)
    print("Reading the data set; the first time this takes a while.", flush=True)
    from focusnet_training.runs import train
    from focusnet_training.trainer import TrainingOptions

    progress = _Progress(run, config, request.until)
    options = TrainingOptions(
        request.device, max_hours=request.hours or math.inf, report=progress.reported, pause=progress.stepped
    )
    own = Path(request.preset).suffix == ".toml"
    source = "--config CONFIG" if own else f"--preset {request.preset}"
    command = " ".join(["focusnet train", source, "--data DATA -o RUN", *(f"--set {s}" for s in request.settings)])
    resume = (run.path / "last.pt").exists()
    finished = train(config, Path(request.data), run.path, options, resume=resume, until=request.until, command=command)
    emit("outcome", state="finished" if finished else "paused")


class _Progress:
    """Tells how far the training is between its validations too, and passes on that a pause is wanted."""

    def __init__(self, run: RunFolder, config: TrainingConfig, until: str | None) -> None:
        self._run = run
        names = [stage.name for stage in config.schedule]
        stages = config.schedule[: names.index(until) + 1] if until in names else config.schedule
        self._total = sum(stage.steps for stage in stages)
        self._done = run.refresh().steps_done
        self._paces: deque[tuple[float, int]] = deque([(time.monotonic(), self._done)], PACES)
        self._written = -math.inf
        self._trains = False
        self._told = ""

    def stepped(self) -> bool:
        """Count a step; whether a pause is wanted."""
        self._done += 1
        if time.monotonic() - self._written >= WRITE_SECONDS:
            self._write()
        if not self._trains:
            self._trains = True
            emit("training")
        return self._run.pause_asked()

    def reported(self, status: dict[str, Any]) -> None:
        """Take over the trainer's own count; a line where more than that is new."""
        self._done = status["steps_done"]
        score = f", score {status['score']:.3f}" if "score" in status else ""
        news = f"{status.get('stage', '')} {status['state']}{score}"
        if news != self._told:
            self._told = news
            print(f"{news}: step {self._done}", flush=True)
        self._write()

    def _write(self) -> None:
        now = time.monotonic()
        then, done = self._paces[0]
        left = (self._total - self._done) * (now - then) / (self._done - done) if self._done > done else None
        self._paces.append((now, self._done))
        self._written = now
        self._run.write_progress(self._done, self._total, left)


def _group() -> int:
    """What ends this process with all it has started."""
    return os.getpid() if sys.platform == "win32" else os.getpgid(0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
