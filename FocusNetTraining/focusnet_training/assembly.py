"""What a configuration, its data and the computer make: the organs, the networks, and what can't be trained at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from focusnet.devices import Precision, resolve_precision
from focusnet.errors import FocusNetError
from focusnet.networks.autoencoder import ShapeAutoencoder
from focusnet.networks.builders import build
from focusnet.networks.focusnet import FocusNetV2

from focusnet_training.config import StageName, TrainingConfig
from focusnet_training.datasets import Dataset, PreparedCase, small_organs


def chosen_organs(config: TrainingConfig, dataset: Dataset) -> tuple[str, ...]:
    """The organs to train: those asked for, or all of the data set.

    Raises:
        FocusNetError: ``E_CONFIG`` for an organ that the data set does not have.
    """
    organs = config.data.organs or dataset.organs
    unknown = set(organs) - set(dataset.organs)
    if unknown:
        raise FocusNetError("E_CONFIG", f"The data set has no {', '.join(sorted(unknown))}.")
    return organs


def chosen_small(config: TrainingConfig, cases: Sequence[PreparedCase], organs: Sequence[str]) -> tuple[str, ...]:
    """The organs for SOL- and SOS-Net: those asked for, or by the volume rule.

    Raises:
        FocusNetError: ``E_CONFIG`` for organs that are not trained.
    """
    if config.data.small_organs == "auto":
        return tuple(small_organs(cases, organs, config.data.small_voxels, config.network.roi_shape_zyx))
    small = config.data.small_organs
    unknown = set(small) - set(organs)
    if unknown:
        raise FocusNetError("E_CONFIG", f"small_organs names {', '.join(sorted(unknown))}, which are not trained.")
    return small


def check_small(
    stages: Iterable[StageName], cases: Sequence[PreparedCase], organs: Sequence[str], small: Sequence[str]
) -> None:
    """Refuse stages of small organs without any, or without a training case that teaches one.

    Raises:
        FocusNetError: ``E_CONFIG``.
    """
    if set(stages) <= {"snet"}:
        return
    advice = "train the stage snet alone (--stage snet), or name"
    if not small:
        raise FocusNetError("E_CONFIG", f"No organ is small by the volume rule; {advice} data.small_organs.")
    classes = [organs.index(organ) + 1 for organ in small]
    if not any(case.annotated[c - 1] and c in case.voxels for case in cases for c in classes):
        raise FocusNetError("E_CONFIG", f"No training case shows any of {', '.join(small)}; {advice} others.")


def training_precision(name: str, device: torch.device) -> Precision:
    """The arithmetic to train in; fp16 is none, since small gradients vanish in it.

    Raises:
        FocusNetError: ``E_PRECISION``.
    """
    precision = resolve_precision(name, device)
    if precision != "fp16":
        return precision
    if name != "auto":
        raise FocusNetError("E_PRECISION", "Small gradients vanish in fp16; give auto, bf16 or fp32 to train in.")
    return "fp32"


def check_validation(
    stages: Iterable[StageName], cases: Sequence[PreparedCase], organs: Sequence[str], small: Sequence[str]
) -> None:
    """Refuse validation cases that can't choose a stage's checkpoint, since they don't show what it learns.

    Raises:
        FocusNetError: ``E_CONFIG``.
    """
    shown = {organs[c - 1] for case in cases for c in case.voxels if case.scored[c - 1]}
    advice = "choose another data.fold, or more validation_cases"
    if not shown:
        raise FocusNetError("E_CONFIG", f"No validation case shows an organ that counts; {advice}.")
    if not set(stages) <= {"snet"} and not shown & set(small):
        raise FocusNetError("E_CONFIG", f"No validation case shows any of {', '.join(small)}; {advice}.")


def check_shares(config: TrainingConfig, processes: int) -> None:
    """Refuse a number of processes that can't share the chunks of a step.

    Raises:
        FocusNetError: ``E_CONFIG``.
    """
    uneven = [s.name for s in config.schedule if s.accumulate % processes]
    if uneven:
        change = " ".join(f"--set stages.{name}.accumulate={processes}" for name in uneven)
        raise FocusNetError("E_CONFIG", f"{processes} processes can't share the chunks of a step evenly; add {change}.")


def mean_voxels(cases: Sequence[PreparedCase], organs: int) -> list[float]:
    """Mean voxels of each organ over the cases that show it, NaN where none does."""
    sizes = [[c.voxels[k].size for c in cases if k in c.voxels] for k in range(1, organs + 1)]
    return [float(np.mean(s)) if s else math.nan for s in sizes]


def build_model(config: TrainingConfig, organs: int, small: int) -> FocusNetV2:
    """The network of a configuration for ``organs`` classes and ``small`` small organs."""
    model = build("focusnetv2", **network_arguments(config, organs, small))
    assert isinstance(model, FocusNetV2)
    return model


def build_autoencoder(config: TrainingConfig) -> ShapeAutoencoder | None:
    """The autoencoder of a configuration's shape constraint, if it has one."""
    if config.shape.constraint == "none":
        return None
    return ShapeAutoencoder(config.network.roi_shape_zyx, config.shape.widths, config.shape.code_size)


def network_arguments(config: TrainingConfig, organs: int, small: int) -> dict[str, Any]:
    """Constructor arguments of the network, as the bundle stores them."""
    return {"num_classes": organs + 1, "num_small": small, **config.network.model_dump()}
