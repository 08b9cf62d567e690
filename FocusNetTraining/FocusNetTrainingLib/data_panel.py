"""Behaviour of the Train tab's data part: choose a data set, look through it, make one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from focusnet.errors import FocusNetError

from FocusNetTrainingLib.services import TrainServices
from FocusNetTrainingLib.texts import check_headline, error_text, task_headline

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
        try:
            if self._packages_ready():
                run = self.ui.runPathEdit.currentPath or None
                self._task = self._services.start_task("check", {"data": str(self.folder), "run": run})
                self.ui.findingsTable.visible = False
        except FocusNetError as error:
            self._tell(str(error))
        self.poll()

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
                else:
                    self._show(task.result)
        self._update_buttons()

    def _show(self, result: dict[str, Any]) -> None:
        self._tell(check_headline(result))
        findings = sorted(result["findings"], key=lambda finding: finding["severity"])  # errors first
        table = self.ui.findingsTable
        table.visible = bool(findings)
        table.setRowCount(len(findings))
        for number, finding in enumerate(findings):
            for column, text in enumerate((finding["case"], finding["message"])):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(f"{finding['severity']}: {finding['message']} [{finding['code']}]")
                item.setForeground(qt.QBrush(qt.QColor(COLOURS[finding["severity"]])))
                table.setItem(number, column, item)
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

    def _tell(self, text: str) -> None:
        self.ui.dataSummaryLabel.text = text
