"""A training seen from the panel: start it, watch it, pause, resume or stop it, and find it again; Qt-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from focusnet.errors import FocusNetError
from FocusNetSegmentationLib.process import end_tree

from FocusNetTrainingLib.launcher import Started, start_detached
from FocusNetTrainingLib.run_folder import RunFolder, RunStatus, TrainingRequest

StartWorker = Callable[[Sequence[str], Path], Started]


class TrainingRun:
    """A run folder and the process that works on it, if any.

    Args:
        path: The run folder.
        start_worker: Starts Python with arguments and a log file; another one than the default is for tests.
        end_group: Ends a process with all it has started, by the number the process gave.

    Raises:
        FocusNetError: ``E_RUN`` when the folder can't be read.
    """

    def __init__(
        self, path: Path, start_worker: StartWorker = start_detached, end_group: Callable[[int], None] = end_tree
    ) -> None:
        self.folder = RunFolder(path)
        self._start_worker = start_worker
        self._end_group = end_group
        self._started: Started | None = None
        self._starts_before = 0
        self._stopped = False
        self.status = self._refreshed()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of the validations so far."""
        return self.folder.rows

    @property
    def log(self) -> list[str]:
        """What the process has written."""
        return self.folder.log

    def poll(self) -> RunStatus:
        """How the run stands now; never waits.

        Raises:
            FocusNetError: ``E_RUN`` when the folder can't be read any more.
        """
        status = self._refreshed()
        code = None if self._started is None else self._started.poll()
        spoken = self.folder.starts > self._starts_before
        if self._started is not None and code is None and not spoken and not self._stopped:
            status = replace(status, state="starting", error=None)
        if code is not None:
            self._started = None
            if code != 0 and not self._stopped and (status.state == "interrupted" or not spoken):
                status = replace(status, state="failed", error=self._why_ended(code))
        elif self.status.state == "failed" and status.state == "interrupted":
            status = replace(status, state="failed", error=self.status.error)  # known to who started it only
        self.status = status
        return status

    def start(self, request: TrainingRequest) -> None:
        """Begin the run, or go on from its last checkpoint.

        Raises:
            FocusNetError: ``E_RUN_BUSY`` when a process works on it, ``E_START`` when none can be started, ``E_RUN``.
        """
        if self.poll().is_alive:
            raise FocusNetError("E_RUN_BUSY", "This run is being trained already; pause or stop it first.")
        self._starts_before = self.folder.starts
        self._stopped = False
        try:
            self.folder.write_request(request)
            self.folder.ask_pause(False)
            arguments = ["-m", "FocusNetTrainingLib.train_worker", str(self.folder.path.resolve())]
            self._started = self._start_worker(arguments, self.folder.log_path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise FocusNetError(
                "E_START", f"The training can't be started: {reason}; check the run folder and the free disk space."
            ) from error
        self.status = replace(self.status, state="starting", error=None)

    def pause(self) -> None:
        """Ask the process to write a checkpoint and end.

        Raises:
            FocusNetError: ``E_RUN`` when it can't be asked.
        """
        if self.poll().is_alive:
            self._ask_pause(True)
            self.poll()

    def stop(self) -> None:
        """End the process with all it has started; the last checkpoint stays.

        Raises:
            FocusNetError: ``E_RUN`` when it is not ours and can't be asked.
        """
        if not self.poll().is_alive:
            return
        group = self._started.pid if self._started is not None else self.folder.process_group()
        if group is None:  # a run of the command line, perhaps of another user
            self._ask_pause(True)
        else:
            self._stopped = True
            self._end_group(group)
            self._ask_pause(False)
        self.poll()

    def _refreshed(self) -> RunStatus:
        with self._folder_used():
            return self.folder.refresh()

    def _ask_pause(self, wanted: bool) -> None:
        with self._folder_used():
            self.folder.ask_pause(wanted)

    @contextmanager
    def _folder_used(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            raise FocusNetError(
                "E_RUN", f"The run folder '{self.folder.path}' can't be used: {reason}; choose it again, or another."
            ) from error

    def _why_ended(self, code: int) -> FocusNetError:
        last = self.log[-1] if self.log else "it said nothing"
        killed = " It was ended by the system, mostly for lack of memory." if code in (-9, 137) else ""
        return FocusNetError("E_CHILD", f"The training ended with code {code}: {last}.{killed}")
