"""Segmentation nodes as named masks on one grid in the world, for evaluation and export."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from focusnet.errors import FocusNetError
from focusnet.geometry import bounding_box
from focusnet.io.segmentation import Segment, Segmentation
from numpy.typing import NDArray
from slicer.util import arrayFromVTKMatrix
from vtk.util.numpy_support import vtk_to_numpy

from FocusNetSegmentationLib import geometry_bridge as bridge

LABELMAP = "Binary labelmap"


def labels_from_segmentation(node: Any) -> Segmentation:
    """Segments of a node as masks in the world; they may overlap.

    The grid is the node's reference geometry (its CT's), enlarged where a segment reaches beyond. Contours and surfaces
    are converted on a copy; the node stays as it is.

    Args:
        node: Segmentation node with any representation that has a converter to labelmaps.

    Returns:
        Segments in the node's order, with their names, colours and terminology; LPS mm.

    Raises:
        FocusNetError: ``E_EMPTY_SEGMENTATION`` when there is no segment, ``E_REPRESENTATION`` when no labelmap can be
            made of what there is.
    """
    segmentation = _with_labelmaps(node)
    grid = _common_grid(segmentation)
    matrix = _index_to_ras(grid)
    shape = grid.GetDimensions()[::-1]
    place = bridge.placement(node, matrix, shape)
    count = segmentation.GetNumberOfSegments()
    dtype = np.uint8 if count < 2**8 else np.uint16
    layers = [np.zeros(shape, dtype)]
    found = []
    for number in range(count):
        segment = segmentation.GetNthSegment(number)
        layer = _write_into_free_layer(layers, _mask_on_grid(segment, grid, matrix), number + 1)
        found.append((segment, layer))
    if place.to_world is None:
        layers = [bridge.reslice_to_world(bridge.image_of(a), place, place.world, ("nearest", 0)) for a in layers]
    return Segmentation(
        place.world,
        [
            Segment(segment.GetName(), layers[layer], _colour(segment), segment.GetTerminology() or "", number)
            for number, (segment, layer) in enumerate(found, start=1)
        ],
    )


def _with_labelmaps(node: Any) -> Any:
    """The node's segmentation, or a copy of it with labelmaps where it has none."""
    segmentation = node.GetSegmentation()
    if segmentation is None or segmentation.GetNumberOfSegments() == 0:
        raise FocusNetError("E_EMPTY_SEGMENTATION", f"'{node.GetName()}' has no segments; select another segmentation.")
    if segmentation.ContainsRepresentation(LABELMAP):
        return segmentation
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentation)
    if not copy.CreateRepresentation(LABELMAP):
        raise FocusNetError(
            "E_REPRESENTATION",
            f"'{node.GetName()}' can't be converted to labelmaps; for contours of an RTSTRUCT install SlicerRT.",
        )
    return copy


def _common_grid(segmentation: Any) -> Any:
    """Image without voxels that covers the reference geometry and all segments."""
    grid = slicer.vtkOrientedImageData()
    text = segmentation.DetermineCommonLabelmapGeometry(
        segmentation.EXTENT_UNION_OF_EFFECTIVE_SEGMENTS_AND_REFERENCE_GEOMETRY, None
    )
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, grid, False)
    return grid


def _index_to_ras(image: Any) -> NDArray[np.float64]:
    """From array indices, which begin at 0 wherever the image's extent begins."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    affine = arrayFromVTKMatrix(matrix)
    affine[:3, 3] += affine[:3, :3] @ np.asarray(image.GetExtent()[::2], float)
    return affine


def _mask_on_grid(segment: Any, grid: Any, matrix: NDArray[np.float64]) -> tuple[NDArray[np.bool_], tuple[int, ...]]:
    """Mask cut to its voxels, and the grid's voxel where it begins."""
    image = segment.GetRepresentation(LABELMAP)
    nothing = np.zeros((0, 0, 0), bool), (0, 0, 0)
    if image is None or image.IsEmpty():
        return nothing
    to_grid = np.linalg.inv(matrix) @ _index_to_ras(image)
    offset = np.rint(to_grid[:3, 3]).astype(int)
    if not np.allclose(to_grid[:3, :3], np.eye(3), atol=1e-5) or not np.allclose(to_grid[:3, 3], offset, atol=1e-3):
        resampled = slicer.vtkOrientedImageData()
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, grid, resampled)
        image, offset = resampled, np.zeros(3, int)
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
    mask = array == segment.GetLabelValue()
    box = bounding_box(mask)
    if box is None:
        return nothing
    return mask[box.slices], tuple(int(n) for n in np.add(box.start_zyx, offset[::-1]))


def _write_into_free_layer(
    layers: list[NDArray[Any]], placed: tuple[NDArray[np.bool_], tuple[int, ...]], label: int
) -> int:
    """Write a mask into the first layer where it covers no other one; the layer's number."""
    mask, start = placed
    region = tuple(slice(s, s + n) for s, n in zip(start, mask.shape, strict=True))
    free = (n for n, layer in enumerate(layers) if not layer[region][mask].any())
    index = next(free, len(layers))
    if index == len(layers):
        layers.append(np.zeros_like(layers[0]))
    layers[index][region][mask] = label
    return index


def _colour(segment: Any) -> tuple[int, int, int]:
    red, green, blue = (round(255 * channel) for channel in segment.GetColor())
    return red, green, blue
