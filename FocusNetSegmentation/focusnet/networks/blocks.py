"""Building blocks shared by the networks: normalisation, SE residual block, DenseASPP, decoder stage.

The formulations are chosen for the processor as much as for CUDA: every block keeps a ``torch.channels_last_3d``
tensor in that layout and a half-precision tensor in its precision, forward and backward.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Literal["instance", "batch"]
Triple = tuple[int, int, int]

HEAD_WEIGHT_STD = 0.01


class InstanceNorm(nn.Module):
    """Affine instance normalisation of ``(N, C, D, H, W)``, over each sample's own voxels in training and evaluation.

    Equal to ``nn.GroupNorm(C, C)``, but computed as batch normalisation of single samples: on the processor the
    backward pass of group normalisation is some twenty times slower in channels-last bfloat16, and
    ``nn.InstanceNorm3d`` leaves the channels-last layout. A single voxel is normalised to the bias.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (N, C, D, H, W); same shape."""
        if x.shape[0] == 1:
            return self._normalise(x)
        return torch.cat([self._normalise(sample) for sample in x.split(1)])

    def _normalise(self, x: Tensor) -> Tensor:
        return torch.batch_norm(
            x, self.weight, self.bias, None, None, True, 0.0, self.eps, torch.backends.cudnn.enabled
        )


def make_norm(kind: Norm, channels: int) -> nn.Module:
    """Normalisation layer by name.

    Raises:
        ValueError: ``kind`` is neither ``"instance"`` nor ``"batch"``.
    """
    if kind == "instance":
        return InstanceNorm(channels)
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    raise ValueError(f'norm is "instance" or "batch", got {kind!r}')


def convolution(
    in_channels: int, out_channels: int, kernel: Triple = (3, 3, 3), dilation: Triple = (1, 1, 1)
) -> nn.Conv3d:
    """Convolution without bias that keeps the shape; ``kernel`` and ``dilation`` in (z, y, x)."""
    (kz, ky, kx), (dz, dy, dx) = kernel, dilation
    padding = (kz // 2 * dz, ky // 2 * dy, kx // 2 * dx)
    return nn.Conv3d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False)


def max_pool(x: Tensor, factor: Triple) -> Tensor:
    """Maximum over cells of ``factor`` (z, y, x) in the precision of ``x``; autocast would widen it to float32."""
    with torch.autocast(x.device.type, enabled=False):
        return F.max_pool3d(x, factor)


def upsample(x: Tensor, factor: Triple) -> Tensor:
    """Trilinear enlargement by ``factor`` (z, y, x), voxel edges aligned, in the precision of ``x``."""
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, scale_factor=[float(f) for f in factor], mode="trilinear", align_corners=False)


class NormReluConv(nn.Sequential):
    """Pre-activation convolution: norm, ReLU, convolution without bias (N, in, D, H, W) -> (N, out, D, H, W)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: Triple = (3, 3, 3),
        dilation: Triple = (1, 1, 1),
        norm: Norm = "instance",
    ) -> None:
        super().__init__(
            make_norm(norm, in_channels),
            nn.ReLU(inplace=True),
            convolution(in_channels, out_channels, kernel, dilation),
        )


class SqueezeExcitation(nn.Module):
    """Channel gate: global mean, two fully connected layers, sigmoid (N, C, D, H, W) -> (N, C, 1, 1, 1).

    The mean and the gate are computed in float32: a half-precision mean over a whole chunk loses digits.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Gate in (0, 1) for each channel of ``x``, in the precision of ``x``."""
        with torch.autocast(x.device.type, enabled=False):
            mean = x.mean((2, 3, 4), dtype=torch.float32).to(self.reduce.weight.dtype)  # (N, C)
            gate = torch.sigmoid(self.expand(F.relu(self.reduce(mean))))  # (N, C)
        return gate.to(x.dtype)[:, :, None, None, None]


class SEResBlock(nn.Module):
    """Pre-activation residual block with squeeze-excitation (paper §3.1, table 10; SE after AnatomyNet §II.B).

    Two norm-ReLU-convolutions, scaled by the gate, plus the input (through a 1x1x1 convolution where widths differ).

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output.
        kernel: Kernel of both convolutions (z, y, x).
        dilation: Dilation of the second convolution (z, y, x).
        reduction: Narrowing inside the squeeze-excitation.
        norm: ``"instance"`` or ``"batch"``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: Triple = (3, 3, 3),
        dilation: Triple = (1, 1, 1),
        reduction: int = 2,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        self.first = NormReluConv(in_channels, out_channels, kernel=kernel, norm=norm)
        self.second = NormReluConv(out_channels, out_channels, kernel=kernel, dilation=dilation, norm=norm)
        self.gate = SqueezeExcitation(out_channels, reduction)
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else nn.Conv3d(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, D, H, W) -> (N, out, D, H, W)."""
        y = self.second(self.first(x))
        return y * self.gate(y) + self.shortcut(x)


class DenseASPP(nn.Module):
    """Densely connected in-plane dilated convolutions (paper §3.1): the context of the coarsest level.

    Each branch sees the input and all earlier branches; the dilation is (1, d, d), never along z.

    Args:
        in_channels: Width of the input.
        growth: Width added by each branch.
        dilations: In-plane dilation of each branch.
        norm: ``"instance"`` or ``"batch"``.

    Attributes:
        out_channels: ``in_channels + len(dilations) * growth``.
    """

    def __init__(
        self, in_channels: int, growth: int, dilations: Sequence[int] = (3, 6, 12, 18), norm: Norm = "instance"
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                NormReluConv(in_channels + i * growth, in_channels, kernel=(1, 1, 1), norm=norm),
                NormReluConv(in_channels, growth, dilation=(1, d, d), norm=norm),
            )
            for i, d in enumerate(dilations)
        )
        self.out_channels = in_channels + len(dilations) * growth

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, D, H, W) -> (N, in + branches * growth, D, H, W)."""
        for branch in self.branches:
            x = torch.cat([x, branch(x)], 1)
        return x


class UpBlock(nn.Module):
    """Decoder stage: enlarge, concatenate the skip through a lateral 3x3x3 convolution, SE residual block.

    Args:
        in_channels: Width of the coarse input.
        skip_channels: Width of the skip.
        out_channels: Width of the output.
        factor: Enlargement (z, y, x).
        norm: ``"instance"`` or ``"batch"``.
    """

    def __init__(
        self, in_channels: int, skip_channels: int, out_channels: int, factor: Triple, norm: Norm = "instance"
    ) -> None:
        super().__init__()
        self.factor = factor
        self.lateral = convolution(skip_channels, skip_channels)
        self.block = SEResBlock(in_channels + skip_channels, out_channels, norm=norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, in, d, h, w) and (N, skip, D, H, W) -> (N, out, D, H, W)."""
        return self.block(torch.cat([upsample(x, self.factor), self.lateral(skip)], 1))


def head(in_channels: int, out_channels: int) -> nn.Conv3d:
    """1x1x1 convolution to logits; initialised by `initialise_head`."""
    return nn.Conv3d(in_channels, out_channels, 1)


def initialise(network: nn.Module) -> None:
    """He initialisation of every convolution and fully connected layer, biases zero; draws from the global generator.

    The hidden biases of squeeze-excitation start at one: their input, a global mean, hardly changes between cases, so a
    unit that starts below zero would be dead for all of them.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv3d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in network.modules():
        if isinstance(module, SqueezeExcitation):
            nn.init.ones_(module.reduce.bias)


def initialise_head(layer: nn.Conv3d, bias: float = 0.0) -> None:
    """Small weights and a chosen bias: the first answers are the prior, ``sigmoid(bias)`` or uniform classes."""
    nn.init.normal_(layer.weight, std=HEAD_WEIGHT_STD)
    if layer.bias is not None:
        nn.init.constant_(layer.bias, bias)
