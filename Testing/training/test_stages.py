"""What the stages make of a chunk."""

import numpy as np
import pytest
import torch
from focusnet.networks.focusnet import FocusNetV2
from focusnet_training.config import LossConfig, ShapeConfig
from focusnet_training.stages import STAGES, Batch, Networks, Task


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return Networks(FocusNetV2(3, 1, widths=(4, 4, 4), growth=2, dilations=(2,), roi_shape_zyx=(8, 8, 8)), None)


NO_PARTS = torch.zeros(0, dtype=torch.int64)


def batch(cut):
    """A chunk with a large organ (1) and a small one (2): inside, cut by the chunk or by the scan's end."""
    labels = torch.zeros(1, 16, 24, 24, dtype=torch.int64)
    labels[0, 2:14, 2:12, 2:22] = 1
    z = 15 if cut == "chunk" else 8
    labels[0, z - 1 : z + 1, 14:17, 12:15] = 2
    parts = torch.tensor([1, 2]) if cut == "scan" else NO_PARTS
    return Batch(torch.randn(1, 1, 16, 24, 24), labels, torch.tensor([True, True]), (3.0, 2.0, 2.0), parts)


TASK = Task(torch.ones(3), (2,), (8, 8, 8), LossConfig(), ShapeConfig())


@pytest.mark.parametrize("end", ["chunk", "scan"])
@pytest.mark.parametrize("stage", ["sol", "sos", "joint"])
def test_a_small_organ_that_is_cut_teaches_neither_its_place_nor_its_shape(networks, stage, end):
    def terms(cut):
        losses = STAGES[stage].losses(networks, batch(cut), TASK, np.random.default_rng(0))
        return {name: float(value.detach()) for name, value in losses.items() if name.startswith(("heatmap", "roi"))}

    inside, cut = terms(None), terms(end)
    assert inside
    assert min(inside.values()) > 0
    assert cut == dict.fromkeys(inside, 0.0)


def flagged(*annotated):
    """A chunk with three whole small organs (2, 3, 4) beside a large one (1)."""
    chunk = batch(None)
    labels = chunk.labels.clone()
    labels[0, 4:6, 18:20, 4:7] = 3
    labels[0, 10:12, 18:20, 18:21] = 4
    return Batch(chunk.ct, labels, torch.tensor(annotated), chunk.spacing_zyx, NO_PARTS)


SMALL = Task(torch.ones(5), (2, 3, 4), (8, 8, 8), LossConfig(), ShapeConfig())


@pytest.fixture
def three(monkeypatch):
    """Networks of three small organs, and the numbers of those that SOS-Net is asked for."""
    torch.manual_seed(0)
    model = FocusNetV2(5, 3, widths=(4, 4, 4), growth=2, dilations=(2,), roi_shape_zyx=(8, 8, 8))
    asked = []
    refine = model.refine
    monkeypatch.setattr(model, "refine", lambda k, *crops: asked.append(k) or refine(k, *crops))
    return Networks(model, None), asked


@pytest.mark.parametrize("stage", ["sos", "joint"])
def test_the_shape_of_an_organ_that_was_not_drawn_is_not_learned(three, stage):
    networks, asked = three
    STAGES[stage].losses(networks, flagged(True, False, True, True), SMALL, np.random.default_rng(0))
    assert asked == [1, 2]


@pytest.mark.parametrize("stage", ["sol", "joint"])
def test_the_place_of_an_organ_that_was_not_drawn_is_not_learned(three, stage):
    networks, _ = three
    heatmaps = {}
    hook = networks.model.sol.register_forward_hook(lambda module, given, out: heatmaps.update(all=out.heatmaps))
    losses = STAGES[stage].losses(networks, flagged(False, True, False, True), SMALL, np.random.default_rng(0))
    hook.remove()
    (pull,) = torch.autograd.grad(losses["heatmap"], heatmaps["all"])
    assert [bool(pull[0, k].any()) for k in range(3)] == [True, False, True]
