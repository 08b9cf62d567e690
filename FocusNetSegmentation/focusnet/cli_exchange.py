"""Subcommands for the clinic's chain: names of structures, whole archives, a watched folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from focusnet import DISCLAIMER
from focusnet.cli_options import (
    DONE,
    FAILED,
    Device,
    Fast,
    Json,
    Model,
    Names,
    Organs,
    PerOrgan,
    Precision,
    Quiet,
    Uncertainty,
    Verbose,
)
from focusnet.console import say, tell
from focusnet.errors import FocusNetError
from focusnet.organs import split_names

if TYPE_CHECKING:
    from focusnet.batch import BatchOptions, Row
    from focusnet.segment import Case, SegmentOptions


def register(app: typer.Typer) -> None:
    """Add the subcommands to the command line."""
    for command in (names, batch, watch):
        app.command()(command)


def names(
    file: Annotated[Path, typer.Argument(help="RTSTRUCT or DICOM SEG file, .seg.nrrd, or label map with its table.")],
    table: Annotated[
        Path | None, typer.Option("--table", help="Own spellings: CSV with the columns name and organ, or JSON.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Show how the names of a structure set map to TG-263; every name is listed, known or not."""
    from focusnet.io.names import match_names, read_name_table, structure_names

    matches = match_names(structure_names(file), read_name_table(table) if table is not None else None)
    unknown = [match for match in matches if match.source is None]
    if as_json:
        rows = [
            {
                "name": match.name,
                "organ": match.organ,
                "tg263": match.tg263,
                "source": match.source,
                "suggestions": list(match.suggestions),
            }
            for match in matches
        ]
        say(json.dumps(rows, ensure_ascii=False))
        return DONE
    width = max((len(match.name) for match in matches), default=0)
    for match in matches:
        if match.tg263 is not None:
            meaning = match.tg263 + (" (own table)" if match.source == "table" else "")
        elif match.source == "table":
            meaning = "left out by the own table"
        else:
            near = f"; close: {', '.join(match.suggestions)}" if match.suggestions else ""
            meaning = f"unknown{near}"
        say(f"{match.name:{width}}  ->  {meaning}")
    if not quiet:
        tell(f"{len(matches) - len(unknown)} of {len(matches)} names are known.")
        if unknown:
            tell("Add the others to a table (name,organ; an empty organ leaves one out) and give it with --table.")
    return DONE


def batch(
    cases: Annotated[Path, typer.Argument(help="Folder of cases at any depth, or CSV file with the column path.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results: new, or one to go on with.")],
    model: Model = None,
    organs: Organs = None,
    device: Device = "auto",
    precision: Precision = "auto",
    fast: Fast = False,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="rtstruct, dicomseg, seg.nrrd, nii.gz, nrrd, mrb; repeatable; default seg.nrrd."),
    ] = None,
    per_organ: PerOrgan = False,
    uncertainty: Uncertainty = False,
    jobs: Annotated[int, typer.Option(min=1, help="Cases at the same time on this machine.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, tcp://HOST:8786: compute on its workers.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Seconds after which a case is given up (this machine only).")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Do cases again that failed before.")] = False,
    keep_names: Names = False,
    which: Annotated[int | None, typer.Option(help="Only print the path of the case with this number.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Segment a whole archive, each case once; run again after any interruption to go on."""
    from focusnet.batch import BatchOptions, find_archive, find_number

    if which is not None:
        say(str(find_number(find_archive(cases), out, which).path))
        return DONE
    segment = _segment_options(model, organs, device, precision, fast)
    options = BatchOptions(
        _with_output(segment, formats or [], per_organ, uncertainty),
        jobs,
        scheduler,
        timeout,
        keep_names,
        retry_failed,
    )
    if _lies_in(out, cases):
        raise FocusNetError("E_USAGE", "The folder of the results lies in the archive; name one beside it.")
    found = find_archive(cases)
    rows = _run(found, out, options, _reporter(as_json, quiet, f" of {len(found)}"))
    bad = [row for row in rows if row.status != "done"]
    if not quiet:
        tell(f"{len(rows) - len(bad)} of {len(rows)} cases are done; see manifest.csv for the others.")
        tell(DISCLAIMER)
    return FAILED if bad else DONE


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder that a DICOM receiver fills.")],
    out: Annotated[Path, typer.Argument(help="Folder of the results, beside it.")],
    model: Model = None,
    organs: Organs = None,
    device: Device = "auto",
    precision: Precision = "auto",
    fast: Fast = False,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="As of 'focusnet batch'; default rtstruct.")
    ] = None,
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds without a new file after which a series is complete.")
    ] = 30.0,
    poll: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks at the folder.")] = 2.0,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds after which a series is given up.")] = 3600.0,
    once: Annotated[bool, typer.Option("--once", help="End when all that is there has settled and is done.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Segment each CT series that arrives completely in a folder, and write its RTSTRUCT."""
    from focusnet.batch import BatchOptions, WatchOptions, arrivals, check_watched

    if _lies_in(out, folder):
        raise FocusNetError("E_USAGE", "The folder of the results lies in the watched one; name one beside it.")
    check_watched(folder)
    segment = _segment_options(model, organs, device, precision, fast)
    options = BatchOptions(_with_output(segment, formats or ["rtstruct"], False, False), timeout_s=timeout)
    series = arrivals(folder, WatchOptions(settle, poll, once))
    rows = _run(series, out, options, _reporter(as_json, quiet, ""))
    return FAILED if any(row.status == "failed" for row in rows) else DONE


def _segment_options(model: str | None, organs: str | None, device: str, precision: str, fast: bool) -> SegmentOptions:
    from focusnet.segment import SegmentOptions

    return SegmentOptions(model, split_names(organs), device, precision, fast)


def _with_output(options: SegmentOptions, formats: Iterable[str], per_organ: bool, uncertainty: bool) -> SegmentOptions:
    from dataclasses import replace

    from focusnet.outputs import ENDINGS, OutputOptions

    for name in formats:
        if name not in ENDINGS:
            raise FocusNetError("E_OUTPUT_FORMAT", f"No format '{name}'; there are {', '.join(ENDINGS)}.")
    return replace(options, output=OutputOptions(tuple(formats), per_organ, uncertainty))


def _run(cases: Iterable[Case], out: Path, options: BatchOptions, report: Callable[..., None]) -> list[Row]:
    from focusnet.batch import run_batch

    return run_batch(cases, out, options, report)


def _reporter(as_json: bool, quiet: bool, total: str) -> Callable[[Row, Any], None]:
    """Says of each case what became of it. Reasons may quote file names, so only their codes are told."""

    def report(row: Row, result: Any) -> None:
        if as_json:
            values = {**vars(row), "flags": [flag for flag in row.flags.split(";") if flag]}
            memory = None if result is None or result.peak_memory_mib is None else round(result.peak_memory_mib)
            say(json.dumps({**values, "peak_memory_mib": memory}, ensure_ascii=False))
        elif row.reason_code:
            tell(f"case {row.number}{total}: {row.status}, {row.reason_code}")
        elif not quiet:
            flags = f", {row.flags.count(';') + 1} flags" if row.flags else ""
            say(f"case {row.number}{total}: {row.status} in {row.seconds:.1f} s{flags}")

    return report


def _lies_in(out: Path, folder: Path) -> bool:
    return out.resolve().is_relative_to(folder.resolve())
