"""Exit codes and the options that subcommands share."""

from __future__ import annotations

from typing import Annotated

import typer

DONE, FAILED, REFUSED, CANCELLED, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = (
    "Exit codes: 0 done; 1 at least one case failed, the others are done and listed; 2 wrong usage or refused input, "
    "with one line that says why; 3 cancelled; 130 interrupted."
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks beside the answer.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More detail; the trace of an unexpected error.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Model = Annotated[str | None, typer.Option("--model", help="Name or folder of a model; the shipped one by default.")]
Organs = Annotated[str | None, typer.Option("--organs", help="Organs to label, separated by commas; all by default.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")]
Fast = Annotated[bool, typer.Option("--fast", help="Pieces side by side on one working grid: faster, less smooth.")]
PerOrgan = Annotated[bool, typer.Option("--per-organ", help="One file, or one Segmentation node, per organ.")]
Uncertainty = Annotated[bool, typer.Option("--uncertainty", help="Also write a map of uncertainty.")]
Names = Annotated[
    bool, typer.Option("--names", help="Name outputs and rows after the inputs, which may identify patients.")
]
