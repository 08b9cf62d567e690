"""Starts processes that outlive the one that started them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from FocusNetSegmentationLib.process import NO_WINDOW, child_environment, python_command

LIBRARY = Path(__file__).resolve().parents[1]
NEW_GROUP: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)


class Started(Protocol):
    """A process that was started.

    Attributes:
        pid: Its number, which is its group's too.
    """

    pid: int

    def poll(self) -> int | None:
        """Its exit code once it has ended."""


def training_command(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Command line and environment in which Python finds both modules' libraries."""
    command, environment = python_command(arguments)
    return command, child_environment(environment, LIBRARY)


def start_detached(arguments: Sequence[str], log: Path) -> Started:
    """Start our Python as the leader of a group of its own; its output goes to the end of a file.

    Raises:
        OSError: The process can't be started, or the file not be written.
        FocusNetError: ``E_START`` when the application's Python is not found.
    """
    command, environment = training_command(arguments)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            creationflags=NO_WINDOW | NEW_GROUP,
        )
