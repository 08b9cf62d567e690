"""Subcommands about training data: import, check, fingerprint and split; no logic. `focusnet.cli` registers them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from focusnet.cli_options import DONE, FAILED, Json, Quiet, Verbose
from focusnet.console import CaseProgress, say, shown_progress, tell
from focusnet.errors import FocusNetError

Data = Annotated[Path, typer.Argument(help="Data set: nnU-Net v2 raw or Medical Segmentation Decathlon.")]
Jobs = Annotated[int, typer.Option(min=1, help="Cases at the same time.")]


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command("import")(import_scans)
    app.command()(check)
    app.command()(fingerprint)
    app.command()(split)


def import_scans(
    source: Annotated[Path, typer.Argument(help="Folder with a folder per patient: CT and drawn organs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the data set.")],
    name: Annotated[str, typer.Option(help="Name of the data set.")] = "Imported data",
    description: Annotated[str, typer.Option(help="One sentence on what the data are, for model cards.")] = "",
    organs: Annotated[
        str | None, typer.Option(help="Organs to take over, separated by commas; all by default.")
    ] = None,
    spellings: Annotated[Path | None, typer.Option(help="Table of own organ names.")] = None,
    label_names: Annotated[Path | None, typer.Option(help="JSON file with the names of label values.")] = None,
    ct: Annotated[str | None, typer.Option(help="Pattern of the CT's file name, where there are several.")] = None,
    labels: Annotated[str | None, typer.Option(help="The same for the file of the organs.")] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="File outside the data set for the folder of each case; it identifies patients.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a data set that is there.")] = False,
    jobs: Jobs = 2,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Make a training folder of scans with drawn organs; no patient's identity goes into it."""
    from focusnet_training.importing import ImportOptions
    from focusnet_training.importing import import_scans as run_import
    from focusnet_training.scan_reading import ScanRules
    from focusnet_training.scans import Choice

    from focusnet.evaluation.reading import read_label_names
    from focusnet.io.names import read_name_table
    from focusnet.organs import organ_keys, split_names

    names = split_names(organs)

    rules = ScanRules(
        None if names is None else organ_keys(names),
        None if spellings is None else read_name_table(spellings),
        None if label_names is None else read_label_names(label_names),
        Choice(ct, labels),
    )
    options = ImportOptions(name, description, rules, mapping, overwrite, jobs)
    with shown_progress(quiet=quiet) as progress:
        report = run_import(source, out, options, _counted(progress, "importing"))
    for scan in report.failed:
        code, message = scan.error or ("", "")
        tell(f"{scan.case} ({scan.source}): {code}: {message}")
    if as_json:
        say(report.to_json())
    elif not quiet:
        say(report.to_text())
    return FAILED if report.failed else DONE


def check(data: Data, jobs: Jobs = 2, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> int:
    """Check a data set: grids, labels, sides, duplicates. What has errors is not trained on."""
    from focusnet_training.datasets import read_dataset
    from focusnet_training.integrity import check_dataset

    dataset = read_dataset(data, fold=None)
    if len({case.patient for case in dataset.cases.values()}) > 1:
        dataset = read_dataset(data)  # with its split, which must not leak
    with shown_progress(quiet=quiet) as progress:
        report = check_dataset(dataset, progress=_counted(progress, "checking"), jobs=jobs)
    if as_json:
        say(report.to_json())
    elif not quiet or report.excluded:
        say(report.to_text())
    return FAILED if report.excluded else DONE


def fingerprint(
    data: Data,
    small_voxels: Annotated[float, typer.Option(min=0, help="Mean voxels below which an organ is small.")] = 1000.0,
    preset: Annotated[str | None, typer.Option(help="Shipped configuration whose network is costed.")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration file (TOML) instead of a preset.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    cost: Annotated[bool, typer.Option(help="Run a training step to estimate memory and time.")] = True,
    jobs: Jobs = 2,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Measure a data set and propose spacing, small organs and region of interest."""
    from focusnet_training.config import NetworkConfig, load_config, load_preset
    from focusnet_training.cost import step_cost
    from focusnet_training.datasets import read_dataset
    from focusnet_training.fingerprint import fingerprint as measure

    if preset is not None and config is not None:
        raise FocusNetError("E_USAGE", "Give --preset or --config, not both.")
    network = NetworkConfig()
    if preset is not None or config is not None:
        network = (load_preset(preset) if preset is not None else load_config(config or Path())).network
    dataset = read_dataset(data, fold=None)
    with shown_progress(quiet=quiet) as progress:
        told = _counted(progress, "measuring")
        found = measure(dataset, small_voxels=small_voxels, progress=told, jobs=jobs)
    proposal = found.proposal
    network = network.model_copy(update={"roi_shape_zyx": proposal.roi_shape_zyx})
    numbers = len(dataset.organs), len(proposal.small_organs)
    step = step_cost(network, proposal.chunk_zyx, *numbers, device=device) if cost else None
    if as_json:
        say(json.dumps({**found.to_dict(), "step": None if step is None else step.to_dict()}, ensure_ascii=False))
    else:
        say(found.to_text(step))
    return DONE


def split(
    data: Data,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Decides between equally good folds.")] = 12345,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier split.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Split a data set by patient into folds that share out every organ; writes splits_final.json."""
    from focusnet_training.datasets import read_dataset
    from focusnet_training.splits import SPLITS_FILE, held_out, make_folds, missing_organs, write_folds

    dataset = read_dataset(data, fold=None)
    patients = {name: case.patient for name, case in dataset.cases.items()}
    kept_out = held_out(dataset.test, patients)
    organs = {name: case.annotated for name, case in dataset.cases.items() if name not in kept_out}
    made = make_folds(organs, patients, folds, seed)
    write_folds(made, data / SPLITS_FILE, overwrite=overwrite)
    if kept_out:
        tell(f"kept out of all folds, as test cases or scans of their patients: {', '.join(kept_out)}")
    lacking = missing_organs(made, organs)
    for line in lacking:
        tell(line)
    sizes = [(len(fold.training), len(fold.validation)) for fold in made]
    if as_json:
        say(json.dumps({"folds": sizes, "missing": lacking}))
    elif not quiet:
        for number, (training, validation) in enumerate(sizes):
            say(f"fold {number}: {training} cases to train on, {validation} to validate with")
    return DONE


def _counted(progress: CaseProgress | None, stage: str) -> Callable[[int, int, str], None] | None:
    return None if progress is None else lambda done, count, _: progress("data", stage, done / count, None)
