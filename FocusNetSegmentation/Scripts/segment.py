"""Segment CTs without a window: the same file for 3D Slicer and for plain Python.

    Slicer --no-splash --no-main-window --python-script segment.py -- --input CT --output out.mrb
    python segment.py -- --input CT --output out.mrb

OUTPUT's ending says what is written: .mrb a scene, .seg.nrrd, .nii.gz, or .dcm an RT structure set for a CT that is a
DICOM folder. Takes all options of ``focusnet segment`` besides its own, and has its exit codes: 0 done; 1 at least one
case failed; 2 wrong usage or refused input; 3 cancelled; 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from FocusNetSegmentationLib.headless import REFUSED, Parser, end, guarded, own_arguments, require_packages
from FocusNetSegmentationLib.runtime import in_application


def main(arguments: Sequence[str]) -> int:
    """Segment, and return the exit code."""
    return guarded(lambda: _run(_command(arguments)))


def _command(arguments: Sequence[str]) -> list[str]:
    """The command line of ``focusnet`` for the arguments of this script."""
    parser = Parser(
        prog="segment.py",
        description="Organs at risk of the head and neck on CT; further options as of 'focusnet segment'.",
        allow_abbrev=False,
    )
    parser.add_argument("--input", required=True, nargs="+", help="NRRD, NIfTI, MHA, DICOM folder, or folder of cases")
    parser.add_argument("--output", required=True, help="file such as out.mrb, out.seg.nrrd or out.dcm, or folder")
    parser.add_argument(
        "--format", action="append", default=[], help="mrb, seg.nrrd, rtstruct, ...; by default as OUTPUT ends"
    )
    parser.add_argument("--one-node", action="store_true", help="scene with one segmentation node, not one per organ")
    own, others = parser.parse_known_args(arguments)
    scene = set(own.format) == {"mrb"} or (not own.format and own.output.lower().endswith(".mrb"))
    formats = [part for name in own.format for part in ("--format", name)]
    per_organ = ["--per-organ"] if scene and not own.one_node else []
    return ["segment", *own.input, "--out", own.output, *formats, *per_organ, *others]


def _run(command: list[str]) -> int:
    require_packages()
    from focusnet.cli import run

    if in_application() and any(part.split("=")[0] == "--jobs" for part in command):
        # Each process of a pool would start another 3D Slicer.
        print("E_USAGE: --jobs works in plain Python only; leave it out in 3D Slicer.", file=sys.stderr, flush=True)
        return REFUSED
    return run(command)


if __name__ == "__main__":
    end(main(own_arguments(sys.argv[1:])))
