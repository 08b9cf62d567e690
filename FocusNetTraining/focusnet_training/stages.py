"""The staged schedule as data: which parts learn, what the chunks show, which loss drives them (METHOD §4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from focusnet.networks.focusnet import FocusNetV2
from focusnet.networks.roi import crop_roi, roi_start
from torch import Tensor

from focusnet_training.config import LossConfig, StageName
from focusnet_training.heatmaps import centroids, gaussian_heatmaps
from focusnet_training.losses import binary_segmentation_loss, heatmap_loss, segmentation_loss
from focusnet_training.sampling import Focus

ROI_JITTER_MM = 3.0
MAX_ROI_JITTER_MM = 9.0


@dataclass(frozen=True, eq=False)
class Batch:
    """One training chunk.

    Attributes:
        ct: (1, 1, D, H, W) normalised CT.
        labels: (1, D, H, W) int64.
        annotated: (C - 1,) bool.
        spacing_zyx: Voxel size in mm.
    """

    ct: Tensor
    labels: Tensor
    annotated: Tensor
    spacing_zyx: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Task:
    """What stays the same over a stage.

    Attributes:
        weights: (C,) focal weights.
        small_classes: Class value of each small organ, in the order of SOL-Net's maps.
        roi_shape_zyx: ROI of SOS-Net in voxels.
        loss: Loss settings.
    """

    weights: Tensor
    small_classes: tuple[int, ...]
    roi_shape_zyx: tuple[int, int, int]
    loss: LossConfig


Losses = Mapping[str, Tensor]
LossFunction = Callable[[FocusNetV2, Batch, Task, np.random.Generator], Losses]


def snet_losses(model: FocusNetV2, batch: Batch, task: Task, rng: np.random.Generator) -> Losses:
    """S-Net: weighted focal + Dice over all classes."""
    return _segmentation(model.snet(batch.ct).logits, batch, task)


def sol_losses(model: FocusNetV2, batch: Batch, task: Task, rng: np.random.Generator) -> Losses:
    """SOL-Net on S-Net's frozen feature: weighted L2 of the heat maps."""
    with torch.no_grad():
        features = model.snet(batch.ct).features
    return _localisation(model, features, batch, task)


def sos_losses(model: FocusNetV2, batch: Batch, task: Task, rng: np.random.Generator) -> Losses:
    """SOS-Net on S-Net's frozen feature: binary focal + Dice in ROIs round the true, jittered centroids."""
    with torch.no_grad():
        features = model.snet(batch.ct).features
    return _small_segmentation(model, features, batch, task, rng)


def joint_losses(model: FocusNetV2, batch: Batch, task: Task, rng: np.random.Generator) -> Losses:
    """Joint fine-tuning: the sum of the three."""
    output = model.snet(batch.ct)
    losses = dict(_segmentation(output.logits, batch, task))
    losses |= _localisation(model, output.features, batch, task)
    losses |= _small_segmentation(model, output.features, batch, task, rng)
    return losses


def _segmentation(logits: Tensor, batch: Batch, task: Task) -> Losses:
    loss = segmentation_loss(
        logits,
        batch.labels,
        batch.annotated,
        task.weights,
        gamma=task.loss.gamma,
        dice_weight=task.loss.dice_weight,
        missing=task.loss.missing,
    )
    return {"focal": loss.focal, "dice": task.loss.dice_weight * loss.dice}


def _localisation(model: FocusNetV2, features: Tensor, batch: Batch, task: Task) -> Losses:
    assert model.sol is not None
    position, _ = centroids(batch.labels[0], task.small_classes)
    target = gaussian_heatmaps(position, batch.labels.shape[1:], batch.spacing_zyx, task.loss.heatmap_sigma_mm)
    drawn = batch.annotated[[c - 1 for c in task.small_classes]]
    heatmaps = model.sol(features).heatmaps
    return {"heatmap": task.loss.heatmap_weight * heatmap_loss(heatmaps, target, drawn, task.loss.heatmap_weight)}


def _small_segmentation(
    model: FocusNetV2, features: Tensor, batch: Batch, task: Task, rng: np.random.Generator
) -> Losses:
    shape = tuple(batch.labels.shape[1:])
    position, count = centroids(batch.labels[0], task.small_classes)
    focal, dice = [], []
    for k, value in enumerate(task.small_classes):
        # Drawn for every organ, so that one organ's absence does not change the others' jitter.
        jitter_mm = np.clip(rng.normal(0, ROI_JITTER_MM, 3), -MAX_ROI_JITTER_MM, MAX_ROI_JITTER_MM)
        if count[k] == 0:
            continue
        centre = position[k] + torch.as_tensor(jitter_mm / np.asarray(batch.spacing_zyx), dtype=torch.float32)
        start = roi_start(centre, task.roi_shape_zyx, shape)
        roi_features = crop_roi(features, start, task.roi_shape_zyx)
        roi_ct = crop_roi(batch.ct, start, task.roi_shape_zyx)
        target = crop_roi((batch.labels == value)[:, None], start, task.roi_shape_zyx)
        loss = binary_segmentation_loss(
            model.refine(k, roi_features, roi_ct),
            target,
            gamma=task.loss.gamma,
            dice_weight=task.loss.dice_weight,
        )
        focal.append(loss.focal)
        dice.append(task.loss.dice_weight * loss.dice)
    if not focal:
        nothing = torch.stack([p.sum() for p in model.sos.parameters()]).sum() * 0.0
        return {"roi_focal": nothing, "roi_dice": nothing}
    return {"roi_focal": torch.stack(focal).mean(), "roi_dice": torch.stack(dice).mean()}


@dataclass(frozen=True)
class Stage:
    """One stage: the parts that learn, where chunks are drawn, its losses."""

    trainable: frozenset[str]
    focus: Focus
    losses: LossFunction


STAGES: dict[StageName, Stage] = {
    "snet": Stage(frozenset({"snet"}), "organs", snet_losses),
    "sol": Stage(frozenset({"sol"}), "small", sol_losses),
    "sos": Stage(frozenset({"sos"}), "small", sos_losses),
    "joint": Stage(frozenset({"snet", "sol", "sos"}), "small", joint_losses),
}
