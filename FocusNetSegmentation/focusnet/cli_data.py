"""Subcommands about training data: check and split; no logic. `focusnet.cli` registers them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from focusnet.cli_options import DONE, FAILED, Json, Quiet, Verbose
from focusnet.console import CaseProgress, say, shown_progress, tell

Data = Annotated[Path, typer.Argument(help="Data set: nnU-Net v2 raw or Medical Segmentation Decathlon.")]
Jobs = Annotated[int, typer.Option(min=1, help="Cases at the same time.")]


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    app.command()(check)
    app.command()(split)


def check(data: Data, jobs: Jobs = 2, as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> int:
    """Check a data set: grids, labels, sides, duplicates. What has errors is not trained on."""
    from focusnet_training.datasets import read_dataset
    from focusnet_training.integrity import check_dataset

    with shown_progress(quiet=quiet) as progress:
        report = check_dataset(read_dataset(data), progress=_counted(progress, "checking"), jobs=jobs)
    if as_json:
        say(report.to_json())
    elif not quiet or report.excluded:
        say(report.to_text())
    return FAILED if report.excluded else DONE


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
    from focusnet_training.splits import SPLITS_FILE, make_folds, missing_organs, write_folds

    dataset = read_dataset(data, fold=None)
    organs = {name: case.annotated for name, case in dataset.cases.items()}
    made = make_folds(organs, {name: case.patient for name, case in dataset.cases.items()}, folds, seed)
    write_folds(made, data / SPLITS_FILE, overwrite=overwrite)
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
