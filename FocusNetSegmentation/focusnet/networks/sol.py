"""SOL-Net: localises each small organ by a heat map (FocusNetv2 §3.1, table 10)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from focusnet.networks.blocks import Norm, SEResBlock, head, initialise, initialise_head

HEAT_MAP_PRIOR_LOGIT = -4.0


class SOLOutput(NamedTuple):
    """What SOL-Net returns.

    Attributes:
        logits: (N, organs, D, H, W).
        heatmaps: (N, organs, D, H, W) float32 in (0, 1), the sigmoid of the logits.
    """

    logits: Tensor
    heatmaps: Tensor


class SOLNet(nn.Module):
    """One heat map per small organ from the last decoder feature of S-Net.

    The maps start near zero (sigmoid of -4), as the targets are nearly empty.

    Args:
        in_channels: Channels of the feature, ``SNet.features``.
        num_organs: Number of small organs.
        norm: ``"instance"`` or ``"batch"``.
    """

    def __init__(self, in_channels: int, num_organs: int, norm: Norm = "instance") -> None:
        super().__init__()
        self.block = SEResBlock(in_channels, in_channels, norm=norm)
        self.head = head(in_channels, num_organs)
        initialise(self)
        initialise_head(self.head, HEAT_MAP_PRIOR_LOGIT)

    def forward(self, features: Tensor) -> SOLOutput:
        """Heat maps of all small organs.

        Args:
            features: (N, in_channels, D, H, W).
        """
        features = self.block(features)  # (N, 32, D, H, W)
        logits = self.head(features)  # (N, organs, D, H, W)
        return SOLOutput(logits, torch.sigmoid(logits.float()))
