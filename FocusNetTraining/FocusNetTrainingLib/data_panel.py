"""Behaviour of the Train tab's data part: choose a data set, look through it, make one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from focusnet.errors import FocusNetError
from FocusNetSegmentationLib.widgets import colour_row, fill_row

from FocusNetTrainingLib.scene_cases import take_cases
from FocusNetTrainingLib.services import TrainServices
from FocusNetTrainingLib.texts import check_headline, error_text, import_headline, task_headline

COLOURS = {"error": "#c62828", "warning": "#b26a00"}


class DataPanel:
    """Connects the widgets of the data part.

    Args:
        ui: The widgets by name.
        services: The world outside.
        packages_ready: Sees to it that the Python packages are there.

    Attributes:
        changed: Called when another data set is chosen.
    """

    def __init__(self, ui: Any, services: TrainServices, packages_ready: Callable[[], bool]) -> None:
        self.ui = ui
        self.changed: Callable[[], None] = lambda: None
        self._services = services
        self._packages_ready = packages_ready
        self._parameters: Any = None
        self._task: Any = None
        ui.findingsTable.visible = False
        ui.dataPathEdit.connect("currentPathChanged(QString)", self._path_changed)
        ui.checkButton.connect("clicked(bool)", self.check)
        ui.fromFolderButton.connect("clicked(bool)", self.make_from_folder)
        ui.fromSceneButton.connect("clicked(bool)", self.make_from_scene)

    @property
    def folder(self) -> Path | None:
        """The chosen data set, None where it is none."""
        path = self.ui.dataPathEdit.currentPath
        return Path(path) if path and (Path(path) / "dataset.json").is_file() else None

    def set_parameters(self, parameters: Any) -> None:
        """Show the choices of a parameter node, and keep new ones in it; None while there is no scene."""
        self._parameters = None
        if parameters is not None:
            self.ui.dataPathEdit.currentPath = parameters.dataFolder
        self._parameters = parameters
        self._path_changed()

    def check(self, *_: Any) -> None:
        """Look through the data set; a second click cancels."""
        if self._task is not None:
            self.cancel()
            return
        run = self.ui.runPathEdit.currentPath or None
        self._start("check", {"data": str(self.folder), "run": run})

    def make_from_folder(self, *_: Any) -> None:
        """Make a data set of a folder with a folder for each patient."""
        source = self._services.ask_folder("Folder with a folder for each patient")
        if not source:
            return
        out = _free(Path(source).parent, f"{Path(source).name} data set")
        if self._services.confirm(
            f"Make a data set in '{out}'? The files in '{source}' stay as they are; names and dates of patients are "
            "left out."
        ):
            self._start("import", {"source": source, "out": str(out), "name": Path(source).name})

    def make_from_scene(self, *_: Any) -> None:
        """Make a data set of the CTs of the scene and of what is drawn on them."""
        found = self._services.scene_cases()
        cases = [case for case in found if case.segmentation_nodes]
        left_out = sum(case.left_out for case in found)
        if left_out and not self._services.confirm(
            f"{left_out} organs were drawn by FocusNet and nobody has marked them as completed in the Segment Editor; "
            "they are left out. Go on?"
        ):
            return
        if not cases:
            self._tell("No CT in the scene has a segmentation; load or draw the organs of some patients first.")
            return
        parent = self._services.ask_folder(f"Where to keep the data set of {len(cases)} CTs")
        if parent:
            out = _free(Path(parent), "FocusNet data set")
            arguments = {"source": None, "out": str(out), "name": out.name}
            self._start("import", arguments, lambda folder: take_cases(cases, folder))

    def cancel(self) -> None:
        """End what is under way."""
        if self._task is not None:
            self._task.cancel()
            self.poll()

    def poll(self) -> None:
        """Take in what has happened since."""
        if self._task is not None:
            if self._task.poll():
                self._tell(task_headline(self._task.progress))
            else:
                task, self._task = self._task, None
                if task.error is not None:
                    self._tell(error_text(task.error))
                elif task.kind == "check":
                    self._show_findings(task.result, check_headline(task.result))
                else:
                    self.ui.dataPathEdit.currentPath = task.result["folder"]
                    self._show_findings(task.result, import_headline(task.result))
        self._update_buttons()

    def _start(self, kind: str, arguments: dict[str, Any], prepare: Any = None) -> None:
        try:
            if self._packages_ready():
                self._task = self._services.start_task(kind, arguments, prepare)
                self.ui.findingsTable.visible = False
        except FocusNetError as error:
            self._tell(str(error))
        self.poll()

    def _show_findings(self, result: dict[str, Any], headline: str) -> None:
        self._tell(headline)
        findings = sorted(result["findings"], key=lambda finding: finding["severity"])  # errors first
        table = self.ui.findingsTable
        table.visible = bool(findings)
        table.setRowCount(len(findings))
        for number, finding in enumerate(findings):
            texts = (finding["case"], finding["message"])
            fill_row(table, number, texts, f"{finding['severity']}: {finding['message']} [{finding['code']}]")
            colour_row(table, number, range(len(texts)), COLOURS[finding["severity"]])
        table.resizeColumnsToContents()

    def _path_changed(self, *_: Any) -> None:
        path = self.ui.dataPathEdit.currentPath
        if self._parameters is not None:
            self._parameters.dataFolder = path
        self.ui.findingsTable.visible = False
        missing = path and self.folder is None
        self._tell("This folder has no dataset.json; choose a data set, or make one of it." if missing else "")
        self._update_buttons()
        self.changed()

    def _update_buttons(self) -> None:
        self.ui.checkButton.text = "Check data" if self._task is None else "Cancel"
        self.ui.checkButton.enabled = self._task is not None or self.folder is not None
        self.ui.fromSceneButton.enabled = self.ui.fromFolderButton.enabled = self._task is None

    def _tell(self, text: str) -> None:
        self.ui.dataSummaryLabel.text = text
        self.ui.dataSummaryLabel.visible = bool(text)


def _free(parent: Path, name: str) -> Path:
    """A path that is not taken."""
    taken = {path.name for path in parent.iterdir()} if parent.is_dir() else set()
    numbered = (name if number == 1 else f"{name} {number}" for number in range(1, len(taken) + 2))
    return parent / next(candidate for candidate in numbered if candidate not in taken)
