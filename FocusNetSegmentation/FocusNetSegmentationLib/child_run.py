"""A child process at work on a folder of its own: progress, log, the reason of its end, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from focusnet.errors import FocusNetError

from FocusNetSegmentationLib import protocol
from FocusNetSegmentationLib.process import Child
from FocusNetSegmentationLib.protocol import Progress

FOLDER_PREFIX = "FocusNet-"


StartChild = Callable[[Sequence[str]], Child]


class ChildRun:
    """One child process and the temporary folder by which it gets its work and gives its result.

    Args:
        task: What it is called in messages, such as ``segmentation``.
    """

    def __init__(self, task: str) -> None:
        self.progress = Progress()
        self.log: list[str] = []
        self._task = task
        self._child: Child | None = None
        self._refusal: FocusNetError | None = None
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        except OSError as error:
            raise self._not_started(error) from error

    def start(self, module: str, write: Callable[[Path], None], start_child: StartChild) -> None:
        """Put the work into the folder and start ``python -m module FOLDER PARENT_PID``.

        Raises:
            FocusNetError: ``E_START``, or what ``write`` raises; the folder is gone then.
        """
        try:
            write(self.folder)
            self._child = start_child(["-m", module, str(self.folder), str(os.getpid())])
        except OSError as error:
            self.remove_folder()
            raise self._not_started(error) from error
        except BaseException:
            self.remove_folder()
            raise

    def poll(self) -> int | None:
        """Take in what the child has said; its exit code when it has ended."""
        assert self._child is not None
        lines, exit_code = self._child.poll()
        for line in lines:
            message = protocol.parse(line)
            if message is None:
                if line.strip():
                    self.log.append(line)
            elif message["kind"] == "progress":
                self.progress = Progress(message["stage"], message["share"], message["seconds_left"])
            elif message["kind"] == "error":
                self._refusal = FocusNetError(message["code"], message["message"])
                self.log.append(str(self._refusal))
        return exit_code

    def failure(self, exit_code: int) -> FocusNetError:
        """Why the child ended with a code other than 0."""
        if self._refusal is not None:
            return self._refusal
        last = self.log[-1] if self.log else "it said nothing"
        killed = " It was ended by the system, mostly for lack of memory." if exit_code in (-9, 137) else ""
        return FocusNetError("E_CHILD", f"The {self._task} ended with code {exit_code}: {last}.{killed}")

    def end(self) -> None:
        """End the child with all its children and remove the folder."""
        try:
            if self._child is not None:
                self._child.end()
        finally:
            self.remove_folder()

    def remove_folder(self) -> None:
        """The folder holds copies of a patient's data."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _not_started(self, error: OSError) -> FocusNetError:
        reason = error.strerror or str(error)
        return FocusNetError(
            "E_START", f"The {self._task} can't be started: {reason}; check free disk space and Slicer's Python."
        )
