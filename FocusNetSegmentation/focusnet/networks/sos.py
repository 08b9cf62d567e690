"""SOS-Net: segments one small organ at full resolution inside its region of interest (FocusNetv2 §3.1, table 10)."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from focusnet.networks.blocks import (
    DenseASPP,
    Norm,
    SEResBlock,
    UpBlock,
    head,
    initialise,
    initialise_head,
    max_pool,
)

SOSKind = Literal["plain", "unet"]


class PlainSOSNet(nn.Module):
    """Table 10: two SE residual blocks and a 1x1x1 convolution, all at full resolution.

    Args:
        in_channels: Channels of the input: S-Net feature and, by default, the raw CT.
        width: Channels of the blocks.
        norm: ``"instance"`` or ``"batch"``.
    """

    def __init__(self, in_channels: int, width: int = 32, norm: Norm = "instance") -> None:
        super().__init__()
        self.blocks = nn.Sequential(SEResBlock(in_channels, width, norm=norm), SEResBlock(width, width, norm=norm))
        self.head = head(width, 1)
        initialise(self)
        initialise_head(self.head)

    def forward(self, roi: Tensor) -> Tensor:
        """Logits (N, 1, d, h, w) of the organ from its ROI (N, in_channels, d, h, w)."""
        return self.head(self.blocks(roi))


class UNetSOSNet(nn.Module):
    """Encoder-decoder reading of the paper's appendix: pooling, DenseASPP, trilinear enlargement with skips.

    Args:
        in_channels: Channels of the input: S-Net feature and, by default, the raw CT.
        widths: Channels at full, half and quarter in-plane resolution.
        growth: Channels added by each DenseASPP branch.
        dilations: In-plane dilations of the DenseASPP branches.
        norm: ``"instance"`` or ``"batch"``.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int] = (32, 48, 64),
        growth: int = 32,
        dilations: Sequence[int] = (3, 5, 7, 9),
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.encoder1 = SEResBlock(in_channels, fine, norm=norm)
        self.encoder2 = SEResBlock(fine, middle, norm=norm)
        self.encoder3 = SEResBlock(middle, coarse, norm=norm)
        self.context = DenseASPP(coarse, growth, dilations, norm=norm)
        self.up1 = UpBlock(self.context.out_channels, middle, middle, (2, 2, 2), norm=norm)
        self.up2 = UpBlock(middle, fine, fine, (1, 2, 2), norm=norm)
        self.head = head(fine, 1)
        initialise(self)
        initialise_head(self.head)

    def forward(self, roi: Tensor) -> Tensor:
        """Logits (N, 1, d, h, w) of the organ from its ROI (N, in_channels, d, h, w).

        The reductions need d to be even, h and w multiples of 4.
        """
        fine = self.encoder1(roi)  # (N, 32, d, h, w)
        middle = self.encoder2(max_pool(fine, (1, 2, 2)))  # (N, 48, d, h/2, w/2)
        coarse = self.encoder3(max_pool(middle, (2, 2, 2)))  # (N, 64, d/2, h/4, w/4)
        features = self.up1(self.context(coarse), middle)  # (N, 48, d, h/2, w/2)
        return self.head(self.up2(features, fine))  # (N, 1, d, h, w)
