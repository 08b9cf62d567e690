"""The scanner: paints the anatomy on a grid with partial volume, then adds blur, noise and the streaks of metal."""

from __future__ import annotations

import numpy as np
from focusnet.geometry import Geometry
from numpy.typing import NDArray
from scipy import ndimage

from focusnet_training.phantom_anatomy import Anatomy
from focusnet_training.phantom_pose import Axes, Block, Pose, SmoothField, sample_axes
from focusnet_training.phantom_shapes import Array, Body, Ellipsoid, Points
from focusnet_training.phantom_tissue import AIR_HU, Tissue, plain

_VIEWS = 180
_SUB_SLICE_MM = 1.6
_TEXTURE_MM = (1.6, 7.0)
_METAL_HU = 9000.0
_SATURATED_HU = 3000.0
_STREAK_HU = 1500.0
_STARVATION = 8.0

Metal = tuple[NDArray[np.float64], float]


class Scanner:
    """One scan of one patient: grid, pose, kernel and dose.

    Args:
        pose: Map from the world to the patient.
        geometry: Axis-aligned output grid.
        rng: Source of texture, couch, kernel and noise.
        noise_hu: Standard deviation of the noise in the head.
    """

    def __init__(self, pose: Pose, geometry: Geometry, rng: np.random.Generator, noise_hu: float) -> None:
        self._pose = pose
        self._geometry = geometry
        self._rng, self._metal_rng, self._noise_rng = rng.spawn(3)
        self._noise_hu = noise_hu
        self._parts = max(1, int(np.ceil(geometry.spacing_xyz[2] / _SUB_SLICE_MM)))
        self._edge_mm = 1.1 * max(geometry.spacing_xyz[:2])

    def scan(self, anatomy: Anatomy, *, couch: bool, metal: bool) -> Array:
        """CT in HU (z, y, x), before rounding.

        Args:
            anatomy: What is scanned.
            couch: With couch, head rest and mask.
            metal: With metal fillings in a few teeth.
        """
        rng, geometry, parts = self._rng, self._geometry, self._parts
        fine, coarse = (SmoothField.covering(rng, sample_axes(geometry, parts), step) for step in _TEXTURE_MM)
        table_mm, has_mask = float(rng.uniform(112, 122)), bool(rng.random() < 0.6)
        fillings = _choose_fillings(anatomy, self._metal_rng) if metal else []
        tissues = [*anatomy.tissues, *(Tissue(f, plain(_METAL_HU, 0)) for f in fillings)]
        hu = np.empty(geometry.shape_zyx, np.float32)
        for slices, axes, block in self._pose.blocks(geometry, parts):
            canvas = np.full(block.shape, AIR_HU, np.float32)
            if couch:
                _paint_couch(canvas, axes, block.points, anatomy.skin, table_mm, has_mask)
            self._paint(canvas, tissues, anatomy.skin, block, (fine.on(axes), coarse.on(axes)))
            hu[slices] = canvas.reshape(-1, parts, *canvas.shape[1:]).mean(axis=1)
        blur = rng.uniform(0.45, 0.75) / geometry.spacing_xyz[0]
        hu = ndimage.gaussian_filter(hu, (0, blur, blur), mode="nearest", truncate=3)
        if fillings:
            metals = [(geometry.world_to_index(self._pose.locate(f.center)), f.radii[0]) for f in fillings]
            add_streaks(hu, metals, geometry.spacing_zyx, self._metal_rng)
        add_noise(hu, self._noise_hu, geometry.spacing_zyx, self._noise_rng)
        return hu

    def _paint(
        self, canvas: Array, tissues: list[Tissue], skin: Body, block: Block, textures: tuple[Array, Array]
    ) -> None:
        fine, coarse = textures
        per_mm = np.float32(1 / self._edge_mm)
        inside = np.clip(np.float32(0.5) - skin.distance(block.points) * per_mm, 0, 1)
        for tissue in tissues:
            window = block.window(tissue.body, self._edge_mm)
            if window is None:
                continue
            distance = tissue.body.distance(block.points[window])
            cover = np.clip(np.float32(0.5) - distance * per_mm, 0, 1)
            cover *= inside[window]
            cover *= np.float32(tissue.opacity)
            view = canvas[window]
            view += cover * (tissue.tone(distance, fine[window], coarse[window]) - view)


def _choose_fillings(anatomy: Anatomy, rng: np.random.Generator) -> list[Ellipsoid]:
    chosen = rng.choice(len(anatomy.crowns), size=int(rng.integers(1, 6)), replace=False)
    radii = rng.uniform(1.6, 3.0, size=len(chosen))
    return [Ellipsoid(anatomy.crowns[i], (r, r, r)) for i, r in zip(chosen, radii.tolist(), strict=True)]


def _paint_couch(canvas: Array, axes: Axes, points: Points, skin: Body, table_mm: float, has_mask: bool) -> None:
    """Couch, head rest and thermoplastic mask in the world; the patient is painted over them."""
    z, y, x = (a.astype(np.float32) for a in axes)
    distance = skin.distance(points)
    rest = (distance < 45) & (y > 35)[None, :, None] & (y < table_mm)[None, :, None] & (np.abs(x) < 90)[None, None, :]
    rest &= (z > -150)[:, None, None]
    canvas[rest] = -930
    if has_mask:
        _, back, up = points.xyz
        front = np.clip((20 - back) * np.float32(0.2), 0, 1) * np.clip((up + 150) * np.float32(0.2), 0, 1)
        sheet = np.clip(np.float32(1.6) - np.abs(distance - np.float32(2.2)), 0, 1) * front
        canvas += sheet * (np.float32(-80) - canvas)
    for top, bottom, value in (
        (table_mm, table_mm + 30, -900.0),
        (table_mm, table_mm + 2.2, -120.0),
        (table_mm + 28, table_mm + 30, -120.0),
    ):
        canvas[:, (y >= top) & (y <= bottom)] = value


def add_noise(hu: Array, noise_hu: float, spacing_zyx: tuple[float, float, float], rng: np.random.Generator) -> None:
    """Add noise with the texture of filtered back projection, stronger and streaky where the body is wide.

    Args:
        hu: CT (z, y, x) in HU, changed in place.
        noise_hu: Standard deviation in a slice of the head.
        spacing_zyx: Voxel size in mm.
        rng: Source of the noise.
    """
    if noise_hu <= 0:
        return
    white = rng.standard_normal(hu.shape, dtype=np.float32)
    _, dy, dx = spacing_zyx
    fine = ndimage.gaussian_filter(white, (0.25, 0.6 / dy, 0.6 / dx), truncate=3)
    coarse = ndimage.gaussian_filter(white, (0.25, 2.2 / dy, 2.2 / dx), truncate=2.5)
    grain = fine - np.float32(0.7) * coarse
    grain /= grain.std()
    streaky = ndimage.gaussian_filter(
        rng.standard_normal(hu.shape, dtype=np.float32), (0, 0.6 / dy, 9 / dx), truncate=2
    )
    streaky /= streaky.std()
    width_mm = (hu > 0).sum(axis=2).max(axis=1) * dx
    excess = np.clip((width_mm - 180) / 60, 0, 1.5).astype(np.float32)[:, None, None]
    hu += np.float32(noise_hu) * ((1 + np.float32(0.4) * excess) * grain + np.float32(0.7) * excess * streaky)


def add_streaks(
    hu: Array, metals: list[Metal], spacing_zyx: tuple[float, float, float], rng: np.random.Generator
) -> None:
    """Add the streaks that beam hardening and photon starvation by metal balls leave in a slice.

    The error of a projection grows with the square of the metal in its way; filtered back projection of that error
    alone, over a limited number of views, gives the bright and dark rays seen in practice.

    Args:
        hu: CT (z, y, x) in HU, changed in place.
        metals: Index (z, y, x) and radius in mm of each ball.
        spacing_zyx: Voxel size in mm.
        rng: Source of the noise of starved rays.
    """
    slice_mm, _, pixel_mm = spacing_zyx
    _, height, width = hu.shape
    angles = (np.arange(_VIEWS) + rng.random()) * np.pi / _VIEWS
    turns = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    detector = np.arange(int(np.hypot(height, width)) + 4, dtype=np.float32)
    for k in range(len(hu)):
        path_mm = np.zeros((_VIEWS, len(detector)), np.float32)
        for (z, y, x), radius_mm in metals:
            off_mm = max(0.0, abs(k - z) - 0.5) * slice_mm
            if off_mm < radius_mm:
                centre = (x - width / 2) * turns[0] + (y - height / 2) * turns[1] + len(detector) / 2
                beside_mm = (detector[None, :] - centre[:, None]) * pixel_mm
                path_mm += 2 * np.sqrt(np.clip(radius_mm**2 - off_mm**2 - beside_mm**2, 0, None))
        if path_mm.any():
            starved = ndimage.gaussian_filter(rng.standard_normal(path_mm.shape, dtype=np.float32), (1.2, 0.6))
            error = np.float32(_STARVATION) * starved * path_mm - path_mm**2
            hu[k] += np.where(hu[k] > _SATURATED_HU, 0, _back_project(error, turns, (height, width)) * _STREAK_HU)


def _back_project(projections: Array, turns: Array, shape: tuple[int, int]) -> Array:
    """Filtered back projection (ramp filter, linear interpolation) of (views, detector) onto an image (y, x)."""
    count = projections.shape[1]
    ramp = np.abs(np.fft.rfftfreq(2 * count))
    filtered = np.fft.irfft(np.fft.rfft(projections, 2 * count, axis=1) * ramp, axis=1)[:, :count].astype(np.float32)
    ys, xs = (np.arange(n, dtype=np.float32) - n / 2 for n in shape)
    image = np.zeros(shape, np.float32)
    for row, cos, sin in zip(filtered, *turns, strict=True):
        place = (ys * sin + np.float32(count / 2))[:, None] + (xs * cos)[None, :]
        left = place.astype(np.int32)
        image += row[left] + (row[left + 1] - row[left]) * (place - left)
    return image / np.float32(len(filtered))
