"""Segmentation of volume nodes, without Qt: what the panel, the scripts and the Python console use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from focusnet.analysis import analyse
from focusnet.organs import organ_keys
from focusnet.outputs import OutputOptions
from focusnet.segment import SegmentOptions, make_predictor

from FocusNetSegmentationLib import runtime
from FocusNetSegmentationLib.exchange import Report

if TYPE_CHECKING:
    from focusnet.inference import Cancel, Predictor, Progress

    from FocusNetSegmentationLib.mrml import Result, ResultOptions


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result of one CT in the scene.

    Attributes:
        result: The nodes.
        report: Labels, volumes, confidence, flags.
    """

    result: Result
    report: Report


class SegmentationLogic:
    """Segments CTs of the scene in this process.

    The model stays loaded between CTs that are segmented in the same way.

    Args:
        load: Makes a predictor; another one than the default is for tests.
    """

    def __init__(self, load: Callable[[SegmentOptions], Predictor] = make_predictor) -> None:
        self._load = load
        self._loaded: tuple[SegmentOptions, Predictor] | None = None

    def segment(
        self,
        volumeNode: Any,
        model: str | None = None,
        organs: Sequence[str] | None = None,
        device: str = "auto",
        progress: Progress | None = None,
        perOrganNodes: bool = True,
        uncertainty: bool = False,
    ) -> Outcome:
        """Segment a CT and put the organs into the scene, in a folder beside it.

        Args:
            volumeNode: CT in HU, under any parent transform.
            model: Name or folder of a model; the default model when None.
            organs: Names of the organs, any spelling; all of the model when None.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
            progress: Told the stage, the finished share and the estimated seconds left.
            perOrganNodes: One segmentation node per organ; otherwise one node with all organs.
            uncertainty: Also a volume node with the uncertainty of each voxel's label in percent.

        Raises:
            FocusNetError: The CT, the model or the organs are refused; the scene is unchanged.
        """
        runtime.ensure()
        from FocusNetSegmentationLib.mrml import ResultOptions

        wanted = None if organs is None else tuple(organs)
        options = SegmentOptions(model, wanted, device, output=OutputOptions(uncertainty=uncertainty))
        return self.run(volumeNode, options, ResultOptions(per_organ=perOrganNodes), progress)

    def run(
        self,
        volume_node: Any,
        options: SegmentOptions,
        result_options: ResultOptions,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> Outcome:
        """As :meth:`segment`, with all options.

        Raises:
            FocusNetError: As :meth:`segment`.
            Cancelled: ``cancel`` returned True; the scene is unchanged.
        """
        runtime.ensure()
        from FocusNetSegmentationLib import mrml

        volume = mrml.patient_from_node(volume_node)
        organs = None if options.organs is None else organ_keys(options.organs)
        analysis = analyse(volume, self._predictor(options), organs, progress, cancel)
        report = Report.of(analysis, options).on(mrml.world_grid(volume_node))
        stamped = replace(result_options, stamp={**result_options.stamp, **report.stamp})
        result = mrml.segmentations_from_labelmap(report.labelmap, volume_node, stamped, report.uncertainty)
        return Outcome(result, report)

    def _predictor(self, options: SegmentOptions) -> Predictor:
        wanted = replace(options, organs=None, output=OutputOptions())
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # frees the memory of the model before
            self._loaded = (wanted, self._load(wanted))
        return self._loaded[1]
