"""Behaviour of the tab *Evaluate*: what its widgets do. Everything slow or outside comes in through services."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
from focusnet.errors import Cancelled, FocusNetError
from focusnet.organs import CATALOGUE, organ
from FocusNetSegmentationLib.widgets import LogView, colour_row, fill_row, make_timer

from FocusNetTrainingLib.evaluate_request import (
    REPORT_FILE,
    SIDES,
    TABLE_FILE,
    Evaluated,
    EvaluationRequest,
    NameRow,
    name_rows,
)
from FocusNetTrainingLib.evaluate_table import Line, table_lines

SCENE, FOLDERS = 0, 1
KINDS = ("Segmentations in the scene", "Files or folders")
NOT_COMPARED = "not compared"
ORGANS = ("", *CATALOGUE)
POLL_MILLISECONDS = 100
REFRESH_MILLISECONDS = 200
REPORTS = "Report (*.html);;Table (*.csv)"
STRUCTURE_SETS = "RT structure set (*.dcm);;All files (*)"
STATE_COLUMN, STATE_WIDTH = 5, 40
POOR = "#c62828"


@dataclass(frozen=True)
class EvaluateServices:
    """What the tab needs from outside; a test hands in its own.

    Attributes:
        groups: Segmentations of the scene that can be compared: name and nodes.
        names: Names of the structures of segmentation nodes.
        volume_of: The CT that segmentation nodes lie on, or None.
        start: Starts a job from the nodes of both sides (None for folders) and the request.
        show_result: Puts table and plot of the rows into the scene and shows them.
        show_agreement: Colours where both sides of a finished job agree on organs, and centres the views there.
        forget_agreement: Takes these colours out of the scene.
        load_rtstruct: Puts the structures of a file on a CT into the scene; gives the node.
        report_packages: Python packages that the report needs and that are missing.
        install_packages: Installs them.
        write: Writes bytes to a file, complete or not at all.
        confirm: Asks the user a yes-no question.
        ask_open: Asks for a file to read, by title and filter; empty when cancelled.
        ask_save: Asks for a file to write.
    """

    groups: Callable[[], list[tuple[str, list[Any]]]]
    names: Callable[[Sequence[Any]], list[str]]
    volume_of: Callable[[Sequence[Any]], Any]
    start: Callable[[tuple[Sequence[Any], Sequence[Any]] | None, EvaluationRequest], Any]
    show_result: Callable[[Sequence[Any], str], None]
    show_agreement: Callable[[Any, Sequence[str], dict[str, str]], None]
    forget_agreement: Callable[[], None]
    load_rtstruct: Callable[[Path, Any], Any]
    report_packages: Callable[[], list[str]]
    install_packages: Callable[[Sequence[str]], None]
    write: Callable[[Path, bytes], None]
    confirm: Callable[[str], bool]
    ask_open: Callable[[str, str], str]
    ask_save: Callable[[str, str], str]


class EvaluatePanel:
    """Connects the widgets of the .ui file.

    Args:
        ui: The widgets by name.
        services: The world outside.
    """

    def __init__(self, ui: Any, services: EvaluateServices) -> None:
        self.ui = ui
        self._services = services
        self._parameters: Any = None
        self._groups: list[tuple[str, list[Any]]] = []
        self._job: Any = None
        self._finished: Any = None
        self._found: Evaluated | None = None
        self._names: list[NameRow] = []
        self._spellings: dict[str, str] = {}
        self._lines: list[Line] = []
        self._log = LogView(ui.evaluateLogTextEdit)
        self._filling = False
        self._timer = make_timer(POLL_MILLISECONDS, self.poll)
        self._refresh_timer = make_timer(REFRESH_MILLISECONDS, self.refresh)
        self._refresh_timer.singleShot = True
        for kind in KINDS:
            ui.kindComboBox.addItem(kind)
        ui.evaluateProgressBar.visible = False
        ui.comparisonCollapsibleButton.visible = False
        ui.namesCollapsibleButton.visible = False
        ui.kindComboBox.connect("currentIndexChanged(int)", self._source_changed)
        ui.referenceComboBox.connect("currentIndexChanged(int)", self._source_changed)
        ui.predictionComboBox.connect("currentIndexChanged(int)", self._source_changed)
        for edit in (ui.referencePathEdit, ui.predictionPathEdit, ui.ctPathEdit):
            edit.connect("currentPathChanged(QString)", self._source_changed)
        ui.loadStructuresButton.connect("clicked(bool)", self._load_structures)
        ui.computeButton.connect("clicked(bool)", self.compute)
        ui.cancelEvaluationButton.connect("clicked(bool)", self.cancel)
        ui.metricsTable.connect("cellClicked(int,int)", self._row_clicked)
        ui.agreementCheckBox.connect("toggled(bool)", self._agreement_toggled)
        ui.reportButton.connect("clicked(bool)", self._export)
        self.refresh()

    @property
    def is_running(self) -> bool:
        """Whether an evaluation is under way."""
        return self._job is not None

    def set_parameters(self, parameters: Any) -> None:
        """Show the choices of a parameter node, and keep new ones in it; None while there is no scene."""
        self._parameters = None
        if parameters is not None:
            self._spellings = json.loads(parameters.spellings or "{}")
            self.refresh()
            self._filling = True
            self.ui.kindComboBox.setCurrentIndex(FOLDERS if parameters.compareFolders else SCENE)
            self.ui.referencePathEdit.currentPath = parameters.referenceFolder
            self.ui.predictionPathEdit.currentPath = parameters.predictionFolder
            self.ui.ctPathEdit.currentPath = parameters.ctFolder
            self._select(self.ui.referenceComboBox, parameters.referenceName)
            self._select(self.ui.predictionComboBox, parameters.predictionName)
            self._filling = False
        self._parameters = parameters
        self._show_source()

    def scene_changed(self, *_: Any) -> None:
        """Nodes came or went; the lists follow shortly, once for many."""
        self._refresh_timer.start()

    def scene_closes(self) -> None:
        """Stop, and forget what is gone with the scene."""
        self.cancel()
        self._forget()
        self._finished = None
        self._tell("")

    def cleanup(self) -> None:
        """Leave nothing running."""
        self.cancel()
        self._refresh_timer.stop()

    def compare(self, nodes: Sequence[Any]) -> None:
        """Choose these segmentation nodes as the prediction."""
        self.ui.kindComboBox.setCurrentIndex(SCENE)
        self.refresh()
        wanted = next((n for n, (_, own) in enumerate(self._groups) if nodes and nodes[0] in own), None)
        if wanted is not None:
            self.ui.predictionComboBox.setCurrentIndex(wanted + 1)
            others = [n for n in range(len(self._groups)) if n != wanted]
            if self._nodes(self.ui.referenceComboBox) in ([], list(nodes)) and len(others) == 1:
                self.ui.referenceComboBox.setCurrentIndex(others[0] + 1)

    def refresh(self) -> None:
        """List the segmentations that are in the scene now; what is chosen stays, and the parameter node as it is."""
        chosen = [combo.currentText for combo in (self.ui.referenceComboBox, self.ui.predictionComboBox)]
        self._groups = self._services.groups()
        self._filling = True
        for combo, text in zip((self.ui.referenceComboBox, self.ui.predictionComboBox), chosen, strict=True):
            combo.clear()
            combo.addItem("Select...")
            for name, _ in self._groups:
                combo.addItem(name)
            self._select(combo, text)
        self._filling = False
        self._show_source()

    def update_buttons(self) -> None:
        """Enable what can be done now."""
        if self.ui.kindComboBox.currentIndex == FOLDERS:
            ready = bool(self.ui.referencePathEdit.currentPath and self.ui.predictionPathEdit.currentPath)
        else:
            sides = [self._nodes(combo) for combo in (self.ui.referenceComboBox, self.ui.predictionComboBox)]
            ready = all(sides) and sides[0] != sides[1]
        self.ui.computeButton.enabled = ready and not self.is_running
        self.ui.cancelEvaluationButton.enabled = self.is_running

    def compute(self, *_: Any) -> None:
        """Compare what is chosen."""
        if self.is_running:
            return
        self._forget()
        folders = self.ui.kindComboBox.currentIndex == FOLDERS
        sides = None
        if folders:
            request = EvaluationRequest(
                self.ui.referencePathEdit.currentPath,
                self.ui.predictionPathEdit.currentPath,
                self.ui.ctPathEdit.currentPath,
                spellings=self._spellings,
            )
        else:
            sides = (self._nodes(self.ui.referenceComboBox), self._nodes(self.ui.predictionComboBox))
            request = EvaluationRequest(spellings=self._spellings)
        try:
            self._job = self._services.start(sides, request)
        except FocusNetError as error:
            self._tell_error(error)
        else:
            self.ui.evaluateProgressBar.visible = True
            self._timer.start()
            self._tell("Comparing...")
        self.update_buttons()

    def cancel(self, *_: Any) -> None:
        """Stop the running evaluation."""
        if self._job is not None:
            self._job.cancel()
            self.poll()

    def poll(self) -> None:
        """Take in what the running evaluation has told."""
        if self._job is None:
            return
        running = self._job.poll()
        self._log.show(self._job.log)
        if running:
            progress = self._job.progress
            self.ui.evaluateProgressBar.value = round(100 * progress.share)
            self._tell(f"{progress.stage.capitalize()}: {progress.share:.0%}")
            return
        job, self._job = self._job, None
        self._timer.stop()
        self.ui.evaluateProgressBar.visible = False
        if job.error is not None:
            self._tell_error(job.error)
        else:
            self._show(job)
        self.update_buttons()

    def _show(self, job: Any) -> None:
        self._finished, self._found = job, job.outcome
        found = job.outcome
        self._lines = table_lines(found.rows)
        table = self.ui.metricsTable
        table.setRowCount(len(self._lines))
        for number, line in enumerate(self._lines):
            fill_row(table, number, line.cells, line.hint)
            if line.is_poor:
                colour_row(table, number, range(len(line.cells)), POOR)
        table.resizeColumnsToContents()
        table.setColumnWidth(STATE_COLUMN, STATE_WIDTH)
        table.resizeRowsToContents()
        self.ui.summaryLabel.text = "\n".join(found.notes) or "Every structure of both sides was compared."
        in_scene = job.scene_sides is not None
        self.ui.agreementCheckBox.enabled = in_scene
        self.ui.comparisonCollapsibleButton.visible = True
        self._fill_names([name for name, sides in found.unmapped.items() if not self._is_listed(name)])
        self._services.show_result(found.rows, f"{self._title('prediction')} against {self._title('reference')}")
        self._tell("Done. Click an organ to see where the contours differ." if in_scene else "Done.")
        if in_scene and self.ui.agreementCheckBox.checked and self._lines:
            self._show_agreement(self._lines[0])

    def _row_clicked(self, row: int, _column: int) -> None:
        if self._finished is not None and self.ui.agreementCheckBox.checked:
            self._show_agreement(self._lines[row])

    def _show_agreement(self, line: Line) -> None:
        if self._finished is None or self._finished.scene_sides is None:
            return
        try:
            self._services.show_agreement(self._finished, line.organs, self._spellings)
        except FocusNetError as error:
            self._tell_error(error)

    def _agreement_toggled(self, shown: bool) -> None:
        if not shown:
            self._services.forget_agreement()
        elif self._lines:
            self._show_agreement(self._lines[max(self.ui.metricsTable.currentRow(), 0)])

    def _load_structures(self, *_: Any) -> None:
        volume = self._services.volume_of(self._nodes(self.ui.predictionComboBox))
        if volume is None:
            self._tell("Choose the prediction first: the structures are put on its CT.")
            return
        path = self._services.ask_open("Load manual contours", STRUCTURE_SETS)
        if not path:
            return
        try:
            node = self._services.load_rtstruct(Path(path), volume)
        except FocusNetError as error:
            self._tell_error(error)
            return
        self.refresh()
        index = next((n for n, (_, nodes) in enumerate(self._groups) if node in nodes), None)
        if index is not None:
            self.ui.referenceComboBox.setCurrentIndex(index + 1)
        self._tell(f"Loaded {Path(path).name}.")

    def _export(self, *_: Any) -> None:
        assert self._found is not None
        try:
            if REPORT_FILE not in self._found.files and not self._report_ready():
                return
            name = self._services.ask_save("Export the comparison", REPORTS)
            if not name:
                return
            path = Path(name if name.lower().endswith((".html", ".csv")) else f"{name}.html")
            content = self._found.files[TABLE_FILE if path.suffix.lower() == ".csv" else REPORT_FILE]
            self._services.write(path, content)
        except FocusNetError as error:
            self._tell_error(error)
        else:
            self._tell(f"Exported {path.name}.")

    def _report_ready(self) -> bool:
        """Offer to install what the report needs; it is made by the next comparison."""
        missing = self._services.report_packages()
        if missing:
            if not self._services.confirm(f"The report needs {', '.join(missing)} in 3D Slicer. Install now?"):
                self._tell("Not exported: the report's Python package is not installed.")
                return False
            self._services.install_packages(missing)
        self._tell("Press Compute again to make the report.")
        return False

    def _forget(self) -> None:
        self._services.forget_agreement()
        self._found = None
        self._finished = None
        self._lines = []
        self._log.clear()
        self.ui.metricsTable.setRowCount(0)
        self.ui.comparisonCollapsibleButton.visible = False

    def _source_changed(self, *_: Any) -> None:
        """The user has chosen: keep it."""
        if self._filling:
            return
        if self._parameters is not None:
            self._parameters.compareFolders = self.ui.kindComboBox.currentIndex == FOLDERS
            self._parameters.referenceName = self._chosen_name(self.ui.referenceComboBox)
            self._parameters.predictionName = self._chosen_name(self.ui.predictionComboBox)
            self._parameters.referenceFolder = self.ui.referencePathEdit.currentPath
            self._parameters.predictionFolder = self.ui.predictionPathEdit.currentPath
            self._parameters.ctFolder = self.ui.ctPathEdit.currentPath
        self._show_source()

    def _show_source(self) -> None:
        """Show what belongs to the chosen sides."""
        folders = self.ui.kindComboBox.currentIndex == FOLDERS
        self.ui.sceneWidget.visible = not folders
        self.ui.foldersWidget.visible = folders
        self._fill_names(())
        self.update_buttons()

    def _fill_names(self, unmapped: Sequence[str]) -> None:
        """Names of both sides with their organs; in folders, those that a comparison did not know."""
        combos = (self.ui.referenceComboBox, self.ui.predictionComboBox)
        if self.ui.kindComboBox.currentIndex == FOLDERS:
            sides = [list(dict.fromkeys([*self._spellings, *unmapped])), []]
        else:
            sides = [self._services.names(self._nodes(combo)) for combo in combos]
        self._names = name_rows(sides[0], sides[1], self._spellings)
        table = self.ui.namesTable
        table.setRowCount(len(self._names))
        self.ui.namesCollapsibleButton.visible = bool(self._names)
        unknown = sum(1 for row in self._names if not row.organ)
        self.ui.namesCollapsibleButton.text = "Names" + (f" ({unknown} not compared)" if unknown else "")
        for number, row in enumerate(self._names):
            fill_row(table, number, (row.name, "both" if len(row.sides) == len(SIDES) else row.sides[0]))
            table.setCellWidget(number, 2, self._organ_selector(row))
        table.resizeColumnsToContents()

    def _organ_selector(self, row: NameRow) -> Any:
        combo = qt.QComboBox()
        for key in ORGANS:
            combo.addItem(organ(key).name if key else NOT_COMPARED)
        combo.setCurrentIndex(ORGANS.index(row.organ))
        combo.connect("currentIndexChanged(int)", lambda index: self._name_changed(row.name, ORGANS[index]))
        return combo

    def _name_changed(self, name: str, key: str) -> None:
        self._spellings = {**self._spellings, name: key}
        if self._parameters is not None:
            self._parameters.spellings = json.dumps(self._spellings)

    def _is_listed(self, name: str) -> bool:
        return any(row.name == name for row in self._names)

    def _nodes(self, combo: Any) -> list[Any]:
        index = combo.currentIndex - 1
        nodes = self._groups[index][1] if 0 <= index < len(self._groups) else []
        return [node for node in nodes if node.GetScene() is not None]

    def _chosen_name(self, combo: Any) -> str:
        return combo.currentText if combo.currentIndex > 0 else ""

    def _title(self, side: str) -> str:
        if self.ui.kindComboBox.currentIndex == FOLDERS:
            edit = self.ui.referencePathEdit if side == "reference" else self.ui.predictionPathEdit
            return Path(edit.currentPath).name
        combo = self.ui.referenceComboBox if side == "reference" else self.ui.predictionComboBox
        return str(combo.currentText)

    def _select(self, combo: Any, name: str) -> None:
        names = [group for group, _ in self._groups]
        combo.setCurrentIndex(names.index(name) + 1 if name in names else 0)

    def _tell(self, text: str) -> None:
        self.ui.evaluateStatusLabel.text = text

    def _tell_error(self, error: FocusNetError) -> None:
        self._tell("Cancelled." if isinstance(error, Cancelled) else str(error))
