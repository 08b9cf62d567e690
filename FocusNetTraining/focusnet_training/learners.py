"""Weights that learn together with their optimiser; the stages with an adversary have two of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from focusnet_training.config import StageConfig
from focusnet_training.stages import Networks, Stage


class Learner:
    """One player of a stage.

    Args:
        parameters: What it changes.
        learning_rate: Before the schedule.
        weight_decay: Of AdamW.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=weight_decay)

    def start(self, factor: float) -> None:
        """Begin a step at ``factor`` of the learning rate, without gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * factor
        self.optimizer.zero_grad(set_to_none=True)

    def clip(self, limit: float) -> Tensor:
        """Shorten the gradient to ``limit``; returns its norm before."""
        return torch.nn.utils.clip_grad_norm_(self.parameters, limit)


def make_learners(stage: Stage, networks: Networks, config: StageConfig, *, adversary: bool) -> dict[str, Learner]:
    """Freeze what the stage does not train, and give each player its optimiser.

    Args:
        stage: What it trains.
        networks: Both networks.
        config: Learning rates.
        adversary: The autoencoder plays against the stage, where the stage shows it shapes.
    """
    networks.model.set_trainable(stage.trainable - {"aae"})
    learners = {}
    model = [p for p in networks.model.parameters() if p.requires_grad]
    if model:
        learners["model"] = Learner(model, config.learning_rate, config.weight_decay)
    if networks.autoencoder is not None and ("aae" in stage.trainable or (adversary and stage.shapes)):
        rate = (adversary and stage.shapes and config.adversary_learning_rate) or config.learning_rate
        learners["autoencoder"] = Learner(networks.autoencoder.parameters(), rate, config.weight_decay)
    return learners


def optimizer_states(learners: dict[str, Learner]) -> dict[str, Any]:
    """What a checkpoint keeps of the players."""
    return {name: learner.optimizer.state_dict() for name, learner in learners.items()}


def restore_optimizers(learners: dict[str, Learner], states: dict[str, Any]) -> None:
    """Inverse of `optimizer_states`."""
    for name, learner in learners.items():
        learner.optimizer.load_state_dict(states[name])


def schedule(step: int, config: StageConfig) -> float:
    """Learning-rate factor: linear warm-up, then a half cosine to zero."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
