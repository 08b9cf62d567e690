"""Segment CTs without a window: the same file for 3D Slicer and for plain Python.

    Slicer --no-splash --no-main-window --python-script segment.py -- --input CT --output out.mrb
    python segment.py -- --input CT --output out.mrb

Takes all options of ``focusnet segment`` besides its own, and has its exit codes: 0 done; 1 at least one case failed;
2 wrong usage or refused input; 3 cancelled; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

LIBRARY = Path(__file__).resolve().parents[1]
FAILED, REFUSED = 1, 2


def main(arguments: Sequence[str]) -> int:
    """Segment, and return the exit code; no exception leaves, for it would keep 3D Slicer open."""
    try:
        return _run(_command(arguments))
    except SystemExit as ended:  # argparse has said what is wrong, or printed the help
        return ended.code if isinstance(ended.code, int) else REFUSED
    except Exception as error:
        text = " ".join(str(error).split())
        print(f"E_INTERNAL: {type(error).__name__}: {text}; please report this.", file=sys.stderr, flush=True)
        return FAILED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line with a reason code, as for any refusal."""
        self.exit(REFUSED, f"E_USAGE: {message}; see segment.py -- --help.\n")


def _command(arguments: Sequence[str]) -> list[str]:
    """The command line of ``focusnet`` for the arguments of this script."""
    parser = _Parser(
        prog="segment.py",
        description="Organs at risk of the head and neck on CT; further options as of 'focusnet segment'.",
        allow_abbrev=False,
    )
    parser.add_argument("--input", required=True, nargs="+", help="NRRD, NIfTI, MHA, DICOM folder, or folder of cases")
    parser.add_argument("--output", required=True, help="file such as out.mrb or out.seg.nrrd, or folder")
    parser.add_argument("--format", action="append", default=[], help="mrb, seg.nrrd, ...; by default as OUTPUT ends")
    parser.add_argument("--one-node", action="store_true", help="scene with one segmentation node, not one per organ")
    own, others = parser.parse_known_args(arguments)
    scene = set(own.format) == {"mrb"} or (not own.format and own.output.lower().endswith(".mrb"))
    formats = [part for name in own.format for part in ("--format", name)]
    per_organ = ["--per-organ"] if scene and not own.one_node else []
    return ["segment", *own.input, "--out", own.output, *formats, *per_organ, *others]


def _run(command: list[str]) -> int:
    sys.path.insert(0, str(LIBRARY))
    from focusnet.cli import run

    if in_slicer() and any(part.split("=")[0] == "--jobs" for part in command):
        # Each process of a pool would start another 3D Slicer.
        print("E_USAGE: --jobs works in plain Python only; leave it out in 3D Slicer.", file=sys.stderr, flush=True)
        return REFUSED
    return run(command)


def in_slicer() -> bool:
    """Whether this is the 3D Slicer application."""
    return hasattr(sys.modules.get("slicer"), "app")


def own_arguments(arguments: Sequence[str]) -> list[str]:
    """What follows ``--``; everything where it is missing."""
    everything = list(arguments)
    return everything[everything.index("--") + 1 :] if "--" in everything else everything


if __name__ == "__main__":
    code = main(own_arguments(sys.argv[1:]))
    if in_slicer():
        import slicer.util

        slicer.util.exit(code)
    else:
        sys.exit(code)
