"""RT structure sets into the scene and out of it, for CTs that were loaded from DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import slicer
from focusnet.errors import FocusNetError
from focusnet.evaluation.masks import CroppedMask
from focusnet.geometry import Box, Geometry
from focusnet.io.dicom import SeriesReference, is_dicom, read_series_reference
from focusnet.io.rtstruct import RTStructOptions, RTStructSummary, read_rtstruct, write_rtstruct
from focusnet.io.shapes import Part, Provenance, native_geometry, pack_segments
from slicer.util import getNodesByClass

from FocusNetSegmentationLib import geometry_bridge as bridge
from FocusNetSegmentationLib.structures import Structure, add_structures, masks_of_nodes

SLICER_RT = "DicomRtImportExportPlugin"
STAMP = ("model", "model_created", "weights_sha256")
MOVED_VOXELS = 0.25  # rounded slice positions add up over a scan


def save_rtstruct(
    nodes: Sequence[Any], volume_node: Any, path: str | Path, *, overwrite: bool = True
) -> RTStructSummary:
    """Write segmentation nodes as an RT structure set on the slices of their CT, as they are in the scene now.

    Raises:
        FocusNetError: ``E_NO_DICOM`` when the CT was not loaded from DICOM files that are still there,
            ``E_FRAME_OF_REFERENCE`` when it was moved since, and as
            :func:`focusnet.io.rtstruct_write.write_rtstruct`.
    """
    reference = series_reference(volume_node)
    _check_unmoved(volume_node, reference)
    grid = _straight_world(volume_node)
    grid = replace(grid, frame_of_reference=reference.frame_of_reference)
    _, structures = masks_of_nodes(nodes, grid)
    segmentation = pack_segments(grid, (_part(structure, grid) for structure in structures))
    options = RTStructOptions(provenance=_provenance(nodes))
    return write_rtstruct(segmentation, reference, path, options, overwrite=overwrite)


def load_rtstruct(path: str | Path, volume_node: Any) -> Any:
    """Put the structures of an RT structure set into the scene, on a CT that is there.

    SlicerRT reads it where that extension is installed; it keeps the contours as they are. Otherwise, and where
    SlicerRT makes nothing of the file, the contours are filled on the CT's grid.

    Returns:
        The new segmentation node.

    Raises:
        FocusNetError: ``E_FRAME_OF_REFERENCE`` when the CT was moved since it was loaded, and as
            :func:`focusnet.io.rtstruct_read.read_rtstruct`.
    """
    node = _load_with_slicer_rt(Path(path))
    if node is not None:
        return node
    grid = _straight_world(volume_node)
    if _dicom_files(volume_node):
        reference = series_reference(volume_node)
        _check_unmoved(volume_node, reference)
        grid = replace(grid, frame_of_reference=reference.frame_of_reference)
    structures = read_rtstruct(path, grid)
    found = [
        Structure(s.name, s.colour, None if s.box is None else CroppedMask.of(s.crop, s.box.start_zyx))
        for s in structures.structures
    ]
    return add_structures(structures.label or Path(path).stem, found, grid, volume_node)


def series_reference(volume_node: Any) -> SeriesReference:
    """The DICOM series that a volume was loaded from.

    Raises:
        FocusNetError: ``E_NO_DICOM`` when it was not, or its files are gone.
    """
    files = _dicom_files(volume_node)
    if not files:
        raise FocusNetError(
            "E_NO_DICOM",
            f"'{volume_node.GetName()}' was not loaded from DICOM files that are still there, and an RT structure set "
            "refers to them; load the CT from DICOM, or export .seg.nrrd.",
        )
    header = pydicom.dcmread(files[0], stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
    return read_series_reference(files, series_uid=str(header.SeriesInstanceUID))


def _dicom_files(volume_node: Any) -> list[Path]:
    """By Slicer's DICOM database where the volume came through it, else those that the volume was read from."""
    uids = (volume_node.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    storage = volume_node.GetStorageNode()
    if uids and database is not None:
        names = [database.fileForInstance(uid) for uid in uids]
    elif storage is not None:
        names = [storage.GetFileName(), *(storage.GetNthFileName(n) for n in range(storage.GetNumberOfFileNames()))]
    else:
        names = []
    paths = (Path(name) for name in dict.fromkeys(filter(None, names)))
    return [path for path in paths if path.is_file() and is_dicom(path)]


def _straight_world(volume_node: Any) -> Geometry:
    return bridge.straightened(bridge.volume_placement(volume_node).world)


def _check_unmoved(volume_node: Any, reference: SeriesReference) -> None:
    """The scene's world must be the patient's coordinates that the DICOM files state, voxel by voxel.

    The bounds alone would not tell a CT that was mirrored or turned about its own middle. Only the curved transform
    that Slicer puts over uneven slices is judged by them.
    """
    placed, native = bridge.volume_placement(volume_node), native_geometry(reference)
    if placed.to_world is None:
        ours, theirs = (np.ravel(g.world_bounds()) for g in (_straight_world(volume_node), native))
        slack = max(native.spacing_xyz)
    else:
        ends = np.array(list(product(*((0, size - 1) for size in native.shape_zyx))))
        ours, theirs = (g.index_to_world(ends) for g in (placed.world, native))
        slack = MOVED_VOXELS * min(native.spacing_xyz) if placed.world.shape_zyx == native.shape_zyx else -1.0
    if np.abs(ours - theirs).max() > slack:
        raise FocusNetError(
            "E_FRAME_OF_REFERENCE",
            "The CT does not lie where its DICOM files say (a registration or cropping in the scene?); remove the "
            "transform first.",
        )


def _part(structure: Structure, grid: Geometry) -> Part:
    """The structure inside of the grid."""
    mask = structure.mask
    box = None if mask is None else mask.box.intersection(Box((0, 0, 0), grid.shape_zyx))
    crop = np.zeros((1, 1, 1), bool) if mask is None or box is None else mask.on(box)
    return Part(structure.name, structure.colour, box, crop)


def _provenance(nodes: Sequence[Any]) -> Provenance | None:
    stamps = {tuple(node.GetAttribute(f"FocusNet.{key}") or "" for key in STAMP) for node in nodes}
    (stamp, *others) = stamps
    return None if others or not all(stamp) else Provenance(*stamp)


def _load_with_slicer_rt(path: Path) -> Any:
    plugin_class = getattr(getattr(slicer, "modules", None), "dicomPlugins", {}).get(SLICER_RT)
    if plugin_class is None:
        return None
    before = set(getNodesByClass("vtkMRMLSegmentationNode"))
    plugin = plugin_class()
    for loadable in plugin.examineForImport([[str(path)]]):
        plugin.load(loadable)
    new = [node for node in getNodesByClass("vtkMRMLSegmentationNode") if node not in before]
    return new[0] if new else None
