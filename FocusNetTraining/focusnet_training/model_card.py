"""The model card of a bundle: what it is for, what it learned from, how, and how well it does."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from focusnet import DISCLAIMER, __version__, organs
from focusnet.bundle import ModelSpec
from focusnet.uncertainty import MIN_CASES, expected_without_own

from focusnet_training.config import TrainingConfig
from focusnet_training.datasets import Dataset

BOOTSTRAP_SEED = 2021
BOOTSTRAP_DRAWS = 2000
RELIABILITY_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.01)


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


@dataclass(frozen=True)
class Measured:
    """One organ on the validation cases that show it: DSC, and mean probability of the label."""

    dsc: list[float]
    certainty: list[float]


@dataclass(frozen=True)
class Reliability:
    """What the expected DSC is worth on patients that its line was not fitted on.

    Attributes:
        cases: Pairs of organ and patient.
        correlation: Of expected and true DSC, within organs (their means taken off); NaN where one does not vary.
        error: Mean absolute difference of the two.
        bins: Range of expected DSC, number of pairs, their mean true DSC.
    """

    cases: int
    correlation: float
    error: float
    bins: tuple[tuple[float, float, int, float], ...]


def reliability(measured: Iterable[Measured]) -> Reliability | None:
    """Compare expected and true DSC, each patient left out of the fit once; None where no organ has enough patients."""
    pairs = [(expected_without_own(m.certainty, m.dsc), np.asarray(m.dsc)) for m in measured if len(m.dsc) > MIN_CASES]
    if not pairs:
        return None
    expected, true = (np.concatenate(values) for values in zip(*pairs, strict=True))
    centred = np.concatenate([np.stack([e - e.mean(), t - t.mean()], axis=1) for e, t in pairs])
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = float(np.corrcoef(centred.T)[0, 1])
    bins = []
    for low, high in itertools.pairwise(RELIABILITY_EDGES):
        inside = (expected >= low) & (expected < high)
        if inside.any():
            bins.append((low, high, int(inside.sum()), float(true[inside].mean())))
    return Reliability(len(true), correlation, float(np.abs(expected - true).mean()), tuple(bins))


@dataclass(frozen=True, eq=False)
class ModelCard:
    """What a card is written from.

    Attributes:
        spec: The model.
        config: Its training configuration.
        dataset: Its data.
        facts: Device, precision, torch version and command of the run.
        scores: Validation DSC per organ.
        reliability: What the confidence is worth; None where too few patients could tell.
        course: The rows of the run's log.
        notes: Further paragraphs.
    """

    spec: ModelSpec
    config: TrainingConfig
    dataset: Dataset
    facts: dict[str, Any]
    scores: dict[str, OrganScore]
    reliability: Reliability | None
    course: Sequence[Mapping[str, Any]]
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
            *(
                [f"- The answer is the mean of {spec.grids} working grids, half a voxel apart."]
                if spec.grids > 1
                else []
            ),
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
            *_course(card.course, spec.small_organs),
            *_confidence(card.reliability),
            *([card.notes.rstrip(), ""] if card.notes else []),
            f"Written by slicer-focusnet {__version__}.",
            "",
        ]
    )


def _course(log: Sequence[Mapping[str, Any]], small: Sequence[str]) -> list[str]:
    """First, best and last validation of each stage."""
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for row in log:
        if "score" in row:
            stages.setdefault(row["stage"], []).append(row)
    rows = []
    for name, course in stages.items():
        shown = [course[0], max(course, key=lambda row: row["score"]), course[-1]]
        for step in sorted({row["step"] for row in shown}):
            row = next(r for r in shown if r["step"] == step)
            small_dsc = _mean_of(row, [f"dsc_{key}" for key in small])
            loss = f"{sum(losses):.3f}" if (losses := [v for k, v in row.items() if k.startswith("loss_")]) else "–"
            # The autoencoder's DSC is that of true masks of small organs with what it makes of them.
            dsc = "–" if name == "aae" else _mean_of(row, [key for key in row if key.startswith("dsc_")])
            away = _mean_of(row, [f"error_mm_{key}" for key in small], 1)
            rows.append(f"| {name} | {step} | {loss} | {dsc} | {small_dsc} | {away} |")
    if not rows:
        return []
    return [
        "### Course of the training",
        "",
        "The trainer's own validation, on the working grid of a few validation patients: first, best and last of each",
        "stage. For aae the DSC is that of true small organs with their reconstructions.",
        "",
        "| stage | step | loss | mean DSC | small organs' DSC | localisation error (mm) |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _mean_of(row: Mapping[str, Any], keys: Iterable[str], digits: int = 3) -> str:
    values = [row[key] for key in keys if key in row]
    return f"{np.mean(values):.{digits}f}" if values else "–"


def _confidence(found: Reliability | None) -> list[str]:
    if found is None:
        return []
    rows = [f"| {low:.1f}–{min(high, 1.0):.1f} | {n} | {mean:.3f} |" for low, high, n, mean in found.bins]
    return [
        "### Confidence",
        "",
        "The confidence shown with an organ is the DSC to expect, from the mean probability of its label. Here each",
        f"patient's was taken from the other patients' ({found.cases} organs of patients): mean absolute error "
        f"{found.error:.3f},",
        f"correlation within organs {found.correlation:.2f}.",
        "",
        "| expected DSC | organs of patients | their mean DSC |",
        "|---|---|---|",
        *rows,
        "",
    ]
