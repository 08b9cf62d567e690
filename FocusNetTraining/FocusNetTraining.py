from pathlib import Path
from typing import Annotated

import ctk
import qt
import slicer
from FocusNetSegmentationLib import packages
from FocusNetSegmentationLib.widgets import bound_widgets
from FocusNetTrainingLib.curves import Curves
from FocusNetTrainingLib.evaluate_panel import EvaluatePanel
from FocusNetTrainingLib.evaluate_services import evaluate_services
from FocusNetTrainingLib.presets import read_preset, shipped_presets
from FocusNetTrainingLib.scene_cases import scene_cases
from FocusNetTrainingLib.services import TrainServices
from FocusNetTrainingLib.tasks import Task
from FocusNetTrainingLib.train_panel import DEVICES, TrainPanel
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

EVALUATE_TAB = 1
MAX_HOURS = 1000.0
SETTING_RUN = "FocusNetTraining/RunFolder"

HELP = _("""
<p><b>Train</b> makes a model of your own cases: choose a data set, press <b>Check data</b>, choose a preset, press
<b>Start</b>. The training runs in a process of its own and goes on when 3D Slicer is closed; open the module again to
find it. When it has finished, <b>Install as model</b> offers it in FocusNet Segmentation.</p>
<p><b>Evaluate</b> compares segmentations with reference contours: overlap, surface distances, tables and plots.</p>
<p><b>Research use only. Not a medical device.</b> Every contour must be reviewed and approved by a qualified person
before any use.</p>
""")

ACKNOWLEDGEMENT = _("""
<p>Staged training of FocusNetv2: Y. Gao, R. Huang, Y. Yang, J. Zhang, K. Shao, C. Tao, Y. Chen, D. N. Metaxas, H. Li,
M. Chen, "FocusNetv2: Imbalanced large and small organ segmentation with adversarial shape constraint for head and neck
CT images", Medical Image Analysis 67, 2021. Surface distances and surface Dice after S. Nikolov et al., "Clinically
applicable segmentation of head and neck anatomy for radiotherapy", Journal of Medical Internet Research 23, 2021.</p>
""")


class FocusNetTraining(ScriptedLoadableModule):
    """What 3D Slicer shows of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("FocusNet Training")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["FocusNetSegmentation", "Segmentations", "Plots", "Tables"]
        self.parent.contributors = ["SlicerFocusNet contributors"]
        self.parent.helpText = HELP
        self.parent.acknowledgementText = ACKNOWLEDGEMENT


@parameterNodeWrapper
class FocusNetTrainingParameterNode:
    """The user's choices; they stay with the scene."""

    dataFolder: str = ""
    preset: str = ""
    runFolder: str = ""
    modelName: str = ""
    lastStage: str = ""
    smallOrgans: str = ""
    device: Annotated[str, Choice(DEVICES)] = DEVICES[0]
    hours: Annotated[float, WithinRange(0.0, MAX_HOURS)] = 0.0  # without a range the widget would lose its own
    compareFolders: bool = False
    referenceName: str = ""
    predictionName: str = ""
    referenceFolder: str = ""
    predictionFolder: str = ""
    ctFolder: str = ""
    spellings: str = ""


class FocusNetTrainingWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The tabs' place in 3D Slicer: .ui files, the scene's events and the parameter node.

    A tab is a panel with ``set_parameters(node or None)``, ``scene_closes()`` and ``cleanup()``.
    """

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panels = []
        self.evaluatePanel = None
        self._parameterNode = None
        self._guiTag = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/FocusNetTraining.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        for edit in (self.ui.dataPathEdit, self.ui.runPathEdit, self.ui.wheelsPathEdit):
            edit.filters = ctk.ctkPathLineEdit.Dirs
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = FocusNetTrainingLogic()
        evaluateWidget = slicer.util.loadUI(self.resourcePath("UI/Evaluate.ui"))
        self.ui.tabWidget.addTab(evaluateWidget, _("Evaluate"))
        self.evaluateUi = slicer.util.childWidgetVariables(evaluateWidget)
        evaluated = self.evaluateUi
        for edit in (evaluated.referencePathEdit, evaluated.predictionPathEdit, evaluated.ctPathEdit):
            edit.filters = ctk.ctkPathLineEdit.Dirs  # by default it browses for files only
        self.evaluatePanel = EvaluatePanel(self.evaluateUi, self.logic.evaluateServices())
        self.panels = [TrainPanel(self.ui, self.logic.trainServices()), self.evaluatePanel]
        for event in (slicer.mrmlScene.NodeAddedEvent, slicer.mrmlScene.NodeRemovedEvent):
            self.addObserver(slicer.mrmlScene, event, self.evaluatePanel.scene_changed)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        for event in (slicer.mrmlScene.EndCloseEvent, slicer.mrmlScene.EndImportEvent):
            self.addObserver(slicer.mrmlScene, event, self.onSceneReady)
        self.initializeParameterNode()

    def cleanup(self):
        for panel in self.panels:
            panel.cleanup()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        self.initializeParameterNode()

    def compare(self, nodes):
        """Open the tab Evaluate with these segmentation nodes as the prediction."""
        self.ui.tabWidget.setCurrentIndex(EVALUATE_TAB)
        self.evaluatePanel.compare(nodes)

    def onSceneStartClose(self, caller, event):
        for panel in self.panels:
            panel.scene_closes()
        self.setParameterNode(None)

    def onSceneReady(self, caller, event):
        self.initializeParameterNode()

    def initializeParameterNode(self):
        """Take the scene's choices."""
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, parameterNode):
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._guiTag)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self._guiTag = parameterNode.connectParametersToGui(bound_widgets(self.ui))
        for panel in self.panels:
            panel.set_parameters(parameterNode)


class FocusNetTrainingLogic(ScriptedLoadableModuleLogic):
    """Training from the Python console: ``FocusNetTrainingLogic().train(dataFolder, "phantom22", runFolder)``."""

    def getParameterNode(self):
        return FocusNetTrainingParameterNode(ScriptedLoadableModuleLogic.getParameterNode(self))

    @staticmethod
    def openRun(runFolder):
        """Look into a run folder, whether or not it is being trained; see ``TrainingRun``."""
        from FocusNetTrainingLib.training_run import TrainingRun

        return TrainingRun(Path(runFolder))

    def train(self, dataFolder, preset, runFolder, device="auto", hours=0.0):
        """Start a training in a process of its own, or go on with it, and return its ``TrainingRun``."""
        from FocusNetTrainingLib.run_folder import TrainingRequest
        from FocusNetTrainingLib.train_panel import model_name

        run = self.openRun(runFolder)
        name = model_name(Path(runFolder))
        run.start(TrainingRequest(str(dataFolder), preset, name, device=device, hours=hours))
        return run

    def trainServices(self):
        """What the Train tab gets from 3D Slicer."""
        return TrainServices(
            presets=self.presets,
            read_preset=read_preset,
            missing_packages=packages.missing_packages,
            install_packages=packages.install,
            open_run=self.openRun,
            start_task=Task,
            scene_cases=scene_cases,
            curves=lambda runFolder: Curves(slicer.mrmlScene, runFolder),
            show_chart=lambda chart: slicer.modules.plots.logic().ShowChartInLayout(chart),
            confirm=slicer.util.confirmYesNoDisplay,
            ask_open=lambda title, kind: qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", kind),
            ask_folder=lambda title: qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title),
            recall_run=lambda: str(qt.QSettings().value(SETTING_RUN) or ""),
            remember_run=lambda path: qt.QSettings().setValue(SETTING_RUN, path),
        )

    @staticmethod
    def evaluateServices():
        """What the Evaluate tab gets from 3D Slicer."""
        return evaluate_services(
            confirm=slicer.util.confirmYesNoDisplay,
            ask_open=lambda title, kind: qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", kind),
            ask_save=lambda title, kind: qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, "", kind),
        )

    @staticmethod
    def presets():
        """The shipped presets; none while the Python packages are missing."""
        return [] if packages.missing_packages() else shipped_presets()


class FocusNetTrainingTest(ScriptedLoadableModuleTest):
    """Runs inside 3D Slicer and needs no further package."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_CurvesOfARunInTheScene()

    def test_CurvesOfARunInTheScene(self):
        self.delayDisplay("Curves of a training")
        curves = Curves(slicer.mrmlScene, Path("my run"))
        rows = [
            {"stage": "snet", "step": 10 * n, "score": 0.1 * n, "loss_dice": 1.0 / n, "dsc_brainstem": 0.1 * n}
            for n in range(1, 6)
        ]
        curves.update(rows)
        assert not slicer.util.getNodesByClass("vtkMRMLTableNode")
        chart = curves.chart("dsc")
        table = slicer.util.getNode("FocusNet my run snet").GetTable()
        assert table.GetNumberOfRows() == 5
        assert table.GetColumnByName("dsc_brainstem").GetValue(4) == 0.5
        assert chart.GetNumberOfPlotSeriesNodes() == 2
        self.delayDisplay("Test passed")
