"""From a CT to labels on its own grid: the Predictor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from focusnet import __version__, organs
from focusnet.bundle import Bundle
from focusnet.computation import Answers, Computation, Peak, Step
from focusnet.devices import is_out_of_memory, peak_memory_mib, release_memory, resolve_device, resolve_precision
from focusnet.errors import Cancelled, FocusNetError
from focusnet.geometry import Geometry, LabelMap, Shape, Volume
from focusnet.io.hounsfield import check_hu
from focusnet.postprocessing import fuse, keep_largest_components, native_labels
from focusnet.preprocessing import patient_on_working_grid
from focusnet.tiling import SparseMaps, piece_shape, smaller_pieces, triple
from focusnet.uncertainty import expected_dsc

Progress = Callable[[str, float, float | None], None]
"""Called with the stage, the finished share in [0, 1] and the estimated seconds left (None while unknown)."""
Cancel = Callable[[], bool]

MIN_SLICES = 3
LEAST_PIECE_ZYX = (16, 96, 96)
SHIFTS_XYZ = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5))
STAGES = {"preparing": (0.0, 0.05), "segmenting": (0.05, 0.75), "small organs": (0.75, 0.87), "labels": (0.87, 1.0)}
OF_NETWORKS = ("segmenting", "small organs")


@dataclass(frozen=True)
class OrganResult:
    """One organ of a prediction.

    Attributes:
        volume_ml: Volume of its label.
        certainty: Mean probability inside its label, 0 where it is empty.
        confidence: DSC to expect where the model was calibrated for the organ, else ``certainty``; 0 where it is empty.
        peak: Where SOL-Net sees it; None for organs that are not small.
    """

    volume_ml: float
    certainty: float
    confidence: float
    peak: Peak | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """Labels of one CT and what is needed to judge them.

    Attributes:
        labelmap: On the native grid; label values are the model's classes.
        organs: Result of each organ asked for, by canonical key.
        certainty: Probability of each voxel's label in 255ths, native grid.
        notes: What a user should know: fallbacks, stray voxels.
        settings: Version, model, weights hash, device, precision, pieces: what a repetition needs.
        seconds: Time of each stage.
        peak_memory_mib: Greatest resident memory of the process so far, None where unknown.
    """

    labelmap: LabelMap
    organs: Mapping[str, OrganResult]
    certainty: Volume
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    seconds: Mapping[str, float]
    peak_memory_mib: float | None


@dataclass
class _Run:
    """Progress, cancelling, timing and notes of one prediction."""

    progress: Progress | None
    cancel: Cancel | None
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str, part: int = 0, parts: int = 1) -> Iterator[Step]:
        """A stage of the work; of the networks' two, which follow each other in each of several parts, one part."""
        begin, end = STAGES[name]
        if name in OF_NETWORKS:
            first, last = STAGES[OF_NETWORKS[0]][0], STAGES[OF_NETWORKS[-1]][1]
            begin, end = (round(first + ((last - first) * part + share - first) / parts, 9) for share in (begin, end))

        def step(share: float) -> None:
            if self.cancel is not None and self.cancel():
                raise Cancelled
            if self.progress is not None:
                done = begin + share * (end - begin)
                elapsed = time.perf_counter() - self.started
                known = done > STAGES["segmenting"][0]
                self.progress(name, done, elapsed * (1 - done) / done if known else None)

        step(0.0)
        start = time.perf_counter()
        yield step
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)


class Predictor:
    """Segments CTs with one model.

    Args:
        bundle: The model.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        stride_slices: Slices from one piece to the next, instead of the model's overlap. As many as a piece has puts
            the pieces side by side: the paper's setting (40), and the fastest.
        grids: Working grids whose mean answer is taken, 1 or 4, instead of the model's. The answer of one depends a
            little on where its voxels lie in the patient; four take that long again each, and depend on it less.

    Raises:
        FocusNetError: ``E_DEVICE``, ``E_PRECISION``, ``E_USAGE``.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: str = "auto",
        precision: str = "auto",
        *,
        stride_slices: int | None = None,
        grids: int | None = None,
    ) -> None:
        self.spec = bundle.spec
        if grids not in (None, 1, 4):
            raise FocusNetError("E_USAGE", f"The mean is of 1 or 4 grids, not of {grids}.")
        self._shifts = SHIFTS_XYZ[: grids or self.spec.grids]
        depth, *_ = self.spec.chunk_shape_zyx
        overlap, *in_plane = self.spec.overlap_zyx
        if stride_slices is not None:
            if not depth <= 2 * stride_slices <= 2 * depth:
                raise FocusNetError(
                    "E_USAGE",
                    f"Pieces of '{self.spec.name}' have {depth} slices; give a stride between half of that and that, "
                    f"not {stride_slices}.",
                )
            overlap = depth - stride_slices
        place = resolve_device(device)
        self._main = Computation(
            self.spec, bundle.network, place, resolve_precision(precision, place), triple((overlap, *in_plane))
        )

    def predict(
        self,
        volume: Volume,
        organs: Sequence[str] | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Prediction:
        """Segment one CT.

        Args:
            volume: CT in HU on any affine grid.
            organs: Canonical keys to label; all of the model by default. The labels of an organ do not depend on which
                others are asked for.
            progress: Told the stage, the finished share and the estimated seconds left.
            cancel: Asked between pieces whether to stop.

        Raises:
            FocusNetError: ``E_NOT_CT``, ``E_NOT_HU``, ``E_EMPTY_IMAGE``, ``E_NON_FINITE``, ``E_TOO_FEW_SLICES``,
                ``E_UNKNOWN_ORGAN``, ``E_OUT_OF_MEMORY``.
            Cancelled: ``cancel`` returned True.
        """
        wanted = self._wanted(organs)
        run = _Run(progress, cancel)
        with run.stage("preparing"):
            scans = self._prepare(volume)
        answers, computation, piece = self._compute_within_memory(scans, run)
        with run.stage("labels") as step:
            for answer in answers:
                fuse(answer.maps, range(len(self.spec.organs)), answer.rois)
            grids = [(answer.maps, _padded(ct, answer.maps)) for ct, answer in zip(scans, answers, strict=True)]
            channels = {channel + 1: channel for channel in range(len(self.spec.organs))}
            labels, certainty = native_labels(grids, channels, volume.geometry, step)
            self._tidy(labels, wanted, run)
            labelmap = LabelMap(labels, volume.geometry, {self.spec.organs.index(key) + 1: key for key in wanted})
            results = self._results(labelmap, certainty, _highest_peaks(answers))
            step(1.0)
        return Prediction(
            labelmap,
            results,
            Volume(certainty, volume.geometry),
            tuple(run.notes),
            self._settings(computation, piece),
            run.seconds,
            peak_memory_mib(),
        )

    def _wanted(self, keys: Sequence[str] | None) -> list[str]:
        for key in keys or ():
            if key not in self.spec.organs:
                raise FocusNetError(
                    "E_UNKNOWN_ORGAN",
                    f"Model '{self.spec.name}' has no organ '{key}'; it has {', '.join(self.spec.organs)}.",
                )
        return [key for key in self.spec.organs if keys is None or key in keys]

    def _prepare(self, volume: Volume) -> list[Volume]:
        """CT on each working grid, cropped to the body."""
        if min(volume.array.shape) < MIN_SLICES:
            raise FocusNetError(
                "E_TOO_FEW_SLICES",
                f"The CT has {_times(volume.array.shape)} voxels; at least {MIN_SLICES} are needed along every axis.",
            )
        checked = check_hu(volume)
        bodies = [
            patient_on_working_grid(checked, self.spec.spacing_mm_xyz, self.spec.multiple_zyx, shift)
            for shift in self._shifts
        ]
        return [body.with_array(np.ascontiguousarray(body.array)) for body in bodies]

    def _compute_within_memory(self, scans: Sequence[Volume], run: _Run) -> tuple[list[Answers], Computation, Shape]:
        """The networks' answers on each working grid; in smaller pieces, then on the CPU, when memory runs out."""
        spec = self.spec
        roi_shape = spec.roi_shape_zyx if spec.small_organs else (1, 1, 1)
        # As in training, a short scan is filled up with air to the slices of a piece.
        least = (spec.chunk_shape_zyx[0], *roi_shape[1:])
        extent = triple(max(sizes) for sizes in zip(*(ct.array.shape for ct in scans), strict=True))
        whole = piece_shape(extent, spec.chunk_shape_zyx, spec.multiple_zyx, least)
        floor = triple(map(max, roi_shape, LEAST_PIECE_ZYX))
        pieces = [whole, *smaller_pieces(whole, spec.multiple_zyx, floor)]
        cpu = torch.device("cpu")
        computations = [self._main]
        if self._main.device != cpu:
            precision = resolve_precision("auto", cpu)
            computations.append(replace(self._main, device=cpu, precision=precision))
        for computation in computations:
            for piece in pieces:
                try:
                    answers = [
                        computation.run(ct, piece, partial(run.stage, part=part, parts=len(scans)))
                        for part, ct in enumerate(scans)
                    ]
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    release_memory(computation.device)
                    continue
                if computation is not self._main:
                    run.notes.append(f"The memory of {self._main.device} did not suffice; computed on the CPU instead.")
                if piece != whole:
                    run.notes.append(f"Memory ran out; computed in pieces of {_times(piece)} voxels instead.")
                return answers, computation, piece
        raise FocusNetError(
            "E_OUT_OF_MEMORY",
            f"Memory does not suffice even for pieces of {_times(pieces[-1])} voxels; close programs or crop the CT.",
        )

    def _tidy(self, labels: NDArray[Any], wanted: Sequence[str], run: _Run) -> None:
        """Anatomy of one piece is one piece; organs that were not asked for become background."""
        values = {key: value for value, key in enumerate(self.spec.organs, start=1)}
        single = [values[key] for key in wanted if organs.organ(key).single_component]
        for value, voxels in keep_largest_components(labels, single).items():
            run.notes.append(f"{self.spec.organs[value - 1]}: {voxels} stray voxels removed.")
        if len(wanted) < len(values):
            table = np.zeros(len(values) + 1, labels.dtype)
            for key in wanted:
                table[values[key]] = values[key]
            labels[...] = table[labels]

    def _results(
        self, labelmap: LabelMap, certainty: NDArray[np.uint8], peaks: Mapping[str, Peak]
    ) -> dict[str, OrganResult]:
        results = {}
        boxes = ndimage.find_objects(labelmap.array, max_label=len(self.spec.organs))
        for value, key in labelmap.organs.items():
            peak, box = peaks.get(key), boxes[value - 1]
            if box is None:
                results[key] = OrganResult(0.0, 0.0, 0.0, peak)
                continue
            inside = certainty[box][labelmap.array[box] == value]
            volume_ml = inside.size * labelmap.geometry.voxel_volume_ml
            mean = float(inside.mean(dtype=np.float64)) / 255
            line = self.spec.expected_dsc.get(key)
            confidence = mean if line is None else expected_dsc(mean, line)
            results[key] = OrganResult(volume_ml, mean, confidence, peak)
        return results

    def _settings(self, computation: Computation, piece: Shape) -> dict[str, Any]:
        return {
            "software": f"slicer-focusnet {__version__}",
            "torch": torch.__version__,
            "model": self.spec.name,
            "model_created": self.spec.created.date().isoformat(),
            "weights_sha256": self.spec.weights.sha256,
            "device": str(computation.device),
            "precision": computation.precision,
            "threads": torch.get_num_threads(),
            "piece_zyx": list(piece),
            "overlap_zyx": list(computation.overlap_zyx),
            "grids": len(self._shifts),
        }


def _padded(ct: Volume, maps: SparseMaps) -> Geometry:
    """Grid of the maps, which are larger than the CT where a piece is."""
    padding = triple(m - n for m, n in zip(maps.shape_zyx, ct.array.shape, strict=True))
    return ct.geometry.pad((0, 0, 0), padding)


def _highest_peaks(answers: Sequence[Answers]) -> dict[str, Peak]:
    """Of each small organ the peak on the grid where it is highest."""
    return {key: max((a.peaks[key] for a in answers), key=lambda peak: peak.height) for key in answers[0].peaks}


def _times(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)
