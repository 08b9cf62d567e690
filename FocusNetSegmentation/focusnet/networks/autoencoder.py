"""The adversarial autoencoder of organ shapes (FocusNetv2 §3.3, table 9)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from focusnet.networks.blocks import Norm, Triple, initialise, initialise_head, make_norm, upsample

REDUCTION = 8
EMPTY_LOGIT = -4.0


class Decoded(NamedTuple):
    """What the decoder makes of a latent code.

    Attributes:
        reconstruction: (N, 1, d, h, w) in (0, 1).
        features: (N, widths[1], d/4, h/4, w/4) and (N, widths[0], d/2, h/2, w/2), compared by the shape loss.
    """

    reconstruction: Tensor
    features: tuple[Tensor, Tensor]


class AutoencoderOutput(NamedTuple):
    """What the autoencoder returns.

    Attributes:
        reconstruction: (N, 1, d, h, w) in (0, 1).
        code: (N, code_size), the latent code.
        features: Decoder features at two scales, see `Decoded`.
    """

    reconstruction: Tensor
    code: Tensor
    features: tuple[Tensor, Tensor]


class ShapeAutoencoder(nn.Module):
    """Encodes a small organ's mask into a latent code of its shape and decodes it again.

    The final activation is a sigmoid, as masks lie in [0, 1] (table 9 prints ReLU). On a processor it computes in
    float32 whatever the autocast: in bfloat16 the weight gradients of its strided convolutions are not always finite.

    Args:
        roi_shape_zyx: Shape of the masks; each size a multiple of 8.
        widths: Channels after the first, the middle and the last reduction.
        code_size: Length of the latent code.
        norm: ``"instance"`` or ``"batch"``.

    Raises:
        ValueError: The ROI is not a multiple of 8 along every axis.
    """

    def __init__(
        self,
        roi_shape_zyx: Triple = (8, 64, 64),
        widths: Sequence[int] = (64, 128, 256),
        code_size: int = 512,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        if any(size < REDUCTION or size % REDUCTION for size in roi_shape_zyx):
            raise ValueError(f"the autoencoder needs an ROI of multiples of {REDUCTION}, got {tuple(roi_shape_zyx)}")
        depth, height, width = (size // REDUCTION for size in roi_shape_zyx)
        fine, middle, coarse = widths
        self.roi_shape_zyx: Triple = (depth * REDUCTION, height * REDUCTION, width * REDUCTION)
        self.coarse_shape = (coarse, depth, height, width)
        numbers = coarse * depth * height * width
        self.encoder = nn.Sequential(
            *_convolution(1, fine, 2, norm),
            *_convolution(fine, middle, 2, norm),
            *_convolution(middle, middle, 1, norm),
            *_convolution(middle, coarse, 2, norm),
        )
        self.to_code = nn.Linear(numbers, code_size)
        self.from_code = nn.Linear(code_size, numbers)
        self.decoder1 = nn.Sequential(
            *_convolution(coarse, middle, 1, norm),
            *_convolution(middle, middle, 1, norm),
        )
        self.decoder2 = nn.Sequential(*_convolution(middle, fine, 1, norm))
        self.decoder3 = nn.Conv3d(fine, 1, 5, padding=2)
        initialise(self)
        # A small organ fills about 1 % of its ROI: the first answer is that share rather than one half.
        initialise_head(self.decoder3, EMPTY_LOGIT)

    @torch.autocast("cpu", enabled=False)
    def encode(self, mask: Tensor) -> Tensor:
        """Latent code (N, code_size) of a mask or of organ probabilities (N, 1, d, h, w).

        Raises:
            ValueError: The shape is not that of the ROI.
        """
        if mask.ndim != 5 or mask.shape[1:] != (1, *self.roi_shape_zyx):
            raise ValueError(f"the autoencoder takes (N, 1, *{self.roi_shape_zyx}), got {tuple(mask.shape)}")
        x = self.encoder(mask)  # (N, 256, d/8, h/8, w/8)
        return self.to_code(x.flatten(1))  # (N, 512)

    @torch.autocast("cpu", enabled=False)
    def decode(self, code: Tensor) -> Decoded:
        """Mask and decoder features of a latent code (N, code_size)."""
        x = F.relu(self.from_code(code)).unflatten(1, self.coarse_shape)  # (N, 256, d/8, h/8, w/8)
        middle = self.decoder1(upsample(x, (2, 2, 2)))  # (N, 128, d/4, h/4, w/4)
        fine = self.decoder2(upsample(middle, (2, 2, 2)))  # (N, 64, d/2, h/2, w/2)
        logits = self.decoder3(upsample(fine, (2, 2, 2)))  # (N, 1, d, h, w)
        return Decoded(torch.sigmoid(logits), (middle, fine))

    def forward(self, mask: Tensor) -> AutoencoderOutput:
        """Encode and decode a mask or organ probabilities (N, 1, d, h, w).

        Raises:
            ValueError: The shape is not that of the ROI.
        """
        code = self.encode(mask)
        reconstruction, features = self.decode(code)
        return AutoencoderOutput(reconstruction, code, features)


def _convolution(in_channels: int, out_channels: int, stride: int, norm: Norm) -> list[nn.Module]:
    return [
        nn.Conv3d(in_channels, out_channels, 5, stride=stride, padding=2, bias=False),
        make_norm(norm, out_channels),
        nn.ReLU(inplace=True),
    ]
