"""One CT of the scene being segmented in a child process, without Qt: start it, ask it now and then, cancel it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from focusnet.errors import Cancelled, FocusNetError
from focusnet.segment import SegmentOptions

from FocusNetSegmentationLib import mrml, protocol
from FocusNetSegmentationLib.exchange import read_report, write_request
from FocusNetSegmentationLib.logic import Outcome
from FocusNetSegmentationLib.process import Child, start_python
from FocusNetSegmentationLib.protocol import Progress

FOLDER_PREFIX = "FocusNet-"


StartChild = Callable[[Sequence[str]], Child]


class SegmentationJob:
    """Segments a CT in a child process and puts the result into the scene.

    Args:
        volume_node: The CT.
        options: How to segment.
        result_options: How the result is put into the scene.
        start_child: Starts a command; another one than the default is for tests.

    Raises:
        FocusNetError: The volume can't be a CT, or no process can be started; nothing is left behind.
    """

    def __init__(
        self,
        volume_node: Any,
        options: SegmentOptions,
        result_options: mrml.ResultOptions,
        start_child: StartChild | None = None,
    ) -> None:
        self.progress = Progress()
        self.log: list[str] = []
        self.outcome: Outcome | None = None
        self.error: FocusNetError | None = None
        self.volume_node = volume_node
        self._result_options = result_options
        self._refusal: FocusNetError | None = None
        volume = mrml.volume_from_node(volume_node)
        self._folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
        try:
            write_request(self._folder, volume, options)
            arguments = ["-m", "FocusNetSegmentationLib.worker", str(self._folder), str(os.getpid())]
            self._child = (start_child or start_python)(arguments)
        except OSError as error:
            self._remove_folder()
            reason = error.strerror or str(error)
            raise FocusNetError(
                "E_START", f"The segmentation can't be started: {reason}; check free disk space and Slicer's Python."
            ) from error
        except BaseException:
            self._remove_folder()
            raise

    @property
    def is_running(self) -> bool:
        """Whether there is neither an outcome nor an error yet."""
        return self.outcome is None and self.error is None

    def poll(self) -> bool:
        """Take in what the child has said; when it has ended, put the result into the scene.

        Returns:
            Whether the job still runs. Afterwards there is either an ``outcome`` or an ``error``.
        """
        if not self.is_running:
            return False
        if self.volume_node.GetScene() is None:
            self._stop(FocusNetError("E_VOLUME_GONE", "The CT was removed from the scene; nothing was segmented."))
            return False
        lines, exit_code = self._child.poll()
        for line in lines:
            self._take(line)
        if exit_code is not None:
            try:
                self._finish(exit_code)
            finally:
                self._remove_folder()
        return self.is_running

    def cancel(self) -> None:
        """End the child with all its children; the scene stays as it is."""
        if self.is_running:
            self._stop(Cancelled())

    def _take(self, line: str) -> None:
        message = protocol.parse(line)
        if message is None:
            if line.strip():
                self.log.append(line)
        elif message["kind"] == "progress":
            self.progress = Progress(message["stage"], message["share"], message["seconds_left"])
        elif message["kind"] == "error":
            self._refusal = FocusNetError(message["code"], message["message"])
            self.log.append(str(self._refusal))

    def _finish(self, exit_code: int) -> None:
        if exit_code != 0:
            self.error = self._refusal or FocusNetError("E_CHILD", self._why_ended(exit_code))
            return
        try:
            report = read_report(self._folder)
            stamped = replace(self._result_options, stamp={**self._result_options.stamp, **report.stamp})
            result = mrml.segmentations_from_labelmap(report.labelmap, self.volume_node, stamped)
        except FocusNetError as error:
            self.error = error
        except Exception as error:
            text = " ".join(str(error).split())
            self.error = FocusNetError(
                "E_RESULT", f"The result can't be put into the scene: {type(error).__name__}: {text}."
            )
        else:
            self.outcome = Outcome(result, report)

    def _why_ended(self, exit_code: int) -> str:
        last = self.log[-1] if self.log else "it said nothing"
        killed = " It was ended by the system, mostly for lack of memory." if exit_code in (-9, 137) else ""
        return f"The segmentation ended with code {exit_code}: {last}.{killed}"

    def _stop(self, reason: FocusNetError) -> None:
        try:
            self._child.end()
        finally:
            self._remove_folder()
            self.error = reason

    def _remove_folder(self) -> None:
        """The folder holds a copy of the patient's CT."""
        shutil.rmtree(self._folder, ignore_errors=True)
