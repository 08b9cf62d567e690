"""Lines by which a child process tells its parent how far it is; all other lines are its log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

MARK = "@focusnet "


@dataclass(frozen=True)
class Progress:
    """How far the work of a child is.

    Attributes:
        stage: What it does now.
        share: Finished share in [0, 1].
        seconds_left: Estimate, None while unknown.
    """

    stage: str = "starting"
    share: float = 0.0
    seconds_left: float | None = None


def emit(kind: str, **content: Any) -> None:
    """Print one message for the parent, on a line of its own."""
    print(f"\n{MARK}{json.dumps({'kind': kind, **content}, ensure_ascii=True)}", flush=True)


def parse(line: str) -> dict[str, Any] | None:
    """The message of a line, or None for a line of the log."""
    if not line.startswith(MARK):
        return None
    try:
        message = json.loads(line[len(MARK) :])
    except ValueError:
        return None
    return message if isinstance(message, dict) and isinstance(message.get("kind"), str) else None
