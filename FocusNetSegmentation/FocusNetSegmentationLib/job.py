"""One CT of the scene being segmented in a child process, without Qt: start it, ask it now and then, cancel it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from focusnet.errors import Cancelled, FocusNetError
from focusnet.segment import SegmentOptions

from FocusNetSegmentationLib import mrml
from FocusNetSegmentationLib.child_run import ChildRun, StartChild
from FocusNetSegmentationLib.exchange import read_report, write_request
from FocusNetSegmentationLib.logic import Outcome
from FocusNetSegmentationLib.process import start_python
from FocusNetSegmentationLib.protocol import Progress


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
        self.outcome: Outcome | None = None
        self.error: FocusNetError | None = None
        self.volume_node = volume_node
        self._result_options = result_options
        volume = mrml.patient_from_node(volume_node)
        self._run = ChildRun("segmentation")
        self._run.start(
            "FocusNetSegmentationLib.worker",
            lambda folder: write_request(folder, volume, options),
            start_child or start_python,
        )

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._run.progress

    @property
    def log(self) -> list[str]:
        """What the child has said besides its progress."""
        return self._run.log

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
        exit_code = self._run.poll()
        if exit_code is not None:
            try:
                self._finish(exit_code)
            finally:
                self._run.remove_folder()
        return self.is_running

    def cancel(self) -> None:
        """End the child with all its children; the scene stays as it is."""
        if self.is_running:
            self._stop(Cancelled())

    def _finish(self, exit_code: int) -> None:
        if exit_code != 0:
            self.error = self._run.failure(exit_code)
            return
        try:
            # The CT may have been moved while the child ran; the result goes where it lies now.
            report = read_report(self._run.folder).on(mrml.world_grid(self.volume_node))
            stamped = replace(self._result_options, stamp={**self._result_options.stamp, **report.stamp})
            result = mrml.segmentations_from_labelmap(report.labelmap, self.volume_node, stamped, report.uncertainty)
        except FocusNetError as error:
            self.error = error
        except Exception as error:
            text = " ".join(str(error).split())
            self.error = FocusNetError(
                "E_RESULT", f"The result can't be put into the scene: {type(error).__name__}: {text}."
            )
        else:
            self.outcome = Outcome(result, report)

    def _stop(self, reason: FocusNetError) -> None:
        try:
            self._run.end()
        finally:
            self.error = reason
