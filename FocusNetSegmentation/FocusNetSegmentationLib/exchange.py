"""What goes from Slicer to a child process and back: a folder with a CT and a request, then the result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, LabelMap, Volume
from focusnet.outputs import OutputOptions
from focusnet.segment import SegmentOptions
from focusnet.uncertainty import uncertainty_percent

if TYPE_CHECKING:
    from focusnet.analysis import Analysis

LABELS_FILE = "labels.npy"
UNCERTAINTY_FILE = "uncertainty.npy"
REPORT_FILE = "report.json"
VOLUME_FILE = "ct.npy"
REQUEST_FILE = "request.json"


@dataclass(frozen=True, eq=False)
class Report:
    """Labels of one CT and what a user should see beside them.

    Attributes:
        labelmap: On the CT's grid.
        organs: For each organ asked for: ``volume_ml``, ``confidence`` in [0, 1] and the codes of its ``flags``.
        flags: All findings: ``code``, ``organ`` (empty for the whole scan), ``severity`` and ``message``.
        notes: What a user should know about the computation.
        stamp: Version, model, weights and settings.
        seconds: Time it took.
        uncertainty: Uncertainty of each voxel's label in percent, on the labels' grid, where it was asked for.
    """

    labelmap: LabelMap
    organs: Mapping[str, Mapping[str, Any]]
    flags: tuple[Mapping[str, str], ...]
    notes: tuple[str, ...]
    stamp: Mapping[str, str]
    seconds: float
    uncertainty: Volume | None = None

    @classmethod
    def of(cls, analysis: Analysis, options: SegmentOptions) -> Report:
        """What of an analysis goes to the user."""
        prediction = analysis.prediction
        return cls(
            analysis.labelmap,
            analysis.organs,
            analysis.flags,
            prediction.notes,
            analysis.stamp,
            analysis.seconds,
            uncertainty_percent(prediction.certainty) if options.output.uncertainty else None,
        )

    def on(self, grid: Geometry) -> Report:
        """The same on the CT's grid where it lies now; no voxel changes.

        Raises:
            FocusNetError: ``E_VOLUME_CHANGED``.
        """
        labels, uncertainty = self.labelmap, self.uncertainty
        if grid.shape_zyx != labels.geometry.shape_zyx:
            raise FocusNetError("E_VOLUME_CHANGED", "The CT's voxels changed while it was segmented; segment it again.")
        return replace(
            self,
            labelmap=LabelMap(labels.array, grid, labels.organs),
            uncertainty=None if uncertainty is None else Volume(uncertainty.array, grid),
        )


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
        "uncertainty": options.output.uncertainty,
    }
    (folder / REQUEST_FILE).write_text(json.dumps(request), encoding="utf-8")


def read_request(folder: Path) -> tuple[Volume, SegmentOptions]:
    """What :func:`write_request` wrote; the CT is mapped from the file, not read at once."""
    array = np.load(folder / VOLUME_FILE, mmap_mode="r", allow_pickle=False)
    request = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    geometry = Geometry(array.shape, np.asarray(request.pop("affine")))
    organs = request.pop("organs")
    output = OutputOptions(uncertainty=request.pop("uncertainty"))
    options = SegmentOptions(organs=None if organs is None else tuple(organs), output=output, **request)
    return Volume(array, geometry), options


def write_report(folder: Path, report: Report) -> None:
    """Put a result into a folder; the text comes last and says that the arrays are complete."""
    np.save(folder / LABELS_FILE, report.labelmap.array)
    if report.uncertainty is not None:
        np.save(folder / UNCERTAINTY_FILE, report.uncertainty.array)
    content = {
        "affine": report.labelmap.geometry.affine.tolist(),
        "labels": {str(value): key for value, key in report.labelmap.organs.items()},
        "organs": report.organs,
        "flags": report.flags,
        "notes": report.notes,
        "stamp": report.stamp,
        "seconds": report.seconds,
        "has_uncertainty": report.uncertainty is not None,
    }
    (folder / REPORT_FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def read_report(folder: Path) -> Report:
    """What :func:`write_report` wrote."""
    content = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    array = np.load(folder / LABELS_FILE, allow_pickle=False)
    labels = {int(value): key for value, key in content["labels"].items()}
    geometry = Geometry(array.shape, np.asarray(content["affine"]))
    uncertainty = None
    if content["has_uncertainty"]:
        uncertainty = Volume(np.load(folder / UNCERTAINTY_FILE, allow_pickle=False), geometry)
    return Report(
        LabelMap(array, geometry, labels),
        content["organs"],
        tuple(content["flags"]),
        tuple(content["notes"]),
        content["stamp"],
        content["seconds"],
        uncertainty,
    )
