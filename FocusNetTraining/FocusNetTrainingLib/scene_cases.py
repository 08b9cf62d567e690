"""Patients of the scene as scans that a data set is made of; Qt-free.

The scene can be read in the GUI's thread only, so it is taken over node by node; the files are written by the child.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, Volume
from focusnet.io.hounsfield import AIR_HU
from focusnet.io.image import write_image
from focusnet.io.segmentation import write_segmentation
from focusnet.io.shapes import Part, pack_segments
from focusnet.io.shear import straighten
from FocusNetSegmentationLib.protocol import Progress
from FocusNetSegmentationLib.results import RESULT_ATTRIBUTE

from FocusNetTrainingLib.evaluate_request import read_side, write_side

CT_FILE, SCAN_FILE, DRAWN = "ct.npy", "scan.json", "drawn"
PATIENT = "Patient"  # level of the subject hierarchy


@dataclass(frozen=True, eq=False)
class SceneCase:
    """A CT of the scene and what is drawn on it.

    Attributes:
        volume_node: The CT.
        segmentation_nodes: What is drawn on it. Of a result of FocusNet only the segments that were marked as completed
            in the Segment Editor count.
        left_out: Number of the results' other segments.
        patient: Number of its patient, the same for all CTs below one patient of the subject hierarchy.
    """

    volume_node: Any
    segmentation_nodes: Sequence[Any]
    patient: int
    left_out: int = 0


def scene_cases() -> list[SceneCase]:
    """The CTs of the scene that segmentation nodes lie on, in the order of the scene."""
    from FocusNetSegmentationLib.structures import volume_of
    from slicer.util import getNodesByClass

    drawn: dict[Any, list[Any]] = {}
    left_out: Counter[Any] = Counter()
    for node in getNodesByClass("vtkMRMLSegmentationNode"):
        volume = volume_of([node])
        # Colours of an evaluation are no organs.
        if volume is None or node.GetAttribute("FocusNet.Agreement"):
            continue
        nodes = drawn.setdefault(volume, [])
        if node.GetAttribute(RESULT_ATTRIBUTE):
            completed = _completed(node)
            left_out[volume] += node.GetSegmentation().GetNumberOfSegments() - len(completed)
            if not completed:
                continue
        nodes.append(node)
    numbers: dict[Any, int] = {}
    return [
        SceneCase(volume, nodes, numbers.setdefault(_patient(volume), len(numbers) + 1), left_out[volume])
        for volume, nodes in drawn.items()
    ]


def take_cases(cases: Sequence[SceneCase], folder: Path) -> Iterator[Progress]:
    """Put cases of the scene into a folder, giving control back after each node.

    Raises:
        FocusNetError: ``E_VOLUME_GONE`` when a node was removed meanwhile, and those of reading a node.
    """
    from FocusNetSegmentationLib import mrml
    from FocusNetSegmentationLib.structures import masks_of_nodes

    count = sum(1 + len(case.segmentation_nodes) for case in cases)
    done = 0
    for number, case in enumerate(cases):
        own = folder / f"{number:04d}"
        own.mkdir()
        _check_there(case.volume_node)
        volume = mrml.volume_from_node(case.volume_node)
        np.save(own / CT_FILE, volume.array)
        scan = {"affine": volume.geometry.affine.tolist(), "patient": case.patient}
        (own / SCAN_FILE).write_text(json.dumps(scan), "utf-8")
        done += 1
        yield Progress("taking the scans from the scene", done / count)
        grid: Geometry | None = None
        masks = []
        for node in case.segmentation_nodes:
            _check_there(node)
            grid, structures = masks_of_nodes([node], grid)
            names = _completed(node) if node.GetAttribute(RESULT_ATTRIBUTE) else None
            masks += [(s.name, s.mask) for s in structures if names is None or s.name in names]
            done += 1
            yield Progress("taking the scans from the scene", done / count)
        assert grid is not None
        write_side(own, DRAWN, grid, masks)


def write_scans(folder: Path, out: Path) -> None:
    """Make files of what :func:`take_cases` left: a folder per patient, in it one per scan with a CT and its organs."""
    nothing = np.zeros((1, 1, 1), bool)
    for own in sorted(path for path in folder.iterdir() if (path / CT_FILE).is_file()):
        array = np.load(own / CT_FILE, mmap_mode="r", allow_pickle=False)
        taken = json.loads((own / SCAN_FILE).read_text("utf-8"))
        affine = np.asarray(taken["affine"])
        grid, masks = read_side(own, DRAWN)
        scan = out / f"patient {taken['patient']}" / f"scan {int(own.name) + 1}"
        scan.mkdir(parents=True)
        write_image(straighten(Volume(array, Geometry(array.shape, affine)), fill=AIR_HU), scan / "ct.nrrd")
        parts = [
            Part(name, None, None, nothing) if mask is None else Part(name, None, mask.box, mask.array)
            for name, mask in masks
        ]
        write_segmentation(pack_segments(grid, parts), scan / "organs.seg.nrrd")


def _completed(node: Any) -> set[str]:
    """Names of the segments whose status in the Segment Editor is "Completed"."""
    import slicer

    logic, segmentation = slicer.vtkSlicerSegmentationsModuleLogic, node.GetSegmentation()
    segments = [segmentation.GetNthSegment(n) for n in range(segmentation.GetNumberOfSegments())]
    return {s.GetName() for s in segments if logic.GetSegmentStatus(s) == logic.Completed}


def _patient(node: Any) -> Any:
    """Item of a node's patient in the subject hierarchy, or the node where it lies below none."""
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemAncestorAtLevel(hierarchy.GetItemByDataNode(node), PATIENT)
    return item or node


def _check_there(node: Any) -> None:
    if node.GetScene() is None:
        raise FocusNetError("E_VOLUME_GONE", "A node was removed from the scene meanwhile; no data set was made.")
