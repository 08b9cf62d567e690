"""What the panels need from outside; a test hands in its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from FocusNetTrainingLib.presets import PresetChoice
from FocusNetTrainingLib.scene_cases import SceneCase
from FocusNetTrainingLib.tasks import Task
from FocusNetTrainingLib.training_run import TrainingRun


@dataclass(frozen=True)
class TrainServices:
    """The world of the Train tab.

    Attributes:
        presets: Lists the shipped presets; none while packages are missing.
        read_preset: Reads one preset, or a configuration file.
        missing_packages: Requirements that are not installed.
        install_packages: Installs them, from a folder of wheels where one is given.
        open_run: Looks into a run folder; refuses one that can't be read.
        start_task: Starts work in a child process, by kind, arguments and what puts files into its folder.
        scene_cases: The CTs of the scene with what is drawn on them.
        curves: Makes the curves of a run, by its folder, in the scene.
        show_chart: Shows a chart node in a plot view.
        confirm: Asks the user a yes-no question.
        ask_open: Asks for a file, by title and filter; empty when cancelled.
        ask_folder: Asks for a folder, by title; empty when cancelled.
        recall_run: The run folder that was used last on this computer.
        remember_run: Keeps it.
    """

    presets: Callable[[], Sequence[PresetChoice]]
    read_preset: Callable[[str], PresetChoice]
    missing_packages: Callable[[], list[str]]
    install_packages: Callable[[Sequence[str], Path | None], None]
    open_run: Callable[[Path], TrainingRun]
    start_task: Callable[..., Task]
    scene_cases: Callable[[], Sequence[SceneCase]]
    curves: Callable[[Path], Any]
    show_chart: Callable[[Any], None]
    confirm: Callable[[str], bool]
    ask_open: Callable[[str, str], str]
    ask_folder: Callable[[str], str]
    recall_run: Callable[[], str]
    remember_run: Callable[[str], None]
