"""What an evaluation leaves in the scene: a table, a plot, and the agreement of an organ as coloured segments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import slicer
import vtk
from focusnet.evaluation.case import Pair, Row
from focusnet.evaluation.masks import CroppedMask
from focusnet.geometry import Box
from focusnet.organs import CATALOGUE, organ
from FocusNetSegmentationLib import mrml
from FocusNetSegmentationLib.structures import Structure, add_structures
from slicer.util import getNodesByClass

AGREEMENT_ATTRIBUTE = "FocusNet.Agreement"
BOTH, EXTRA, MISSED = "Agreement", "Only in the prediction", "Only in the reference"
COLOURS = {BOTH: (76, 175, 80), EXTRA: (255, 143, 0), MISSED: (233, 30, 99)}
FILL_OPACITY = 0.55
TABLE_COLUMNS = (
    ("DSC", "dsc"),
    ("Surface DSC", "surface_dsc"),
    ("Tolerance (mm)", "tolerance_mm"),
    ("HD95 (mm)", "hd95_max_mm"),
    ("Mean surface distance (mm)", "msd_mm"),
    ("Reference (ml)", "volume_reference_ml"),
    ("Prediction (ml)", "volume_prediction_ml"),
    ("Centroid shift (mm)", "centroid_shift_mm"),
)
QUANTILES = (("Lowest", 0.0), ("25 %", 0.25), ("75 %", 0.75), ("Highest", 1.0))
BAR_COLOUR = (0.13, 0.45, 0.62)
POINT_COLOUR = (0.15, 0.15, 0.15)


def add_table(rows: Sequence[Row], name: str) -> Any:
    """New table node with one row per case and organ; undefined measures are not a number."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
    modified = node.StartModify()
    _add_texts(node, "Case", [row.case for row in rows])
    _add_texts(node, "Organ", [organ(row.organ).name for row in rows])
    _add_texts(node, "State", [row.state for row in rows])
    for title, key in TABLE_COLUMNS:
        _add_numbers(node, title, [getattr(row, key) for row in rows])
    node.EndModify(modified)
    return node


def add_plot(rows: Sequence[Row], name: str) -> Any:
    """New plot chart node of the DSC: a bar for each organ, and over several cases the spread as in a box plot.

    Bars show the median; the points show the lowest and the highest value and the quartiles.
    """
    values = {key: [row.dsc for row in rows if row.organ == key and row.dsc is not None] for key in CATALOGUE}
    drawn = {key: found for key, found in values.items() if found}
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", f"{name}, plotted")
    table.SetHideFromEditors(True)
    _add_texts(table, "Organ", [organ(key).tg263 for key in drawn])
    _add_numbers(table, "DSC", [float(np.median(found)) for found in drawn.values()])
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", name)
    series = [_add_series(table, "DSC", slicer.vtkMRMLPlotSeriesNode.PlotTypeBar, BAR_COLOUR)]
    if any(len(found) > 1 for found in drawn.values()):
        for title, share in QUANTILES:
            _add_numbers(table, title, [float(np.quantile(found, share)) for found in drawn.values()])
            series.append(_add_series(table, title, slicer.vtkMRMLPlotSeriesNode.PlotTypeScatterBar, POINT_COLOUR))
    for one in series:
        chart.AddAndObservePlotSeriesNodeID(one.GetID())
    chart.SetTitle("Overlap with the reference")
    chart.SetYAxisTitle("DSC")
    chart.SetYAxisRangeAuto(False)
    chart.SetYAxisRange(0.0, 1.0)
    chart.SetLegendVisibility(len(series) > 1)
    return chart


def show_agreement(pair: Pair, keys: Sequence[str], volume_node: Any | None) -> Any:
    """Colour where both sides agree and where only one of them has an organ; replaces an earlier such node.

    Args:
        pair: Both sides laid over each other.
        keys: Organ keys; several are shown together.
        volume_node: The CT, or None.

    Returns:
        Segmentation node with the segments ``Agreement``, ``Only in the prediction`` (false positive) and ``Only in
        the reference`` (false negative); None where no organ has a voxel.
    """
    forget_agreement()
    box = _union_box(pair, keys)
    if box is None:
        return None
    shares = {name: np.zeros(box.shape_zyx, bool) for name in COLOURS}
    for ours, theirs in map(pair.masks, keys):
        own, other_mask = (np.zeros(box.shape_zyx, bool) if mask is None else mask.on(box) for mask in (ours, theirs))
        shares[BOTH] |= own & other_mask
        shares[MISSED] |= own & ~other_mask
        shares[EXTRA] |= other_mask & ~own
    title = organ(keys[0]).name if len(keys) == 1 else "all organs"
    structures = [Structure(n, COLOURS[n], CroppedMask.of(share, box.start_zyx)) for n, share in shares.items()]
    node = add_structures(f"Agreement, {title}", structures, pair.grid, volume_node)
    node.SetAttribute(AGREEMENT_ATTRIBUTE, ",".join(keys))
    display = node.GetDisplayNode()
    display.SetVisibility3D(False)
    display.SetOpacity2DFill(FILL_OPACITY)
    return node


def forget_agreement() -> None:
    """Remove what :func:`show_agreement` has shown."""
    for node in getNodesByClass("vtkMRMLSegmentationNode"):
        if node.GetAttribute(AGREEMENT_ATTRIBUTE) is not None:
            mrml.remove_node(node)


def centre_ras(pair: Pair, keys: Sequence[str]) -> tuple[float, float, float] | None:
    """Middle of organs of both sides in the world, RAS mm; None where there is no voxel."""
    box = _union_box(pair, keys)
    if box is None:
        return None
    middle = (np.add(box.start_zyx, box.stop_zyx) - 1) / 2
    x, y, z = pair.grid.index_to_world(middle).tolist()
    return -x, -y, z


def _union_box(pair: Pair, keys: Sequence[str]) -> Box | None:
    boxes = [mask.box for key in keys for mask in pair.masks(key) if mask is not None]
    return reduce(Box.union, boxes) if boxes else None


def _add_series(table: Any, column: str, kind: int, colour: tuple[float, float, float]) -> Any:
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", column)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetLabelColumnName("Organ")
    series.SetYColumnName(column)
    series.SetPlotType(kind)
    series.SetColor(*colour)
    if kind != series.PlotTypeBar:
        series.SetLineStyle(series.LineStyleNone)
        series.SetMarkerStyle(series.MarkerStyleDiamond)
    return series


def _add_texts(node: Any, name: str, values: Sequence[str]) -> None:
    array = vtk.vtkStringArray()
    for value in values:
        array.InsertNextValue(value)
    _add_column(node, name, array)


def _add_numbers(node: Any, name: str, values: Sequence[float | None]) -> None:
    array = vtk.vtkDoubleArray()
    for value in values:
        array.InsertNextValue(math.nan if value is None else value)
    _add_column(node, name, array)


def _add_column(node: Any, name: str, array: Any) -> None:
    array.SetName(name)
    node.AddColumn(array)
