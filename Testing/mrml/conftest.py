"""A MRML scene in plain Python, and CTs in it whose voxels know where in the patient they lie."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from focusnet.geometry import Geometry, LabelMap
from numpy.typing import NDArray

pytest.importorskip("slicer", reason="needs the slicer-core wheel")

# LPS mm: centre and radius of balls that stand for organs. Left is +x.
BALLS = {
    "parotid_l": ((28.0, -6.0, 4.0), 9.0),
    "parotid_r": ((-28.0, -6.0, 4.0), 9.0),
    "brainstem": ((1.0, 12.0, 14.0), 8.0),
    "lens_l": ((17.0, -27.0, 16.0), 3.5),
}
ORGANS = dict(enumerate(BALLS, start=1))


@pytest.fixture
def scene() -> Iterator[Any]:
    """The scene, empty before and after."""
    from FocusNetSegmentationLib import runtime

    scene = runtime.ensure()
    scene.Clear(0)
    yield scene
    scene.Clear(0)


@pytest.fixture
def balls() -> Callable[[Geometry], LabelMap]:
    """Labels of the balls on any grid in the world."""

    def make(world: Geometry) -> LabelMap:
        points = world.index_to_world(np.moveaxis(np.indices(world.shape_zyx), 0, -1))
        array = np.zeros(world.shape_zyx, np.uint8)
        for value, key in ORGANS.items():
            centre, radius = BALLS[key]
            array[np.linalg.norm(points - centre, axis=-1) < radius] = value
        return LabelMap(array, world, ORGANS)

    return make


@pytest.fixture
def transform_node(scene: Any) -> Callable[..., Any]:
    """Linear transform node from a 4x4 RAS matrix, with an optional parent."""

    def make(matrix: NDArray[np.float64], parent: Any = None) -> Any:
        import slicer

        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.asarray(matrix, float)))
        if parent is not None:
            node.SetAndObserveTransformNodeID(parent.GetID())
        return node

    return make


@pytest.fixture
def ct_node(scene: Any, balls: Callable[[Geometry], LabelMap]) -> Callable[..., Any]:
    """CT node whose voxels are 100 x the organ's label at the place where they lie in the world.

    Arguments: the node's own RAS matrix and shape, the RAS matrix of its parent transform, and that transform's node.
    """

    def make(
        ijk_to_ras: NDArray[np.float64], shape: tuple[int, int, int], parent: Any = None, to_world: Any = None
    ) -> Any:
        import slicer

        flip = np.diag([-1.0, -1.0, 1.0, 1.0])
        matrix = np.eye(4) if to_world is None else np.asarray(to_world, float)
        world = Geometry(shape, flip @ matrix @ ijk_to_ras)
        hu = balls(world).array.astype(np.int16) * 100
        node = slicer.util.addVolumeFromArray(hu, np.asarray(ijk_to_ras, float), "CT")
        if parent is not None:
            node.SetAndObserveTransformNodeID(parent.GetID())
        return node

    return make


@pytest.fixture
def segment_points() -> Callable[[Any, str], NDArray[np.float64]]:
    """World LPS positions of a segment's voxels, by MRML's own matrices and transforms."""

    def collect(node: Any, segment_id: str) -> NDArray[np.float64]:
        import vtk
        from slicer.util import arrayFromSegmentInternalBinaryLabelmap, arrayFromVTKMatrix

        value = node.GetSegmentation().GetSegment(segment_id).GetLabelValue()
        image = node.GetBinaryLabelmapInternalRepresentation(segment_id)
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        hit = np.argwhere(arrayFromSegmentInternalBinaryLabelmap(node, segment_id) == value)[:, ::-1]
        index = hit + np.asarray(image.GetExtent()[::2])
        ras = index @ arrayFromVTKMatrix(matrix)[:3, :3].T + arrayFromVTKMatrix(matrix)[:3, 3]
        world, moved = [0.0, 0.0, 0.0], []
        for point in ras:
            node.TransformPointToWorld(point, world)
            moved.append((-world[0], -world[1], world[2]))
        return np.asarray(moved)

    return collect
