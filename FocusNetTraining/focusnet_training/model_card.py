"""The model card of a bundle: what it is for, what it learned from, how, and how well it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from focusnet import DISCLAIMER, __version__, organs
from focusnet.bundle import ModelSpec

from focusnet_training.config import TrainingConfig
from focusnet_training.datasets import Dataset

BOOTSTRAP_SEED = 2021
BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True)
class OrganScore:
    """DSC of one organ over the validation cases: number, mean, its 95 % bootstrap interval, least value."""

    n: int
    mean: float
    low: float
    high: float
    least: float

    @classmethod
    def of(cls, values: Sequence[float]) -> OrganScore:
        """Summarise one value per patient."""
        if not values:
            return cls(0, float("nan"), float("nan"), float("nan"), float("nan"))
        drawn = np.random.default_rng(BOOTSTRAP_SEED).choice(values, (BOOTSTRAP_DRAWS, len(values)))
        low, high = np.percentile(drawn.mean(axis=1), (2.5, 97.5))
        return cls(len(values), float(np.mean(values)), float(low), float(high), float(np.min(values)))


@dataclass(frozen=True, eq=False)
class ModelCard:
    """What a card is written from.

    Attributes:
        spec: The model.
        config: Its training configuration.
        dataset: Its data.
        facts: Device, precision, torch version and command of the run.
        scores: Validation DSC per organ.
        notes: Further paragraphs.
    """

    spec: ModelSpec
    config: TrainingConfig
    dataset: Dataset
    facts: dict[str, Any]
    scores: dict[str, OrganScore]
    notes: str


def write_card(card: ModelCard) -> str:
    """Text of ``MODEL_CARD.md``."""
    spec, config, dataset = card.spec, card.config, card.dataset
    stages = "; ".join(f"{s.name} {s.steps} steps, learning rate {s.learning_rate:g}" for s in config.stages)
    x, y, z = spec.spacing_mm_xyz
    small = ", ".join(organs.organ(o).tg263 for o in spec.small_organs) or "none"
    counted = [s.mean for s in card.scores.values() if s.n]
    rows = [
        f"| {organs.organ(key).tg263} | {s.n} | {s.mean:.3f} | {s.low:.3f}–{s.high:.3f} | {s.least:.3f} |"
        for key, s in card.scores.items()
        if s.n
    ]
    return "\n".join(
        [
            f"# {spec.name}",
            "",
            spec.description,
            "",
            f"**{DISCLAIMER}**",
            "",
            "## Data",
            "",
            spec.training_data,
            "",
            f"{len(dataset.training)} training and {len(dataset.validation)} validation patients, split by patient. "
            "The validation patients choose the checkpoint of each stage; they are not an independent test.",
            "",
            "## Protocol",
            "",
            f"- Working grid {x:g} x {y:g} x {z:g} mm, HU window {config.data.window_hu[0]:g} to "
            f"{config.data.window_hu[1]:g}, chunks of {config.data.chunk_zyx} voxels (z, y, x).",
            f"- Network widths {config.network.widths}, DenseASPP growth {config.network.growth}; small organs through "
            f"SOL-Net and SOS-Net: {small}.",
            f"- Stages: {stages}; seed {config.seed}; moving average of the weights {config.ema_decay:g}.",
            f"- Organs that were not drawn in a case: {config.loss.missing} loss.",
            f"- Trained on {card.facts['device']} in {card.facts['precision']} with torch {card.facts['torch']}.",
            "",
            *(["```", str(card.facts["command"]), "```", ""] if card.facts["command"] else []),
            "## Validation",
            "",
            "Dice similarity coefficient on the native grid of each validation CT, through the shipped pipeline; only",
            "organs that were drawn and lie mostly inside the image count. Intervals: 95 % bootstrap over patients, "
            f"seed {BOOTSTRAP_SEED}.",
            "",
            "| organ | n | mean DSC | 95 % interval | least |",
            "|---|---|---|---|---|",
            *rows,
            f"| **mean over organs** | | **{np.mean(counted):.3f}** | | |",
            "",
            *([card.notes.rstrip(), ""] if card.notes else []),
            f"Written by slicer-focusnet {__version__}.",
            "",
        ]
    )
