"""The staged schedule as data: which parts learn, what the chunks show, which loss drives them (paper §4.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from focusnet.networks.autoencoder import ShapeAutoencoder
from focusnet.networks.blocks import Triple
from focusnet.networks.focusnet import FocusNetV2
from focusnet.networks.roi import crop_roi, roi_start
from torch import Tensor, nn

from focusnet_training.adversarial import discriminator_losses, generator_losses, pretraining_losses
from focusnet_training.config import LossConfig, ShapeConfig, StageName
from focusnet_training.heatmaps import centroids, gaussian_heatmaps, whole
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
        parts: (P,) int64 class values of which the end of an augmented scan left a part.
    """

    ct: Tensor
    labels: Tensor
    annotated: Tensor
    spacing_zyx: tuple[float, float, float]
    parts: Tensor


@dataclass(frozen=True, eq=False)
class Task:
    """What stays the same over a stage.

    Attributes:
        weights: (C,) focal weights.
        small_classes: Class value of each small organ, in the order of SOL-Net's maps.
        roi_shape_zyx: ROI of SOS-Net in voxels.
        loss: Loss settings.
        shape: Settings of the shape constraint.
    """

    weights: Tensor
    small_classes: tuple[int, ...]
    roi_shape_zyx: tuple[int, int, int]
    loss: LossConfig
    shape: ShapeConfig


@dataclass(frozen=True, eq=False)
class Networks:
    """What a run trains; the autoencoder is there for the shape constraint alone and is no part of the model."""

    model: FocusNetV2
    autoencoder: ShapeAutoencoder | None

    def running_statistics(self) -> list[tuple[Tensor, Tensor]]:
        """Each buffer that a forward pass may change, as those of batch normalisation, and a copy of what it holds."""
        networks = [self.model] if self.autoencoder is None else [self.model, self.autoencoder]
        learning = [module for network in networks for module in network.modules() if module.training]
        return [(buffer, buffer.clone()) for module in learning for buffer in module.buffers(recurse=False)]


Losses = Mapping[str, Tensor]
LossFunction = Callable[[Networks, Batch, Task, np.random.Generator], Losses]


def snet_losses(networks: Networks, batch: Batch, task: Task, rng: np.random.Generator) -> Losses:
    """S-Net: weighted focal + Dice over all classes."""
    return _segmentation(networks.model.snet(batch.ct).logits, batch, task)


def sol_losses(networks: Networks, batch: Batch, task: Task, rng: np.random.Generator) -> Losses:
    """SOL-Net on S-Net's frozen feature: weighted L2 of the heat maps."""
    with torch.no_grad():
        features = networks.model.snet(batch.ct).features
    return _localisation(networks.model, features, batch, task)


def aae_losses(networks: Networks, batch: Batch, task: Task, rng: np.random.Generator) -> Losses:
    """Autoencoder: reconstruction of the true masks (eq 4)."""
    assert networks.autoencoder is not None
    masks = [crop_roi(truth, start, task.roi_shape_zyx) for _, start, truth in _rois(batch, task, rng)]
    if not masks:
        return {"aae_reconstruction": _nothing(networks.autoencoder)}
    return pretraining_losses(networks.autoencoder, torch.cat(masks))


def sos_losses(networks: Networks, batch: Batch, task: Task, rng: np.random.Generator) -> Losses:
    """SOS-Net on S-Net's frozen feature: binary focal + Dice in ROIs round the true, jittered centroids, and shape."""
    with torch.no_grad():
        features = networks.model.snet(batch.ct).features
    return _small_segmentation(networks, features, batch, task, rng)


def joint_losses(networks: Networks, batch: Batch, task: Task, rng: np.random.Generator) -> Losses:
    """Joint fine-tuning: the sum of S-, SOL- and SOS-Net's."""
    output = networks.model.snet(batch.ct)
    losses = dict(_segmentation(output.logits, batch, task))
    losses |= _localisation(networks.model, output.features, batch, task)
    losses |= _small_segmentation(networks, output.features, batch, task, rng)
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
    drawn = _drawn_whole(batch, task)
    heatmaps = model.sol(features).heatmaps
    return {"heatmap": task.loss.heatmap_weight * heatmap_loss(heatmaps, target, drawn, task.loss.heatmap_weight)}


def _small_segmentation(
    networks: Networks, features: Tensor, batch: Batch, task: Task, rng: np.random.Generator
) -> Losses:
    """SOS-Net's losses; with a shape constraint eq 7 and, where the autoencoder plays against it, eq 8."""
    focal, dice, truths, answers = [], [], [], []
    for k, start, truth in _rois(batch, task, rng):
        target = crop_roi(truth, start, task.roi_shape_zyx)
        logits = networks.model.refine(
            k, crop_roi(features, start, task.roi_shape_zyx), crop_roi(batch.ct, start, task.roi_shape_zyx)
        )
        loss = binary_segmentation_loss(logits, target, gamma=task.loss.gamma, dice_weight=task.loss.dice_weight)
        focal.append(loss.focal)
        dice.append(task.loss.dice_weight * loss.dice)
        truths.append(target)
        answers.append(torch.sigmoid(logits.float()))
    if not focal:
        nothing = _nothing(networks.model.sos)
        return {"roi_focal": nothing, "roi_dice": nothing}
    losses = {"roi_focal": torch.stack(focal).mean(), "roi_dice": torch.stack(dice).mean()}
    if networks.autoencoder is not None:
        judged = networks.autoencoder, torch.cat(truths), torch.cat(answers), task.shape
        losses |= generator_losses(*judged)
        if task.shape.constraint == "adversarial":
            losses |= discriminator_losses(*judged)
    return losses


def _rois(batch: Batch, task: Task, rng: np.random.Generator) -> Iterator[tuple[int, Triple, Tensor]]:
    """Number, first voxel of the jittered ROI and mask (1, 1, D, H, W) of each small organ, drawn and whole."""
    shape = tuple(batch.labels.shape[1:])
    position, count = centroids(batch.labels[0], task.small_classes)
    count = count * _drawn_whole(batch, task)
    for k, value in enumerate(task.small_classes):
        # Drawn for every organ, so that one organ's absence does not change the others' jitter.
        jitter_mm = np.clip(rng.normal(0, ROI_JITTER_MM, 3), -MAX_ROI_JITTER_MM, MAX_ROI_JITTER_MM)
        if count[k] == 0:
            continue
        centre = position[k] + torch.as_tensor(jitter_mm / np.asarray(batch.spacing_zyx), dtype=torch.float32)
        yield k, roi_start(centre, task.roi_shape_zyx, shape), (batch.labels == value)[:, None]


def _drawn_whole(batch: Batch, task: Task) -> Tensor:
    """(K,) bool: small organs that were annotated and that neither the chunk nor the scan cuts."""
    classes = torch.tensor(task.small_classes, device=batch.labels.device)
    drawn = batch.annotated[classes - 1] & whole(batch.labels[0], task.small_classes)
    return drawn & ~torch.isin(classes, batch.parts)


def _nothing(module: nn.Module) -> Tensor:
    return torch.stack([p.sum() for p in module.parameters()]).sum() * 0.0


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        trainable: The parts that learn: of the model, or ``aae``.
        focus: Where chunks are drawn.
        losses: What drives it.
        shapes: SOS-Net's answers are shown to the autoencoder.
        guarded: Ends with its starting weights where the validation score falls.
    """

    trainable: frozenset[str]
    focus: Focus
    losses: LossFunction
    shapes: bool = False
    guarded: bool = False


STAGES: dict[StageName, Stage] = {
    "snet": Stage(frozenset({"snet"}), "organs", snet_losses),
    "sol": Stage(frozenset({"sol"}), "mixed", sol_losses),
    "aae": Stage(frozenset({"aae"}), "small", aae_losses),
    "sos": Stage(frozenset({"sos"}), "small", sos_losses, shapes=True, guarded=True),
    "joint": Stage(frozenset({"snet", "sol", "sos"}), "mixed", joint_losses, shapes=True, guarded=True),
}
