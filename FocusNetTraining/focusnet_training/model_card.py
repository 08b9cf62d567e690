"""The model card of a bundle: what it is for, what it learned from, how, and how well it does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from focusnet import DISCLAIMER, __version__, organs
from focusnet.bundle import ModelSpec
from focusnet.uncertainty import MIN_CASES, Line, expected_dsc, fit_expectation
from numpy.typing import NDArray

from focusnet_training.config import TrainingConfig
from focusnet_training.datasets import Dataset

BOOTSTRAP_SEED = 2021
BOOTSTRAP_DRAWS = 2000
RELIABILITY_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.01)


@dataclass(frozen=True)
class OrganScore:
    """DSC of one organ over the validation scans that show it.

    Attributes:
        n: Number of patients.
        scans: Number of their scans.
        mean: Over the scans.
        low: Lower end of the mean's 95 % bootstrap interval over patients; NaN for fewer than two.
        high: Its upper end.
        least: Least value of a scan.
    """

    n: int
    scans: int
    mean: float
    low: float
    high: float
    least: float

    @classmethod
    def of(cls, values: Sequence[float], patients: Sequence[str]) -> OrganScore:
        """Summarise one value per scan; ``patients`` says whose each is."""
        if not values:
            return cls(0, 0, math.nan, math.nan, math.nan, math.nan)
        groups: dict[str, list[float]] = {}
        for value, patient in zip(values, patients, strict=True):
            groups.setdefault(patient, []).append(value)
        low, high = _interval(list(groups.values())) if len(groups) > 1 else (math.nan, math.nan)
        return cls(len(groups), len(values), float(np.mean(values)), low, high, float(np.min(values)))


def _interval(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Bootstrap interval of the mean over all values, which are drawn by groups: a patient's scans are alike."""
    sums, sizes = np.array([sum(group) for group in groups]), np.array([len(group) for group in groups])
    drawn = np.random.default_rng(BOOTSTRAP_SEED).choice(len(groups), (BOOTSTRAP_DRAWS, len(groups)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), (2.5, 97.5))
    return float(low), float(high)


@dataclass(frozen=True)
class Measured:
    """One organ on the validation scans that show it: DSC, mean probability of the label, and whose scan it is."""

    dsc: list[float]
    certainty: list[float]
    patients: list[str]

    @property
    def n(self) -> int:
        """Number of patients."""
        return len(set(self.patients))

    def line(self) -> Line | None:
        """What the confidence of the bundle is read from; None where there are too few patients to say."""
        return fit_expectation(self.certainty, self.dsc) if self.n >= MIN_CASES else None

    def expected_without_own(self) -> NDArray[np.float64]:
        """Expected DSC of each scan by the line through other patients'; there are more than `MIN_CASES`."""
        expected = []
        for patient, certainty in zip(self.patients, self.certainty, strict=True):
            others = [i for i, other in enumerate(self.patients) if other != patient]
            line = fit_expectation([self.certainty[i] for i in others], [self.dsc[i] for i in others])
            assert line is not None
            expected.append(expected_dsc(certainty, line))
        return np.array(expected)


@dataclass(frozen=True)
class Reliability:
    """What the expected DSC is worth on patients that its line was not fitted on.

    Attributes:
        cases: Pairs of organ and scan.
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
    pairs = [(m.expected_without_own(), np.asarray(m.dsc)) for m in measured if m.n > MIN_CASES]
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
    stages = "; ".join(f"{s.name} {s.steps} steps, learning rate {s.learning_rate:g}" for s in config.schedule)
    x, y, z = spec.spacing_mm_xyz
    small = ", ".join(organs.organ(o).tg263 for o in spec.small_organs) or "none"
    counted = [s.mean for s in card.scores.values() if s.n]
    rows = [_score_row(key, s) for key, s in card.scores.items() if s.n]
    validated = len(dataset.validation[: config.validation_cases])
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
            f"{_patients(dataset)}, split by patient. The validation patients choose the checkpoint of each stage; "
            "they are not an independent test.",
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
            "| organ | patients | mean DSC | 95 % interval | least |",
            "|---|---|---|---|---|",
            *rows,
            f"| **mean over organs** | | **{np.mean(counted):.3f}** | | |",
            "",
            *_course(card.course, spec.small_organs, validated),
            *_confidence(card.reliability),
            *([card.notes.rstrip(), ""] if card.notes else []),
            f"Written by slicer-focusnet {__version__}.",
            "",
        ]
    )


def _patients(dataset: Dataset) -> str:
    parts = dataset.training, dataset.validation
    training, validation = (len({dataset.cases[name].patient for name in names}) for names in parts)
    scans = [len(names) for names in parts]
    several = "" if scans == [training, validation] else f" ({scans[0]} and {scans[1]} scans)"
    return f"{training} training and {validation} validation patients{several}"


def _score_row(key: str, s: OrganScore) -> str:
    patients = f"{s.n}" if s.n == s.scans else f"{s.n} ({s.scans} scans)"
    interval = "–" if math.isnan(s.low) else f"{s.low:.3f}–{s.high:.3f}"
    return f"| {organs.organ(key).tg263} | {patients} | {s.mean:.3f} | {interval} | {s.least:.3f} |"


def _course(log: Sequence[Mapping[str, Any]], small: Sequence[str], scans: int) -> list[str]:
    """First, best and last validation of each stage, each on a number of scans."""
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
        f"The trainer's own validation, on the working grid of {scans} validation scan{'s' * (scans != 1)}: first,",
        "best and last of each stage. For aae the DSC is that of true small organs with their reconstructions.",
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
        f"patient's was taken from the other patients' ({found.cases} organs in scans): mean absolute error "
        f"{found.error:.3f},",
        f"correlation within organs {found.correlation:.2f}.",
        "",
        "| expected DSC | organs in scans | their mean DSC |",
        "|---|---|---|",
        *rows,
        "",
    ]
