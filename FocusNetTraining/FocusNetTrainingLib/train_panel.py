"""Behaviour of the Train tab: what its widgets do. Everything slow or outside comes in through the services."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import qt
from focusnet import DISCLAIMER
from focusnet.errors import FocusNetError
from focusnet.organs import CATALOGUE, suggest
from focusnet.organs import find as find_organ
from FocusNetSegmentationLib.widgets import NOT_INSTALLED, LogView, fill_row, make_timer, may_install

from FocusNetTrainingLib.curves import organ_scores
from FocusNetTrainingLib.data_panel import DataPanel
from FocusNetTrainingLib.presets import PresetChoice, stage_name
from FocusNetTrainingLib.run_folder import RunStatus, TrainingRequest
from FocusNetTrainingLib.services import TrainServices
from FocusNetTrainingLib.texts import error_text, run_headline, task_headline

DEVICES = ["auto", "cpu", "cuda", "mps"]
POLL_MILLISECONDS = 500
OWN_CONFIGURATION = "Own configuration (TOML)..."
ALL_STAGES = "All"
MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # as in a bundle, which needs more than this panel may


class TrainPanel:
    """Connects the widgets of the tab.

    Args:
        ui: The widgets by name.
        services: The world outside.

    Attributes:
        curves: The run's curves in the scene; None while there is no run or no scene.
    """

    def __init__(self, ui: Any, services: TrainServices) -> None:
        self.ui = ui
        self._services = services
        self._parameters: Any = None
        self._presets: list[PresetChoice] = []
        self._run: Any = None
        self.curves: Any = None
        self._shown_rows = -1
        self._log = LogView(ui.logTextEdit)
        self._task: Any = None
        self._filling = False
        self._message = ""
        self._refusal = ""
        self._timer = make_timer(POLL_MILLISECONDS, self.poll)
        self.data = DataPanel(ui, services, self._packages_ready)
        self.data.changed = self._data_changed
        ui.disclaimerLabel.text = DISCLAIMER
        ui.progressBar.visible = False
        ui.curvesCollapsibleButton.visible = False
        ui.presetComboBox.connect("currentIndexChanged(int)", self._preset_changed)
        ui.lastStageComboBox.connect("currentIndexChanged(int)", self._keep)
        ui.runPathEdit.connect("currentPathChanged(QString)", self._run_changed)
        ui.modelNameEdit.connect("editingFinished()", self._keep)
        ui.smallOrgansEdit.connect("editingFinished()", self._keep)
        ui.startButton.connect("clicked(bool)", self.start)
        ui.pauseButton.connect("clicked(bool)", self.pause)
        ui.stopButton.connect("clicked(bool)", self.stop)
        ui.showDscButton.connect("clicked(bool)", lambda *_: self._show_chart("dsc"))
        ui.showLossButton.connect("clicked(bool)", lambda *_: self._show_chart("loss"))
        ui.installButton.connect("clicked(bool)", self.install)
        self.fill_presets()
        self._timer.start()

    @property
    def status(self) -> RunStatus:
        """How the run of the chosen folder stands."""
        return RunStatus() if self._run is None else self._run.status

    def set_parameters(self, parameters: Any) -> None:
        """Show the choices of a parameter node, and keep new ones in it; None while there is no scene."""
        self._parameters = None
        if parameters is not None:
            if not parameters.runFolder:
                parameters.runFolder = self._services.recall_run()
            self._show_choices(parameters)
            self._parameters = parameters
        self.data.set_parameters(parameters)
        if parameters is not None:
            self._open_run(parameters.runFolder)
        self._begin_curves()
        self.update()

    def scene_closes(self) -> None:
        """Let go of the scene; a training goes on."""
        self.curves = None
        self.data.cancel()

    def cleanup(self) -> None:
        """End what belongs to the panel; a training goes on."""
        self._timer.stop()
        self.data.cancel()
        if self._task is not None:
            self._task.cancel()

    def fill_presets(self) -> None:
        """List the presets that are there now."""
        self._presets = list(self._services.presets())
        self._show_presets()
        self._select_preset("" if self._parameters is None else self._parameters.preset)

    def start(self, *_: Any) -> None:
        """Begin the run, or go on with it."""
        self._message = ""
        try:
            if not self._packages_ready():
                return
            self._run.start(self._request())
            self._services.remember_run(str(self._run.folder.path))
        except FocusNetError as error:
            self._message = str(error)
        self.poll()

    def pause(self, *_: Any) -> None:
        """Ask for a checkpoint and the end of the process."""
        self._message = ""
        try:
            self._run.pause()
        except FocusNetError as error:
            self._message = str(error)
        self.update()

    def stop(self, *_: Any) -> None:
        """End the process at once, after asking."""
        if not self._services.confirm("End the training now? What was learned since the last checkpoint is lost."):
            return
        self._message = ""
        try:
            self._run.stop()
        except FocusNetError as error:
            self._message = str(error)
        self.update()

    def install(self, *_: Any) -> None:
        """Measure the model of the run and add it to this computer's models; a second click cancels."""
        if self._task is not None:
            self._task.cancel()
            self.poll()
            return
        self._message = ""
        self._install(overwrite=False)

    def poll(self) -> None:
        """Take in what has happened since."""
        if self._run is not None:
            try:
                self._run.poll()
            except FocusNetError as error:
                self._refuse_run(error)
        self.data.poll()
        if self._task is not None and not self._task.poll():
            self._installed()
        self.update()

    def update(self) -> None:
        """Show how everything stands, and enable what can be done."""
        ui, status = self.ui, self.status
        known = self._parameters is not None and self._run is not None
        has_run = known and (status.is_alive or status.resumable)
        goes_on = has_run and not status.is_alive and not self._is_done(status)
        ui.startButton.text = "Resume" if goes_on else "Start"
        ui.startButton.enabled = bool(
            known and not status.is_alive and self.data.folder and self._preset() and not self._is_done(status)
        )
        ui.pauseButton.enabled = status.state in ("starting", "training")
        ui.stopButton.enabled = status.is_alive
        for widget in (ui.presetComboBox, ui.modelNameEdit, ui.smallOrgansEdit):
            widget.enabled = not has_run
        for widget in (ui.lastStageComboBox, ui.deviceComboBox, ui.hoursSpinBox, ui.dataPathEdit):
            widget.enabled = not status.is_alive
        ui.installButton.enabled = self._task is not None or (
            known and not status.is_alive and any("dsc" in name for row in self._run.rows for name in row)
        )
        ui.installButton.text = "Install as model" if self._task is None else "Cancel installing"
        self._show_status(status)
        if known:
            self._show_rows()
            self._log.show(self._run.log)

    def _install(self, overwrite: bool) -> None:
        arguments = {"run": str(self._run.folder.path), "overwrite": overwrite}
        try:
            self._task = self._services.start_task("install", arguments, None)
        except FocusNetError as error:
            self._message = str(error)
        self.update()

    def _installed(self) -> None:
        task, self._task = self._task, None
        if task.error is None:
            mean = task.result["mean_dsc"]
            measured = "" if mean is None else f", mean validation DSC {mean:.3f}"
            self._message = f"Installed model {task.result['name']}{measured}. FocusNet Segmentation offers it."
        elif task.error.code == "E_OUTPUT_EXISTS" and self._services.confirm(
            "There is an installed model of this name. Replace it by the model of this run?"
        ):
            self._install(overwrite=True)
        else:
            self._message = error_text(task.error)

    def _packages_ready(self) -> bool:
        missing = self._services.missing_packages()
        if not missing:
            return True
        if not may_install(self._services.confirm, "Training", missing):
            self._message = NOT_INSTALLED
            self.update()
            return False
        wheels = self.ui.wheelsPathEdit.currentPath
        self._services.install_packages(missing, Path(wheels) if wheels else None)
        self.fill_presets()
        return True

    def _request(self) -> TrainingRequest:
        """What the widgets ask for; a run that is there keeps what it learns.

        Raises:
            FocusNetError: ``E_USAGE`` for names that can't be, ``E_UNKNOWN_ORGAN``.
        """
        until = self._until()
        now = {"data": str(self.data.folder), "until": until, "device": self.ui.deviceComboBox.currentText}
        now["hours"] = float(self.ui.hoursSpinBox.value)
        before = self._run.folder.read_request() if self.status.resumable else None
        if before is not None:
            return replace(before, **now)
        preset = self._preset()
        if preset is None:
            raise FocusNetError("E_USAGE", "No preset is chosen.")
        name = self.ui.modelNameEdit.text.strip() or model_name(self._run.folder.path)
        if not re.fullmatch(MODEL_NAME, name):
            raise FocusNetError(
                "E_USAGE",
                f"'{name}' can't name a model; use up to 64 letters, digits, dot, dash, underscore, first a letter or "
                "digit.",
            )
        organs = [_organ_key(text.strip()) for text in self.ui.smallOrgansEdit.text.split(",") if text.strip()]
        settings = (f"data.small_organs={json.dumps(organs)}",) if organs else ()
        return TrainingRequest(preset=preset.key, name=name, settings=settings, **now)

    def _is_done(self, status: RunStatus) -> bool:
        if status.state != "finished":
            return False
        request = self._run.folder.read_request()
        return request is None or request.until == self._until()

    def _until(self) -> str | None:
        preset, index = self._preset(), self.ui.lastStageComboBox.currentIndex
        return preset.stages[index - 1] if preset is not None and 0 < index <= len(preset.stages) else None

    def _show_choices(self, parameters: Any) -> None:
        ui = self.ui
        self._filling = True
        ui.runPathEdit.currentPath = parameters.runFolder
        ui.modelNameEdit.text = parameters.modelName
        ui.smallOrgansEdit.text = parameters.smallOrgans
        self._filling = False
        self._select_preset(parameters.preset)
        preset = self._preset()
        if preset is not None and parameters.lastStage in preset.stages:
            ui.lastStageComboBox.setCurrentIndex(preset.stages.index(parameters.lastStage) + 1)

    def _keep(self, *_: Any) -> None:
        if self._filling or self._parameters is None:
            return
        self._parameters.modelName = self.ui.modelNameEdit.text
        self._parameters.smallOrgans = self.ui.smallOrgansEdit.text
        self._parameters.lastStage = self._until() or ""
        self.update()

    def _preset(self) -> PresetChoice | None:
        index = self.ui.presetComboBox.currentIndex
        return self._presets[index] if 0 <= index < len(self._presets) else None

    def _show_presets(self) -> None:
        self._filling = True
        self.ui.presetComboBox.clear()
        for preset in self._presets:
            self.ui.presetComboBox.addItem(preset.name)
        if self._presets:
            self.ui.presetComboBox.addItem(OWN_CONFIGURATION)
        self._filling = False

    def _select_preset(self, key: str) -> None:
        """Choose a preset or a configuration file; the first preset where it is not there."""
        if key.endswith(".toml") and self._presets and key not in [preset.key for preset in self._presets]:
            try:
                self._presets.append(self._services.read_preset(key))
            except FocusNetError as error:
                self._message = str(error)
            else:
                self._show_presets()
        keys = [preset.key for preset in self._presets]
        self._filling = True
        self.ui.presetComboBox.setCurrentIndex(keys.index(key) if key in keys else 0)
        self._filling = False
        self._show_preset()

    def _preset_changed(self, *_: Any) -> None:
        if self._filling:
            return
        if self._preset() is None and self._presets:
            path = self._services.ask_open("Configuration of a training", "Configuration (*.toml)")
            self._message = ""
            self._select_preset(path or ("" if self._parameters is None else self._parameters.preset))
        self._show_preset()
        preset = self._preset()
        if self._parameters is not None and preset is not None:
            self._parameters.preset = preset.key
        self.update()

    def _show_preset(self) -> None:
        preset = self._preset()
        missing = "Presets are listed once the Python packages are installed."
        self.ui.presetInfoLabel.text = missing if preset is None else preset.description
        self._filling = True
        self.ui.lastStageComboBox.clear()
        self.ui.lastStageComboBox.addItem(ALL_STAGES)
        for stage in () if preset is None else preset.stages:
            self.ui.lastStageComboBox.addItem(f"up to {stage_name(stage)}")
        self._filling = False

    def _data_changed(self) -> None:
        """A data set was chosen: propose where its run goes."""
        preset = self._preset()
        if self.data.folder is not None and not self.ui.runPathEdit.currentPath and preset is not None:
            parent, name = self.data.folder.parent / "FocusNet runs", preset.name.removesuffix(".toml")
            taken = (parent / name).exists()
            self.ui.runPathEdit.currentPath = str(parent / (f"{name}-{date.today():%Y%m%d}" if taken else name))
        self.update()

    def _run_changed(self, *_: Any) -> None:
        if self._filling or self._parameters is None:
            return
        self._parameters.runFolder = self.ui.runPathEdit.currentPath
        self._message = ""
        self._open_run(self._parameters.runFolder)
        self.update()

    def _open_run(self, path: str) -> None:
        """Look into a run folder: what runs there is shown, what was asked for is chosen."""
        if self._run is not None and str(self._run.folder.path) == path:
            return
        self._run, self._refusal = None, ""
        self._log.clear()
        try:
            self._run = self._services.open_run(Path(path)) if path else None
        except FocusNetError as error:
            self._refuse_run(error)
        self._begin_curves()
        request = None if self._run is None else self._run.folder.read_request()
        if request is not None and self.status.state != "new":
            self._select_preset(request.preset)
            self.ui.modelNameEdit.text = request.name
            preset = self._preset()
            stages = () if preset is None else preset.stages
            if request.until is not None and request.until in stages:
                self.ui.lastStageComboBox.setCurrentIndex(stages.index(request.until) + 1)
            if request.device in DEVICES:
                self.ui.deviceComboBox.setCurrentIndex(DEVICES.index(request.device))
            self.ui.hoursSpinBox.value = request.hours
            if not self.ui.dataPathEdit.currentPath:
                self.ui.dataPathEdit.currentPath = request.data

    def _refuse_run(self, error: FocusNetError) -> None:
        """Let go of a run whose folder can't be used; nothing of it, nor of the one before, is shown any more."""
        self._run, self.curves, self._refusal, self._message = None, None, str(error), ""
        self.ui.curvesCollapsibleButton.visible = False

    def _begin_curves(self) -> None:
        """The curves of the run in the scene, both of which may be others now."""
        has_place = self._run is not None and self._parameters is not None
        self.curves = self._services.curves(self._run.folder.path) if has_place else None
        self._shown_rows = -1

    def _show_status(self, status: RunStatus) -> None:
        if self._task is not None:
            progress = self._task.progress
            share, text = progress.share, task_headline(progress)
        else:
            share, text = status.share, self._refusal or self._message or run_headline(status)
        self.ui.progressBar.visible = self._task is not None or status.is_alive or status.state == "paused"
        self.ui.progressBar.value = round(100 * share)
        self.ui.statusLabel.text = text

    def _show_rows(self) -> None:
        rows = self._run.rows
        if len(rows) == self._shown_rows:
            return
        self._shown_rows = len(rows)
        self.ui.curvesCollapsibleButton.visible = bool(rows)
        if self.curves is not None:
            self.curves.update(rows)
        scores = organ_scores(rows)
        table = self.ui.organsTable
        table.setRowCount(len(scores))
        for number, (key, dsc, best, error_mm) in enumerate(scores):
            texts = (
                CATALOGUE[key].name if key in CATALOGUE else key,
                "" if dsc is None else f"{dsc:.3f}",
                "" if best is None else f"{best:.3f}",
                "" if error_mm is None else f"{error_mm:.1f}",
            )
            fill_row(table, number, texts)
            for column in range(1, len(texts)):
                table.item(number, column).setTextAlignment(qt.Qt.AlignCenter)
        table.resizeColumnsToContents()

    def _show_chart(self, kind: Any) -> None:
        """Put the curves into the scene, which nobody has asked for before, and show one chart."""
        if self.curves is not None:
            self._services.show_chart(self.curves.chart(kind))


def model_name(run: Path) -> str:
    """Name of a model after its run folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", run.name).strip("-._")[:64] or "model"


def _organ_key(text: str) -> str:
    organ = find_organ(text)
    if organ is None:
        hint = ", ".join(suggest(text)) or "see the organ catalogue"
        raise FocusNetError("E_UNKNOWN_ORGAN", f"No organ is called '{text}'; near: {hint}.")
    return organ.key
