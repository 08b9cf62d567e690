"""Pictures of both modules for the README: ``python Testing/screenshots/make_screenshots.py FOLDER``.

The views are 3D Slicer's own, drawn off screen; the panels are the shipped .ui files and code under the stand-ins of
the GUI tests, so fonts and frames differ a little from the application. The patient is a synthetic phantom.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[2]
SEED = 7
MODEL = "phantom22"
COMPARED = "parotid_r"
PANEL_SIZE = (500, 827)
SECTIONS = """
QGroupBox { border: 1px solid #c0c0c0; border-radius: 2px; margin-top: 21px; background: #f7f7f7; }
QGroupBox[collapsed="true"] { border: none; background: transparent; }
QGroupBox::title { subcontrol-origin: margin; subcontrol-position: top left; padding: 3px 6px; font-weight: bold; }
QTableWidget { gridline-color: #dddddd; }
"""
VIEW_SIZE = (480, 404)


def main(folder: Path) -> None:
    """Segment a phantom, compare the result with its truth, and write a picture of each module."""
    sys.path[:0] = [str(ROOT / name) for name in ("FocusNetSegmentation", "FocusNetTraining", "Testing/screenshots")]
    standins = _load("gui_standins", ROOT / "Testing" / "gui" / "standins.py")
    from FocusNetSegmentationLib import runtime

    runtime.ensure()
    with pytest.MonkeyPatch.context() as patch:
        patient = _patient()
        standins.install(patch, ROOT / "FocusNetSegmentation" / "Resources")
        _style()
        segmentation = _segmentation_panel(patient)
        from views import four_up

        views = four_up(_shot(patient, "parotid_l"))
        _write(_beside(_grab(segmentation.parent), views), folder / "FocusNetSegmentation.png")

    with pytest.MonkeyPatch.context() as patch:
        standins.install(patch, ROOT / "FocusNetTraining" / "Resources")
        _style()
        evaluation = _evaluation_panel(patient, patch)
        for node in patient.outcome.result.unique_nodes:
            node.GetDisplayNode().SetVisibility2D(False)
        views = four_up(_shot(patient, COMPARED, zoom=0.4))
        _write(_beside(_grab(evaluation.parent), views), folder / "FocusNetTraining.png")


def _patient() -> Any:
    """CT, truth and result of a phantom in the scene."""
    import slicer
    from focusnet.evaluation.masks import CroppedMask
    from focusnet.organs import organ
    from focusnet_training.phantom import make_phantom
    from FocusNetSegmentationLib import mrml
    from FocusNetSegmentationLib.logic import SegmentationLogic
    from FocusNetSegmentationLib.structures import Structure, add_structures

    phantom = make_phantom(SEED)
    ct = mrml.volume_to_node(phantom.volume, "Phantom CT")
    display = slicer.vtkMRMLScalarVolumeDisplayNode()
    slicer.mrmlScene.AddNode(display)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(400, 40)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    ct.SetAndObserveDisplayNodeID(display.GetID())
    outcome = SegmentationLogic().segment(ct, model=MODEL, device="cpu")
    for node in outcome.result.unique_nodes:
        node.CreateClosedSurfaceRepresentation()
        node.GetDisplayNode().SetOpacity2DFill(0.35)
    labels = phantom.labels
    truth = [Structure(organ(key).tg263, None, CroppedMask.of(labels.mask(key))) for key in labels.organs.values()]
    manual = add_structures("Manual contours", truth, labels.geometry, ct)
    manual.SetDisplayVisibility(False)
    return SimpleNamespace(ct=ct, outcome=outcome, manual=manual)


def _segmentation_panel(patient: Any) -> Any:
    module = _load("FocusNetSegmentation", ROOT / "FocusNetSegmentation" / "FocusNetSegmentation.py")
    widget = module.FocusNetSegmentationWidget()
    widget.setup()
    widget.parent.setFixedSize(*PANEL_SIZE)
    models = [widget.ui.modelComboBox.itemText(n) for n in range(widget.ui.modelComboBox.count)]
    widget.ui.modelComboBox.setCurrentIndex(models.index(MODEL))
    widget.panel.show_finished(patient.outcome, patient.ct)
    widget.ui.resultTable.setMinimumHeight(390)
    return widget


def _evaluation_panel(patient: Any, patch: pytest.MonkeyPatch) -> Any:
    import FocusNetTrainingLib.evaluate_job as job
    from focusnet.organs import organ
    from FocusNetSegmentationLib.process import ChildProcess, child_environment

    libraries = [ROOT / "FocusNetTraining", ROOT / "FocusNetSegmentation"]
    environment = child_environment(child_environment(os.environ, libraries[1]), libraries[0])
    patch.setattr(job, "start_python", lambda given: ChildProcess([sys.executable, *given], environment))
    patch.setattr("slicer.modules.plots", None, raising=False)
    module = _load("FocusNetTraining", ROOT / "FocusNetTraining" / "FocusNetTraining.py")
    widget = module.FocusNetTrainingWidget()
    widget.setup()
    widget.parent.setFixedSize(*PANEL_SIZE)
    widget.compare(patient.outcome.result.unique_nodes)
    widget.evaluatePanel.compute()
    while widget.evaluatePanel.is_running:
        widget.evaluatePanel.poll()
        time.sleep(0.05)
    lines = [widget.evaluateUi.metricsTable.item(n, 0).text() for n in range(widget.evaluateUi.metricsTable.rowCount)]
    row = lines.index(organ(COMPARED).name)
    widget.evaluateUi.metricsTable.selectRow(row)
    widget.evaluateUi.metricsTable.cellClicked.emit(row, 0)
    widget.evaluateUi.metricsTable.setMinimumHeight(390)
    return widget


def _shot(patient: Any, key: str, zoom: float = 0.8) -> Any:
    from focusnet.organs import organ
    from views import Shot

    centre = patient.outcome.result.nodes[key].GetSegmentCenterRAS(organ(key).tg263)
    middle = patient.outcome.result.nodes["brainstem"].GetSegmentCenterRAS(organ("brainstem").tg263)
    if zoom < 0.5:
        return Shot(patient.ct, tuple(centre), VIEW_SIZE, zoom)
    return Shot(patient.ct, (middle[0], centre[1], centre[2]), VIEW_SIZE, zoom)


def _style() -> None:
    """A plain style and a font that is there on every machine."""
    import matplotlib
    from PySide6 import QtGui, QtWidgets

    application = QtWidgets.QApplication.instance()
    assert isinstance(application, QtWidgets.QApplication)
    application.setStyle("Fusion")
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSans-Oblique.ttf"):
        QtGui.QFontDatabase.addApplicationFont(str(fonts / name))
    application.setFont(QtGui.QFont("DejaVu Sans", 8))


def _grab(widget: Any) -> NDArray[np.uint8]:
    from PySide6 import QtGui, QtWidgets

    for section in widget.findChildren(QtWidgets.QGroupBox):  # stand-ins of collapsible buttons
        section.setTitle(("\u25b8  " if section.property("collapsed") else "\u25be  ") + section.title)
    widget.setStyleSheet(SECTIONS)
    widget.show()
    for _ in range(5):
        QtWidgets.QApplication.processEvents()
    image = widget.grab().toImage().convertToFormat(QtGui.QImage.Format.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : image.width() * 3].reshape(image.height(), image.width(), 3).copy()


def _beside(panel: NDArray[np.uint8], views: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height = max(panel.shape[0], views.shape[0])
    padded = [
        np.concatenate([p, np.repeat(p[-1:], height - p.shape[0], axis=0)], axis=0) if p.shape[0] < height else p
        for p in (panel, views)
    ]
    return np.concatenate(padded, axis=1)


def _write(picture: NDArray[np.uint8], path: Path) -> None:
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), str(path), useCompression=True)
    print(path)


def _load(name: str, path: Path) -> Any:
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "Resources" / "Screenshots")
    main(parser.parse_args().folder)
