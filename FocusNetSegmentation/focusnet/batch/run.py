"""A batch: cases in, outputs and one row each out; any number of interruptions between."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from focusnet import __version__
from focusnet.batch.cases import content_hash
from focusnet.batch.manifest import Manifest, Row, Status, read_manifest
from focusnet.batch.work import Task
from focusnet.bundle import read_spec
from focusnet.errors import FocusNetError
from focusnet.model_store import find_bundle
from focusnet.organs import organ_keys
from focusnet.outputs import check_packages
from focusnet.segment import Case, CaseResult, SegmentOptions

MAX_NAME_BYTES = 100
Report = Callable[[Row, CaseResult | None], None]
"""Told of each row as it is written, with the whole result where the case was begun."""


@dataclass(frozen=True)
class BatchOptions:
    """How to run a batch.

    Attributes:
        segment: How to segment and what to write.
        jobs: Processes on this machine.
        scheduler: Address of a Dask scheduler to compute there instead.
        timeout_s: Longest time for a case on this machine, None for any.
        names: Name outputs and rows after the inputs, which may identify patients.
        retry_failed: Do the cases again that failed before.
    """

    segment: SegmentOptions = field(default_factory=SegmentOptions)
    jobs: int = 1
    scheduler: str | None = None
    timeout_s: float | None = None
    names: bool = False
    retry_failed: bool = False


class Pool(Protocol):
    """What computes the cases."""

    def run(self, tasks: Iterator[Task]) -> Generator[tuple[Task, CaseResult]]:
        """Results in any order."""


def run_batch(cases: Iterable[Case], out: Path, options: BatchOptions, report: Report) -> list[Row]:
    """Segment the cases that the folder does not hold yet.

    A case is known by its content: moving or renaming an archive changes nothing, and a case that lies in it twice is
    done once. Outputs are called ``case_0001`` and so on.

    Args:
        cases: In any order and number; taken one by one, so an endless stream is welcome.
        out: Folder of the outputs and of ``manifest.csv``; new, empty, or of the same batch.
        options: How.
        report: Told of each new row.

    Returns:
        All rows of the manifest.

    Raises:
        FocusNetError: What is wrong for all cases: the model, the organs, the folder (``E_OUTPUT_EXISTS``,
            ``E_BATCH_SETTINGS``, ``E_BATCH_RUNNING``, ``E_OUTPUT_WRITE``), the cluster. Cases that were done stay done.
    """
    settings = _settings(options)
    with Manifest(out, settings, names=options.names) as manifest:
        again = [row for row in manifest.rows if not row.input_sha256 or (options.retry_failed and _has_failed(row))]
        manifest.forget(again)

        def write(row: Row, result: CaseResult | None) -> None:
            manifest.add(row)
            report(row, result)

        with closing(_pool(options).run(_tasks(cases, manifest, options, write))) as results:
            for task, result in results:
                write(_row(task, result), result)
        return list(manifest.rows)


def find_number(cases: Iterable[Case], out: Path, number: int) -> Case:
    """The case that has a number in a batch's manifest.

    Raises:
        FocusNetError: ``E_USAGE`` when the manifest has no such number, or none of the cases has its content.
    """
    wanted = next((row.input_sha256 for row in read_manifest(out) if row.number == number), None)
    if not wanted:
        raise FocusNetError("E_USAGE", f"The manifest has no readable case {number}; look it up in manifest.csv.")
    for case in cases:
        try:
            if content_hash(case) == wanted:
                return case
        except OSError:
            continue
    raise FocusNetError("E_USAGE", f"No case of the archive has the content of case {number}; was it changed?")


def _row(task: Task, result: CaseResult) -> Row:
    code = "" if result.error is None else result.error[0]
    if result.stops_all:
        raise FocusNetError(code, "The outputs can't be written; check free space and permissions, then run again.")
    status: Status = "failed" if code else "done"
    seconds = round(result.seconds, 2)
    return Row(task.number, task.input_sha256, status, code, _flags(result), seconds, task.input_name)


def _tasks(cases: Iterable[Case], manifest: Manifest, options: BatchOptions, write: Report) -> Iterator[Task]:
    """The cases that are still to be done, numbered; rows of duplicates and unreadable ones are written here."""
    known = Counter(row.input_sha256 for row in manifest.rows)
    begun = set(known)
    used = {row.number for row in manifest.rows}
    number = 0
    for case in cases:
        try:
            content = content_hash(case)
        except OSError:
            content = ""
        if known[content]:
            known[content] -= 1
            continue
        number = next(n for n in range(number + 1, number + len(used) + 2) if n not in used)
        name = _printable(case.name) if options.names else ""
        if not content:
            write(Row(number, "", "failed", "E_UNREADABLE", name=name), None)
        elif content in begun:
            write(Row(number, content, "duplicate", "E_DUPLICATE_CASE", name=name), None)
        else:
            begun.add(content)
            called = f"case_{number:04d}" + (f"_{_as_file_name(name)}" if name else "")
            yield Task(number, replace(case, name=called), manifest.folder, options.segment, content, name)


def _settings(options: BatchOptions) -> dict[str, Any]:
    """What the outputs depend on; refuses what is wrong for all cases before any is touched."""
    segment = options.segment
    check_packages(segment.output.formats)
    spec = read_spec(find_bundle(segment.model))
    keys = None if segment.organs is None else organ_keys(segment.organs)
    if missing := set(keys or ()) - set(spec.organs):
        raise FocusNetError(
            "E_UNKNOWN_ORGAN",
            f"Model '{spec.name}' has no {', '.join(sorted(missing))}; it has {', '.join(spec.organs)}.",
        )
    return {
        "version": __version__,
        "model": spec.name,
        "weights_sha256": spec.weights.sha256,
        "organs": keys,
        "precision": segment.precision,
        "fast": segment.fast,
        "formats": segment.output.formats,
        "per_organ": segment.output.per_organ,
        "uncertainty": segment.output.uncertainty,
    }


def _pool(options: BatchOptions) -> Pool:
    if options.scheduler is not None:
        from focusnet.batch.cluster import DaskPool

        return DaskPool(options.scheduler)
    from focusnet.batch.processes import ProcessPool

    return ProcessPool(options.segment, options.jobs, options.timeout_s)


def _has_failed(row: Row) -> bool:
    return row.status == "failed"


def _flags(result: CaseResult) -> str:
    codes = [flag["code"] + (f":{flag['organ']}" if flag.get("organ") else "") for flag in result.flags]
    return ";".join(dict.fromkeys(codes))


def _printable(name: str) -> str:
    """A name of a file as text: bytes that are no UTF-8 become escapes."""
    return name.encode(errors="backslashreplace").decode()


def _as_file_name(name: str) -> str:
    """A name that every file system takes, with room for a number and an ending."""
    short = re.sub(r"[^\w. -]", "_", name).encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return short.strip(" .") or "unnamed"
