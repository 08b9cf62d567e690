"""Named masks on their way into the scene and out of it, apart from the organs of a result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from focusnet.evaluation.masks import CroppedMask, OrganMasks
from focusnet.geometry import Geometry, bounding_box
from focusnet.organs import find
from focusnet.terminology import terminology_string
from numpy.typing import NDArray
from slicer.util import getNodesByClass

from FocusNetSegmentationLib import geometry_bridge as bridge
from FocusNetSegmentationLib import mrml
from FocusNetSegmentationLib.masks import labels_from_segmentation

UNKNOWN_COLOUR = (255, 220, 0)


@dataclass(frozen=True, eq=False)
class Structure:
    """A named mask cut out of a grid.

    Attributes:
        name: As the user or a file names it.
        colour: RGB, 0 to 255; None takes the catalogue's.
        mask: None where it is empty.
    """

    name: str
    colour: tuple[int, int, int] | None
    mask: CroppedMask | None


def add_structures(name: str, structures: Sequence[Structure], grid: Geometry, volume_node: Any | None) -> Any:
    """New segmentation node with structures as segments, under the parent transform of a volume and on its grid.

    Args:
        name: Name of the node.
        structures: They may overlap; names that the organ catalogue knows get its terminology.
        grid: Grid of the masks in the world, LPS mm.
        volume_node: The CT; None where there is none, which needs a right-angled grid.

    Returns:
        The node; when anything fails the scene is as it was before.
    """
    place = bridge.Placement(grid, np.eye(4), None) if volume_node is None else bridge.volume_placement(volume_node)
    local = None if place.to_world is None else grid.transformed(np.linalg.inv(place.to_world))
    with mrml.all_or_nothing():
        node = mrml.add_node(volume_node, name)
        for number, structure in enumerate(structures, start=1):
            organ = find(structure.name)
            segment = slicer.vtkSegment()
            segment.SetName(structure.name)
            colour = structure.colour or (organ.colour if organ is not None else UNKNOWN_COLOUR)
            segment.SetColor([channel / 255 for channel in colour])
            if organ is not None:
                segment.SetTerminology(terminology_string(organ))
            array, own_grid, start = _on_volume(structure.mask, grid, local, place)
            segment.AddRepresentation(mrml.LABELMAP, mrml.oriented_image(array, own_grid, start))
            node.GetSegmentation().AddSegment(segment, f"{number} {structure.name}")
    return node


def masks_of_nodes(
    nodes: Sequence[Any], target: Geometry | None = None, progress: Callable[[int], None] | None = None
) -> tuple[Geometry, list[Structure]]:
    """Segments of several nodes, each cut to its voxels on one grid in the world.

    Args:
        nodes: Segmentation nodes.
        target: Grid; that of the first node when None, straightened where it is sheared.
        progress: Told the number of nodes that are done.

    Raises:
        FocusNetError: As :func:`FocusNetSegmentationLib.masks.labels_from_segmentation`.
    """
    found: list[Structure] = []
    for done, node in enumerate(nodes):
        labels = labels_from_segmentation(node)
        target = target or bridge.straightened(labels.geometry)
        for segment in labels.segments:
            own = OrganMasks(labels.geometry, {segment.name: CroppedMask.of(segment.mask)})
            found.append(Structure(segment.name, segment.colour, own.mask_on(target, segment.name)))
        if progress is not None:
            progress(done + 1)
    assert target is not None
    return target, found


def volume_of(nodes: Sequence[Any]) -> Any:
    """The CT that segmentation nodes lie on, or None."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    return next((volume for node in nodes if (volume := node.GetNodeReference(role)) is not None), None)


def segmentation_groups() -> list[tuple[str, list[Any]]]:
    """What can be compared or exported: result folders as a whole, all other segmentation nodes alone.

    Returns:
        Name and nodes; a name that comes twice gets a number.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    groups: dict[Any, tuple[str, list[Any]]] = {}
    for node in getNodesByClass("vtkMRMLSegmentationNode"):
        item = hierarchy.GetItemByDataNode(node)  # none outside the application until someone makes it
        folder = hierarchy.GetItemParent(item) if item else 0
        if folder and hierarchy.GetItemAttribute(folder, mrml.RESULT_ATTRIBUTE):
            groups.setdefault(folder, (hierarchy.GetItemName(folder), []))[1].append(node)
        else:
            groups[node] = (node.GetName(), [node])
    counts: dict[str, int] = {}
    named = []
    for name, nodes in groups.values():
        counts[name] = counts.get(name, 0) + 1
        named.append((name if counts[name] == 1 else f"{name} ({counts[name]})", nodes))
    return named


def _on_volume(
    mask: CroppedMask | None, grid: Geometry, local: Geometry | None, place: bridge.Placement
) -> tuple[NDArray[np.uint8], Geometry, tuple[int, int, int]]:
    """A mask under the volume's parent transform: its own lattice where that stays straight, else the volume's."""
    if mask is None:
        return np.zeros((1, 1, 1), np.uint8), place.local, (0, 0, 0)
    array = mask.array.view(np.uint8)
    if local is not None and local.is_orthogonal:
        return array, local, mask.box.start_zyx
    moved = bridge.reslice_to_local(array, grid.crop(mask.box), place)
    box = bounding_box(moved)
    if box is None:
        return np.zeros((1, 1, 1), np.uint8), place.local, (0, 0, 0)
    return np.ascontiguousarray(moved[box.slices]), place.local, box.start_zyx
