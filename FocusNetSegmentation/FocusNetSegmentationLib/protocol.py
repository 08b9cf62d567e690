"""Lines by which a child process tells its parent how far it is; all other lines are its log."""

from __future__ import annotations

import json
from typing import Any

MARK = "@focusnet "


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
