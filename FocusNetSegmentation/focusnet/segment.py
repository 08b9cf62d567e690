"""From files to files: find the cases, segment each, write what was asked for."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from focusnet.analysis import analyse
from focusnet.console import CaseProgress
from focusnet.errors import Cancelled, FocusNetError, lacks_memory, out_of_memory
from focusnet.io import read_volume
from focusnet.io.atomic import concerns_all_outputs
from focusnet.io.dicom import is_dicom, read_series
from focusnet.io.dicom_headers import DICOM_SUFFIXES, ct_series_uid
from focusnet.io.image import image_suffix
from focusnet.io.segmentation import is_own_labelmap
from focusnet.organs import organ_keys
from focusnet.outputs import (
    Output,
    OutputOptions,
    Result,
    check_outputs,
    check_packages,
    plan_outputs,
    read_reference,
    write_outputs,
)

if TYPE_CHECKING:
    from focusnet.inference import Cancel, Predictor, Progress

GRACE_SECONDS = 3.0
CHANNEL_SUFFIX = "_0000"
OWN_OUTPUTS = (".seg.nrrd", ".uncertainty.nrrd")


@dataclass(frozen=True)
class Case:
    """One CT to segment.

    Attributes:
        name: What its outputs are called.
        path: Image file, DICOM folder or multi-frame DICOM file.
        files: The files of the DICOM series, where its folder holds more than these.
        series: Number of the DICOM series, where a folder holds several; goes before that of the options.
    """

    name: str
    path: Path
    files: tuple[Path, ...] = ()
    series: int | None = None


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment.

    Attributes:
        model: Name or folder of the bundle; None takes the default model.
        organs: Names of the organs to label, any spelling; None takes all of the model.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        fast: Pieces side by side, without overlap, on one working grid.
        series: Number of the DICOM series to read where a folder holds several.
        output: What is written.
    """

    model: str | None = None
    organs: tuple[str, ...] | None = None
    device: str = "auto"
    precision: str = "auto"
    fast: bool = False
    series: int | None = None
    output: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True)
class CaseResult:
    """What became of one case; `to_dict` is the command line's ``--json``.

    Attributes:
        case: Its name.
        status: ``done`` or ``failed``.
        seconds: Time it took.
        peak_memory_mib: Greatest resident memory of the process so far, None where unknown.
        organs: Volume, confidence and flags of each organ.
        flags: Findings on the whole scan: code, severity and message.
        notes: What a user should know about the computation.
        outputs: Files written.
        error: Reason code and line of a failed case.
        stops_all: Whether no other case could be written either: the disk is full, or the folder closed to us.
    """

    case: str
    status: Literal["done", "failed"]
    seconds: float
    peak_memory_mib: float | None = None
    organs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    flags: tuple[Mapping[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    error: tuple[str, str] | None = None
    stops_all: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``error`` is there for a failed case only."""
        values: dict[str, Any] = {
            "case": self.case,
            "status": self.status,
            "seconds": round(self.seconds, 2),
            "peak_memory_mib": None if self.peak_memory_mib is None else round(self.peak_memory_mib),
            "organs": {key: dict(value) for key, value in self.organs.items()},
            "flags": [dict(flag) for flag in self.flags],
            "notes": list(self.notes),
            "outputs": list(self.outputs),
        }
        if self.error is not None:
            values["error"] = {"code": self.error[0], "message": self.error[1]}
        return values


def find_cases(inputs: Sequence[Path]) -> list[Case]:
    """CTs in image files, DICOM folders and folders of these.

    Args:
        inputs: Files and folders. A folder with DICOM files is one case; any other gives a case for each image file
            and each folder with DICOM files in it.

    Raises:
        FocusNetError: ``E_UNREADABLE`` for a path that is not there, ``E_NO_SERIES`` for a folder without cases,
            ``E_USAGE`` when two cases would have one name.
    """
    try:
        cases = [case for path in inputs for case in _cases_of(path)]
    except OSError as error:
        raise FocusNetError("E_UNREADABLE", f"The input can't be read: {error.strerror}.") from error
    names: dict[str, Case] = {}
    for case in cases:
        if case.name in names:
            raise FocusNetError(
                "E_USAGE",
                f"'{names[case.name].path}' and '{case.path}' would both be case '{case.name}'; segment them apart.",
            )
        names[case.name] = case
    return cases


def _cases_of(path: Path) -> list[Case]:
    if path.is_file():
        return [Case(case_name(path), path)]
    if not path.is_dir():
        raise FocusNetError("E_UNREADABLE", f"There is no '{path}'; check the path.")
    if holds_dicom(path):
        return [Case(case_name(path), path)]
    found = [p for p in sorted(path.iterdir()) if not p.name.startswith(".") and _is_case(p)]
    if not found:
        raise FocusNetError("E_NO_SERIES", f"'{path}' holds no CT: no NRRD, NIfTI, MHA or DICOM files.")
    return [Case(case_name(p), p) for p in found]


def _is_case(path: Path) -> bool:
    """An image file, or a folder with DICOM files somewhere in it."""
    if not path.is_dir():
        return is_image(path)
    return any(holds_dicom(Path(place)) for place, _, _ in os.walk(path))


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image, and not of one of our own outputs."""
    if image_suffix(path) is None or path.name.lower().endswith(OWN_OUTPUTS):
        return False
    return not is_own_labelmap(path)


def holds_dicom(folder: Path) -> bool:
    """Whether a folder itself has slices of a CT, or other DICOM files and nothing else that could be a case.

    A plan or a structure set that lies beside images or above patients' folders does not make them one case. Files
    count by their names too: damaged ones, and those of systems that write no preamble, don't start as DICOM does.
    """
    entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    files = [path for path in entries if path.is_file() and image_suffix(path) is None and _may_be_dicom(path)]
    return any(ct_series_uid(path) is not None for path in files) or (bool(files) and has_nothing_else(folder))


def _may_be_dicom(path: Path) -> bool:
    return path.suffix.lower() in DICOM_SUFFIXES or is_dicom(path)


def has_nothing_else(folder: Path) -> bool:
    """Whether a folder has neither folders nor images in it, which could be cases of their own."""
    return not any(not p.name.startswith(".") and (p.is_dir() or is_image(p)) for p in folder.iterdir())


def case_name(path: Path) -> str:
    """Name of a case after its file or folder: ``pt_1_0000.nrrd`` and ``pt_1.nrrd`` are ``pt_1``."""
    name = Path(os.path.normpath(path.absolute())).name  # of a link its own, not that of what it leads to
    if path.is_dir():
        return name
    suffix = image_suffix(path) or path.suffix
    return name[: len(name) - len(suffix)].removesuffix(CHANNEL_SUFFIX)


def make_predictor(options: SegmentOptions) -> Predictor:
    """Load the model.

    Raises:
        FocusNetError: ``E_UNKNOWN_MODEL``, ``E_BUNDLE_*``, ``E_DEVICE``, ``E_PRECISION``.
    """
    from focusnet.bundle import load_bundle
    from focusnet.inference import Predictor
    from focusnet.model_store import find_bundle

    bundle = load_bundle(find_bundle(options.model))
    stride, grids = (bundle.spec.chunk_shape_zyx[0], 1) if options.fast else (None, None)
    return Predictor(bundle, options.device, options.precision, stride_slices=stride, grids=grids)


def segment_case(
    case: Case,
    outputs: Sequence[Output],
    predictor: Predictor,
    options: SegmentOptions,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> CaseResult:
    """Read, segment, check and write one case.

    Raises:
        FocusNetError: The input is refused, or an output can't be written; nothing is left half written.
        Cancelled: ``cancel`` returned True.
    """
    start = time.perf_counter()
    check_outputs(outputs, overwrite=options.output.overwrite)
    if progress is not None:
        progress("reading", 0.0, None)
    series = options.series if case.series is None else case.series
    source = case.files or case.path
    is_series = bool(case.files) or series is not None
    volume = read_series(source, series_number=series) if is_series else read_volume(case.path)
    reference = read_reference(outputs, source, series)
    keys = None if options.organs is None else organ_keys(options.organs)
    analysis = analyse(volume, predictor, keys, progress, cancel)
    write_outputs(outputs, Result(case.name, source, series, volume, analysis, reference), options.output)
    prediction = analysis.prediction
    return CaseResult(
        case.name,
        "done",
        time.perf_counter() - start,
        prediction.peak_memory_mib,
        analysis.organs,
        analysis.flags,
        prediction.notes,
        tuple(str(output.path) for output in outputs),
    )


def segment_cases(
    cases: Sequence[Case],
    out: Path,
    options: SegmentOptions,
    progress: CaseProgress | None = None,
    cancel: Cancel | None = None,
    *,
    jobs: int = 1,
) -> Iterator[CaseResult]:
    """Segment cases one after the other or side by side; a case that is refused does not stop the others.

    Args:
        cases: From `find_cases`.
        out: Output file of a single case, or folder.
        options: How.
        progress: Told of each case's progress; not with several jobs.
        cancel: Asked whether to stop.
        jobs: Number of processes.

    Yields:
        The result of each case as it is finished.

    Raises:
        FocusNetError: ``E_USAGE`` and what is wrong with the model or the organs, before any case is touched.
        Cancelled: ``cancel`` returned True; cases that were done stay.
    """
    plans = [plan_outputs(case.name, case.path, out, options.output, several=len(cases) > 1) for case in cases]
    check_packages(options.output.formats)
    if options.organs is not None:
        organ_keys(options.organs)
    predictor = make_predictor(options)
    _check_organs(predictor, options)
    if jobs > 1 and len(cases) > 1:
        del predictor
        yield from _in_processes(cases, plans, options, cancel, min(jobs, len(cases)))
        return
    for case, outputs in zip(cases, plans, strict=True):
        told = None if progress is None else _named(progress, case.name)
        yield attempt_case(case, outputs, predictor, options, told, cancel)


def _check_organs(predictor: Predictor, options: SegmentOptions) -> None:
    missing = set(organ_keys(options.organs or ())) - set(predictor.spec.organs)
    if missing:
        raise FocusNetError(
            "E_UNKNOWN_ORGAN",
            f"Model '{predictor.spec.name}' has no {', '.join(sorted(missing))}; "
            f"it has {', '.join(predictor.spec.organs)}.",
        )


def _named(progress: CaseProgress, name: str) -> Progress:
    return lambda stage, share, seconds: progress(name, stage, share, seconds)


def attempt_case(
    case: Case,
    outputs: Sequence[Output],
    predictor: Predictor,
    options: SegmentOptions,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
) -> CaseResult:
    """As :func:`segment_case`, with a failure as its result."""
    start = time.perf_counter()
    try:
        return segment_case(case, outputs, predictor, options, progress, cancel)
    except Cancelled:
        raise
    except FocusNetError as error:
        return failure(case.name, error, time.perf_counter() - start)
    except OSError as error:
        reason = ("E_UNREADABLE", f"A file of the case can't be read or written: {error.strerror or 'unknown'}.")
    except Exception as error:  # a fault of ours in one case must not lose the others
        logging.getLogger(__name__).debug("Case %s", case.name, exc_info=True)
        if lacks_memory(error):
            return failure(case.name, out_of_memory(), time.perf_counter() - start)
        reason = ("E_INTERNAL", f"{type(error).__name__}: {' '.join(str(error).split())}; please report this.")
    return CaseResult(case.name, "failed", time.perf_counter() - start, error=reason)


def failure(case: str, error: FocusNetError, seconds: float = 0.0) -> CaseResult:
    """The result of a case that was refused."""
    stops_all = error.code == "E_OUTPUT_WRITE" and concerns_all_outputs(error.__cause__)
    return CaseResult(case, "failed", seconds, error=(error.code, error.message), stops_all=stops_all)


_worker: tuple[Predictor, SegmentOptions] | None = None


def _in_processes(
    cases: Sequence[Case], plans: Sequence[list[Output]], options: SegmentOptions, cancel: Cancel | None, jobs: int
) -> Iterator[CaseResult]:
    threads = max(1, (os.cpu_count() or 1) // jobs)
    planned = list(zip(cases, plans, strict=True))
    unfinished = []
    for case, result in _in_pool(planned, options, cancel, jobs, threads):
        if result is None:
            unfinished.append(case)
        else:
            yield result
    # A process was ended from outside, and with it the pool: each case that it left gets a process of its own.
    for case, plan in planned:
        if case in unfinished:
            (result,) = (answer for _, answer in _in_pool([(case, plan)], options, cancel, 1, threads))
            yield result or CaseResult(
                case.name,
                "failed",
                0.0,
                error=("E_OUT_OF_MEMORY", "The system ended the process, mostly for lack of memory; use fewer jobs."),
            )


def _in_pool(
    planned: Sequence[tuple[Case, list[Output]]],
    options: SegmentOptions,
    cancel: Cancel | None,
    jobs: int,
    threads: int,
) -> Iterator[tuple[Case, CaseResult | None]]:
    """Cases with their results, None where a process ended before it gave one."""
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(jobs, context, _start_worker, (options, threads)) as pool,
        _ending_workers(pool),
    ):
        waiting = {pool.submit(_work, case, plan): case for case, plan in planned}
        for future in as_completed(waiting):
            if cancel is not None and cancel():
                raise Cancelled
            try:
                yield waiting[future], future.result()
            except BrokenProcessPool:
                yield waiting[future], None


@contextmanager
def _ending_workers(pool: ProcessPoolExecutor) -> Iterator[None]:
    """End the processes at once when the block is left by an exception, an interruption too."""
    try:
        yield
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        pool.shutdown(cancel_futures=True)
        raise


def _start_worker(options: SegmentOptions, threads: int) -> None:
    """Make the predictor once; the parent decides when to stop."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    from focusnet.devices import keep_memory

    keep_memory()
    torch.set_num_threads(threads)
    _worker = (make_predictor(options), options)
    # From here on being ended must clear away half-written files.
    signal.signal(signal.SIGTERM, _end_worker)


def _end_worker(*_: object) -> None:
    """End by an exception, which clears away; where it is lost, as in a destructor, end all the same a little later."""
    timer = threading.Timer(GRACE_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()
    sys.exit(1)


def _work(case: Case, outputs: list[Output]) -> CaseResult:
    assert _worker is not None
    try:
        return attempt_case(case, outputs, *_worker)
    except SystemExit:  # told to end, and cleared away: the pool would take it for an answer and live on
        os._exit(1)
