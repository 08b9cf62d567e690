"""Losses against hand-worked values, missing annotations, and their optimum."""

import math

import numpy as np
import pytest
import torch
from focusnet_training.losses import binary_segmentation_loss, class_weights, heatmap_loss, segmentation_loss


def logits_of(probability):
    """(C, n) probabilities to (1, C, 1, 1, n) logits."""
    return torch.log(torch.tensor(probability, dtype=torch.float64))[None, :, None, None, :]


def test_focal_and_dice_by_hand():
    logits = logits_of([[0.5, 0.2], [0.5, 0.8]])
    labels = torch.tensor([[[[0, 1]]]])
    loss = segmentation_loss(logits, labels, torch.tensor([True]), torch.tensor([1.0, 3.0]), gamma=2, dice_weight=0.5)
    focal = (1 * 0.5**2 * -math.log(0.5) + 3 * 0.2**2 * -math.log(0.8)) / 4
    dice = 1 - 2 * 0.8 / (0.5 + 0.8 + 1)
    assert float(loss.focal) == pytest.approx(focal, rel=1e-5)
    assert float(loss.dice) == pytest.approx(dice, abs=1e-4)
    assert float(loss.total) == pytest.approx(focal + 0.5 * dice, abs=1e-4)


def test_classes_absent_from_the_chunk_are_left_out_of_dice():
    logits = logits_of([[0.1, 0.1], [0.1, 0.8], [0.8, 0.1]])
    labels = torch.tensor([[[[0, 1]]]])
    loss = segmentation_loss(logits, labels, torch.tensor([True, True]), torch.ones(3))
    assert float(loss.dice) == pytest.approx(1 - 2 * 0.8 / (0.9 + 1), abs=1e-4)


def test_marginal_loss_merges_the_organ_that_was_not_drawn_into_the_background():
    logits = logits_of([[0.1], [0.7], [0.2]])  # background, organ that was not drawn, organ that was
    background = torch.tensor([[[[0]]]])
    loss = segmentation_loss(logits, background, torch.tensor([False, True]), torch.ones(3), gamma=0)
    assert float(loss.focal) == pytest.approx(-math.log(0.1 + 0.7), rel=1e-5)
    drawn = segmentation_loss(logits, background, torch.tensor([True, True]), torch.ones(3), gamma=0)
    assert float(drawn.focal) == pytest.approx(-math.log(0.1), rel=1e-5)


def test_each_organ_keeps_its_own_weight_where_another_was_not_drawn():
    logits = logits_of([[0.4, 0.1, 0.2], [0.3, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.1, 0.4]])
    labels = torch.tensor([[[[0, 2, 3]]]])
    weights = torch.tensor([1.0, 2.0, 5.0, 11.0])
    loss = segmentation_loss(logits, labels, torch.tensor([False, True, True]), weights, gamma=0)
    expected = (1 * -math.log(0.4 + 0.3) + 5 * -math.log(0.6) + 11 * -math.log(0.4)) / (1 + 5 + 11)
    assert float(loss.focal) == pytest.approx(expected, rel=1e-5)


def test_masked_loss_by_hand():
    # Three voxels: background, an organ that was drawn, and one labelled though not listed as drawn.
    logits = logits_of([[0.5, 0.2, 0.6], [0.3, 0.2, 0.3], [0.2, 0.6, 0.1]])
    labels = torch.tensor([[[[0, 2, 1]]]])
    drawn = torch.tensor([False, True])
    loss = segmentation_loss(logits, labels, drawn, torch.ones(3), gamma=2, missing="masked")
    # The organ that was not drawn is left out of the softmax: 0.6 of 0.2 + 0.6; the other two voxels do not count.
    p = 0.6 / 0.8
    assert float(loss.focal) == pytest.approx((1 - p) ** 2 * -math.log(p), rel=1e-5)
    assert float(loss.dice) == pytest.approx(1 - 2 * p / (p + 1), abs=1e-4)


@pytest.mark.parametrize("missing", ["marginal", "masked"])
def test_an_organ_that_was_not_drawn_is_not_learned_as_absent(missing):
    logits = torch.zeros(1, 3, 1, 1, 6, requires_grad=True)
    labels = torch.tensor([[[[0, 0, 0, 2, 2, 2]]]])
    segmentation_loss(logits, labels, torch.tensor([False, True]), torch.ones(3), missing=missing).total.backward()
    pull_on_missing_organ = logits.grad[0, 1, 0, 0, :3].clone()
    assert (pull_on_missing_organ <= 1e-9).all()  # no step lowers it where the background is
    full = torch.zeros(1, 3, 1, 1, 6, requires_grad=True)
    segmentation_loss(full, labels, torch.tensor([True, True]), torch.ones(3)).total.backward()
    assert (full.grad[0, 1, 0, 0, :3] > 0).all()


def test_class_weights_are_inverse_to_volume_and_clipped():
    weights = class_weights([100, 300], (0.25, 1.4))
    np.testing.assert_allclose(weights, [0.25, 1.4, 0.5])


def test_an_organ_that_no_case_shows_leaves_the_other_weights_alone():
    weights = class_weights([100, math.nan, 300], (0.25, 4.0))
    np.testing.assert_allclose(weights, [0.25, 1.5, 1.0, 0.5])
    np.testing.assert_allclose(class_weights([math.nan], (0.25, 4.0)), [0.25, 1.0])


def test_binary_loss_by_hand_and_at_extreme_logits():
    logits = torch.tensor([0.0, math.log(3)])[None, None, None, None]  # probabilities 0.5, 0.75
    target = torch.tensor([0.0, 1.0])[None, None, None, None]
    loss = binary_segmentation_loss(logits, target, gamma=2, dice_weight=1, foreground_weight=0.75)
    focal = (0.25 * 0.5**2 * -math.log(0.5) + 0.75 * 0.25**2 * -math.log(0.75)) / 2
    assert float(loss.focal) == pytest.approx(focal, rel=1e-5)
    assert float(loss.dice) == pytest.approx(1 - 2 * 0.75 / (1.25 + 1), abs=1e-4)
    extreme = binary_segmentation_loss(torch.tensor([[[[[-200.0, 200.0]]]]]), target)
    assert float(extreme.total) == pytest.approx(0, abs=1e-4)
    wrong = binary_segmentation_loss(torch.tensor([[[[[200.0, -200.0]]]]]), target)
    assert math.isfinite(float(wrong.total))
    assert float(wrong.total) > 10


def test_empty_heat_map_is_not_the_optimum():
    target = torch.zeros(1, 9, 9, 9)
    target[0, 4, 4, 4] = 1
    annotated = torch.tensor([True])
    empty = heatmap_loss(torch.zeros(1, 1, 9, 9, 9), target, annotated, 200)
    blurred = heatmap_loss(target[None] * 0.8, target, annotated, 200)
    assert float(empty) > 5 * float(blurred)
    assert float(heatmap_loss(target[None], target, annotated, 200)) == 0
    nothing = torch.rand(1, 1, 3, 3, 3, requires_grad=True)
    heatmap_loss(nothing, torch.zeros(1, 3, 3, 3), torch.tensor([False]), 200).backward()
    assert float(nothing.grad.abs().sum()) == 0
