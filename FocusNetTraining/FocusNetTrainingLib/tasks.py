"""Short work for the panel in a child process that ends with it: check a data set, make one, install a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from focusnet.errors import Cancelled, FocusNetError
from FocusNetSegmentationLib.child_run import ChildRun, StartChild
from FocusNetSegmentationLib.process import ChildProcess
from FocusNetSegmentationLib.protocol import Progress

from FocusNetTrainingLib.launcher import training_command

REQUEST_FILE = "request.json"
RESULT_FILE = "result.json"
WORKER = "FocusNetTrainingLib.task_worker"


class Task:
    """One piece of work of :mod:`FocusNetTrainingLib.task_worker`; ask it now and then.

    Args:
        kind: Which work.
        arguments: Its arguments; what JSON can hold.
        write: Puts further files into the folder that the child works on.
        start_child: Starts a command; another one than the default is for tests.

    Raises:
        FocusNetError: ``E_START`` when no process can be started.

    Attributes:
        result: What it has found; None until it is done.
        error: Why it failed.
    """

    def __init__(
        self,
        kind: str,
        arguments: dict[str, Any],
        write: Callable[[Path], None] = lambda folder: None,
        start_child: StartChild | None = None,
    ) -> None:
        self.result: dict[str, Any] | None = None
        self.error: FocusNetError | None = None
        self._run = ChildRun("work")

        def write_all(folder: Path) -> None:
            write(folder)
            (folder / REQUEST_FILE).write_text(json.dumps({"kind": kind, "arguments": arguments}), "utf-8")

        self._run.start(WORKER, write_all, start_child or start_child_python)

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._run.progress

    @property
    def is_running(self) -> bool:
        """Whether there is neither a result nor an error yet."""
        return self.result is None and self.error is None

    def poll(self) -> bool:
        """Take in what the child has said; whether it still runs. Never waits."""
        if not self.is_running:
            return False
        exit_code = self._run.poll()
        if exit_code is not None:
            try:
                self._finish(exit_code)
            finally:
                self._run.remove_folder()
        return self.is_running

    def cancel(self) -> None:
        """End the child with all its children."""
        if self.is_running:
            self.error = Cancelled()
            self._run.end()

    def _finish(self, exit_code: int) -> None:
        if exit_code != 0:
            self.error = self._run.failure(exit_code)
            return
        try:
            self.result = json.loads((self._run.folder / RESULT_FILE).read_text("utf-8"))
        except (OSError, ValueError) as error:
            self.error = FocusNetError("E_RESULT", f"The result can't be read: {error}; try again.")


def start_child_python(arguments: Sequence[str]) -> ChildProcess:
    """Start our Python as a child that finds both modules' libraries."""
    return ChildProcess(*training_command(arguments))
