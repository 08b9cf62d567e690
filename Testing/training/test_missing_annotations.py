"""An organ that was drawn in half of the cases only is learned all the same."""

import numpy as np
import pytest
import torch
from focusnet.networks.builders import build
from focusnet_training.losses import segmentation_loss

SHAPE = (8, 24, 24)
STEPS = 50


def scene(seed):
    """CT and labels of two balls, the one of class 2 denser."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(SHAPE)
    ct, labels = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.int64)
    for value, brightness, column in ((1, 0.6, 6), (2, 1.2, 17)):
        cz, cy, cx = 4 + rng.uniform(-1, 1), rng.uniform(7, 17), column + rng.uniform(-1, 1)
        ball = (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 4.5**2
        ct[ball], labels[ball] = brightness, value
    ct += rng.normal(0, 0.1, SHAPE)
    return torch.from_numpy(ct)[None, None], torch.from_numpy(labels)[None]


def belief(missing):
    """Mean probability of both organs where they are, on new scenes, after training with class 2 drawn in every other.

    ``missing`` None takes the organ for absent where it was not drawn.
    """
    torch.manual_seed(0)
    network = build("focusnetv2", num_classes=3, num_small=0, widths=(8, 8, 8), growth=4, dilations=(1, 2)).snet
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for step in range(STEPS):
        ct, labels = scene(step)
        drawn = torch.tensor([True, step % 2 == 0])
        labels = torch.where((labels == 2) & ~drawn[1], 0, labels)
        told = torch.tensor([True, True]) if missing is None else drawn
        loss = segmentation_loss(network(ct).logits, labels, told, torch.ones(3), missing=missing or "marginal").total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = []
    with torch.no_grad():
        for number in range(4):
            ct, labels = scene(1000 + number)
            probability = network(ct).logits.softmax(1)
            found.append([float(probability[:, value][labels == value].mean()) for value in (1, 2)])
    return np.mean(found, axis=0)


@pytest.mark.parametrize("missing", ["marginal", "masked"])
def test_an_organ_drawn_in_half_of_the_cases_is_not_learned_as_absent(missing):
    always, half = belief(missing)
    assert always > 0.9
    assert half > 0.9


def test_without_these_losses_it_is_doubted():
    """The fault itself: without it the test above would say nothing."""
    always, half = belief(None)
    assert always > 0.9
    assert half < 0.75
