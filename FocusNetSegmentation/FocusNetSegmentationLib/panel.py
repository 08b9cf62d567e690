"""Behaviour of the panel: what its widgets do. Everything slow or outside comes in through :class:`Services`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
from focusnet import DISCLAIMER
from focusnet.console import duration
from focusnet.errors import Cancelled, FocusNetError
from focusnet.organs import organ

from FocusNetSegmentationLib import results
from FocusNetSegmentationLib.widgets import NOT_INSTALLED, LogView, colour_row, fill_row, make_timer, may_install

PER_ORGAN = "One segmentation per organ, in a folder"
ONE_NODE = "One segmentation with all organs"
OUTPUTS = [PER_ORGAN, ONE_NODE]
DEVICES = ["auto", "cpu", "cuda", "mps"]
PRECISIONS = ["auto", "fp32", "bf16", "fp16"]
EXPORTS = "Segmentation (*.seg.nrrd);;RT structure set (*.dcm)"
POLL_MILLISECONDS = 100
NO_ORGAN = "none"
MESSAGE_COLUMN, MESSAGE_WIDTH = 3, 60
COLOURS = {"error": "#c62828", "warning": "#b26a00", "info": "#1565c0"}


@dataclass(frozen=True)
class ModelChoice:
    """A model the user can pick.

    Attributes:
        name: By which it is asked for.
        description: One sentence.
        organs: Keys of its organs.
        problem: Why it can't be used, or empty.
    """

    name: str
    description: str
    organs: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True)
class Services:
    """What the panel needs from outside; a test hands in its own.

    Attributes:
        models: Lists the models; the default one first.
        missing_packages: Requirements that are not installed.
        install_packages: Installs them, from a folder of wheels where one is given.
        install_model: Installs a model from a file and returns its name.
        start: Starts a job from volume node, parameter node and organs (None for all).
        export: Writes segmentation nodes on a CT to a file, as its name ends.
        compare: Opens the evaluation with these segmentation nodes as the prediction.
        confirm: Asks the user a yes-no question.
        ask_open: Asks for a file to read, by title and filter; empty when cancelled.
        ask_save: Asks for a file to write.
    """

    models: Callable[[], Sequence[ModelChoice]]
    missing_packages: Callable[[], list[str]]
    install_packages: Callable[[Sequence[str], Path | None], None]
    install_model: Callable[[Path], str]
    start: Callable[[Any, Any, tuple[str, ...] | None], Any]
    export: Callable[[Sequence[Any], Any, Path], None]
    compare: Callable[[Sequence[Any]], None]
    confirm: Callable[[str], bool]
    ask_open: Callable[[str, str], str]
    ask_save: Callable[[str, str], str]


class Panel:
    """Connects the widgets of the .ui file.

    Args:
        ui: The widgets by name.
        services: The world outside.
    """

    def __init__(self, ui: Any, services: Services) -> None:
        self.ui = ui
        self._services = services
        self._parameters: Any = None
        self._models: list[ModelChoice] = []
        self._job: Any = None
        self._job_volume: Any = None
        self._outcome: Any = None
        self._rows: list[results.Row] = []
        self._log = LogView(ui.logTextEdit)
        self._filling = False
        self._timer = make_timer(POLL_MILLISECONDS, self.poll)
        ui.disclaimerLabel.text = DISCLAIMER
        ui.progressBar.visible = False
        ui.resultCollapsibleButton.visible = False
        ui.inputVolumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.update_buttons)
        ui.modelComboBox.connect("currentIndexChanged(int)", self._model_changed)
        ui.installModelButton.connect("clicked(bool)", self._install_model)
        ui.organsList.connect("itemChanged(QListWidgetItem*)", self._organs_changed)
        ui.segmentButton.connect("clicked(bool)", self.segment)
        ui.cancelButton.connect("clicked(bool)", self.cancel)
        ui.resultTable.connect("cellClicked(int,int)", self._row_clicked)
        ui.compareButton.connect("clicked(bool)", self._compare)
        ui.exportButton.connect("clicked(bool)", self._export)
        self.fill_models()

    @property
    def is_running(self) -> bool:
        """Whether a segmentation is under way."""
        return self._job is not None

    def set_parameters(self, parameters: Any) -> None:
        """Show the choices of a parameter node, and keep new ones in it; None while there is no scene."""
        self._parameters = parameters
        if parameters is not None:
            self._select_model(parameters.model)
            self._fill_organs()
        self.update_buttons()

    def forget_result(self) -> None:
        """Clear what is shown of a result whose nodes are gone."""
        self._outcome = self._job_volume = None
        self.ui.resultTable.setRowCount(0)
        self.ui.resultCollapsibleButton.visible = False
        self.ui.statusLabel.text = ""

    def fill_models(self) -> None:
        """List the models that are there now."""
        self._models = list(self._services.models())
        self._filling = True
        self.ui.modelComboBox.clear()
        for model in self._models:
            self.ui.modelComboBox.addItem(model.name)
        self._filling = False
        self._select_model("" if self._parameters is None else self._parameters.model)
        self._fill_organs()
        self.update_buttons()

    def update_buttons(self, *_: Any) -> None:
        """Enable what can be done now."""
        volume = self.ui.inputVolumeSelector.currentNode()
        self.ui.segmentButton.enabled = volume is not None and self._parameters is not None and not self.is_running
        self.ui.cancelButton.enabled = self.is_running
        has_result = self._outcome is not None and bool(self._outcome.result.nodes)
        self.ui.compareButton.enabled = has_result
        self.ui.exportButton.enabled = has_result

    def segment(self, *_: Any) -> None:
        """Segment the selected CT, after installing packages where some are missing."""
        if self.is_running:
            return
        try:
            if not self._packages_ready():
                return
            self._start()
        except FocusNetError as error:
            self._tell_error(error)
        self.update_buttons()

    def cancel(self, *_: Any) -> None:
        """Stop the running segmentation; the scene stays as it is."""
        if self._job is not None:
            self._job.cancel()
            self.poll()

    def poll(self) -> None:
        """Take in what the running segmentation has told."""
        if self._job is None:
            return
        running = self._job.poll()
        self._log.show(self._job.log)
        if running:
            self._show_progress()
            return
        job, self._job = self._job, None
        self._timer.stop()
        self.ui.progressBar.visible = False
        if job.error is not None:
            self._tell_error(job.error)
        else:
            self._show_outcome(job.outcome)
        self.update_buttons()

    def _packages_ready(self) -> bool:
        missing = self._services.missing_packages()
        if not missing:
            return True
        if not may_install(self._services.confirm, "Segmentation", missing):
            self._tell(NOT_INSTALLED)
            return False
        self._tell("Installing Python packages...")
        wheels = self.ui.wheelsPathEdit.currentPath
        self._services.install_packages(missing, Path(wheels) if wheels else None)
        self.fill_models()
        return True

    def _start(self) -> None:
        organs = self._chosen_organs()
        if organs == ():
            raise FocusNetError("E_USAGE", "No organ is chosen; tick at least one under Advanced.")
        model = self._model()
        if model is not None and self._parameters.model != model.name:  # what runs is what is shown
            self._parameters.model = model.name
        self.forget_result()
        self._log.clear()
        self._job_volume = self.ui.inputVolumeSelector.currentNode()
        self._job = self._services.start(self._job_volume, self._parameters, organs)
        self.ui.progressBar.visible = True
        self._show_progress()
        self._timer.start()

    def _show_progress(self) -> None:
        progress = self._job.progress
        self.ui.progressBar.value = round(100 * progress.share)
        left = "" if progress.seconds_left is None else f", about {duration(progress.seconds_left)} left"
        self._tell(f"{progress.stage.capitalize()}: {progress.share:.0%}{left}")

    def show_finished(self, outcome: Any, volume: Any) -> None:
        """Show a result that is in the scene, on its CT."""
        self._job_volume = volume
        self._show_outcome(outcome)
        self.update_buttons()

    def _show_outcome(self, outcome: Any) -> None:
        self._outcome = outcome
        report = outcome.report
        self.ui.flagsLabel.text = results.headline(report.organs, report.flags, report.seconds)
        self._rows = results.table_rows(report.organs, report.flags)
        table = self.ui.resultTable
        table.setRowCount(len(self._rows))
        for number, row in enumerate(self._rows):
            found = row.volume_ml > 0
            texts = (
                row.name,
                f"{row.volume_ml:.2f}" if found else "not found",
                f"{row.confidence:.2f}" if found else "",
                row.message,
            )
            fill_row(table, number, texts, row.message or row.name)
            if row.severity:
                colour_row(table, number, (0, MESSAGE_COLUMN), COLOURS[row.severity])
        table.resizeColumnsToContents()
        table.setColumnWidth(MESSAGE_COLUMN, MESSAGE_WIDTH)  # it takes what is left
        table.resizeRowsToContents()
        for note in report.notes:
            self.ui.logTextEdit.appendPlainText(note)
        self.ui.resultCollapsibleButton.visible = True
        self._tell("Done. Review every contour before any use.")

    def _row_clicked(self, row: int, _column: int) -> None:
        key, message = self._rows[row].key, self._rows[row].message
        self._tell(f"{self._rows[row].name}: {message or 'no finding.'}")
        node = None if self._outcome is None else self._outcome.result.nodes.get(key)
        if node is not None and node.GetScene() is not None:
            results.jump_to_segment(node, organ(key).tg263)

    def _compare(self, *_: Any) -> None:
        try:
            self._services.compare(self._result_nodes())
        except FocusNetError as error:
            self._tell_error(error)

    def _export(self, *_: Any) -> None:
        name = self._services.ask_save("Export organs", EXPORTS)
        if not name:
            return
        path = Path(name)
        if not name.lower().endswith((".seg.nrrd", ".dcm")):
            path = Path(f"{name}.seg.nrrd")  # the dialog asked about the name without it
            if path.exists() and not self._services.confirm(f"'{path.name}' exists. Replace it?"):
                return
        try:
            self._services.export(self._result_nodes(), self._job_volume, path)
        except FocusNetError as error:
            self._tell_error(error)
        else:
            self._tell(f"Exported {path.name}; the contours are not reviewed.")

    def _result_nodes(self) -> list[Any]:
        nodes = [node for node in self._outcome.result.unique_nodes if node.GetScene() is not None]
        if not nodes:
            raise FocusNetError("E_RESULT", "The result was removed from the scene; segment again.")
        return nodes

    def _install_model(self, *_: Any) -> None:
        path = self._services.ask_open("Install a model", "Model (*.zip)")
        if not path:
            return
        try:
            if not self._packages_ready():
                return
            name = self._services.install_model(Path(path))
        except FocusNetError as error:
            self._tell_error(error)
            return
        self.fill_models()
        self._select_model(name)
        self._tell(f"Installed model {name}.")

    def _select_model(self, name: str) -> None:
        index = next((n for n, model in enumerate(self._models) if model.name == name), 0)
        if self._models:
            self.ui.modelComboBox.setCurrentIndex(index)
        self._model_changed()

    def _model_changed(self, *_: Any) -> None:
        if self._filling:
            return
        model = self._model()
        if model is None:
            self.ui.modelInfoLabel.text = "Models are listed once the Python packages are installed."
        elif model.problem:
            self.ui.modelInfoLabel.text = model.problem
        else:
            self.ui.modelInfoLabel.text = f"{len(model.organs)} organs. {model.description}"
        if self._parameters is not None and model is not None and self._parameters.model != model.name:
            self._parameters.model = model.name
            self._parameters.organs = ""
            self._fill_organs()

    def _model(self) -> ModelChoice | None:
        index = self.ui.modelComboBox.currentIndex
        return self._models[index] if 0 <= index < len(self._models) else None

    def _fill_organs(self) -> None:
        model = self._model()
        chosen = set() if self._parameters is None else set(filter(None, self._parameters.organs.split(",")))
        self._filling = True
        self.ui.organsList.clear()
        for key in () if model is None else model.organs:
            item = qt.QListWidgetItem(organ(key).name)
            item.setCheckState(qt.Qt.Checked if not chosen or key in chosen else qt.Qt.Unchecked)
            self.ui.organsList.addItem(item)
        self._filling = False

    def _organs_changed(self, *_: Any) -> None:
        if self._filling or self._parameters is None:
            return
        organs = self._chosen_organs()
        self._parameters.organs = "" if organs is None else ",".join(organs) or NO_ORGAN

    def _chosen_organs(self) -> tuple[str, ...] | None:
        """Keys of the ticked organs, None where all are."""
        model = self._model()
        if model is None:
            return None
        ticked = [self.ui.organsList.item(n).checkState() == qt.Qt.Checked for n in range(len(model.organs))]
        return None if all(ticked) else tuple(key for key, tick in zip(model.organs, ticked, strict=True) if tick)

    def _tell(self, text: str) -> None:
        self.ui.statusLabel.text = text

    def _tell_error(self, error: FocusNetError) -> None:
        self._tell("Cancelled; the scene is as it was." if isinstance(error, Cancelled) else str(error))
