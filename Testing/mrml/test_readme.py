"""The lines of the README that use 3D Slicer's Python, as they stand there."""

import re
import sys
import types

import numpy as np
import pytest


@pytest.fixture
def segmentation_module(root, monkeypatch):
    """Module file with what only the application has replaced; its logic is the real one."""
    from importlib.util import module_from_spec, spec_from_file_location

    import slicer

    class Anything(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {"__init__": lambda self, *a: None, "__class_getitem__": lambda cls, x: cls})

    monkeypatch.setattr(slicer, "app", types.SimpleNamespace(connect=lambda *_: None), raising=False)
    for name in ("qt", "ctk", "slicer.i18n", "slicer.parameterNodeWrapper", "slicer.ScriptedLoadableModule"):
        monkeypatch.setitem(sys.modules, name, Anything(name))
    sys.modules["slicer.i18n"].tr = lambda text: text
    sys.modules["slicer.parameterNodeWrapper"].parameterNodeWrapper = lambda cls: cls
    monkeypatch.setattr(sys.modules["slicer.parameterNodeWrapper"], "Choice", lambda values: values, raising=False)
    monkeypatch.delitem(sys.modules, "FocusNetSegmentationLib.panel", raising=False)
    spec = spec_from_file_location("FocusNetSegmentation", root / "FocusNetSegmentation" / "FocusNetSegmentation.py")
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "FocusNetSegmentation", module)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("FocusNetSegmentationLib.panel", None)


def five_lines(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(from FocusNetSegmentation import.*?)```", text, re.DOTALL)
    assert len(list(filter(None, block.splitlines()))) == 5
    return block


def check(scene, outcome, count):
    """One node per organ in the folder, with right names, colours, terminology and sides."""
    import slicer
    from focusnet.organs import organ
    from focusnet.terminology import terminology_string

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    assert hierarchy.GetItemName(outcome.result.folder) == "CT organs at risk"
    assert len(outcome.result.nodes) == len(outcome.result.unique_nodes) >= count
    for key, node in outcome.result.nodes.items():
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == outcome.result.folder
        segment = node.GetSegmentation().GetNthSegment(0)
        assert segment.GetName() == organ(key).tg263
        assert segment.GetTerminology() == terminology_string(organ(key))
        assert [round(255 * c) for c in segment.GetColor()] == list(organ(key).colour)
    left, right = (outcome.result.nodes[f"parotid_{s}"].GetSegmentCenterRAS(f"Parotid_{s.upper()}")[0] for s in "lr")
    assert left < right  # RAS: the patient's left is -x
    assert outcome.result.nodes["parotid_l"].GetDisplayNode().GetOpacity() == 0.5


def test_the_five_lines(root, scene, ct_node, transform_node, segmentation_module, monkeypatch, capsys):
    """With a model that knows the organs from the HU that the test gives them; the CT lies under a transform."""
    import slicer
    from focusnet.geometry import LabelMap
    from focusnet.inference import OrganResult
    from FocusNetSegmentationLib.logic import SegmentationLogic

    keys = {1: "parotid_l", 2: "parotid_r", 3: "brainstem", 4: "lens_l"}

    def predict(volume, organs, progress, cancel):
        labels = LabelMap((volume.array // 100).astype(np.uint8), volume.geometry, keys)
        results = dict.fromkeys(keys.values(), OrganResult(1.0, 0.9, 0.9))
        return types.SimpleNamespace(labelmap=labels, organs=results, notes=(), settings={"model": "m"})

    monkeypatch.setattr(
        SegmentationLogic.__init__, "__defaults__", (lambda options: types.SimpleNamespace(predict=predict),)
    )
    tilt = np.eye(4)
    tilt[1, 2] = 0.2
    grid = np.array([[-2.0, 0, 0, 39], [0, -2.2, 0, 38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
    ct = ct_node(grid, (30, 36, 40), transform_node(tilt), tilt)
    names = {"slicer": slicer}
    exec(five_lines(root), names)
    assert "'volume_ml'" in capsys.readouterr().out
    check(scene, names["outcome"], 4)
    nodes = names["outcome"].result.unique_nodes
    assert {node.GetTransformNodeID() for node in nodes} == {ct.GetTransformNodeID()}


@pytest.mark.slow
def test_the_five_lines_on_the_sample_data_with_a_shipped_model(root, scene, segmentation_module, monkeypatch):
    import slicer
    from focusnet import model_store
    from FocusNetSegmentationLib.sample import load_phantom

    monkeypatch.setattr(model_store, "DEFAULT_MODEL", "phantom22")  # the default knows patients only
    load_phantom().SetName("CT")
    names = {"slicer": slicer}
    exec(five_lines(root), names)
    check(scene, names["outcome"], 24)
