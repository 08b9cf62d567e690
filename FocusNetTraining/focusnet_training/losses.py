"""Losses of the stages (paper §3.2); all in float32 whatever the networks compute in."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

DICE_SMOOTH = 1e-5


class SegmentationLoss(NamedTuple):
    """Terms of a segmentation loss; ``total = focal + dice_weight * dice``."""

    total: Tensor
    focal: Tensor
    dice: Tensor


def class_weights(mean_voxels: ArrayLike, limits: tuple[float, float]) -> np.ndarray:
    """Focal weights of background and organs: inverse to the mean volume (paper §3.2), mean 1 over the organs, clipped.

    The background, larger than every organ, has the lower limit.

    Args:
        mean_voxels: (C - 1,) mean voxels of the organs, at any scale; NaN for an organ that no case shows, which has
            weight 1 and no part in the mean.
        limits: Least and greatest weight.

    Returns:
        (C,) weights, background first.
    """
    inverse = 1.0 / np.maximum(np.asarray(mean_voxels, float), 1.0)
    shown = np.isfinite(inverse)
    relative = np.where(shown, inverse / inverse[shown].mean(), 1.0) if shown.any() else np.ones_like(inverse)
    return np.concatenate([[limits[0]], np.clip(relative, *limits)])


def segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    annotated: Tensor,
    weights: Tensor,
    *,
    gamma: float = 2.0,
    dice_weight: float = 1.0,
    missing: Literal["marginal", "masked"] = "marginal",
) -> SegmentationLoss:
    """Weighted focal + Dice over softmax classes, aware of organs that were not drawn.

    ``marginal``: the probability of an organ that was not annotated is merged into the background, so that a background
    voxel is right whichever of them it is. ``masked`` (AnatomyNet §II.D): such an organ gives no loss, and background
    voxels teach only where every organ is annotated.

    Args:
        logits: (1, C, D, H, W), class 0 the background.
        labels: (1, D, H, W) int64.
        annotated: (C - 1,) bool.
        weights: (C,) focal weights, background first.
        gamma: Focusing exponent.
        dice_weight: λ of the Dice term.
        missing: How organs without annotation are treated.
    """
    logits = logits.float()
    drawn = torch.nonzero(annotated.to(logits.device)).flatten() + 1
    valid = None
    if len(drawn) < logits.shape[1] - 1:
        undrawn = torch.nonzero(~annotated.to(logits.device)).flatten() + 1
        if missing == "marginal":
            background = torch.logsumexp(logits[:, torch.cat([undrawn.new_zeros(1), undrawn])], dim=1, keepdim=True)
        else:
            background = logits[:, :1]
        lookup = torch.zeros(logits.shape[1], dtype=torch.int64, device=logits.device)
        lookup[drawn] = torch.arange(1, len(drawn) + 1, device=logits.device)
        labels = lookup[labels]
        if missing == "masked":
            valid = labels > 0
        logits = torch.cat([background, logits[:, drawn]], dim=1)
        weights = torch.cat([weights[:1], weights[drawn]])
    log_probability = F.log_softmax(logits, dim=1)  # (1, C', D, H, W)
    log_true = log_probability.gather(1, labels[:, None])[:, 0]  # (1, D, H, W)
    weight = weights[labels]
    if valid is not None:
        weight = weight * valid
    focal = -(weight * (1 - log_true.exp()) ** gamma * log_true).sum() / weight.sum().clamp_min(DICE_SMOOTH)
    present = torch.unique(labels)
    present = present[present > 0]
    if len(present) == 0:
        return SegmentationLoss(focal, focal, focal.new_zeros(()))
    probability = log_probability[:, present].exp()
    if valid is not None:
        probability = probability * valid[:, None]
    truth = labels[:, None] == present[None, :, None, None, None]
    overlap = (probability * truth).sum((0, 2, 3, 4))
    size = probability.sum((0, 2, 3, 4)) + truth.sum((0, 2, 3, 4))
    dice = (1 - (2 * overlap + DICE_SMOOTH) / (size + DICE_SMOOTH)).mean()
    return SegmentationLoss(focal + dice_weight * dice, focal, dice)


def binary_segmentation_loss(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, dice_weight: float = 1.0, foreground_weight: float = 0.75
) -> SegmentationLoss:
    """Focal + Dice of one small organ in its ROI, the binary forms.

    Args:
        logits: (1, 1, d, h, w) before the sigmoid.
        target: (1, 1, d, h, w), 0 or 1.
        gamma: Focusing exponent.
        dice_weight: λ of the Dice term.
        foreground_weight: α of the organ's voxels; 1 - α of the others.
    """
    logits, target = logits.float(), target.float()
    # log p of the true class: log sigmoid(x) for the organ, log sigmoid(-x) elsewhere.
    log_true = F.logsigmoid(torch.where(target > 0.5, logits, -logits))
    weight = torch.where(target > 0.5, foreground_weight, 1 - foreground_weight)
    focal = -(weight * (1 - log_true.exp()) ** gamma * log_true).mean()
    probability = torch.sigmoid(logits)
    overlap = (probability * target).sum()
    dice = 1 - (2 * overlap + DICE_SMOOTH) / (probability.sum() + target.sum() + DICE_SMOOTH)
    return SegmentationLoss(focal + dice_weight * dice, focal, dice)


def heatmap_loss(heatmaps: Tensor, target: Tensor, annotated: Tensor, peak_weight: float) -> Tensor:
    """Weighted L2 between heat maps and Gaussians, mean over the annotated small organs.

    Voxels weigh ``1 + (peak_weight - 1) * target``: the empty map, right almost everywhere, is not the optimum.

    Args:
        heatmaps: (1, K, D, H, W) in [0, 1].
        target: (K, D, H, W).
        annotated: (K,) bool; no loss where an organ was not annotated.
        peak_weight: Weight at the peak relative to an empty voxel.
    """
    chosen = annotated.to(heatmaps.device)
    if not bool(chosen.any()):
        return heatmaps.sum() * 0.0
    difference = heatmaps[0, chosen].float() - target[chosen]
    weight = 1 + (peak_weight - 1) * target[chosen]
    return (weight * difference**2).sum((1, 2, 3)).div(weight.sum((1, 2, 3))).mean()
