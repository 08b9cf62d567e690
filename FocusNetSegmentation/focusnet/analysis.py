"""Segmentation of one CT with all that a user should see beside it: the same for files, Slicer and scripts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from focusnet import DISCLAIMER, quality
from focusnet.geometry import LabelMap, Volume
from focusnet.organs import organ

if TYPE_CHECKING:
    from focusnet.inference import Cancel, Prediction, Predictor, Progress

NOT_LOCALISED = "not_localised"
LOW_CONFIDENCE = "low_confidence"
LEAST_CONFIDENCE = 0.5


@dataclass(frozen=True, eq=False)
class Analysis:
    """Labels of one CT and what is known about them.

    Attributes:
        prediction: What the model says, on the CT's grid.
        organs: For each organ asked for: ``volume_ml``, ``confidence`` in [0, 1] and the codes of its ``flags``.
        flags: All findings: ``code``, ``organ`` (empty for the whole scan), ``severity`` and ``message``.
        seconds: Time it took.
    """

    prediction: Prediction
    organs: Mapping[str, Mapping[str, Any]]
    flags: tuple[Mapping[str, str], ...]
    seconds: float

    @property
    def labelmap(self) -> LabelMap:
        """The labels."""
        return self.prediction.labelmap

    @property
    def stamp(self) -> dict[str, str]:
        """What made the labels and what they may be used for; kept in every file that can hold it."""
        return {**{key: str(value) for key, value in self.prediction.settings.items()}, "disclaimer": DISCLAIMER}


def analyse(
    volume: Volume,
    predictor: Predictor,
    organs: Sequence[str] | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Analysis:
    """Check, segment and check again.

    Args:
        volume: CT in HU.
        predictor: Loaded model.
        organs: Canonical keys of the organs to label; None takes all of the model.
        progress: Told the stage, the finished share and the estimated seconds left.
        cancel: Asked whether to stop.

    Raises:
        FocusNetError: The CT or the organs are refused.
        Cancelled: ``cancel`` returned True.
    """
    start = time.perf_counter()
    findings = quality.check_input(volume)
    prediction = predictor.predict(volume, organs, progress, cancel)
    findings += quality.check_output(prediction.labelmap, volume, list(prediction.organs))
    flags = _doubts(prediction) + [
        {"code": flag.code, "organ": flag.organ or "", "severity": flag.severity, "message": flag.message}
        for flag in findings
    ]
    table = {
        key: {
            "volume_ml": round(result.volume_ml, 3),
            "confidence": round(result.confidence, 3),
            "flags": [flag["code"] for flag in flags if flag["organ"] == key],
        }
        for key, result in prediction.organs.items()
    }
    return Analysis(prediction, table, tuple(flags), time.perf_counter() - start)


def _doubts(prediction: Prediction) -> list[dict[str, str]]:
    """A flag for each small organ that SOL-Net does not see, and for each organ that is there but hardly believed."""
    doubts = []
    for key, result in prediction.organs.items():
        name = organ(key).name
        if result.peak is not None and not result.peak.found:
            message = f"{name}: not localised (peak {result.peak.height:.2f}); S-Net's answer was kept."
            doubts.append((NOT_LOCALISED, key, message))
        if result.volume_ml > 0 and result.confidence < LEAST_CONFIDENCE:
            message = f"{name}: low confidence ({result.confidence:.2f}); expect to redraw much of it."
            doubts.append((LOW_CONFIDENCE, key, message))
    return [{"code": code, "organ": key, "severity": "warning", "message": text} for code, key, text in doubts]
