"""What the tab *Evaluate* gets from 3D Slicer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import slicer
from focusnet.evaluation.case import Row, lay_over
from focusnet.evaluation.masks import OrganMasks
from focusnet.io.atomic import atomic_path
from FocusNetSegmentationLib import packages, structures
from slicer.util import getNodesByClass

from FocusNetTrainingLib import evaluate_scene
from FocusNetTrainingLib.evaluate_job import EvaluationJob, organ_masks
from FocusNetTrainingLib.evaluate_panel import EvaluateServices

REPORT_PACKAGES = ("jinja2>=3.1",)


def evaluate_services(
    confirm: Callable[[str], bool], ask_open: Callable[[str, str], str], ask_save: Callable[[str, str], str]
) -> EvaluateServices:
    """The services on the scene of this process; questions and file dialogs come from the caller."""
    return EvaluateServices(
        groups=comparable_groups,
        names=structure_names,
        volume_of=structures.volume_of,
        start=EvaluationJob,
        show_result=show_result,
        show_agreement=show_agreement,
        forget_agreement=evaluate_scene.forget_agreement,
        load_rtstruct=_load_rtstruct,
        report_packages=lambda: packages.missing_of(REPORT_PACKAGES),
        install_packages=lambda missing: packages.install(missing),
        write=_write,
        confirm=confirm,
        ask_open=ask_open,
        ask_save=ask_save,
    )


def comparable_groups() -> list[tuple[str, list[Any]]]:
    """Segmentations of the scene, without the colours of an agreement."""
    groups = structures.segmentation_groups()
    return [group for group in groups if group[1][0].GetAttribute(evaluate_scene.AGREEMENT_ATTRIBUTE) is None]


def structure_names(nodes: Sequence[Any]) -> list[str]:
    """Names of all segments of nodes, in order."""
    segmentations = [node.GetSegmentation() for node in nodes]
    return [s.GetNthSegment(n).GetName() for s in segmentations for n in range(s.GetNumberOfSegments())]


def show_result(rows: Sequence[Row], name: str) -> None:
    """Put table and plot into the scene; in the application the plot comes into view."""
    table = evaluate_scene.add_table(rows, name)
    chart = evaluate_scene.add_plot(rows, name)
    plots = getattr(slicer.modules, "plots", None)
    if plots is not None:
        selection = slicer.app.applicationLogic().GetSelectionNode()
        selection.SetActiveTableID(table.GetID())
        slicer.app.applicationLogic().PropagateTableSelection()
        plots.logic().ShowChartInLayout(chart)


def show_agreement(job: EvaluationJob, keys: Sequence[str], spellings: Mapping[str, str]) -> None:
    """Colour the agreement of organs in the slice views, and centre these there."""
    assert job.scene_sides is not None
    pair = lay_over(*(_organs(side, spellings) for side in job.scene_sides))
    volume = structures.volume_of([node for side in job.scene_sides for node in side.nodes if node.GetScene()])
    evaluate_scene.show_agreement(pair, keys, volume)
    centre = evaluate_scene.centre_ras(pair, keys)
    if centre is not None:
        for view in getNodesByClass("vtkMRMLSliceNode"):
            view.JumpSliceByCentering(*centre)


def _organs(side: Any, spellings: Mapping[str, str]) -> OrganMasks:
    return OrganMasks(side.grid, organ_masks(side, spellings))


def _load_rtstruct(path: Path, volume_node: Any) -> Any:
    from FocusNetSegmentationLib.dicom_exchange import load_rtstruct

    return load_rtstruct(path, volume_node)


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_bytes(content)
