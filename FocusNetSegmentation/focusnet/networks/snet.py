"""S-Net: the main segmentation network of FocusNetv2 (paper §3.1, table 10)."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from focusnet.networks.blocks import (
    DenseASPP,
    Norm,
    SEResBlock,
    UpBlock,
    convolution,
    head,
    initialise,
    initialise_head,
    max_pool,
)

SHAPE_DIVISOR_ZYX = (2, 4, 4)


class SNetOutput(NamedTuple):
    """What S-Net returns.

    Attributes:
        logits: (N, classes, D, H, W); class 0 is the background; softmax is left to the caller.
        features: (N, widths[0], D, H, W), the last decoder feature, input of SOL-Net and SOS-Net.
    """

    logits: Tensor
    features: Tensor


class SNet(nn.Module):
    """Segments all organs of a CT chunk at working spacing.

    Two in-plane and one axial reductions, SE residual blocks, DenseASPP at the coarsest level.

    Args:
        num_classes: Number of classes including the background.
        widths: Channels at full, half and quarter in-plane resolution.
        growth: Channels added by each DenseASPP branch (64 prints table 10; the authors released 32).
        dilations: In-plane dilations of the DenseASPP branches.
        norm: ``"instance"`` (batches of one) or ``"batch"``.

    Attributes:
        features: Channels of the feature map, ``widths[0]``.
    """

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (32, 48, 64),
        growth: int = 64,
        dilations: Sequence[int] = (3, 6, 12, 18),
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.features = fine
        self.stem = nn.Sequential(
            convolution(1, fine, kernel=(1, 3, 3)),
            SEResBlock(fine, fine, kernel=(1, 3, 3), reduction=4, norm=norm),
        )
        self.encoder2 = nn.Sequential(SEResBlock(fine, middle, norm=norm), SEResBlock(middle, middle, norm=norm))
        self.encoder3 = nn.Sequential(
            SEResBlock(middle, coarse, norm=norm),
            SEResBlock(coarse, coarse, norm=norm),
            SEResBlock(coarse, coarse, dilation=(1, 2, 2), norm=norm),
            SEResBlock(coarse, coarse, dilation=(1, 2, 2), norm=norm),
        )
        self.context = DenseASPP(coarse, growth, dilations, norm=norm)
        self.up1 = UpBlock(self.context.out_channels, middle, middle, (2, 2, 2), norm=norm)
        self.up2 = UpBlock(middle, fine, fine, (1, 2, 2), norm=norm)
        self.head = head(fine, num_classes)
        initialise(self)
        initialise_head(self.head)

    def forward(self, ct: Tensor) -> SNetOutput:
        """Segment a chunk.

        Args:
            ct: (N, 1, D, H, W), windowed CT; D a multiple of 2, H and W of 4.

        Raises:
            ValueError: The shape is not a batch of one-channel volumes of such sizes.
        """
        require_shape(ct)
        stem = self.stem(ct)  # (N, 32, D, H, W)
        middle = self.encoder2(max_pool(stem, (1, 2, 2)))  # (N, 48, D, H/2, W/2)
        coarse = self.encoder3(max_pool(middle, (2, 2, 2)))  # (N, 64, D/2, H/4, W/4)
        context = self.context(coarse)  # (N, 64 + 4 growth, D/2, H/4, W/4)
        features = self.up1(context, middle)  # (N, 48, D, H/2, W/2)
        features = self.up2(features, stem)  # (N, 32, D, H, W)
        return SNetOutput(self.head(features), features)  # (N, classes, D, H, W)


def require_shape(ct: Tensor) -> None:
    """Refuse a chunk that the reductions of S-Net do not divide.

    Raises:
        ValueError: Not (N, 1, D, H, W) with D a multiple of 2, H and W of 4.
    """
    if ct.ndim != 5 or ct.shape[1] != 1:
        raise ValueError(f"S-Net takes (N, 1, D, H, W), got {tuple(ct.shape)}")
    if any(size == 0 or size % divisor for size, divisor in zip(ct.shape[2:], SHAPE_DIVISOR_ZYX, strict=True)):
        raise ValueError(
            f"S-Net needs D a multiple of 2 and H, W multiples of 4, got {tuple(ct.shape[2:])}; pad the chunk"
        )
