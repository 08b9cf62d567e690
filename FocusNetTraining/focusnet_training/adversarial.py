"""The shape constraint of the small organs: an autoencoder that plays against SOS-Net (paper §3.3).

The autoencoder D encodes masks of true organs y and of SOS-Net's answers G(x). SOS-Net makes the two codes alike, the
autoencoder keeps them apart while it must go on reconstructing both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from focusnet.networks.autoencoder import AutoencoderOutput, ShapeAutoencoder
from torch import Tensor
from torch.func import functional_call

from focusnet_training.config import ShapeConfig


class ShapeDistance(NamedTuple):
    """Eq 5: distance of the latent codes, and that of the decoder features summed over two scales; see `relative`."""

    code: Tensor
    features: Tensor


def reconstruction_loss(reconstruction: Tensor, mask: Tensor, truth: Tensor) -> Tensor:
    """One term of eq 4, in units of the true organ: the blank reconstruction of a true mask costs 1.

    A mean over the ROI would make the loss of a blank answer vanish for organs of few voxels.

    Args:
        reconstruction: (N, 1, d, h, w) in [0, 1].
        mask: (N, 1, d, h, w) in [0, 1], what was encoded.
        truth: (N, 1, d, h, w), 0 or 1; each of them holds an organ.
    """
    error = (reconstruction.float() - mask.float()).square().sum((1, 2, 3, 4))
    return (error / truth.float().sum((1, 2, 3, 4)).clamp_min(1.0)).mean()


def relative(truth: Tensor, prediction: Tensor) -> Tensor:
    """Squared distance in units of the truth's own mean square.

    The scale of a code is the autoencoder's choice: a pre-trained one had codes of mean square 23, so that a shift by
    one voxel outweighed all of SOS-Net's other losses, and one that plays could part the codes by scaling them.
    """
    truth = truth.float()
    return F.mse_loss(prediction.float(), truth) / truth.square().mean().clamp_min(1e-6)


def shape_distance(truth: AutoencoderOutput, prediction: AutoencoderOutput) -> ShapeDistance:
    """How far the autoencoder sees a prediction's shape from the true one (eq 5)."""
    pairs = zip(truth.features, prediction.features, strict=True)
    return ShapeDistance(relative(truth.code, prediction.code), torch.stack([relative(t, p) for t, p in pairs]).sum())


def pretraining_losses(autoencoder: ShapeAutoencoder, truth: Tensor) -> Mapping[str, Tensor]:
    """Eq 4 on true masks alone.

    Args:
        autoencoder: Learns.
        truth: (N, 1, d, h, w), 0 or 1.
    """
    return {"aae_reconstruction": reconstruction_loss(autoencoder(truth.float()).reconstruction, truth, truth)}


def generator_losses(
    autoencoder: ShapeAutoencoder, truth: Tensor, prediction: Tensor, config: ShapeConfig
) -> Mapping[str, Tensor]:
    """What the autoencoder adds to SOS-Net's loss (eq 7); its own weights get no gradient.

    Args:
        autoencoder: Judges.
        truth: (N, 1, d, h, w), 0 or 1.
        prediction: (N, 1, d, h, w) probabilities of SOS-Net.
        config: λ1 and the weights of eq 5.
    """
    held = {name: tensor.detach() for name, tensor in autoencoder.named_parameters()}
    with torch.no_grad():
        true_shape = autoencoder(truth.float())
    distance = shape_distance(true_shape, functional_call(autoencoder, held, (prediction,)))
    return {
        "shape_code": config.weight * config.code_weight * distance.code,
        "shape_features": config.weight * config.feature_weight * distance.features,
    }


def discriminator_losses(
    autoencoder: ShapeAutoencoder, truth: Tensor, prediction: Tensor, config: ShapeConfig
) -> Mapping[str, Tensor]:
    """The autoencoder's own loss in the game, eqs 4 and 8; SOS-Net gets no gradient.

    Args:
        autoencoder: Learns.
        truth: (N, 1, d, h, w), 0 or 1.
        prediction: (N, 1, d, h, w) probabilities of SOS-Net.
        config: λ2 and the weights of eq 5.
    """
    prediction = prediction.detach()
    true_shape, shape = autoencoder(truth.float()), autoencoder(prediction)
    distance = shape_distance(true_shape, shape)
    apart = config.code_weight * distance.code + config.feature_weight * distance.features
    return {
        "aae_reconstruction": reconstruction_loss(true_shape.reconstruction, truth, truth)
        + reconstruction_loss(shape.reconstruction, prediction, truth),
        "aae_apart": -config.adversarial_weight * apart,
    }
