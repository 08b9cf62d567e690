"""Regions of interest of the small organs: peak of a heat map, placing, cropping and pasting (FocusNetv2 §3.1).

Positions and shapes are in voxels, (z, y, x); a position is the index of a voxel's centre.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from focusnet.networks.blocks import Triple

PEAK_RADIUS_ZYX = (2, 3, 3)
PEAK_MARGIN_ZYX = (4, 6, 6)
AGREEMENT = 0.0625
"""Least product of heat map and S-Net's probability that counts as agreement: both at one quarter, say."""


class Peaks(NamedTuple):
    """The highest point of each heat map.

    Attributes:
        position_zyx: (N, K, 3) float32 voxel position, refined below the voxel.
        value: (N, K) float32 height at the highest voxel.
    """

    position_zyx: Tensor
    value: Tensor


def find_peaks(heatmaps: Tensor, radius_zyx: Triple = PEAK_RADIUS_ZYX) -> Peaks:
    """Highest voxel of each map, refined along each axis by the centroid of its neighbourhood's profile.

    The neighbourhood shrinks on both sides alike where the volume ends, so that a border does not pull the centroid
    inwards. A map of equal values gives its first voxel.

    Args:
        heatmaps: (N, K, D, H, W), no empty axis.
        radius_zyx: Half-width of the neighbourhood.
    """
    heatmaps = heatmaps.detach().float()
    shape = heatmaps.shape[2:]
    value, index = heatmaps.flatten(2).max(2)  # (N, K)
    position = torch.stack(torch.unravel_index(index, shape), -1).float()  # (N, K, 3)
    for volume, refined in zip(heatmaps.flatten(0, 1), position.view(-1, 3), strict=True):
        peak = [int(p) for p in refined.tolist()]
        reach = [min(r, p, size - 1 - p) for r, p, size in zip(radius_zyx, peak, shape, strict=True)]
        z, y, x = (slice(p - r, p + r + 1) for p, r in zip(peak, reach, strict=True))
        refined += torch.stack([_centroid_offset(volume[z, y, x], axis) for axis in range(3)])
    return Peaks(position, value)


def find_agreed_peaks(heatmaps: Tensor, answers: Tensor) -> Peaks:
    """Peak of each map near the place where S-Net's own answer supports it most; the highest where none does.

    A heat map learned from few cases may be higher at a place far from the organ. S-Net, which has seen whole scans,
    knows the region, and SOL-Net the middle of the organ. (The paper takes the highest voxel, §3.1.)

    Args:
        heatmaps: (N, K, D, H, W), no empty axis.
        answers: (N, K, D, H, W), S-Net's probability of the same organs.
    """
    position, value = find_peaks(heatmaps)
    for n, k in torch.nonzero((heatmaps * answers).flatten(2).amax(2) >= AGREEMENT).tolist():
        volume = heatmaps[n, k]
        place = torch.unravel_index((volume * answers[n, k]).argmax(), volume.shape)
        low = [max(int(p) - m, 0) for p, m in zip(place, PEAK_MARGIN_ZYX, strict=True)]
        z, y, x = (slice(a, int(p) + m + 1) for a, p, m in zip(low, place, PEAK_MARGIN_ZYX, strict=True))
        near = find_peaks(volume[None, None, z, y, x])
        position[n, k] = near.position_zyx[0, 0] + torch.tensor(low, device=position.device)
        value[n, k] = near.value[0, 0]
    return Peaks(position, value)


def _centroid_offset(window: Tensor, axis: int) -> Tensor:
    """Centroid along one axis, relative to the window's middle, of the mean profile above its minimum."""
    profile = window.mean([a for a in range(3) if a != axis])
    profile = profile - profile.min()
    reach = len(profile) // 2
    offsets = torch.arange(-reach, reach + 1, device=window.device)
    return (profile * offsets).sum() / profile.sum().clamp_min(torch.finfo(torch.float32).tiny)


def roi_start(position_zyx: Sequence[float] | Tensor, roi_shape_zyx: Triple, volume_shape_zyx: Sequence[int]) -> Triple:
    """First voxel of the ROI centred at a position, moved inside the volume, never wrapped.

    Args:
        position_zyx: Centre of the ROI.
        roi_shape_zyx: Shape of the ROI.
        volume_shape_zyx: Shape of the volume.

    Raises:
        ValueError: The position is not finite, or the volume is smaller than the ROI.
    """
    position = [float(p) for p in position_zyx]
    if not all(map(math.isfinite, position)):
        raise ValueError(f"the ROI's position must be finite, got {position}")
    if any(v < r for v, r in zip(volume_shape_zyx, roi_shape_zyx, strict=True)):
        raise ValueError(f"volume {tuple(volume_shape_zyx)} is smaller than the ROI {tuple(roi_shape_zyx)}; pad it")
    z, y, x = (
        min(max(math.floor(p - (r - 1) / 2 + 0.5), 0), v - r)
        for p, r, v in zip(position, roi_shape_zyx, volume_shape_zyx, strict=True)
    )
    return z, y, x


def crop_roi(volume: Tensor, start_zyx: Triple, roi_shape_zyx: Triple) -> Tensor:
    """View (..., d, h, w) of a volume (..., D, H, W).

    Raises:
        ValueError: The ROI is not wholly inside the volume.
    """
    if any(s < 0 or s + r > v for s, r, v in zip(start_zyx, roi_shape_zyx, volume.shape[-3:], strict=True)):
        raise ValueError(
            f"ROI {tuple(roi_shape_zyx)} at {tuple(start_zyx)} leaves the volume {tuple(volume.shape[-3:])}"
        )
    z, y, x = (slice(s, s + r) for s, r in zip(start_zyx, roi_shape_zyx, strict=True))
    return volume[..., z, y, x]


def paste_roi(volume: Tensor, roi: Tensor, start_zyx: Triple) -> Tensor:
    """Copy of a volume (..., D, H, W) with the ROI (..., d, h, w) in place; inverse of `crop_roi`.

    Raises:
        ValueError: The ROI is not wholly inside the volume.
    """
    depth, height, width = roi.shape[-3:]
    pasted = volume.clone()
    crop_roi(pasted, start_zyx, (depth, height, width)).copy_(roi)
    return pasted
