"""The command line ``focusnet``: subcommands and exit codes, no logic.

Exit codes: 0 done; 1 at least one case failed, the others are done and listed; 2 wrong usage or refused input;
3 cancelled; 130 interrupted. Everything heavy is imported inside the subcommand that needs it.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from focusnet import DISCLAIMER, __version__, cli_data, cli_exchange, cli_models
from focusnet.cli_options import (
    CANCELLED,
    DONE,
    EXIT_CODES,
    FAILED,
    INTERRUPTED,
    REFUSED,
    Device,
    Fast,
    Json,
    Model,
    Organs,
    PerOrgan,
    Precision,
    Quiet,
    Uncertainty,
    Verbose,
)
from focusnet.console import CaseProgress, say, shown_progress, tell
from focusnet.errors import Cancelled, FocusNetError, Terminated
from focusnet.organs import split_names

USAGE_ERROR: type[Any] = typer.BadParameter.__bases__[0]  # typer names it differently from version to version

app = typer.Typer(
    name="focusnet",
    help=f"Organs at risk of the head and neck on CT. {DISCLAIMER}",
    epilog=EXIT_CODES,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _cancelled)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line.

    Args:
        arguments: Without the program's name.

    Returns:
        The exit code.
    """
    try:
        if "" in arguments:
            raise FocusNetError("E_USAGE", "An argument is empty (a variable that is not set?); leave it out.")
        code = app(args=list(arguments), prog_name="focusnet", standalone_mode=False) or DONE
    except (Cancelled, Terminated):
        tell("E_CANCELLED: Cancelled on request; only what was complete is kept.")
        return CANCELLED
    except FocusNetError as error:
        tell(str(error))
        return REFUSED
    except USAGE_ERROR as error:
        tell(f"E_USAGE: {error.format_message()} See 'focusnet --help'.")
        return REFUSED
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        if "-v" in arguments or "--verbose" in arguments:
            traceback.print_exc()
        text = " ".join(str(error).split())
        tell(f"E_INTERNAL: {type(error).__name__}: {text}; please report this with the output of the command with -v.")
        return FAILED
    if code == INTERRUPTED:
        tell("Interrupted.")
    return code


def _cancelled(*_: object) -> None:
    raise Terminated


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        say(f"focusnet {__version__}")
    elif context.invoked_subcommand is None:
        say(context.get_help())


@app.command(epilog=EXIT_CODES)
def segment(
    inputs: Annotated[
        list[Path], typer.Argument(help="NRRD, NIfTI or MHA files, DICOM series folders, or folders of cases.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File, or folder for several cases.")],
    model: Model = None,
    organs: Organs = None,
    device: Device = "auto",
    precision: Precision = "auto",
    fast: Fast = False,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="seg.nrrd, nii.gz, nrrd, rtstruct, dicomseg, mrb; repeatable; default: as OUT ends."
        ),
    ] = None,
    per_organ: PerOrgan = False,
    uncertainty: Uncertainty = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    series: Annotated[
        int | None, typer.Option(help="Number of the DICOM series, where a folder holds several.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Cases at the same time.")] = 1,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Segment one CT or a folder of CTs."""
    from focusnet.outputs import OutputOptions
    from focusnet.segment import SegmentOptions, find_cases, segment_cases

    output = OutputOptions(tuple(formats or ()), per_organ, uncertainty, overwrite)
    options = SegmentOptions(model, split_names(organs), device, precision, fast, series, output)
    cases = find_cases(inputs)
    _keep_memory()
    failed: list[str] = []
    with shown_progress(quiet=quiet or jobs > 1) as progress:
        for result in segment_cases(cases, out, options, progress, jobs=jobs):
            if result.error is not None:
                failed.append(result.case)
                code, message = result.error
                tell(f"{code}: {message}" if len(cases) == 1 else f"{result.case}: {code}: {message}")
            if as_json:
                say(json.dumps(result.to_dict(), ensure_ascii=False))
            elif not quiet and result.error is None:
                _say_result(result, verbose)
    if not quiet:
        tell(DISCLAIMER)
    if failed and len(cases) == 1:
        return REFUSED
    if failed:
        tell(f"{len(cases) - len(failed)} of {len(cases)} cases are done; failed: {', '.join(sorted(failed))}.")
    return FAILED if failed else DONE


def _keep_memory() -> None:
    from focusnet.devices import keep_memory

    keep_memory()


def _say_result(result: Any, verbose: bool) -> None:
    for flag in result.flags:
        say(f"{result.case}: {flag['severity']}: {flag['message']} [{flag['code']}]")
    for note in result.notes:
        say(f"{result.case}: note: {note}")
    found = sum(1 for values in result.organs.values() if values["volume_ml"] > 0)
    memory = "" if result.peak_memory_mib is None else f", {result.peak_memory_mib / 1024:.1f} GiB at most"
    say(f"{result.case}: {found} of {len(result.organs)} organs in {result.seconds:.1f} s{memory}")
    if verbose:
        for key, values in result.organs.items():
            say(f"  {key:24} {values['volume_ml']:10.2f} ml   confidence {values['confidence']:.2f}")
    for path in result.outputs:
        say(f"{result.case}: written {path}")


@app.command()
def evaluate(
    reference: Annotated[Path, typer.Option(help="Contours held to be true: file, folder or pattern.")],
    prediction: Annotated[Path, typer.Option(help="Contours to be judged: the same.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")],
    second: Annotated[Path | None, typer.Option(help="A second method, compared by paired tests.")] = None,
    observer: Annotated[Path | None, typer.Option(help="A second observer: the human yardstick.")] = None,
    ct: Annotated[Path | None, typer.Option(help="The CTs, for overlays, flags and RTSTRUCT files.")] = None,
    organs: Annotated[str | None, typer.Option(help="Organs to measure, separated by commas; all by default.")] = None,
    label_names: Annotated[Path | None, typer.Option(help="JSON file with the names of label values.")] = None,
    spellings: Annotated[Path | None, typer.Option(help="Table of own organ names.")] = None,
    table: Annotated[list[str] | None, typer.Option(help="Table for a paper: markdown, latex; repeatable.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier evaluation.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Cases at the same time.")] = 2,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Compare segmentations with reference contours: tables and a report."""
    from focusnet.evaluation import EvaluationOptions
    from focusnet.evaluation import evaluate as run_evaluation
    from focusnet.evaluation.summary import mean_over_organs, summarise_rows
    from focusnet.organs import organ_keys

    names = split_names(organs)
    options = EvaluationOptions(
        others={} if second is None else {"second": second},
        observer=observer,
        ct=ct,
        organs=None if names is None else organ_keys(names),
        label_names=label_names,
        spellings=spellings,
        tables=tuple(table or ()),
        jobs=jobs,
        overwrite=overwrite,
    )
    with shown_progress(quiet=quiet) as progress:
        done = None if progress is None else _counted(progress)
        result = run_evaluation(reference, prediction, out, options, done)
    for case, error in result.failed.items():
        tell(f"{case}: {error}")
    lacking = {**result.unscored.absent, **({"ct": result.unscored.no_image} if result.unscored.no_image else {})}
    if not quiet:
        for name, cases in lacking.items():
            tell(f"{name}: nothing for {', '.join(cases[:5])}{' and others' if len(cases) > 5 else ''}")
    summaries = {name: summarise_rows(rows) for name, rows in result.rows.items()}
    means = {name: mean_over_organs(summary, "dsc") for name, summary in summaries.items()}
    if as_json:
        answer = {
            "written": {purpose: str(path) for purpose, path in result.written.items()},
            "failed": {case: str(error) for case, error in result.failed.items()},
            "mean_dsc": {name: None if mean is None else mean[0] for name, mean in means.items()},
        }
        say(json.dumps(answer, ensure_ascii=False))
    elif not quiet:
        for name, summary in summaries.items():
            for item in summary:
                if "dsc" in item.measures:
                    dsc = item.measures["dsc"]
                    say(f"{name}: {item.organ:24} DSC {dsc.mean:.3f} (n {dsc.n})")
            if (mean := means[name]) is not None:
                say(f"{name}: mean over {mean[1]} organs {mean[0]:.3f}")
        for path in result.written.values():
            say(f"written {path}")
    return FAILED if result.failed else DONE


def _counted(progress: CaseProgress) -> Callable[[int, int, str], None]:
    return lambda done, count, case: progress("evaluation", case, done / count, None)


@app.command("organs")
def list_organs(as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> int:
    """List the organs that are known, by the keys that --organs and --spellings take; synonyms with -v."""
    from focusnet.organs import CATALOGUE

    if as_json:
        rows = [{"key": o.key, "tg263": o.tg263, "name": o.name, "synonyms": o.synonyms} for o in CATALOGUE.values()]
        say(json.dumps(rows, ensure_ascii=False))
        return DONE
    for o in CATALOGUE.values():
        say(f"{o.key:24} {o.tg263:20} {o.name}" + (f" ({', '.join(o.synonyms)})" if verbose and o.synonyms else ""))
    return DONE


@app.command()
def phantom(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the data set.")],
    cases: Annotated[int, typer.Option(min=1, help="Number of cases.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data set; each case has its own from it.")] = 0,
    spacing: Annotated[
        str | None, typer.Option(help="Voxel size x,y,z in mm; by default drawn anew for each case.")
    ] = None,
    weak_boundaries: Annotated[
        bool, typer.Option("--weak-boundaries", help="Optic nerves and chiasm almost without contrast.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Write synthetic CTs with their truth, in the training layout."""
    from focusnet_training.phantom import PhantomOptions, write_dataset

    options = PhantomOptions(spacing_xyz=_spacing(spacing), weak_boundaries=weak_boundaries)
    names = write_dataset(out, cases, seed, options)
    if as_json:
        say(json.dumps({"folder": str(out), "cases": names}, ensure_ascii=False))
    elif not quiet:
        say(f"{len(names)} cases in {out}")
    return DONE


def _spacing(text: str | None) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError:
        raise FocusNetError("E_USAGE", f"--spacing takes three numbers such as 1.5,1.5,2.5, not '{text}'.") from None
    return x, y, z


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="Data set in nnU-Net v2 raw layout.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")],
    preset: Annotated[str | None, typer.Option(help="Name of a shipped configuration.")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration file (TOML) instead of a preset.")] = None,
    stage: Annotated[str | None, typer.Option(help="Stop after this stage: snet, sol, aae, sos or joint.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    init: Annotated[
        Path | None,
        typer.Option(help="Start from the weights of another run's stage, RUN/best-STAGE.pt, or of a bundle's folder."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a value: key=value, repeatable; stages.snet.steps=100.")
    ] = None,
    max_hours: Annotated[float, typer.Option(min=0, help="Stop cleanly after this time; resume goes on.")] = 1e6,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Train in stages: S-Net, SOL-Net, shape autoencoder, SOS-Net, joint fine-tuning."""
    from focusnet_training.config import load_config, load_preset
    from focusnet_training.monitor import progress_report
    from focusnet_training.runs import train as run_training
    from focusnet_training.trainer import TrainingOptions

    if (preset is None) == (config is None):
        raise FocusNetError("E_USAGE", "Give either --preset or --config.")
    chosen = load_preset(preset, settings) if preset is not None else load_config(config or Path(), settings)
    planned = [s.name for s in chosen.schedule]
    if stage is not None and stage not in planned:
        raise FocusNetError("E_USAGE", f"No stage '{stage}'; there are {', '.join(planned)}.")

    source = f"--preset {preset}" if preset is not None else "--config CONFIG"
    start = [] if init is None else [f"--init {init.parent.name}/{init.name}"]
    changed = [f"--set {s}" for s in settings or ()]
    until = [] if stage is None else [f"--stage {stage}"]
    command = " ".join(["focusnet train", source, "--data DATA -o RUN", *until, *start, *changed])
    with shown_progress(quiet=quiet or as_json) as progress:
        report = None if progress is None else progress_report(progress)
        if as_json:
            report = _say_json
        options = TrainingOptions(device, precision, max_hours, init, report)
        finished = run_training(chosen, data, out, options, resume=resume, until=stage, command=command)
    if not quiet and not as_json:
        say(f"{out}: {'finished' if finished else 'paused; go on with --resume'}")
    return DONE


def _say_json(answer: dict[str, Any]) -> None:
    say(json.dumps(answer))


@app.command()
def bundle(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle.")],
    description: Annotated[str, typer.Option(help="One sentence for a list of models.")] = "",
    notes: Annotated[Path | None, typer.Option(help="Markdown file added to the model card.")] = None,
    grids: Annotated[Literal["1", "4"], typer.Option(help="Working grids whose mean answer is taken.")] = "1",
    device: Annotated[str, typer.Option(help="Device of the validation.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Make a bundle of a run, measured on its validation cases, with a model card."""
    from focusnet_training.runs import BundleOptions, make_bundle

    try:
        text = "" if notes is None else notes.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FocusNetError("E_USAGE", f"The notes can't be read as a text in UTF-8: {error}.") from error
    options = BundleOptions(description, notes=text, grids=4 if grids == "4" else 1, device=device)
    made = make_bundle(run, out, options, overwrite=overwrite, tell=(lambda line: None) if quiet else tell)
    if as_json:
        say(json.dumps({"name": made.spec.name, "folder": str(out), "metrics": made.spec.metrics}))
    elif not quiet:
        say(f"{made.spec.name}: written {out}")
    return DONE


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the results.")] = Path("focusnet-demo"),
    model: Annotated[str, typer.Option(help="Name or folder of a model of the phantom's organs.")] = "phantom22",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the phantom.")] = 7,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Make a phantom, segment it, measure the result, and write scene, picture and report."""
    from focusnet_training.demo import run_demo

    from focusnet.segment import SegmentOptions

    _keep_memory()
    with shown_progress(quiet=quiet) as progress:
        told = None if progress is None else partial(progress, "demo")
        result = run_demo(out, SegmentOptions(model, device=device, precision=precision), seed, told)
    if as_json:
        answer = {
            "dsc": {row.organ: row.dsc for row in result.rows},
            "mean_dsc": result.mean_dsc,
            "mean_small_dsc": result.mean_small_dsc if result.small_organs else None,
            "seconds": round(result.seconds, 1),
            "written": [str(path) for path in result.files],
        }
        say(json.dumps(answer, ensure_ascii=False))
    elif not quiet:
        for row in result.rows:
            small = "  (small organ)" if row.organ in result.small_organs else ""
            say(f"{row.organ:24} DSC {'-' if row.dsc is None else f'{row.dsc:.3f}'}{small}")
        say(f"mean over all organs {result.mean_dsc:.3f}")
        if result.small_organs:
            say(f"mean over the small organs {result.mean_small_dsc:.3f}")
        for path in result.files:
            say(f"written {path}")
        say(f"{result.seconds:.0f} s")
        tell(DISCLAIMER)
    return DONE


cli_data.register(app)
cli_exchange.register(app)
cli_models.register(app)
