"""The whole way on a synthetic patient: phantom, segmentation, evaluation, scene and picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from focusnet.analysis import Analysis, analyse
from focusnet.evaluation import EvaluationOptions, Row, evaluate
from focusnet.io.image import write_image
from focusnet.io.segmentation import write_segmentation
from focusnet.outputs import OutputOptions, Result, has_mrml, plan_outputs, write_outputs
from focusnet.pictures import contour_views
from focusnet.segment import SegmentOptions, make_predictor

from focusnet_training.phantom import make_phantom

if TYPE_CHECKING:
    from focusnet.inference import Progress

DEMO_SEED = 7
"""Data sets of phantoms draw their cases' seeds from 32 bits, so that this patient is in none of them."""


@dataclass(frozen=True, eq=False)
class Demo:
    """What the demonstration found.

    Attributes:
        analysis: Segmentation of the phantom.
        rows: Measures of each organ of the model against the truth.
        small_organs: The organs that went through SOL-Net and SOS-Net.
        files: What was written.
        seconds: Time of all of it.
    """

    analysis: Analysis
    rows: tuple[Row, ...]
    small_organs: tuple[str, ...]
    files: tuple[Path, ...]
    seconds: float

    @property
    def mean_dsc(self) -> float:
        """Mean DSC over the organs that are in the phantom."""
        return _mean_dsc(self.rows)

    @property
    def mean_small_dsc(self) -> float:
        """Mean DSC over the small organs."""
        return _mean_dsc([row for row in self.rows if row.organ in self.small_organs])


def run_demo(out: Path, options: SegmentOptions, seed: int = DEMO_SEED, progress: Progress | None = None) -> Demo:
    """Make a phantom, segment it, measure the result and write everything.

    The folder gets the CT, the truth and the segmentation as ``.seg.nrrd``, a picture, the evaluation's files and,
    where 3D Slicer's classes are installed, a scene; files of an earlier demonstration are replaced.

    Args:
        out: Folder.
        options: Model, device and precision.
        seed: Seed of the phantom.
        progress: Told the stage, the finished share and the estimated seconds left.

    Raises:
        FocusNetError: ``E_UNKNOWN_MODEL``, ``E_BUNDLE_*``, ``E_DEVICE``, ``E_PRECISION``, ``E_OUTPUT_WRITE``,
            ``E_USAGE``.
    """
    start = time.perf_counter()
    predictor = make_predictor(options)
    if progress is not None:
        progress("making a phantom", 0.0, None)
    phantom = make_phantom(seed)
    case = f"phantom_{seed}"
    ct, truth, picture = out / f"{case}_ct.nrrd", out / f"{case}_truth.seg.nrrd", out / f"{case}.png"
    write_image(phantom.volume, ct, overwrite=True)
    write_segmentation(phantom.labels, truth, overwrite=True)
    analysis = analyse(phantom.volume, predictor, progress=progress)
    formats = ("seg.nrrd", "mrb") if has_mrml() else ("seg.nrrd",)
    output = OutputOptions(formats, overwrite=True)
    plan = plan_outputs(case, ct, out, output, several=False)
    write_outputs(plan, Result(case, ct, None, phantom.volume, analysis), output)
    settings = EvaluationOptions(organs=predictor.spec.organs, ct=ct, jobs=1, overwrite=True)
    evaluation = evaluate(truth, plan[0].path, out / "evaluation", settings)
    rows = evaluation.rows[settings.name]
    title = f"{predictor.spec.name} on phantom {seed}: mean DSC {_mean_dsc(rows):.3f}"
    contour_views(phantom.volume, analysis.labelmap, picture, truth=phantom.labels, title=title)
    files = (ct, truth, *(item.path for item in plan), picture, *evaluation.written.values())
    return Demo(analysis, rows, predictor.spec.small_organs, files, time.perf_counter() - start)


def _mean_dsc(rows: Sequence[Row]) -> float:
    values = [row.dsc for row in rows if row.dsc is not None]
    return float(np.mean(values)) if values else float("nan")
