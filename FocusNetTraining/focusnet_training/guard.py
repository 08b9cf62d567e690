"""The guard of the stages sos and joint: one that costs validation score is undone (METHOD §4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from focusnet_training.checkpoint import load_checkpoint


def best_file(folder: Path, stage: str) -> Path:
    """Weights of a stage's best validation."""
    return folder / f"best-{stage}.pt"


def start_file(folder: Path, stage: str) -> Path:
    """Weights that a guarded stage starts from, kept until it is finished."""
    return folder / f"start-{stage}.pt"


def starts_from_snet(folder: Path, stages: Sequence[str], stage: str) -> bool:
    """Whether S-Net's answers are all there is before a stage: SOS-Net has not learned, or to no good.

    Args:
        folder: Run folder.
        stages: Names of all stages of the run, which started from no other weights.
        stage: The guarded stage.
    """
    return stage == "sos" or ("sos" in stages and not best_file(folder, "sos").exists())


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
        keep: Its start is worth to be shipped, as the stage's best; a SOS-Net that has not learned is not.

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
