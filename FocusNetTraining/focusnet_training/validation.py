"""Validation between steps: whole cases on the working grid, in overlapping chunks as in inference."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from focusnet.bundle import PEAK_THRESHOLD
from focusnet.devices import Precision, computing
from focusnet.evaluation.overlap import dice
from focusnet.geometry import Box
from focusnet.networks.autoencoder import ShapeAutoencoder
from focusnet.networks.focusnet import FocusNetV2
from focusnet.networks.roi import Peaks, crop_roi, find_agreed_peaks, find_peaks, roi_start
from focusnet.postprocessing import RoiAnswer, fuse
from focusnet.preprocessing import Intensity
from focusnet.tiling import SparseMaps, piece_starts, piece_weights, triple
from numpy.typing import NDArray
from torch import Tensor

from focusnet_training.config import StageName
from focusnet_training.datasets import PreparedCase
from focusnet_training.distributed import Processes

PENALTY_MM = 30.0
Show = Callable[[int, PreparedCase, NDArray[np.int64]], None]


@dataclass(frozen=True)
class ValidationResult:
    """Means over the validation cases.

    Attributes:
        score: What chooses the checkpoint of the stage: mean DSC over the organs, for SOL-Net minus the mean
            localisation error in units of 100 mm.
        dsc: Mean DSC of each organ over the cases where it counts.
        localisation_mm: Mean distance of peak and true centroid of each small organ.
    """

    score: float
    dsc: dict[str, float]
    localisation_mm: dict[str, float]


def validate(
    model: FocusNetV2,
    cases: Sequence[PreparedCase],
    organs: Sequence[str],
    small_classes: Sequence[int],
    *,
    stage: StageName,
    intensity: Intensity,
    chunk_zyx: tuple[int, int, int],
    device: torch.device,
    precision: Precision,
    processes: Processes = Processes(),
    show: Show | None = None,
) -> ValidationResult:
    """Score a model on prepared cases; organs that were not annotated or mostly lie outside the image don't count.

    Several processes share the cases; all get the result. ``show`` is told each case that this process segmented.
    """
    dsc = np.full((len(cases), len(organs)), np.nan)
    errors = np.full((len(cases), len(small_classes)), np.nan)
    localise = stage != "snet"
    training = model.training
    model.eval()
    for number in processes.share(len(cases)):
        case = cases[number]
        with computing(device, precision):
            probability, heatmaps, features, ct = predict_case(model, case, intensity, chunk_zyx, device, localise)
            if heatmaps is not None:
                # SOL-Net's own stage is scored by its maps alone, the later ones as the pipeline uses them.
                peaks = (
                    find_peaks(heatmaps[None])
                    if stage == "sol"
                    else find_agreed_peaks(heatmaps[None], probability[None, list(small_classes)])
                )
                for k, value in enumerate(small_classes):
                    if case.scored[value - 1] and value in case.voxels:
                        errors[number, k] = _localisation_error(peaks.position_zyx[0, k], case, value)
                if stage in ("sos", "joint"):
                    assert features is not None
                    probability = refine(model, probability, peaks, features, ct, small_classes)
        if stage == "sol":
            continue
        shape = case.ct.shape
        predicted = probability[:, : shape[0], : shape[1], : shape[2]].argmax(0).cpu().numpy()
        for index in range(len(organs)):
            # An organ that is not there has no DSC, found or not.
            if case.scored[index] and index + 1 in case.voxels:
                dsc[number, index] = dice(np.asarray(case.labels) == index + 1, predicted == index + 1)
        if show is not None:
            show(number, case, predicted)
    model.train(training)
    mean_dsc = _means(dsc, organs, processes)
    mean_error = _means(errors, [organs[c - 1] for c in small_classes], processes)
    score = -np.mean(list(mean_error.values())) / 100 if stage == "sol" else np.mean(list(mean_dsc.values()))
    return ValidationResult(float(score), mean_dsc, mean_error)


def validate_shapes(
    autoencoder: ShapeAutoencoder,
    cases: Sequence[PreparedCase],
    organs: Sequence[str],
    small_classes: Sequence[int],
    *,
    device: torch.device,
    processes: Processes = Processes(),
) -> ValidationResult:
    """Score an autoencoder: DSC between the true masks of the small organs and their reconstructions."""
    dsc = np.full((len(cases), len(small_classes)), np.nan)
    roi = autoencoder.roi_shape_zyx
    for number in processes.share(len(cases)):
        case = cases[number]
        labels = torch.from_numpy(np.array(case.labels))
        pad = [max(r - size, 0) for r, size in zip(roi, labels.shape, strict=True)]
        labels = F.pad(labels, (0, pad[2], 0, pad[1], 0, pad[0]))
        for k, value in enumerate(small_classes):
            if value in case.voxels and case.scored[value - 1]:
                centre = np.mean(np.unravel_index(case.voxels[value], case.labels.shape), axis=1)
                mask = crop_roi(labels == value, roi_start(centre, roi, labels.shape), roi)
                with torch.no_grad():
                    answer = autoencoder(mask[None, None].float().to(device)).reconstruction[0, 0] > 0.5
                if mask.any() or answer.any():  # the ROI round the centroid of a bent organ may miss it
                    dsc[number, k] = dice(mask.numpy(), answer.cpu().numpy())
    means = _means(dsc, [organs[c - 1] for c in small_classes], processes)
    return ValidationResult(float(np.mean(list(means.values()))), means, {})


def _means(values: NDArray[np.float64], names: Sequence[str], processes: Processes) -> dict[str, float]:
    """Mean of each column over the cases that count (the others are NaN), whichever process did them."""
    counts = processes.sum(np.isfinite(values).astype(np.float64)) > 0
    values = processes.sum(np.nan_to_num(values))
    return {name: float(np.mean(values[counts[:, k], k])) for k, name in enumerate(names) if bool(counts[:, k].any())}


def overlap(chunk_zyx: tuple[int, int, int]) -> tuple[int, int, int]:
    """Voxels that neighbouring chunks of a whole case have in common: a quarter."""
    z, y, x = (size // 4 for size in chunk_zyx)
    return z, y, x


def predict_case(
    model: FocusNetV2,
    case: PreparedCase,
    intensity: Intensity,
    chunk_zyx: tuple[int, int, int],
    device: torch.device,
    localise: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
    """Blended class probabilities (C, D, H, W), heat maps (K, D, H, W), features and the padded CT (1, 1, D, H, W).

    The chunks have the shape of training, since normalisation and channel gates depend on it; a smaller case is padded
    with air at its ends. Heat maps and features are None unless ``localise``.
    """
    ct = torch.from_numpy(intensity(np.asarray(case.ct, np.float32))).to(device)[None, None]
    pad = [max(chunk - size, 0) for chunk, size in zip(chunk_zyx, ct.shape[2:], strict=True)]
    ct = F.pad(ct, (0, pad[2], 0, pad[1], 0, pad[0]), value=-1.0)
    shared = overlap(chunk_zyx)
    ramps = [torch.from_numpy(piece_weights(n, o)).to(device) for n, o in zip(chunk_zyx, shared, strict=True)]
    weights = ramps[0][:, None, None] * ramps[1][:, None] * ramps[2]
    totals: list[Tensor | None] = [None, None, None]
    weight_sum = torch.zeros(ct.shape[2:], device=device)
    starts = (piece_starts(n, c, o) for n, c, o in zip(ct.shape[2:], chunk_zyx, shared, strict=True))
    for start in itertools.product(*starts):
        z, y, x = (slice(s, s + c) for s, c in zip(start, chunk_zyx, strict=True))
        chunk = ct[:, :, z, y, x].contiguous(memory_format=torch.channels_last_3d)
        if localise:
            output = model(chunk)
            parts = [output.logits.float().softmax(1), output.heatmaps, output.features]
        else:
            parts = [model.snet(chunk).logits.float().softmax(1), None, None]
        for i, part in enumerate(parts):
            if part is None:
                continue
            total = totals[i]
            if total is None:
                total = totals[i] = torch.zeros(part.shape[1], *ct.shape[2:], device=device)
            total[:, z, y, x] += part[0].float() * weights
        weight_sum[z, y, x] += weights
    for total in totals:
        if total is not None:
            total /= weight_sum
    assert totals[0] is not None
    return totals[0], totals[1], totals[2], ct


def refine(
    model: FocusNetV2, probability: Tensor, peaks: Peaks, features: Tensor, ct: Tensor, small_classes: Sequence[int]
) -> Tensor:
    """S-Net's class probabilities (C, D, H, W) with SOS-Net's answers in the ROIs, fused as in the shipped pipeline."""
    roi = model.roi_shape_zyx
    answers = []
    for k, value in enumerate(small_classes):
        if float(peaks.value[0, k]) >= PEAK_THRESHOLD:
            start = roi_start(peaks.position_zyx[0, k], roi, ct.shape[2:])
            logits = model.refine(k, crop_roi(features[None], start, roi), crop_roi(ct, start, roi))
            box = Box(start, triple(a + n for a, n in zip(start, roi, strict=True)))
            answers.append(RoiAnswer(value - 1, box, torch.sigmoid(logits[0, 0].float()).cpu().numpy()))
    maps = SparseMaps(len(probability) - 1, triple(probability.shape[1:]))
    for z, plane in enumerate(probability[1:].float().cpu().numpy().transpose(1, 0, 2, 3)):
        maps.put(z, plane)
    fuse(maps, range(len(probability) - 1), answers)
    whole = Box((0, 0, 0), maps.shape_zyx)
    organs = torch.from_numpy(np.stack([maps.read(channel, whole) for channel in range(len(probability) - 1)]))
    return torch.cat([1 - organs.sum(0, keepdim=True), organs])


def _localisation_error(position_zyx: Tensor, case: PreparedCase, value: int) -> float:
    position = position_zyx.cpu().numpy()
    truth = np.mean(np.unravel_index(case.voxels[value], case.ct.shape), axis=1)
    distance = float(np.linalg.norm((position - truth) * np.asarray(case.geometry.spacing_zyx)))
    return min(distance, PENALTY_MM) if math.isfinite(distance) else PENALTY_MM
