"""The guard of the stages sos and joint: one that costs validation score is undone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from focusnet_training.checkpoint import load_checkpoint
from focusnet_training.config import StageName
from focusnet_training.stages import STAGES


def best_file(folder: Path, stage: str) -> Path:
    """Weights of a stage's best validation."""
    return folder / f"best-{stage}.pt"


def start_file(folder: Path, stage: str) -> Path:
    """Weights that a guarded stage starts from, kept until it is finished."""
    return folder / f"start-{stage}.pt"


def teaches_sos(stage: StageName) -> bool:
    """Whether SOS-Net learns in a stage."""
    return "sos" in STAGES[stage].trainable


def sos_had_learned(state: dict[str, Any], folder: Path, stages: Sequence[StageName]) -> bool | None:
    """Whether SOS-Net had learned before the stage of ``last.pt``; None where nothing tells.

    Args:
        state: The checkpoint; one of an earlier version does not say it.
        folder: Run folder.
        stages: Names of the run's stages.
    """
    if "sos_learned" in state:
        learned: bool | None = state["sos_learned"]
        return learned
    if state["initial"] is not None:
        # An earlier version measured the start of a guarded stage with SOS-Net then.
        return None if state["start"] is None else True
    return "sos" in stages[: state["stage"]] and best_file(folder, "sos").exists()


def did_harm(folder: Path, stage: str, max_fall: float) -> bool:
    """Whether the best score of a stage lies more than ``max_fall`` below that of its start, if that is kept.

    Raises:
        FocusNetError: ``E_CHECKPOINT``.
    """
    best, start = best_file(folder, stage), start_file(folder, stage)
    return start.exists() and bool(load_checkpoint(best)["score"] < load_checkpoint(start)["score"] - max_fall)


def undo(folder: Path, stage: str, *, keep: bool) -> dict[str, Any]:
    """Take back a stage; a repetition after a crash does the same.

    Args:
        folder: Run folder.
        stage: The stage that did harm.
        keep: Its start is worth to be shipped, as the stage's best; a SOS-Net that had not learned is not.

    Returns:
        The checkpoint that it started from.
    """
    best, start = best_file(folder, stage), start_file(folder, stage)
    state = load_checkpoint(start)
    if keep:
        start.replace(best)
    else:
        best.unlink(missing_ok=True)
    return state
