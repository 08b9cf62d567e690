"""Short work for the panel in a child process that ends with it: check a data set, make one, install a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
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
        prepare: Puts files into the folder that the child works on, a little with each :meth:`poll`.
        start_child: Starts a command; another one than the default is for tests.

    Raises:
        FocusNetError: ``E_START`` when no process can be started.

    Attributes:
        kind: Which work.
        result: What it has found; None until it is done.
        error: Why it failed.
    """

    def __init__(
        self,
        kind: str,
        arguments: dict[str, Any],
        prepare: Callable[[Path], Iterator[Progress]] | None = None,
        start_child: StartChild | None = None,
    ) -> None:
        self.kind = kind
        self.result: dict[str, Any] | None = None
        self.error: FocusNetError | None = None
        self._request = {"kind": kind, "arguments": arguments}
        self._start_child = start_child or start_child_python
        self._run = ChildRun("work")
        self._steps = None if prepare is None else prepare(self._run.folder)
        self._prepared = Progress()
        if self._steps is None:
            self._start()

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._run.progress if self._steps is None else self._prepared

    @property
    def is_running(self) -> bool:
        """Whether there is neither a result nor an error yet."""
        return self.result is None and self.error is None

    def poll(self) -> bool:
        """Prepare a little more, or take in what the child has said; whether it still runs. Never waits."""
        if not self.is_running:
            return False
        try:
            if self._steps is not None:
                self._advance(self._steps)
            elif (exit_code := self._run.poll()) is not None:
                self._finish(exit_code)
        except FocusNetError as error:
            self._stop(error)
        except (OSError, ValueError) as error:
            text = getattr(error, "strerror", None) or str(error)
            self._stop(FocusNetError("E_RESULT", f"Files can't be handed over: {text}; check the free disk space."))
        return self.is_running

    def cancel(self) -> None:
        """End the child with all its children."""
        if self.is_running:
            self._stop(Cancelled())

    def _advance(self, steps: Iterator[Progress]) -> None:
        try:
            self._prepared = next(steps)
        except StopIteration:
            self._steps = None
            self._start()

    def _start(self) -> None:
        def write(folder: Path) -> None:
            (folder / REQUEST_FILE).write_text(json.dumps(self._request), "utf-8")

        self._run.start(WORKER, write, self._start_child)

    def _finish(self, exit_code: int) -> None:
        if exit_code != 0:
            raise self._run.failure(exit_code)
        self.result = json.loads((self._run.folder / RESULT_FILE).read_text("utf-8"))
        self._run.remove_folder()

    def _stop(self, reason: FocusNetError) -> None:
        self._steps = None
        self.error = reason
        self._run.end()


def start_child_python(arguments: Sequence[str]) -> ChildProcess:
    """Start our Python as a child that finds both modules' libraries."""
    return ChildProcess(*training_command(arguments))
