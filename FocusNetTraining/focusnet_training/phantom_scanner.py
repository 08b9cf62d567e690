"""The scanner: paints the anatomy on a grid with partial volume, then adds blur, noise and the streaks of metal."""

from __future__ import annotations

import numpy as np
from focusnet.geometry import Geometry
from numpy.typing import NDArray
from scipy import ndimage

from focusnet_training.phantom_anatomy import Anatomy
from focusnet_training.phantom_pose import Block, Pose, SmoothField, sample_axes
from focusnet_training.phantom_shapes import Array, Body, Ellipsoid, Points
from focusnet_training.phantom_tissue import AIR_HU, Tissue, plain

_VIEWS = 180
_SUB_SLICE_MM = 1.6
_BLOCK_VOXELS = 400_000
_METAL_HU = 9000.0

Metal = tuple[float, float, float, float]


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
        self._axes = sample_axes(geometry, self._parts)
        self._edge_mm = 1.1 * max(geometry.spacing_xyz[:2])

    def scan(self, anatomy: Anatomy, block: Block, *, couch: bool, metal: bool) -> Array:
        """CT in HU (z, y, x), before rounding.

        Args:
            anatomy: What is scanned.
            block: Patient coordinates of the voxel centres, to find the fillings.
            couch: With couch, head rest and mask.
            metal: With metal fillings in a few teeth.
        """
        rng, geometry = self._rng, self._geometry
        fine, gyral = (SmoothField.covering(rng, self._axes, step) for step in (1.6, 7.0))
        table_mm, has_mask = float(rng.uniform(112, 122)), bool(rng.random() < 0.6)
        tissues = list(anatomy.tissues)
        metals: list[Metal] = []
        if metal:
            fillings = _choose_fillings(anatomy, self._metal_rng)
            tissues += [Tissue(f, plain(_METAL_HU, 0)) for f in fillings]
            metals = [m for f in fillings if (m := _voxel_of(f, block)) is not None]
        hu = np.empty(geometry.shape_zyx, np.float32)
        z, y, x = self._axes
        step = max(1, _BLOCK_VOXELS // (self._parts * len(y) * len(x)))
        for start in range(0, len(hu), step):
            stop = min(len(hu), start + step)
            axes = (z[start * self._parts : stop * self._parts], y, x)
            part = Block(self._pose.points(axes))
            canvas = np.full((len(axes[0]), len(y), len(x)), AIR_HU, np.float32)
            if couch:
                _paint_couch(canvas, axes, part.points, anatomy.skin, table_mm, has_mask)
            self._paint(canvas, tissues, anatomy.skin, part, (fine.on(axes), gyral.on(axes)))
            hu[start:stop] = canvas.reshape(stop - start, self._parts, len(y), len(x)).mean(axis=1)
        blur = rng.uniform(0.45, 0.75) / geometry.spacing_xyz[0]
        hu = ndimage.gaussian_filter(hu, (0, blur, blur), mode="nearest", truncate=3)
        if metals:
            add_streaks(hu, metals, geometry.spacing_zyx, self._metal_rng)
        add_noise(hu, self._noise_hu, geometry.spacing_zyx, self._noise_rng)
        return hu

    def _paint(
        self, canvas: Array, tissues: list[Tissue], skin: Body, block: Block, textures: tuple[Array, Array]
    ) -> None:
        fine, gyral = textures
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
            view += cover * (tissue.tone(distance, fine[window], gyral[window]) - view)


def _choose_fillings(anatomy: Anatomy, rng: np.random.Generator) -> list[Ellipsoid]:
    chosen = rng.choice(len(anatomy.crowns), size=int(rng.integers(1, 6)), replace=False)
    radii = rng.uniform(1.6, 3.0, size=len(chosen))
    return [Ellipsoid(anatomy.crowns[i], (r, r, r)) for i, r in zip(chosen, radii.tolist(), strict=True)]


def _voxel_of(filling: Ellipsoid, block: Block) -> Metal | None:
    """Nearest voxel (z, y, x) and radius in mm; None outside the grid."""
    window = block.window(filling, 2.0)
    if window is None:
        return None
    distance = filling.distance(block.points[window])
    if distance.min() > 0:
        return None
    nearest = np.unravel_index(int(np.argmin(distance)), distance.shape)
    z, y, x = (float(i + w.start) for i, w in zip(nearest, window, strict=True))
    return z, y, x, filling.radii[0]


def _paint_couch(
    canvas: Array, axes: tuple[NDArray[np.float64], ...], points: Points, skin: Body, table_mm: float, has_mask: bool
) -> None:
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
    width_mm = (hu > -500).sum(axis=2).max(axis=1) * dx
    excess = np.clip((width_mm - 225) / 60, 0, 1.5).astype(np.float32)[:, None, None]
    hu += np.float32(noise_hu) * ((1 + np.float32(0.4) * excess) * grain + np.float32(0.7) * excess * streaky)


def add_streaks(
    hu: Array, metals: list[Metal], spacing_zyx: tuple[float, float, float], rng: np.random.Generator
) -> None:
    """Add the streaks that beam hardening and photon starvation by metal balls leave in a slice.

    The error of a projection grows with the square of the metal in its way; filtered back projection of that error
    alone, over a limited number of views, gives the bright and dark rays seen in practice.

    Args:
        hu: CT (z, y, x) in HU, changed in place.
        metals: (z, y, x) in voxels and radius in mm of each ball.
        spacing_zyx: Voxel size in mm.
        rng: Source of the noise of starved rays.
    """
    depth, height, width = hu.shape
    slice_mm, _, pixel_mm = spacing_zyx
    angles = (np.arange(_VIEWS) + rng.random()) * np.pi / _VIEWS
    detectors = int(np.ceil(np.hypot(height, width))) + 4
    position = (np.arange(detectors) - detectors / 2).astype(np.float32)
    ramp = np.abs(np.fft.rfftfreq(2 * detectors)).astype(np.float32)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    ys = (np.arange(height, dtype=np.float32) - height / 2)[:, None]
    xs = (np.arange(width, dtype=np.float32) - width / 2)[None, :]
    for k in range(depth):
        path = np.zeros((_VIEWS, detectors), np.float32)
        for z, y, x, radius_mm in metals:
            size = np.sqrt(max(0.0, radius_mm**2 - max(0.0, abs(k - z) - 0.5) ** 2 * slice_mm**2)) / pixel_mm
            if size < 0.4:
                continue
            centre = (x - width / 2) * cos + (y - height / 2) * sin
            path += 2 * np.sqrt(np.clip(size**2 - (position[None, :] - centre[:, None]) ** 2, 0, None))
        if not path.any():
            continue
        path *= np.float32(pixel_mm)
        error = -(path**1.7) * 1.0 + rng.standard_normal(path.shape).astype(np.float32) * path * 1.5
        filtered = np.fft.irfft(np.fft.rfft(error, 2 * detectors, axis=1) * ramp, axis=1)[:, :detectors].astype(
            np.float32
        )
        image = np.zeros((height, width), np.float32)
        for view in range(_VIEWS):
            place = xs * cos[view] + ys * sin[view] + detectors / 2
            left = place.astype(np.int32)
            part = place - left
            row = filtered[view]
            image += row[left] * (1 - part) + row[left + 1] * part
        hu[k] += image * np.float32(np.pi / _VIEWS * 60)
