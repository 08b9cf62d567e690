"""Picture of the tab Train beside the curves of a finished run.

The run is real; of its folder only the log and the status are read. The curves are drawn from the plot nodes of the
scene by the library that draws them in 3D Slicer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
PANEL_SIZE = (500, 980)
CHART_SIZE = (760, 490)


def main(run: Path, picture: Path) -> None:
    """Show a run and write the picture."""
    for name in ("FocusNetSegmentation", "FocusNetTraining", "Testing/screenshots"):
        sys.path.insert(0, str(ROOT / name))
    import make_screenshots as pictures
    from FocusNetSegmentationLib import runtime

    runtime.ensure()
    standins = pictures._load("gui_standins", ROOT / "Testing" / "gui" / "standins.py")
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)  # so that the panel shows short paths
        standins.install(patch, ROOT / "FocusNetTraining" / "Resources")
        pictures._style()
        widget, charts = _panel(pictures, run, patch)
        curves = np.concatenate([_draw(chart) for chart in charts], axis=0)
        pictures._write(pictures._beside(pictures._grab(widget.parent), curves), picture)
        widget.cleanup()


def _panel(pictures: Any, run: Path, patch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    folder, data = Path("runs", run.name), Path("data", run.name)
    for path in (folder, data):
        path.mkdir(parents=True)
    for name in ("log.jsonl", "status.json"):
        shutil.copyfile(run / name, folder / name)
    (folder / "last.pt").touch()
    (data / "dataset.json").write_text(json.dumps({"name": run.name}))
    module = pictures._load("FocusNetTraining", ROOT / "FocusNetTraining" / "FocusNetTraining.py")
    real = module.FocusNetTrainingLogic.trainServices
    services = {"recall_run": lambda: str(folder), "remember_run": lambda path: None, "missing_packages": list}
    patch.setattr(module.FocusNetTrainingLogic, "trainServices", lambda self: replace(real(self), **services))
    widget = module.FocusNetTrainingWidget()
    widget.setup()
    widget.parent.setFixedSize(*PANEL_SIZE)
    widget.ui.dataPathEdit.currentPath = str(data)
    presets = [widget.ui.presetComboBox.itemText(n) for n in range(widget.ui.presetComboBox.count)]
    config = json.loads((run / "config.json").read_text("utf-8"))
    fitting = [name for name in presets if name in config["name"] or config["name"].rstrip("0123456789") in name]
    widget.ui.presetComboBox.setCurrentIndex(presets.index(fitting[0]) if fitting else 0)
    widget.ui.modelNameEdit.text = config["name"]
    curves = widget.panels[0].curves
    return widget, [curves.chart("dsc"), curves.chart("loss")]


def _draw(node: Any) -> NDArray[np.uint8]:
    """A plot chart node as a picture, ``(rows, columns, 3)``."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    view = vtk.vtkContextView()
    view.GetRenderer().SetBackground(1.0, 1.0, 1.0)
    window = view.GetRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(8)
    window.SetSize(*CHART_SIZE)
    chart = vtk.vtkChartXY()
    view.GetScene().AddItem(chart)
    chart.SetTitle(node.GetTitle())
    chart.GetTitleProperties().SetFontSize(16)
    chart.SetShowLegend(True)
    chart.GetLegend().SetInline(False)
    for axis, title in ((vtk.vtkAxis.BOTTOM, node.GetXAxisTitle()), (vtk.vtkAxis.LEFT, node.GetYAxisTitle())):
        chart.GetAxis(axis).SetTitle(title)
    for number in range(node.GetNumberOfPlotSeriesNodes()):
        series = node.GetNthPlotSeriesNode(number)
        plot = chart.AddPlot(vtk.vtkChart.LINE)
        plot.SetInputData(series.GetTableNode().GetTable(), series.GetXColumnName(), series.GetYColumnName())
        plot.SetLabel(series.GetName())
        plot.SetColorF(*series.GetColor())
        plot.SetWidth(series.GetLineWidth())
        plot.SetMarkerStyle(vtk.vtkPlotPoints.CIRCLE)
        plot.SetMarkerSize(series.GetMarkerSize())
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    image = grab.GetOutput()
    rows = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(CHART_SIZE[1], CHART_SIZE[0], -1)
    return np.ascontiguousarray(rows[::-1, :, :3])


if __name__ == "__main__":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("picture", type=Path, nargs="?", default=ROOT / "Resources/Screenshots/training-panel.png")
    given = parser.parse_args()
    main(given.run.resolve(), given.picture.resolve())
