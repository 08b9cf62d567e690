"""Short work for the panel in a child process that ends with it: check a data set, make one, install a model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from focusnet.errors import Cancelled, FocusNetError
from FocusNetSegmentationLib import protocol
from FocusNetSegmentationLib.process import Child, ChildProcess
from FocusNetSegmentationLib.protocol import Progress

from FocusNetTrainingLib.launcher import training_command

StartChild = Callable[[Sequence[str]], Child]


class Task:
    """One piece of work of :mod:`FocusNetTrainingLib.task_worker`; ask it now and then.

    Args:
        kind: Which work.
        arguments: Its arguments; what JSON can hold.
        start_child: Starts a command; another one than the default is for tests.

    Raises:
        FocusNetError: ``E_START`` when no process can be started.

    Attributes:
        progress: How far it is.
        log: What the child has written besides its messages.
        result: What it has found; None until it is done.
        error: Why it failed.
    """

    def __init__(self, kind: str, arguments: dict[str, Any], start_child: StartChild | None = None) -> None:
        self.kind = kind
        self.progress = Progress()
        self.log: list[str] = []
        self.result: dict[str, Any] | None = None
        self.error: FocusNetError | None = None
        self._found: dict[str, Any] | None = None
        self._refusal: FocusNetError | None = None
        command = ["-m", "FocusNetTrainingLib.task_worker", kind, json.dumps(arguments), str(os.getpid())]
        try:
            self._child = (start_child or start_child_python)(command)
        except OSError as error:
            reason = error.strerror or str(error)
            raise FocusNetError("E_START", f"No process can be started: {reason}; check Slicer's Python.") from error

    @property
    def is_running(self) -> bool:
        """Whether there is neither a result nor an error yet."""
        return self.result is None and self.error is None

    def poll(self) -> bool:
        """Take in what the child has said; whether it still runs. Never waits."""
        if not self.is_running:
            return False
        lines, exit_code = self._child.poll()
        for line in lines:
            message = protocol.parse(line)
            if message is None:
                if line.strip():
                    self.log.append(line)
            elif message["kind"] == "progress":
                self.progress = Progress(message["stage"], message["share"], message["seconds_left"])
            elif message["kind"] == "result":
                self._found = message["content"]
            elif message["kind"] == "error":
                self._refusal = FocusNetError(message["code"], message["message"])
        if exit_code is not None:
            if exit_code == 0 and self._found is not None:
                self.result = self._found
            else:
                self.error = self._refusal or FocusNetError("E_CHILD", self._why_ended(exit_code))
        return self.is_running

    def cancel(self) -> None:
        """End the child with all its children."""
        if self.is_running:
            self._child.end()
            self.error = Cancelled()

    def _why_ended(self, exit_code: int) -> str:
        last = self.log[-1] if self.log else "it said nothing"
        return f"The process ended with code {exit_code}: {last}."


def start_child_python(arguments: Sequence[str]) -> ChildProcess:
    """Start our Python as a child."""
    return ChildProcess(*training_command(arguments))
