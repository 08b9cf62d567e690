"""Sentences of the panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from focusnet.errors import Cancelled, FocusNetError
from focusnet.organs import CATALOGUE
from FocusNetSegmentationLib.protocol import Progress

from FocusNetTrainingLib.presets import stage_name
from FocusNetTrainingLib.run_folder import RunStatus


def duration(seconds: float) -> str:
    """A time as a person says it: 50 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 60:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def run_headline(status: RunStatus) -> str:
    """How a run stands, and what can be done."""
    kept = "the last checkpoint is kept, Resume goes on from it" if status.resumable else "there is no checkpoint yet"
    match status.state:
        case "new":
            return ""
        case "starting":
            return "Starting: reading the data set..."
        case "training":
            left = "" if status.seconds_left is None else f", about {duration(status.seconds_left)} left"
            stage = f"{stage_name(status.stage)}: " if status.stage else ""
            return f"Training. {stage}{_steps(status)}{left}. It goes on when 3D Slicer is closed."
        case "pausing":
            return "Pausing: writing a checkpoint..."
        case "paused":
            return f"Paused at {_steps(status)}. Resume goes on exactly there."
        case "interrupted":
            return f"Ended at {_steps(status)}; {kept}."
        case "failed":
            return f"{status.error} ({kept.capitalize()}.)"
        case "finished":
            return "Finished. Install the model, then judge it on cases that it has not seen."


def task_headline(progress: Progress) -> str:
    """How far a task is."""
    left = "" if progress.seconds_left is None else f", about {duration(progress.seconds_left)} left"
    return f"{progress.stage.capitalize()}: {progress.share:.0%}{left}"


def check_headline(result: Mapping[str, Any]) -> str:
    """What the check of a data set found."""
    text = (
        f"{_count(len(result['organs']), 'organ')}; {_count(result['training'], 'case')} to train, "
        f"{_count(result['validation'], 'case')} to validate. {_fitness(result)}\n"
        f"Voxels {_grid(result['spacing_xyz'])} (median); proposed grid {_grid(result['proposed_spacing_xyz'])}, "
    )
    small = [CATALOGUE[key].name.lower() for key in result["proposed_small"]]
    text += f"small organs: {', '.join(small)}." if small else "no organ is small on it."
    partly = [
        f"{CATALOGUE[key].name} ({count} of {result['cases']})"
        for key, count in result["drawn"].items()
        if count < result["cases"]
    ]
    return text + (f"\nDrawn in some cases only: {', '.join(partly)}." if partly else "")


def _fitness(result: Mapping[str, Any]) -> str:
    excluded = result["excluded"]
    warned = {finding["case"] for finding in result["findings"]} - set(excluded)
    if not result["findings"]:
        return "Every case is fit for training."
    if not excluded:
        return f"Every case is fit for training; {_count(len(warned), 'case')} to look at."
    verb = "is" if len(excluded) == 1 else "are"
    return f"{_count(len(excluded), 'case')} {verb} left out of the training; {len(warned)} more to look at."


def _grid(spacing_xyz: Sequence[float]) -> str:
    return " × ".join(f"{edge:g}" for edge in spacing_xyz) + " mm"


def import_headline(result: Mapping[str, Any]) -> str:
    """What became of the scans that a data set was made of."""
    text = (
        f"Made a data set of {_count(result['scans'], 'scan')} of {_count(result['patients'], 'patient')} with "
        f"{_count(len(result['organs']), 'organ')}. "
    )
    failed = sum(finding["severity"] == "error" for finding in result["findings"])
    return text + (f"{_count(failed, 'scan')} could not be used." if failed else "All scans could be used.")


def error_text(error: FocusNetError) -> str:
    """What is said of an error; what the user has cancelled is none."""
    return "Cancelled." if isinstance(error, Cancelled) else str(error)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _steps(status: RunStatus) -> str:
    return f"step {status.steps_done:,} of {status.steps_total:,} ({status.share:.0%})"
