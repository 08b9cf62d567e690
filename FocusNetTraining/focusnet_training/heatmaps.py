"""Targets of SOL-Net: a 3-D Gaussian at each small organ's centroid (paper §3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def centroids(labels: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Centroids of classes in a chunk, taken after every geometric change of it.

    Args:
        labels: (D, H, W) int64.
        classes: K class values.

    Returns:
        Centroids (K, 3), fractional voxel index (z, y, x), NaN where absent; voxel counts (K,).
    """
    position = torch.full((len(classes), 3), float("nan"), device=labels.device)
    count = torch.zeros(len(classes), dtype=torch.int64, device=labels.device)
    for k, value in enumerate(classes):
        index = torch.nonzero(labels == value)
        count[k] = len(index)
        if len(index):
            position[k] = index.to(torch.float32).mean(0)
    return position, count


def whole(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """Which of K classes the border of a chunk (D, H, W) does not cut: the centroid of a part is not the organ's.

    Returns:
        (K,) bool; true for a class that is absent.
    """
    borders = torch.cat([labels.select(axis, end).flatten() for axis in range(3) for end in (0, -1)])
    return torch.stack([~(borders == value).any() for value in classes])


def gaussian_heatmaps(
    position_zyx: Tensor, shape_zyx: Sequence[int], spacing_zyx: Sequence[float], sigma_mm: float
) -> Tensor:
    """Gaussian of amplitude 1 at each position; all zero where the position is NaN (annotated and absent).

    Args:
        position_zyx: (K, 3) fractional voxel index.
        shape_zyx: (D, H, W).
        spacing_zyx: Voxel size in mm.
        sigma_mm: Standard deviation, the same in mm along every axis.

    Returns:
        (K, D, H, W) float32.
    """
    profiles = []
    for axis in range(3):
        offset = torch.arange(shape_zyx[axis], device=position_zyx.device) - position_zyx[:, axis, None]
        profiles.append(torch.exp(-0.5 * (offset * (spacing_zyx[axis] / sigma_mm)) ** 2))
    z, y, x = profiles
    return torch.nan_to_num(z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :])
