"""Train a model without a window: the same file for 3D Slicer and for plain Python.

    Slicer --no-splash --no-main-window --python-script train.py -- --preset phantom22 --data DATA --output RUN
    python train.py -- --preset phantom22 --data DATA --output RUN --install

A run that is in the folder goes on from its last checkpoint. Takes all options of ``focusnet train`` besides its own,
and has its exit codes: 0 done; 1 failed; 2 wrong usage or refused input; 3 cancelled; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# In the installed extension all libraries lie in one folder, in the sources each beside its module.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "FocusNetSegmentation"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from FocusNetSegmentationLib.headless import DONE, Parser, end, guarded, own_arguments, require_packages


def main(arguments: Sequence[str]) -> int:
    """Train, and return the exit code."""
    return guarded(lambda: _run(*_parse(arguments)))


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser(
        prog="train.py",
        description="Staged training of FocusNetv2; further options as of 'focusnet train'.",
        allow_abbrev=False,
    )
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--output", required=True, type=Path, help="run folder; a run that is there goes on")
    parser.add_argument("--stage", help="stop after this stage: snet, sol, aae, sos or joint")
    parser.add_argument("--install", action="store_true", help="add the model to this computer's models when finished")
    parser.add_argument("--overwrite", action="store_true", help="with --install: replace a model of the same name")
    return parser.parse_known_args(arguments)


def _run(own: argparse.Namespace, others: list[str]) -> int:
    require_packages()
    from focusnet.cli import run
    from focusnet_training.runs import is_finished

    going_on = (own.output / "last.pt").exists() and "--resume" not in others
    others += [*([] if own.stage is None else ["--stage", own.stage]), *(["--resume"] if going_on else [])]
    code = run(["train", "--data", own.data, "--out", str(own.output), *others])
    if code != DONE or not own.install:
        return code
    if not is_finished(own.output, own.stage):
        print("The time budget ended first; nothing is installed. Run the same command to go on.", file=sys.stderr)
        return DONE
    bundle = str(own.output / "bundle")
    code = run(["bundle", str(own.output), "--out", bundle, "--overwrite"])
    if code != DONE:
        return code
    return run(["models", "install", bundle, *(["--overwrite"] if own.overwrite else [])])


if __name__ == "__main__":
    end(main(own_arguments(sys.argv[1:])))
