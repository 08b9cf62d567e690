from pathlib import Path
from typing import Annotated

import ctk
import qt
import slicer
from FocusNetSegmentationLib import packages, results, runtime, sample
from FocusNetSegmentationLib.panel import DEVICES, OUTPUTS, PER_ORGAN, PRECISIONS, ModelChoice, Panel, Services
from FocusNetSegmentationLib.widgets import bound_widgets
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

HELP = _("""
<p>Finds the organs at risk of the head and neck on a planning CT: select the CT, press <b>Segment</b>, then check every
contour. The result lies in a folder beside the CT. Click an organ in the result table to see it in the slice views;
organs with findings come first.</p>
<p><b>Research use only. Not a medical device.</b> Every contour must be reviewed and approved by a qualified person
before any use.</p>
""")

ACKNOWLEDGEMENT = _("""
<p>An implementation of FocusNetv2: Y. Gao, R. Huang, Y. Yang, J. Zhang, K. Shao, C. Tao, Y. Chen, D. N. Metaxas, H. Li,
M. Chen, "FocusNetv2: Imbalanced large and small organ segmentation with adversarial shape constraint for head and neck
CT images", Medical Image Analysis 67, 2021, and of its predecessor "FocusNet: Imbalanced Large and Small Organ
Segmentation with an End-to-End Deep Neural Network for Head and Neck CT Images", MICCAI 2019.</p>
""")


class FocusNetSegmentation(ScriptedLoadableModule):
    """What 3D Slicer shows of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("FocusNet Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "SubjectHierarchy", "Terminologies"]
        self.parent.contributors = ["SlicerFocusNet contributors"]
        self.parent.helpText = HELP
        self.parent.acknowledgementText = ACKNOWLEDGEMENT
        # The terminology selectors should know our organs' codes, also where the panel is never opened.
        slicer.app.connect("startupCompleted()", runtime.ensure)
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the synthetic patient in the module Sample Data."""
    icon = Path(__file__).parent / "Resources" / "Icons" / "FocusNetSegmentation.png"
    sample.register(icon)


@parameterNodeWrapper
class FocusNetSegmentationParameterNode:
    """The user's choices; they stay with the scene."""

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    model: str = ""
    organs: str = ""
    output: Annotated[str, Choice(OUTPUTS)] = OUTPUTS[0]
    device: Annotated[str, Choice(DEVICES)] = DEVICES[0]
    precision: Annotated[str, Choice(PRECISIONS)] = PRECISIONS[0]
    fast: bool = False
    uncertainty: bool = False
    replace: bool = False


class FocusNetSegmentationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel's place in 3D Slicer: its .ui file, the scene's events and the parameter node."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self._parameterNode = None
        self._guiTag = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/FocusNetSegmentation.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self.ui.wheelsPathEdit.filters = ctk.ctkPathLineEdit.Dirs
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = FocusNetSegmentationLogic()
        self.panel = Panel(self.ui, self.logic.services())
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        for event in (slicer.mrmlScene.EndCloseEvent, slicer.mrmlScene.EndImportEvent):
            self.addObserver(slicer.mrmlScene, event, self.onSceneReady)
        self.initializeParameterNode()

    def cleanup(self):
        self.panel.cancel()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        self.initializeParameterNode()

    def onSceneStartClose(self, caller, event):
        self.panel.cancel()
        self.panel.forget_result()
        self.setParameterNode(None)

    def onSceneReady(self, caller, event):
        self.initializeParameterNode()

    def initializeParameterNode(self):
        """Take the scene's choices; a CT that is loaded is selected."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")  # label maps are among them
            scalar = (node for node in volumes if node.GetClassName() == "vtkMRMLScalarVolumeNode")
            own = results.RESULT_ATTRIBUTE  # a map of uncertainty is no CT
            self._parameterNode.inputVolume = next((node for node in scalar if not node.GetAttribute(own)), None)

    def setParameterNode(self, parameterNode):
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._guiTag)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            self._guiTag = parameterNode.connectParametersToGui(bound_widgets(self.ui))
        self.panel.set_parameters(parameterNode)


class FocusNetSegmentationLogic(ScriptedLoadableModuleLogic):
    """Segmentation of CTs of the scene; ``FocusNetSegmentationLogic().segment(volumeNode)`` from the Python console."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self._logic = None

    def getParameterNode(self):
        return FocusNetSegmentationParameterNode(ScriptedLoadableModuleLogic.getParameterNode(self))

    def segment(
        self,
        volumeNode,
        model=None,
        organs=None,
        device="auto",
        progress=None,
        perOrganNodes=True,
        uncertainty=False,
    ):
        """Segment a CT and wait for the result; see ``FocusNetSegmentationLib.logic.SegmentationLogic.segment``."""
        if self._logic is None:
            from FocusNetSegmentationLib.logic import SegmentationLogic

            self._logic = SegmentationLogic()
        return self._logic.segment(volumeNode, model, organs, device, progress, perOrganNodes, uncertainty)

    def services(self):
        """What the panel gets from 3D Slicer."""
        return Services(
            models=self.models,
            missing_packages=packages.missing_packages,
            install_packages=packages.install,
            install_model=self.installModel,
            start=self.start,
            export=self.export,
            compare=self.compare,
            confirm=slicer.util.confirmYesNoDisplay,
            ask_open=lambda title, kind: qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, "", kind),
            ask_save=lambda title, kind: qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, "", kind),
        )

    @staticmethod
    def models():
        """Models on this computer, the default one first; none while the Python packages are missing."""
        if packages.missing_packages():
            return []
        from focusnet.model_store import DEFAULT_MODEL, list_bundles

        listings = sorted(list_bundles(), key=lambda listing: listing.name != DEFAULT_MODEL)
        return [
            ModelChoice(listing.name, listing.spec.description, listing.spec.organs)
            if listing.spec is not None
            else ModelChoice(listing.name, "", (), listing.problem)
            for listing in listings
        ]

    @staticmethod
    def installModel(path):
        """Install a model from a zip file and return its name."""
        from focusnet.model_store import install_bundle

        return install_bundle(path).name

    @staticmethod
    def start(volumeNode, parameterNode, organs):
        """Start a segmentation in a child process."""
        from focusnet.outputs import OutputOptions
        from focusnet.segment import SegmentOptions
        from FocusNetSegmentationLib.job import SegmentationJob
        from FocusNetSegmentationLib.mrml import ResultOptions

        chosen = parameterNode
        output = OutputOptions(uncertainty=chosen.uncertainty)
        options = SegmentOptions(
            chosen.model or None, organs, chosen.device, chosen.precision, fast=chosen.fast, output=output
        )
        existing = "replace" if chosen.replace else "keep"
        return SegmentationJob(volumeNode, options, ResultOptions(chosen.output == PER_ORGAN, existing))

    @staticmethod
    def export(nodes, volumeNode, path):
        """Write segmentation nodes to one .seg.nrrd, or to an RT structure set on the DICOM series of their CT."""
        if path.name.lower().endswith(".dcm"):
            from FocusNetSegmentationLib.dicom_exchange import save_rtstruct

            save_rtstruct(nodes, volumeNode, path)
        else:
            from FocusNetSegmentationLib.storage import save_organs

            save_organs(nodes, path)

    @staticmethod
    def compare(nodes):
        """Open the evaluation with these segmentation nodes as its prediction."""
        slicer.util.selectModule("FocusNetTraining")
        slicer.util.getModuleWidget("FocusNetTraining").compare(nodes)


class FocusNetSegmentationTest(ScriptedLoadableModuleTest):
    """Runs inside 3D Slicer and needs no further package."""

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_ResultLiesOnTheTransformedCT()

    def test_ResultLiesOnTheTransformedCT(self):
        import numpy as np
        from focusnet.geometry import LabelMap
        from FocusNetSegmentationLib import mrml

        self.delayDisplay("Organs of a tilted CT")
        array = np.full((20, 40, 50), -1000, np.int16)
        array[5:12, 10:20, 30:44] = 40
        ct = slicer.util.addVolumeFromArray(array, np.diag([-2.0, -2.0, 3.0, 1.0]), "CT")
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        tilt = np.eye(4)
        tilt[1, 2] = 0.25
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(tilt))
        ct.SetAndObserveTransformNodeID(transform.GetID())

        volume = mrml.volume_from_node(ct)
        labels = LabelMap((volume.array > 0).astype(np.uint8), volume.geometry, {1: "parotid_l"})
        result = mrml.segmentations_from_labelmap(labels, ct)
        node = result.nodes["parotid_l"]
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, "Parotid_L", ct)
        np.testing.assert_array_equal(mask > 0, array > 0)
        assert node.GetParentTransformNode() is transform
        self.delayDisplay("Test passed")
