"""Curves of a run in the scene: a table per stage, a series per loss and organ, two charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import slicer
import vtk
from focusnet.organs import CATALOGUE

from FocusNetTrainingLib.presets import stage_name

Chart = Literal["dsc", "loss"]
ATTRIBUTE = "FocusNet.Training"
RUN_ATTRIBUTE = "FocusNet.Run"
TABLE, SERIES, CHART = "vtkMRMLTableNode", "vtkMRMLPlotSeriesNode", "vtkMRMLPlotChartNode"
STEP = "step"
TITLES: dict[Chart, tuple[str, str]] = {"dsc": ("Validation DSC", "DSC"), "loss": ("Losses", "loss")}
MEAN_COLOUR = (0.1, 0.1, 0.1)
LOSS_COLOURS = (
    (0.90, 0.62, 0.00), (0.00, 0.45, 0.70), (0.00, 0.62, 0.45), (0.84, 0.37, 0.00), (0.80, 0.47, 0.65),
    (0.34, 0.71, 0.91), (0.50, 0.50, 0.50),
)  # fmt: skip


class Curves:
    """Tables and charts of one run; they come into the scene when a chart is asked for and are kept up to date then.

    What the scene has of the run already is used again; other runs have nodes of their own.

    Args:
        scene: The MRML scene.
        run: The run folder.
    """

    def __init__(self, scene: Any, run: Path) -> None:
        self._scene = scene
        self._run = run
        self._prefix = f"FocusNet {run.name}"
        self._rows: Sequence[Mapping[str, Any]] = ()
        self._written: dict[str, int] = {}

    def update(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take in the rows of the run's validations: ``stage``, ``step``, ``score``, ``loss_*``, ``dsc_*``.

        Steps are counted over all stages, so that the stages lie side by side.
        """
        self._rows = rows
        if self._nodes(TABLE):
            self._write()

    def chart(self, kind: Chart) -> Any:
        """The chart node with the curves of all rows, put into the scene where it is missing."""
        self._write()
        return self._chart(kind)

    def _write(self) -> None:
        offset = 0.0
        for stage in dict.fromkeys(str(row["stage"]) for row in self._rows):
            mine = [row for row in self._rows if row["stage"] == stage]
            if self._written.get(stage) != len(mine) or self._find(TABLE, stage) is None:
                self._write_stage(stage, mine, offset)
                self._written[stage] = len(mine)
            offset += float(mine[-1]["step"])

    def _chart(self, kind: Chart) -> Any:
        node = self._find(CHART, kind)
        if node is None:
            title, axis = TITLES[kind]
            node = self._add(CHART, f"{self._prefix} {title}", kind)
            node.SetTitle(f"{title}, {self._run.name}")
            node.SetXAxisTitle("step")
            node.SetYAxisTitle(axis)
            if kind == "dsc":
                node.YAxisRangeAutoOff()
                node.SetYAxisRange(0.0, 1.0)
        return node

    def _write_stage(self, stage: str, rows: Sequence[Mapping[str, Any]], offset: float) -> None:
        names = [name for name in rows[0] if name == "score" or name.startswith(("loss_", "dsc_"))]
        if not _is_segmentation(rows[0]):
            names = [name for name in names if name.startswith("loss_")]
        table = self._find(TABLE, stage) or self._add(TABLE, f"{self._prefix} {stage}", stage)
        columns = vtk.vtkTable()
        for name in (STEP, *names):
            column = vtk.vtkDoubleArray()
            column.SetName(name)
            for row in rows:
                column.InsertNextValue(offset + float(row["step"]) if name == STEP else _number(row.get(name)))
            columns.AddColumn(column)
        table.SetAndObserveTable(columns)
        for index, name in enumerate(names):
            self._series(stage, name, table, index)

    def _series(self, stage: str, name: str, table: Any, index: int) -> None:
        key = f"{stage}.{name}"
        if self._find(SERIES, key) is not None:
            return
        label, colour = _look(name, index)
        series = self._add(SERIES, f"{label} ({stage_name(stage)})", key)
        series.SetAndObserveTableNodeID(table.GetID())
        series.SetXColumnName(STEP)
        series.SetYColumnName(name)
        series.SetPlotType(series.PlotTypeScatter)
        series.SetLineStyle(series.LineStyleSolid)
        series.SetLineWidth(4 if name == "score" else 2)
        series.SetMarkerStyle(series.MarkerStyleCircle)
        series.SetMarkerSize(5)
        series.SetColor(*colour)
        self._chart("loss" if name.startswith("loss_") else "dsc").AddAndObservePlotSeriesNodeID(series.GetID())

    def _find(self, kind: str, key: str) -> Any:
        return next((node for node in self._nodes(kind) if node.GetAttribute(ATTRIBUTE) == key), None)

    def _nodes(self, kind: str) -> list[Any]:
        nodes = slicer.util.getNodesByClass(kind, self._scene)
        return [node for node in nodes if node.GetAttribute(RUN_ATTRIBUTE) == str(self._run)]

    def _add(self, kind: str, name: str, key: str) -> Any:
        node = self._scene.AddNewNodeByClass(kind, name)
        node.SetAttribute(ATTRIBUTE, key)
        node.SetAttribute(RUN_ATTRIBUTE, str(self._run))
        return node


def organ_scores(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float | None, float | None, float | None]]:
    """For each organ: key, latest DSC, best DSC of the same stage, latest localisation error in mm."""
    latest: dict[str, tuple[float, float]] = {}
    errors: dict[str, float] = {}
    stage = ""
    for row in rows:
        if row["stage"] != stage and _is_segmentation(row):
            stage, latest = row["stage"], {}
        for name, value in row.items():
            if name.startswith("dsc_") and _is_segmentation(row):
                key = name.removeprefix("dsc_")
                latest[key] = (value, max(value, latest.get(key, (0.0, 0.0))[1]))
            elif name.startswith("error_mm_"):
                errors[name.removeprefix("error_mm_")] = value
    keys = dict.fromkeys([*latest, *errors])
    return [(key, *latest.get(key, (None, None)), errors.get(key)) for key in keys]


def _is_segmentation(row: Mapping[str, Any]) -> bool:
    """Whether the scores of a row are DSC of organs: SOL-Net's are distances, the autoencoder's of reconstructions."""
    return row["stage"] != "aae" and any(name.startswith("dsc_") for name in row)


def _look(name: str, index: int) -> tuple[str, tuple[float, float, float]]:
    """Text and colour of a series: organs have theirs of the catalogue."""
    if name == "score":
        return "mean", MEAN_COLOUR
    if name.startswith("loss_"):
        return name.removeprefix("loss_").replace("_", " "), LOSS_COLOURS[index % len(LOSS_COLOURS)]
    organ = CATALOGUE.get(name.removeprefix("dsc_"))
    if organ is None:
        return name.removeprefix("dsc_"), LOSS_COLOURS[index % len(LOSS_COLOURS)]
    red, green, blue = organ.colour
    return organ.name, (red / 255, green / 255, blue / 255)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
