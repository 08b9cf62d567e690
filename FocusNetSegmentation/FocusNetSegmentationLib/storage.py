"""Nodes and scenes to files: complete or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import slicer
from focusnet.errors import FocusNetError
from focusnet.io.atomic import atomic_path


def save_segmentation(node: Any, path: str | Path, *, overwrite: bool = True) -> None:
    """Write a segmentation node to ``.seg.nrrd`` on the whole grid of its CT.

    The file can't hold a parent transform: the contours lie on the CT as it is stored in a file of its own.

    Raises:
        FocusNetError: ``E_OUTPUT_FORMAT`` for another ending, ``E_OUTPUT_EXISTS``, ``E_OUTPUT_WRITE``.
    """
    if not Path(path).name.endswith(".seg.nrrd"):
        raise FocusNetError("E_OUTPUT_FORMAT", f"'{Path(path).name}' does not end in .seg.nrrd.")
    with atomic_path(path, overwrite=overwrite) as temporary:
        storage = slicer.vtkMRMLSegmentationStorageNode()
        slicer.mrmlScene.AddNode(storage)
        try:
            storage.SetFileName(str(temporary))
            if not storage.WriteData(node):
                raise _unwritten(Path(path), storage.GetUserMessages().GetAllMessagesAsString())
        finally:
            slicer.mrmlScene.RemoveNode(storage)


def save_organs(nodes: Sequence[Any], path: str | Path, *, overwrite: bool = True) -> None:
    """Write the segments of several nodes on one CT to one ``.seg.nrrd``, edited ones as they are now.

    Raises:
        FocusNetError: As :func:`save_segmentation`.
    """
    first, *others = nodes
    if not others:
        save_segmentation(first, path, overwrite=overwrite)
        return
    together = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    try:
        segmentation = together.GetSegmentation()
        segmentation.CopyConversionParameters(first.GetSegmentation())
        for node in nodes:
            source = node.GetSegmentation()
            for number in range(source.GetNumberOfSegments()):
                segmentation.CopySegmentFromSegmentation(source, source.GetNthSegmentID(number))
        segmentation.CollapseBinaryLabelmaps(False)
        save_segmentation(together, path, overwrite=overwrite)
    finally:
        slicer.mrmlScene.RemoveNode(together)


def save_scene(path: str | Path, *, overwrite: bool = True) -> None:
    """Write the whole scene with its data to one ``.mrb`` file.

    Raises:
        FocusNetError: ``E_OUTPUT_FORMAT`` for another ending, ``E_OUTPUT_EXISTS``, ``E_OUTPUT_WRITE``.
    """
    path = Path(path)
    if path.suffix != ".mrb":
        raise FocusNetError("E_OUTPUT_FORMAT", f"'{path.name}' does not end in .mrb.")
    with (
        atomic_path(path, overwrite=overwrite) as temporary,
        tempfile.TemporaryDirectory(dir=path.parent, prefix=".scene-") as folder,
    ):
        # The bundle's inner folder takes the file's name, so the name must be right from the start.
        named = Path(folder, path.name)
        if not slicer.mrmlScene.WriteToMRB(str(named)) or not named.is_file():
            raise _unwritten(path, "")
        named.replace(temporary)


def _unwritten(path: Path, why: str) -> FocusNetError:
    reason = " ".join(why.split()) or "the disk may be full or the folder read-only"
    return FocusNetError("E_OUTPUT_WRITE", f"'{path.name}' can't be written: {reason}.")
