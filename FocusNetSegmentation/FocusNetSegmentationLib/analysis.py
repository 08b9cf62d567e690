"""Segmentation of one CT with all that a user should see beside it; needs no Slicer, so a child process can do it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from focusnet import DISCLAIMER, quality
from focusnet.geometry import Geometry, LabelMap, Volume
from focusnet.segment import SegmentOptions, organ_keys

if TYPE_CHECKING:
    from focusnet.inference import Cancel, Predictor, Progress

LABELS_FILE = "labels.npy"
REPORT_FILE = "report.json"
VOLUME_FILE = "ct.npy"
REQUEST_FILE = "request.json"


@dataclass(frozen=True, eq=False)
class Analysis:
    """Labels of one CT and what is known about them.

    Attributes:
        labelmap: On the CT's grid in the world.
        organs: For each organ asked for: ``volume_ml``, ``confidence`` in [0, 1] and the codes of its ``flags``.
        flags: All findings: ``code``, ``organ`` (empty for the whole scan), ``severity`` and ``message``.
        notes: What a user should know about the computation.
        stamp: Version, model, weights and settings.
        seconds: Time it took.
    """

    labelmap: LabelMap
    organs: Mapping[str, Mapping[str, Any]]
    flags: tuple[Mapping[str, str], ...]
    notes: tuple[str, ...]
    stamp: Mapping[str, str]
    seconds: float


def analyse(
    volume: Volume,
    predictor: Predictor,
    organs: tuple[str, ...] | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> Analysis:
    """Check, segment and check again.

    Args:
        volume: CT in HU.
        predictor: Loaded model.
        organs: Names of the organs to label, any spelling; None takes all of the model.
        progress: Told the stage, the finished share and the estimated seconds left.
        cancel: Asked whether to stop.

    Raises:
        FocusNetError: The CT or the organs are refused.
        Cancelled: ``cancel`` returned True.
    """
    start = time.perf_counter()
    findings = quality.check_input(volume)
    prediction = predictor.predict(volume, None if organs is None else organ_keys(organs), progress, cancel)
    findings += quality.check_output(prediction.labelmap, volume, list(prediction.organs))
    table = {
        key: {
            "volume_ml": round(result.volume_ml, 3),
            "confidence": round(result.confidence, 3),
            "flags": [flag.code for flag in findings if flag.organ == key],
        }
        for key, result in prediction.organs.items()
    }
    flags = tuple(
        {"code": flag.code, "organ": flag.organ or "", "severity": flag.severity, "message": flag.message}
        for flag in findings
    )
    stamp = {**{key: str(value) for key, value in prediction.settings.items()}, "disclaimer": DISCLAIMER}
    seconds = time.perf_counter() - start
    return Analysis(prediction.labelmap, table, flags, prediction.notes, stamp, seconds)


def write_request(folder: Path, volume: Volume, options: SegmentOptions) -> None:
    """Put a CT and how to segment it into a folder."""
    np.save(folder / VOLUME_FILE, volume.array)
    request = {
        "affine": volume.geometry.affine.tolist(),
        "model": options.model,
        "organs": options.organs,
        "device": options.device,
        "precision": options.precision,
        "fast": options.fast,
    }
    (folder / REQUEST_FILE).write_text(json.dumps(request), encoding="utf-8")


def read_request(folder: Path) -> tuple[Volume, SegmentOptions]:
    """What :func:`write_request` wrote; the CT is mapped from the file, not read at once."""
    array = np.load(folder / VOLUME_FILE, mmap_mode="r", allow_pickle=False)
    request = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    geometry = Geometry(array.shape, np.asarray(request.pop("affine")))
    organs = request.pop("organs")
    return Volume(array, geometry), SegmentOptions(organs=None if organs is None else tuple(organs), **request)


def write_analysis(folder: Path, analysis: Analysis) -> None:
    """Put a result into a folder; the report comes last and says that the labels are complete."""
    np.save(folder / LABELS_FILE, analysis.labelmap.array)
    report = {
        "affine": analysis.labelmap.geometry.affine.tolist(),
        "labels": {str(value): key for value, key in analysis.labelmap.organs.items()},
        "organs": analysis.organs,
        "flags": analysis.flags,
        "notes": analysis.notes,
        "stamp": analysis.stamp,
        "seconds": analysis.seconds,
    }
    (folder / REPORT_FILE).write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")


def read_analysis(folder: Path) -> Analysis:
    """What :func:`write_analysis` wrote."""
    report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    array = np.load(folder / LABELS_FILE, allow_pickle=False)
    labels = {int(value): key for value, key in report["labels"].items()}
    return Analysis(
        LabelMap(array, Geometry(array.shape, np.asarray(report["affine"])), labels),
        report["organs"],
        tuple(report["flags"]),
        tuple(report["notes"]),
        report["stamp"],
        report["seconds"],
    )
