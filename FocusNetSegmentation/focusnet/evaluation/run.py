"""Evaluation of whole folders: cases matched by name, measured in parallel, gathered and written."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

from focusnet import organs
from focusnet.errors import FocusNetError
from focusnet.evaluation.case import Row
from focusnet.evaluation.definitions import METRICS
from focusnet.evaluation.job import OBSERVER, REFERENCE, CaseJob, CaseOutcome, run_case
from focusnet.evaluation.outputs import check_output_folder, write_outputs
from focusnet.evaluation.plan import EvaluationOptions, Unscored, plan
from focusnet.evaluation.statistics import PairedTest, compare_methods

Progress = Callable[[int, int, str], None]

COMPARED = ("dsc", "surface_dsc", "hd95_max_mm", "hd95_mean_mm", "msd_mm")


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that an evaluation found.

    Attributes:
        options: As given.
        jobs: What was asked of each case.
        outcomes: What came of each case, failed ones too.
        rows: Rows by method, the first one being the prediction; the observer is not among them.
        observer: Rows of the second observer; empty where there is none.
        tests: Paired comparisons of the methods.
        unscored: What was not compared.
        written: Files written, by purpose.
    """

    options: EvaluationOptions
    jobs: tuple[CaseJob, ...]
    outcomes: tuple[CaseOutcome, ...]
    rows: Mapping[str, tuple[Row, ...]]
    observer: tuple[Row, ...]
    tests: tuple[PairedTest, ...]
    unscored: Unscored
    written: Mapping[str, Path] = field(default_factory=dict)

    @property
    def failed(self) -> dict[str, FocusNetError]:
        """Reason by case that could not be evaluated."""
        return {o.case: o.error for o in self.outcomes if o.error is not None}


def evaluate(
    reference: Path,
    prediction: Path,
    output: Path,
    options: EvaluationOptions | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Compare two places of labelled scans and write ``metrics.csv``, ``metrics.json`` and ``report.html``.

    Args:
        reference: File, folder or pattern with the contours held to be true (see :mod:`focusnet.evaluation.reading`).
        prediction: The same for the contours to be judged. Two single cases are compared whatever their names, cases of
            folders only where they have the same.
        output: Folder for the results.
        options: Further methods, restrictions and settings.
        progress: Called with cases done, all cases and the case just done; may raise to cancel.

    Returns:
        Rows, comparisons, what was left out, and the files written. Cases that fail are listed and don't stop the rest.

    Raises:
        FocusNetError: ``E_NO_CASES`` when no case is on both sides, ``E_OUTPUT_EXISTS``, ``E_OUTPUT_WRITE``,
            ``E_UNKNOWN_ORGAN``, ``E_USAGE``, ``E_LABEL_NAMES``, ``E_NAME_TABLE``; the reason of the first case when
            every case fails.
    """
    options = options or EvaluationOptions()
    output = Path(output)
    check_output_folder(output, options.overwrite)
    result = compare(reference, prediction, options, progress)
    return replace(result, written=write_outputs(result, output))


def compare(
    reference: Path, prediction: Path, options: EvaluationOptions, progress: Progress | None = None
) -> EvaluationResult:
    """The evaluation without its files (see :func:`evaluate`)."""
    jobs, unscored = plan(reference, prediction, options)
    outcomes = tuple(sorted(_run(jobs, options.jobs, progress), key=lambda outcome: outcome.case))
    errors = [outcome.error for outcome in outcomes if outcome.error is not None]
    if len(errors) == len(outcomes):
        raise errors[0]
    return _gather(options, jobs, outcomes, unscored)


def _run(jobs: Sequence[CaseJob], processes: int, progress: Progress | None) -> Iterator[CaseOutcome]:
    for done, outcome in enumerate(_outcomes(jobs, min(processes, len(jobs))), start=1):
        if progress is not None:
            progress(done, len(jobs), outcome.case)
        yield outcome


def _outcomes(jobs: Sequence[CaseJob], processes: int) -> Iterator[CaseOutcome]:
    if processes < 2:
        yield from map(run_case, jobs)
        return
    # Fresh processes: forking one with running threads (SimpleITK, torch) may hang.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run_case, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise FocusNetError(
                "E_WORKER",
                "A worker process ended unexpectedly: out of memory, or started from a script that does not guard its "
                "calls with if __name__ == '__main__'; run again with one job.",
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _gather(
    options: EvaluationOptions, jobs: tuple[CaseJob, ...], outcomes: tuple[CaseOutcome, ...], unscored: Unscored
) -> EvaluationResult:
    done = [outcome for outcome in outcomes if outcome.error is None]
    named: dict[str, set[str]] = {}
    unmapped: dict[str, set[str]] = {}
    for outcome in done:
        for source, keys in outcome.named.items():
            named.setdefault(source, set()).update(keys)
        for source, names in outcome.unmapped.items():
            for name in names:
                unmapped.setdefault(name, set()).add(source)
    in_reference = named[REFERENCE]
    asked = set(options.organs or ())
    rows = {}
    for method in (options.name, *options.others, OBSERVER):
        scored = (in_reference & named.get(method, set())) | asked
        rows[method] = tuple(r for o in done for r in o.rows.get(method, ()) if r.organ in scored)
    observer = rows.pop(OBSERVER)
    predicted = set().union(*(keys for source, keys in named.items() if source != REFERENCE))
    unscored = replace(
        unscored,
        not_predicted={
            method: _ordered(in_reference - named.get(method, set()) - asked)
            for method in rows
            if in_reference - named.get(method, set()) - asked
        },
        no_reference=_ordered(predicted - in_reference - asked),
        unmapped={name: tuple(sorted(sources)) for name, sources in sorted(unmapped.items())},
    )
    tests: list[PairedTest] = []
    patients = {job.case: job.patient for job in jobs}
    if len(rows) > 1:
        for metric in COMPARED:
            better = bool(METRICS[metric].higher_is_better)
            tests += compare_methods(rows, metric, higher_is_better=better, patients=patients, seed=options.seed)
    return EvaluationResult(options, jobs, outcomes, rows, observer, tuple(tests), unscored)


def _ordered(keys: Iterable[str]) -> tuple[str, ...]:
    wanted = set(keys)
    return tuple(key for key in organs.CATALOGUE if key in wanted)
