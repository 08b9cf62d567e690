"""Training in a process of its own: ``python -m FocusNetTrainingLib.train_worker RUN``.

Does what ``request.json`` of the run folder says, from the last checkpoint where there is one. It belongs to no other
process: it goes on when 3D Slicer is closed, and whoever opens the folder finds it by its lock.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focusnet.errors import Cancelled, FocusNetError
from FocusNetSegmentationLib.protocol import emit
from FocusNetSegmentationLib.worker import REFUSED, report_errors

from FocusNetTrainingLib.run_folder import RunFolder, TrainingRequest

if TYPE_CHECKING:
    from focusnet_training.config import TrainingConfig

LOCK_WAIT_SECONDS = 3.0
"""A panel that looks whether the lock is taken holds it for a moment."""


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

    max_hours = request.hours if request.hours > 0 else math.inf
    options = TrainingOptions(request.device, max_hours=max_hours, report=_Report().tell)
    own = Path(request.preset).suffix == ".toml"
    source = "--config CONFIG" if own else f"--preset {request.preset}"
    until = [] if request.until is None else [f"--stage {request.until}"]
    changed = [f"--set {s}" for s in request.settings]
    command = " ".join(["focusnet train", source, "--data DATA -o RUN", *until, *changed])
    resume = (run.path / "last.pt").exists()
    try:
        finished = train(
            config, Path(request.data), run.path, options, resume=resume, until=request.until, command=command
        )
    except Cancelled:  # a pause was asked for; the checkpoint is whole
        finished = False
    emit("outcome", state="finished" if finished else "paused")


class _Report:
    """Lines of the log: one for each change of the trainer's state or score, not for each status."""

    def __init__(self) -> None:
        self._told = ""

    def tell(self, status: dict[str, Any]) -> None:
        """Take in a status of `focusnet_training.monitor`."""
        if not self._told:
            emit("training")
        score = f", score {status['score']:.3f}" if "score" in status else ""
        news = f"{status.get('stage', '')} {status['state']}{score}".strip()
        if news != self._told:
            self._told = news
            print(f"Step {status['steps_done']}: {news}", flush=True)


def _group() -> int:
    """What ends this process with all it has started."""
    return os.getpid() if sys.platform == "win32" else os.getpgid(0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
