"""Random affine and intensity changes of a chunk, on the training device; never a mirror image (paper §4.2)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from focusnet.preprocessing import AIR_HU
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from focusnet_training.config import AugmentationConfig


def random_affine(config: AugmentationConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """Chunk to volume displacement, 3x3 in mm and (z, y, x) order: rotation and scale.

    Its determinant is positive whatever is drawn, so a left organ stays a left organ.
    """
    axial = rng.uniform(-config.rotation_axial_deg, config.rotation_axial_deg)
    tilt = rng.uniform(-config.rotation_tilt_deg, config.rotation_tilt_deg, 2)
    rotation = Rotation.from_euler("zyx", (axial, *tilt), degrees=True).as_matrix()[::-1, ::-1]
    low, high = config.scale
    return rotation / np.exp(rng.uniform(np.log(low), np.log(high)))


def extract_chunk(
    ct: Tensor,
    labels: Tensor,
    centre_zyx: NDArray[np.float64],
    matrix_mm: NDArray[np.float64],
    spacing_zyx: tuple[float, float, float],
    chunk_zyx: tuple[int, int, int],
) -> tuple[Tensor, Tensor]:
    """Cut a rotated and scaled chunk out of a volume in one interpolation.

    Args:
        ct: (D, H, W) HU.
        labels: (D, H, W) class values.
        centre_zyx: Voxel index that the chunk's middle shows.
        matrix_mm: 3x3, chunk offset to volume offset in mm, (z, y, x).
        spacing_zyx: Voxel size in mm of both.
        chunk_zyx: Shape of the chunk.

    Returns:
        CT (1, 1, d, h, w) float32 in HU, air outside the volume, and labels (1, d, h, w) int64, background outside.
    """
    spacing = np.asarray(spacing_zyx)
    matrix = np.diag(1 / spacing) @ matrix_mm @ np.diag(spacing)  # chunk to volume offset in voxels
    size, chunk = np.asarray(ct.shape), np.asarray(chunk_zyx)
    # grid_sample counts from -1 to 1 between the outer voxel centres, x first.
    half, chunk_half = np.maximum(size - 1, 1) / 2.0, (chunk - 1) / 2.0
    theta = np.empty((3, 4))
    theta[:, :3] = (np.diag(1 / half) @ matrix @ np.diag(chunk_half))[::-1, ::-1]
    theta[:, 3] = ((centre_zyx - (size - 1) / 2.0) / half)[::-1]
    grid = F.affine_grid(
        torch.as_tensor(theta, dtype=torch.float32, device=ct.device)[None], [1, 1, *chunk_zyx], align_corners=True
    )
    shifted = (ct.to(torch.float32) - AIR_HU)[None, None]  # zero padding then means air
    image = F.grid_sample(shifted, grid, mode="bilinear", padding_mode="zeros", align_corners=True) + AIR_HU
    classes = F.grid_sample(labels.to(torch.float32)[None, None], grid, mode="nearest", align_corners=True)
    return image, classes[:, 0].round().to(torch.int64)


def augment_intensity(
    ct: Tensor, spacing_zyx: tuple[float, float, float], config: AugmentationConfig, rng: np.random.Generator
) -> Tensor:
    """Scanner, kernel and resolution variations of a chunk (1, 1, d, h, w) in HU."""

    def chosen() -> bool:
        return bool(rng.random() < config.probability)

    if chosen():
        ct = _coarsen(ct, rng.uniform(1.0, config.coarse_factor), axial=bool(rng.random() < 0.5))
    if chosen():
        amount = rng.uniform(-0.5, 1.0)  # below zero sharpens
        blurred = _blur(ct, abs(amount) * config.blur_mm / np.asarray(spacing_zyx))
        ct = blurred if amount > 0 else ct + (ct - blurred)
    if chosen():
        contrast, shift = rng.uniform(*config.contrast), rng.uniform(-config.shift_hu, config.shift_hu)
        ct = torch.where(ct > AIR_HU + 24, ct * contrast + shift, ct)
    if chosen():
        generator = torch.Generator(ct.device).manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(ct.shape, generator=generator, device=ct.device)
        ct = ct + noise * rng.uniform(0, config.noise_hu)
    return ct


def cut_field_of_view(
    ct: Tensor, labels: Tensor, config: AugmentationConfig, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Replace one side of a chunk by air, as where a scan ends; what is not imaged is not labelled either.

    Args:
        ct: (1, 1, d, h, w) HU.
        labels: (1, d, h, w).
        config: Chance and largest share that is cut.
        rng: Source of the draws.

    Returns:
        CT, labels, and the class values (int64) of which the cut left a part.
    """
    if rng.random() >= config.probability:
        return ct, labels, labels.new_zeros(0)
    ct, labels = ct.clone(), labels.clone()
    axis = int(rng.integers(3))
    size = labels.shape[axis + 1]
    length = round(size * rng.uniform(0, config.field_of_view_cut))
    start = 0 if rng.random() < 0.5 else size - length
    ct.narrow(axis + 2, start, length).fill_(AIR_HU)
    lost = labels.narrow(axis + 1, start, length)
    classes = int(labels.max()) + 1
    before = torch.bincount(lost.flatten(), minlength=classes)
    lost.fill_(0)
    left = torch.bincount(labels.flatten(), minlength=classes)
    parts = torch.nonzero((before > 0) & (left > 0)).flatten()
    return ct, labels, parts[parts > 0]


def _coarsen(ct: Tensor, factor: float, *, axial: bool) -> Tensor:
    d, h, w = ct.shape[2:]
    small = (max(2, round(d / factor)), h, w) if axial else (d, max(2, round(h / factor)), max(2, round(w / factor)))
    return F.interpolate(F.interpolate(ct, small, mode="area"), (d, h, w), mode="trilinear", align_corners=False)


def _blur(ct: Tensor, sigma_zyx: NDArray[np.float64]) -> Tensor:
    for axis, sigma in enumerate(sigma_zyx):
        radius = int(np.ceil(2.5 * sigma))
        if radius == 0:
            continue
        offsets = torch.arange(-radius, radius + 1, device=ct.device, dtype=ct.dtype)
        kernel = torch.exp(-0.5 * (offsets / float(sigma)) ** 2)
        shape = [1, 1, 1, 1, 1]
        shape[axis + 2] = -1
        padding = [0, 0, 0, 0, 0, 0]
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = radius
        ct = F.conv3d(F.pad(ct, padding, mode="replicate"), (kernel / kernel.sum()).view(shape))
    return ct
