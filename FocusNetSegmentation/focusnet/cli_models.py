"""Subcommands of ``focusnet models``: what models there are, and what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from focusnet.cli_options import DONE, Json, Quiet, Verbose
from focusnet.console import say, tell


def register(app: typer.Typer) -> None:
    """Add the subcommands."""
    models = typer.Typer(help="Models: list, show, verify, install.", rich_markup_mode=None)
    models.command("list")(list_models)
    models.command()(show)
    models.command()(verify)
    models.command()(install)
    app.add_typer(models, name="models")


def list_models(as_json: Json = False, quiet: Quiet = False, verbose: Verbose = False) -> int:
    """List the models on this computer."""
    from focusnet.model_store import list_bundles, search_folders

    listings = list_bundles()
    if as_json:
        rows = [{"name": b.name, "folder": str(b.folder), "problem": b.problem} for b in listings]
        say(json.dumps(rows, ensure_ascii=False))
        return DONE
    for listing in listings:
        spec = listing.spec
        about = listing.problem if spec is None else f"{len(spec.organs)} organs. {spec.description}"
        say(f"{listing.name:16} {about}" + (f" ({listing.folder})" if verbose else ""))
    if not listings and not quiet:
        tell(f"No model in {', '.join(str(folder) for folder in search_folders())}; see 'focusnet models install'.")
    return DONE


def show(
    name: Annotated[str, typer.Argument(help="Name or folder of a model.")],
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Show what a model is: organs, grid, training data; its model card with -v."""
    from focusnet.bundle import read_card, read_spec
    from focusnet.model_store import find_bundle

    folder = find_bundle(name)
    spec = read_spec(folder)
    if as_json:
        say(spec.model_dump_json())
        return DONE
    x, y, z = spec.spacing_mm_xyz
    say(f"{spec.name}: {spec.description}")
    say(f"Organs: {', '.join(spec.organs)}")
    if spec.small_organs:
        say(f"Small organs: {', '.join(spec.small_organs)}")
    grids = f", the mean of {spec.grids} such grids" if spec.grids > 1 else ""
    say(f"Grid: {x:g} x {y:g} x {z:g} mm{grids}; {spec.window_hu[0]:g} to {spec.window_hu[1]:g} HU")
    say(f"Training data: {spec.training_data}")
    say(f"Weights: SHA-256 {spec.weights.sha256}, {spec.weights.bytes / 2**20:.1f} MiB, made {spec.created:%Y-%m-%d}")
    if verbose:
        say(read_card(folder))
    return DONE


def verify(
    name: Annotated[str, typer.Argument(help="Name or folder of a model.")],
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Check a model's files: description, hash, every tensor."""
    from focusnet.bundle import load_bundle
    from focusnet.model_store import find_bundle

    bundle = load_bundle(find_bundle(name))
    if as_json:
        say(json.dumps({"name": bundle.spec.name, "sha256": bundle.spec.weights.sha256, "sound": True}))
    elif not quiet:
        say(f"{bundle.spec.name}: sound, {bundle.folder}")
    return DONE


def install(
    source: Annotated[Path, typer.Argument(help="Folder or zip file of a bundle.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of the same name.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Install a model from a file, after checking it; nothing is downloaded."""
    from focusnet.model_store import install_bundle

    folder = install_bundle(source, overwrite=overwrite)
    if as_json:
        say(json.dumps({"name": folder.name, "folder": str(folder)}, ensure_ascii=False))
    elif not quiet:
        say(f"{folder.name}: installed in {folder}")
    return DONE
