"""One evaluation in a child process, without Qt: start it, ask it now and then, cancel it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from focusnet.errors import Cancelled, FocusNetError
from focusnet.evaluation.masks import CroppedMask
from focusnet.geometry import Geometry
from FocusNetSegmentationLib import mrml
from FocusNetSegmentationLib.child_run import ChildRun, Progress, StartChild
from FocusNetSegmentationLib.process import ChildProcess
from FocusNetSegmentationLib.structures import masks_of_nodes, volume_of

from FocusNetTrainingLib.evaluate_request import (
    CT_FILE,
    SIDES,
    Evaluated,
    EvaluationRequest,
    read_evaluated,
    write_request,
    write_side,
)
from FocusNetTrainingLib.launcher import training_command

WORKER = "FocusNetTrainingLib.evaluate_worker"


@dataclass(eq=False)
class SceneSide:
    """Structures of one side, taken from the scene node by node.

    Attributes:
        nodes: Segmentation nodes.
        grid: Grid in the world, LPS mm; None until the first node was taken.
        masks: Name and mask of each structure so far.
    """

    nodes: Sequence[Any]
    grid: Geometry | None = None
    masks: list[tuple[str, CroppedMask | None]] = field(default_factory=list)

    def take(self, node: Any) -> None:
        """Add the structures of one of the nodes."""
        if node.GetScene() is None:
            raise FocusNetError("E_VOLUME_GONE", "A segmentation was removed from the scene; nothing was compared.")
        self.grid, structures = masks_of_nodes([node], self.grid)
        self.masks += [(structure.name, structure.mask) for structure in structures]


class EvaluationJob:
    """Compares two sets of contours in a child process.

    Args:
        sides: Segmentation nodes of reference and prediction; None for folders.
        request: Folders and spellings.
        start_child: Starts a command; another one than the default is for tests.
    """

    def __init__(
        self,
        sides: tuple[Sequence[Any], Sequence[Any]] | None,
        request: EvaluationRequest,
        start_child: StartChild | None = None,
    ) -> None:
        self.outcome: Evaluated | None = None
        self.error: FocusNetError | None = None
        self.scene_sides: tuple[SceneSide, SceneSide] | None = None
        if sides is not None:
            self.scene_sides = (SceneSide(sides[0]), SceneSide(sides[1]))
        self._run = ChildRun("evaluation")
        self._steps: Iterator[Progress] | None = self._prepare(request, start_child or start_python)
        self._prepared = Progress("taking the structures from the scene")

    @property
    def is_running(self) -> bool:
        """Whether there is neither an outcome nor an error yet."""
        return self.outcome is None and self.error is None

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._prepared if self._steps is not None else self._run.progress

    @property
    def log(self) -> list[str]:
        """What the child has said besides its progress."""
        return self._run.log

    def poll(self) -> bool:
        """Take one more node from the scene, or take in what the child has said.

        Returns:
            Whether the job still runs. Afterwards there is either an ``outcome`` or an ``error``.
        """
        if not self.is_running:
            return False
        try:
            if self._steps is not None:
                self._advance()
            else:
                exit_code = self._run.poll()
                if exit_code is not None:
                    self._finish(exit_code)
        except FocusNetError as error:
            self._stop(error)
        except Exception as error:
            text = " ".join(str(error).split())
            self._stop(FocusNetError("E_RESULT", f"The evaluation failed: {type(error).__name__}: {text}."))
        return self.is_running

    def cancel(self) -> None:
        """End the child with all its children; the scene stays as it is."""
        if self.is_running:
            self._stop(Cancelled())

    def _advance(self) -> None:
        assert self._steps is not None
        try:
            self._prepared = next(self._steps)
        except StopIteration:
            self._steps = None

    def _prepare(self, request: EvaluationRequest, start_child: StartChild) -> Iterator[Progress]:
        """Gives control back after each node, for the scene can be read in the GUI's thread only."""
        volume = None
        if self.scene_sides is not None:
            todo = [(side, node) for side in self.scene_sides for node in side.nodes]
            for number, (side, node) in enumerate(todo):
                yield Progress("taking the structures from the scene", 0.5 * number / len(todo))
                side.take(node)
            node = volume_of([node for side in self.scene_sides for node in side.nodes])
            if node is not None and node.GetImageData() is not None:
                volume = mrml.volume_from_node(node)
                case = node.GetName() or ""
                request = replace(request, case=case, ct_affine=volume.geometry.affine.tolist())
            yield Progress("handing over", 0.5)

        def write(folder: Path) -> None:
            for name, side in zip(SIDES, self.scene_sides or (), strict=False):
                assert side.grid is not None
                write_side(folder, name, side.grid, side.masks)
            if volume is not None:
                np.save(folder / CT_FILE, volume.array)
            write_request(folder, request)

        self._run.start(WORKER, write, start_child)

    def _finish(self, exit_code: int) -> None:
        if exit_code != 0:
            raise self._run.failure(exit_code)
        self.outcome = read_evaluated(self._run.folder)
        self._run.remove_folder()

    def _stop(self, reason: FocusNetError) -> None:
        try:
            self._run.end()
        finally:
            self.error = reason


def start_python(arguments: Sequence[str]) -> ChildProcess:
    """Start our Python with both modules' libraries."""
    return ChildProcess(*training_command(arguments))


def organ_masks(side: SceneSide, spellings: Mapping[str, str]) -> dict[str, CroppedMask | None]:
    """Masks of one side by organ key."""
    from focusnet.evaluation.masks import keys_of_names

    keys = keys_of_names([name for name, _ in side.masks], spellings)
    return {keys[name]: mask for name, mask in side.masks if name in keys}
