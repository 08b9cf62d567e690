"""Exit codes and the options that every subcommand has."""

from typing import Annotated

import typer

DONE, FAILED, REFUSED, CANCELLED, INTERRUPTED = 0, 1, 2, 3, 130

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="More detail, and the trace of an unexpected error.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
