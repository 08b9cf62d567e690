"""FocusNetv2: S-Net, SOL-Net and one SOS-Net per small organ in one module (paper §3.1)."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from focusnet.networks.blocks import Norm, Triple
from focusnet.networks.snet import SNet
from focusnet.networks.sol import SOLNet
from focusnet.networks.sos import PlainSOSNet, SOSKind, UNetSOSNet

PARTS = frozenset({"snet", "sol", "sos"})


class FocusNetOutput(NamedTuple):
    """What S-Net and SOL-Net say about a chunk.

    Attributes:
        logits: (N, classes, D, H, W); class 0 is the background.
        features: (N, features, D, H, W), from which SOS-Net crops.
        heatmap_logits: (N, small organs, D, H, W), or None without small organs.
        heatmaps: (N, small organs, D, H, W) float32 in (0, 1), or None without small organs.
    """

    logits: Tensor
    features: Tensor
    heatmap_logits: Tensor | None
    heatmaps: Tensor | None


class FocusNetV2(nn.Module):
    """The whole network. Where the ROIs lie is decided between its two steps, by `focusnet.networks.roi`.

    Args:
        num_classes: Number of classes including the background.
        num_small: Number of small organs; 0 leaves S-Net alone.
        widths: Channels at full, half and quarter in-plane resolution.
        growth: Channels added by each DenseASPP branch of S-Net.
        dilations: In-plane dilations of the DenseASPP branches of S-Net.
        norm: ``"instance"`` or ``"batch"``.
        roi_shape_zyx: Shape in voxels of the ROI of every small organ.
        sos: ``"plain"`` (table 10) or ``"unet"`` (the appendix).
        concatenate_ct: Give the raw CT to SOS-Net beside the feature (False: the ablation of table 6).

    Attributes:
        snet: S-Net.
        sol: SOL-Net, None without small organs.
        sos: One SOS-Net per small organ, in the order of the heat maps.

    Raises:
        ValueError: A count, a shape or a name is not possible.
    """

    def __init__(
        self,
        num_classes: int,
        num_small: int,
        widths: Sequence[int] = (32, 48, 64),
        growth: int = 64,
        dilations: Sequence[int] = (3, 6, 12, 18),
        norm: Norm = "instance",
        roi_shape_zyx: Triple = (8, 64, 64),
        sos: SOSKind = "plain",
        concatenate_ct: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= num_small < num_classes:
            raise ValueError(f"num_small must be in 0..{num_classes - 1}, got {num_small}")
        depth, height, width = roi_shape_zyx
        if min(roi_shape_zyx) < 1 or (sos == "unet" and (depth % 2 or height % 4 or width % 4)):
            raise ValueError(f"ROI {tuple(roi_shape_zyx)} does not suit sos={sos!r}: d even, h and w multiples of 4")
        self.roi_shape_zyx: Triple = (depth, height, width)
        self.concatenate_ct = concatenate_ct
        self.snet = SNet(num_classes, widths, growth, dilations, norm)
        self.sol = SOLNet(self.snet.features, num_small, norm) if num_small else None
        roi_channels = self.snet.features + int(concatenate_ct)
        self.sos = nn.ModuleList(_sos_net(sos, roi_channels, widths, norm) for _ in range(num_small))
        self._frozen: frozenset[str] = frozenset()

    def forward(self, ct: Tensor) -> FocusNetOutput:
        """Run S-Net and SOL-Net.

        Args:
            ct: (N, 1, D, H, W), windowed CT; D a multiple of 2, H and W of 4.

        Raises:
            ValueError: The shape does not suit S-Net.
        """
        logits, features = self.snet(ct)  # (N, classes, D, H, W), (N, 32, D, H, W)
        if self.sol is None:
            return FocusNetOutput(logits, features, None, None)
        return FocusNetOutput(logits, features, *self.sol(features))  # (N, small, D, H, W) twice

    def refine(self, organ: int, features_roi: Tensor, ct_roi: Tensor) -> Tensor:
        """Run the SOS-Net of one small organ.

        Args:
            organ: Index of the small organ, as in the heat maps.
            features_roi: (N, features, d, h, w), cropped from the features of `forward`.
            ct_roi: (N, 1, d, h, w), the same crop of the CT.

        Returns:
            Logits (N, 1, d, h, w).
        """
        channels_last = features_roi.stride(1) == 1
        roi = features_roi
        if self.concatenate_ct:
            roi = torch.cat([features_roi, ct_roi.to(features_roi.dtype)], 1)  # (N, 33, d, h, w)
        roi = roi.contiguous(memory_format=torch.channels_last_3d if channels_last else torch.contiguous_format)
        return self.sos[organ](roi)

    def set_trainable(self, parts: Iterable[str]) -> Self:
        """Train the named parts and freeze the others: no gradients, evaluation mode even after ``train()``.

        Args:
            parts: Any of ``"snet"``, ``"sol"``, ``"sos"``.

        Raises:
            ValueError: A part is unknown.
        """
        parts = frozenset(parts)
        if not parts <= PARTS:
            raise ValueError(f"parts are {sorted(PARTS)}, got {sorted(parts - PARTS)}")
        self._frozen = PARTS - parts
        for name in PARTS:
            module = getattr(self, name)
            if module is not None:
                module.requires_grad_(name in parts)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training mode; frozen parts stay in evaluation mode, so that their batch statistics never move."""
        super().train(mode)
        for name in self._frozen:
            module = getattr(self, name)
            if module is not None:
                module.eval()
        return self


def _sos_net(kind: SOSKind, in_channels: int, widths: Sequence[int], norm: Norm) -> nn.Module:
    if kind == "plain":
        return PlainSOSNet(in_channels, widths[0], norm)
    if kind == "unet":
        return UNetSOSNet(in_channels, widths, growth=widths[0], norm=norm)
    raise ValueError(f'sos is "plain" or "unet", got {kind!r}')
