"""CT volume nodes in, segmentation nodes out.

A result lies exactly on its CT: it takes the CT's parent transform and, under it, the CT's own grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import slicer
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, LabelMap, Volume
from focusnet.io.segmentation_header import UNREVIEWED, stamp_line
from focusnet.organs import Organ, organ
from focusnet.preprocessing import AIR_HU, labels_to_grid
from focusnet.terminology import terminology_string
from numpy.typing import NDArray
from scipy import ndimage
from slicer.util import addVolumeFromArray, arrayFromVolume, getNodesByClass
from vtk.util.numpy_support import numpy_to_vtk

from FocusNetSegmentationLib import geometry_bridge as bridge
from FocusNetSegmentationLib.results import RESULT_ATTRIBUTE
from FocusNetSegmentationLib.uncertainty_node import add_uncertainty

LABELMAP = "Binary labelmap"
RESULT_CLASSES = ("vtkMRMLSegmentationNode", "vtkMRMLScalarVolumeNode")
FOLDER_SUFFIX = "organs at risk"


@dataclass(frozen=True)
class ResultOptions:
    """How a result is put into the scene.

    Attributes:
        per_organ: One segmentation node per organ, in a folder beside the CT; otherwise one node with all organs.
        existing: Whether earlier results on the same CT stay or make room for the new one.
        stamp: What made the result (version, model, weights, settings); kept with every node and segment.
    """

    per_organ: bool = True
    existing: Literal["keep", "replace"] = "keep"
    stamp: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Result:
    """Nodes of one CT.

    Attributes:
        nodes: Node that holds each organ, by organ key; the segment's ID is the organ's TG-263 name.
        folder: Subject-hierarchy item of the folder, None where one node holds all organs.
        missing: Keys of organs without a voxel; they have no segment.
        uncertainty: Volume node with the uncertainty of each voxel's label in percent, where it was asked for.
    """

    nodes: dict[str, Any]
    folder: int | None
    missing: tuple[str, ...]
    uncertainty: Any = None

    @property
    def unique_nodes(self) -> list[Any]:
        """The segmentation nodes, each once."""
        return list(dict.fromkeys(self.nodes.values()))


@dataclass(frozen=True, eq=False)
class _LocalLabels:
    """Labels under the CT's parent transform: array, grid (LPS mm), the organs that have voxels, and their boxes."""

    array: NDArray[Any]
    grid: Geometry
    organs: dict[int, Organ]
    boxes: dict[int, tuple[slice, slice, slice]]


def volume_from_node(node: Any) -> Volume:
    """CT of a volume node where it lies in the world.

    A linear parent transform, or one that equals a matrix over the image (a gantry tilt as Slicer's DICOM reader
    corrects it), goes into the geometry, which may then be sheared, and no voxel is touched. Under any other transform
    the image is resampled into a straight grid.

    Args:
        node: Scalar volume node.

    Returns:
        Volume ``(z, y, x)``; a read-only view of the node's voxels where nothing was resampled.

    Raises:
        FocusNetError: ``E_EMPTY_IMAGE`` when the node has no voxels, ``E_NOT_3D`` for several values per voxel,
            ``E_BAD_GEOMETRY`` for a geometry without an inverse.
    """
    image = None if node is None else node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise FocusNetError("E_EMPTY_IMAGE", "The volume has no voxels; load a CT and select it.")
    if image.GetNumberOfScalarComponents() != 1:
        raise FocusNetError(
            "E_NOT_3D", f"'{node.GetName()}' has {image.GetNumberOfScalarComponents()} values per voxel; select a CT."
        )
    place = bridge.volume_placement(node)
    world = place.world
    if place.to_world is None:
        return Volume(bridge.reslice_to_world(image, place, world, ("linear", AIR_HU)), world)
    array = arrayFromVolume(node)
    array.setflags(write=False)
    return Volume(array, world)


def patient_from_node(node: Any) -> Volume:
    """CT of a volume node as the models should see it: the patient lies as in the scanner.

    As :func:`volume_from_node`, but without the turn that a parent transform gives the CT in the scene
    (`Placement.patient_to_world`).

    Raises:
        FocusNetError: As :func:`volume_from_node`.
    """
    volume = volume_from_node(node)
    turn = bridge.volume_placement(node).patient_to_world
    return Volume(volume.array, volume.geometry.transformed(np.linalg.inv(turn)))


def world_grid(node: Any) -> Geometry:
    """Where the voxels that :func:`volume_from_node` gives lie in the world now."""
    return bridge.volume_placement(node).world


def volume_to_node(volume: Volume, name: str) -> Any:
    """New scalar volume node with a copy of the voxels of ``volume``."""
    return addVolumeFromArray(volume.array, bridge.vtk_ijk_to_ras(volume.geometry), name)


def segmentations_from_labelmap(
    labelmap: LabelMap, volume_node: Any, options: ResultOptions | None = None, uncertainty: Volume | None = None
) -> Result:
    """Put organ labels into the scene as segmentation nodes on their CT.

    Args:
        labelmap: Labels in the world, on the grid of :func:`volume_from_node` or on any other.
        volume_node: The CT; gives parent transform, reference geometry and place in the subject hierarchy.
        options: One node per organ or one for all; what happens to earlier results; the stamp.
        uncertainty: Percents in the world that become a volume node beside the segmentations.

    Returns:
        The new nodes. When anything fails the scene is as it was before.

    Raises:
        FocusNetError: ``E_UNKNOWN_ORGAN`` for a label whose organ is not in the catalogue.
    """
    options = options or ResultOptions()
    wanted = {value: organ(key) for value, key in sorted(labelmap.organs.items())}
    labels = _local_labels(labelmap, bridge.volume_placement(volume_node), wanted)
    missing = tuple(o.key for value, o in wanted.items() if value not in labels.organs)
    earlier = results_on(volume_node) if options.existing == "replace" else []
    name = f"{volume_node.GetName()} {FOLDER_SUFFIX}"
    groups = [{value: o} for value, o in labels.organs.items()] if options.per_organ else [labels.organs]
    with all_or_nothing() as items:
        parent_item = _hierarchy().GetItemParent(_item_of(volume_node))
        folder = None
        if options.per_organ and labels.organs:
            folder = _hierarchy().CreateFolderItem(parent_item, name)
            items.append(folder)
            _hierarchy().SetItemAttribute(folder, RESULT_ATTRIBUTE, UNREVIEWED)
        by_organ: dict[str, Any] = {}
        for group in groups:
            if not group:
                continue
            node = add_node(volume_node, next(iter(group.values())).tg263 if options.per_organ else name)
            _fill_node(node, labels, group, options.stamp)
            _hierarchy().SetItemParent(_item_of(node), parent_item if folder is None else folder)
            by_organ.update(dict.fromkeys((o.key for o in group.values()), node))
        map_node = None
        if uncertainty is not None:
            map_node = add_uncertainty(uncertainty, volume_node)
            map_node.SetNodeReferenceID(_ct_role(), volume_node.GetID())
            _mark(map_node, options.stamp)
            _hierarchy().SetItemParent(_item_of(map_node), parent_item if folder is None else folder)
    remove_results(earlier)
    return Result(by_organ, folder, missing, map_node)


def results_on(volume_node: Any) -> list[Any]:
    """Nodes of earlier results on a CT: segmentations and maps of uncertainty."""
    return [
        node
        for node in _candidates()
        if node.GetAttribute(RESULT_ATTRIBUTE) and node.GetNodeReference(_ct_role()) is volume_node
    ]


def remove_results(nodes: list[Any]) -> None:
    """Remove nodes of results with all that hangs on them, and the result folders that become empty."""
    folders = {_hierarchy().GetItemParent(_item_of(node)) for node in nodes}
    for node in nodes:
        remove_node(node)
    for folder in folders:
        if _hierarchy().GetItemAttribute(folder, RESULT_ATTRIBUTE) and not _hierarchy().GetNumberOfItemChildren(folder):
            _hierarchy().RemoveItem(folder)


def _local_labels(labelmap: LabelMap, place: bridge.Placement, wanted: dict[int, Organ]) -> _LocalLabels:
    """The labels on the CT's grid, or on their own where that is a straight grid under the CT's parent transform."""
    if place.to_world is None:
        array, grid = bridge.reslice_to_local(labelmap.array, labelmap.geometry, place), place.local
    else:
        array, grid = labelmap.array, labelmap.geometry.transformed(np.linalg.inv(place.to_world))
        if grid.is_close(place.local):
            grid = place.local
        elif not grid.is_orthogonal:
            array, grid = labels_to_grid(labelmap, place.world).array, place.local
    found = ndimage.find_objects(array, max(wanted, default=0))
    boxes = {value: found[value - 1] for value in wanted if found[value - 1] is not None}
    return _LocalLabels(array, grid, {value: wanted[value] for value in boxes}, boxes)


def add_node(volume_node: Any | None, name: str) -> Any:
    """New segmentation node, under the parent transform of the volume where there is one, and on its grid.

    The order counts: a reference geometry set before the transform would misplace the contours of a transformed CT.
    """
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetName(name)
    node.CreateDefaultDisplayNodes()
    if volume_node is not None:
        node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    node.AddDefaultStorageNode()
    node.GetStorageNode().SetCropToMinimumExtent(True)
    return node


def _fill_node(node: Any, labels: _LocalLabels, group: dict[int, Organ], stamp: Mapping[str, str]) -> None:
    """Add one segment per organ; all share one labelmap layer that reaches no further than they do.

    `ImportLabelmapToSegmentationNode` makes the same layer as fast, but under random segment IDs.
    """
    boxes = [labels.boxes[value] for value in group]
    box = tuple(slice(min(b[axis].start for b in boxes), max(b[axis].stop for b in boxes)) for axis in range(3))
    part = labels.array[box]
    inside = np.isin(part, list(group))
    content = inside.astype(np.uint8) if len(group) == 1 else np.where(inside, part, 0)
    image = oriented_image(content, labels.grid, tuple(s.start for s in box))
    modified = node.StartModify()
    for value, o in group.items():
        segment = slicer.vtkSegment()
        segment.SetName(o.tg263)
        segment.NameAutoGeneratedOff()
        segment.SetColor([c / 255 for c in o.colour])
        segment.ColorAutoGeneratedOff()
        segment.SetTerminology(terminology_string(o))
        segment.SetTag("FocusNet", stamp_line(stamp))
        segment.SetLabelValue(value if len(group) > 1 else 1)
        segment.AddRepresentation(LABELMAP, image)
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        logic.SetSegmentStatus(segment, logic.InProgress)
        if not node.GetSegmentation().AddSegment(segment, o.tg263):
            raise RuntimeError(f"MRML refused the segment of {o.key}.")
    node.EndModify(modified)
    _mark(node, stamp)


def _mark(node: Any, stamp: Mapping[str, str]) -> None:
    node.SetAttribute(RESULT_ATTRIBUTE, UNREVIEWED)
    for key, text in stamp.items():
        node.SetAttribute(f"FocusNet.{key}", text)


def oriented_image(array: NDArray[Any], grid: Geometry, start_zyx: tuple[int, ...]) -> Any:
    """Part of a label image (``vtkOrientedImageData``) on ``grid``, beginning at voxel ``start_zyx``."""
    image = slicer.vtkOrientedImageData()
    image.SetImageToWorldMatrix(bridge.vtk_ijk_to_ras(grid))
    extent = ((start, start + size - 1) for start, size in zip(start_zyx, array.shape, strict=True))
    image.SetExtent([bound for pair in reversed(list(extent)) for bound in pair])
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
    return image


def _ct_role() -> str:
    """Reference by which a node of a result knows its CT."""
    return str(slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole())


def _candidates() -> list[Any]:
    """Nodes of the scene that can be part of a result."""
    return [node for name in RESULT_CLASSES for node in getNodesByClass(name)]


def _hierarchy() -> Any:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def _item_of(node: Any) -> int:
    """Subject-hierarchy item of a node; outside the application, nodes have none until someone makes it."""
    hierarchy = _hierarchy()
    item = hierarchy.GetItemByDataNode(node)
    return item or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


def remove_node(node: Any) -> None:
    """Remove a node with its display, its file and its place in the hierarchy."""
    helpers = [node.GetNthDisplayNode(i) for i in range(node.GetNumberOfDisplayNodes())] + [node.GetStorageNode()]
    item = _hierarchy().GetItemByDataNode(node)
    if item:
        _hierarchy().RemoveItem(item, False, False)
    slicer.mrmlScene.RemoveNode(node)
    for helper in helpers:
        if helper is not None and helper.GetScene() is not None:
            slicer.mrmlScene.RemoveNode(helper)


@contextmanager
def all_or_nothing() -> Iterator[list[int]]:
    """Takes segmentations and volumes that the block made, and hierarchy items it listed, out again when it fails."""
    before = set(_candidates())
    items: list[int] = []
    try:
        yield items
    except BaseException:
        for node in _candidates():
            if node not in before:
                remove_node(node)
        for item in items:
            _hierarchy().RemoveItem(item)
        raise
