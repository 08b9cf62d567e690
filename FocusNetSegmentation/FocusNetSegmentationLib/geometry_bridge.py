"""Where a volume node lies: MRML's RAS matrices and parent transforms as a `focusnet` geometry.

The only place that converts between RAS (MRML) and LPS (`focusnet`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import numpy as np
import slicer
import vtk
from focusnet.geometry import Geometry
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import polar
from slicer.util import arrayFromVTKMatrix, vtkMatrixFromArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

# Slicer's DICOM reader corrects tilted and uneven series with a grid transform. A tilt is affine: no need to resample.
AFFINE_TOLERANCE_MM = 0.02
LATTICE_STEPS = 9
LARGEST_TILT_DEG = 30.0
CLEARLY_OBLIQUE_DEG = 10.0

Sampling = tuple[Literal["linear", "nearest"], float]
"""Interpolation, and the value outside the source."""

_RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Placement:
    """Grid of a volume or segmentation node and its way to the world.

    Attributes:
        local: Grid under the node's parent transform, LPS mm.
        to_world: 4x4 matrix of the parent transform, LPS mm to LPS mm; None where no matrix describes it.
        parent: The parent transform node, or None.
    """

    local: Geometry
    to_world: NDArray[np.float64] | None
    parent: Any

    @property
    def world(self) -> Geometry:
        """Grid in the world; straight and about as fine as the node's where the parent transform is no matrix."""
        if self.to_world is not None:
            return self.local.transformed(self.to_world)
        return straight_grid(self)

    @property
    def patient_to_world(self) -> NDArray[np.float64]:
        """4x4 turn or mirror image, LPS mm: from a world in which the patient lies as in the scanner to the scene's.

        A transform that turns or mirrors the CT (so that it lies on another scan, say) turns the patient with it, but
        the models know how patients lie in scanners. So that is taken out; shear and stretch, as of a corrected gantry
        tilt, are kept. Where the CT's own grid lies oblique and the transform brings it straight, the world is the
        better guess, and nothing is taken out.
        """
        turn = np.eye(4)
        if self.to_world is None:
            return turn
        turn[:3, :3], stretch = polar(self.to_world[:3, :3])
        if np.linalg.det(turn) > 0 and not np.allclose(stretch, np.eye(3), atol=1e-3):
            angle = np.degrees(np.arccos(np.clip((np.trace(turn[:3, :3]) - 1) / 2, -1, 1)))
            if angle < LARGEST_TILT_DEG:
                return np.eye(4)
        upright = self.world.transformed(turn.T)
        return turn if _obliqueness_deg(upright) <= _obliqueness_deg(self.world) + CLEARLY_OBLIQUE_DEG else np.eye(4)

    def points_to_world(self, points_xyz: ArrayLike) -> NDArray[np.float64]:
        """LPS mm under the parent transform to LPS mm in the world; ``(n, 3)`` in, ``(n, 3)`` out."""
        points = vtk.vtkPoints()
        points.SetData(numpy_to_vtk(np.asarray(points_xyz, dtype=np.float64) @ _RAS_LPS[:3, :3], deep=True))
        moved = vtk.vtkPoints()
        moved.SetDataTypeToDouble()
        _transform_between(self.parent, None).TransformPoints(points, moved)
        return vtk_to_numpy(moved.GetData()) @ _RAS_LPS[:3, :3]


def _obliqueness_deg(grid: Geometry) -> float:
    """Angle between the axes of a grid and the nearest of the patient's: zero for any order and direction of them."""
    axes, _ = polar(grid.affine[:3, :3] / np.linalg.norm(grid.affine[:3, :3], axis=0))
    trace = max(sum(abs(axes[row, column]) for row, column in enumerate(p)) for p in permutations(range(3)))
    return float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))))


def placement(node: Any, ijk_to_ras: NDArray[np.float64], shape_zyx: tuple[int, int, int]) -> Placement:
    """Placement of a grid under the parent transform of a transformable node."""
    local = Geometry(shape_zyx, _RAS_LPS @ ijk_to_ras)
    parent = node.GetParentTransformNode()
    if parent is None:
        return Placement(local, np.eye(4), None)
    if parent.IsTransformToWorldLinear():
        matrix = vtk.vtkMatrix4x4()
        parent.GetMatrixTransformToWorld(matrix)
        return Placement(local, _RAS_LPS @ arrayFromVTKMatrix(matrix) @ _RAS_LPS, parent)
    curved = Placement(local, None, parent)
    matrix, deviation_mm = _best_affine(curved)
    return Placement(local, matrix, parent) if deviation_mm <= AFFINE_TOLERANCE_MM else curved


def straightened(grid: Geometry) -> Geometry:
    """The grid itself where its axes are at right angles, else an LPS-aligned one over it."""
    return grid if grid.is_orthogonal else straight_grid(Placement(grid, np.eye(4), None))


def volume_placement(node: Any) -> Placement:
    """Placement of a volume node that has an image."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    x, y, z = node.GetImageData().GetDimensions()
    return placement(node, arrayFromVTKMatrix(matrix), (z, y, x))


def vtk_ijk_to_ras(geometry: Geometry) -> vtk.vtkMatrix4x4:
    """Index-to-RAS matrix of a grid."""
    return vtkMatrixFromArray(_RAS_LPS @ geometry.affine)


def reslice_to_world(image: vtk.vtkImageData, source: Placement, target: Geometry, sampling: Sampling) -> NDArray[Any]:
    """Image on a node's grid, sampled on a grid in the world; any parent transform."""
    return _reslice(image, source.local, target, _transform_between(None, source.parent), sampling)


def reslice_to_local(array: NDArray[Any], world: Geometry, target: Placement) -> NDArray[Any]:
    """Labels on a grid in the world, taken from the nearest voxel on a node's grid; 0 outside."""
    transform = _transform_between(target.parent, None)
    return _reslice(image_of(array), world, target.local, transform, ("nearest", 0.0))


def image_of(array: NDArray[Any]) -> vtk.vtkImageData:
    """VTK image in index space with a copy of a ``(z, y, x)`` array."""
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(array.ravel(), deep=True))
    return image


def _transform_between(source: Any, target: Any) -> vtk.vtkGeneralTransform:
    """RAS mm under one transform node to RAS mm under another; None is the world."""
    transform = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(source, target, transform)
    return transform


def _reslice(
    image: vtk.vtkImageData,
    source: Geometry,
    target: Geometry,
    target_to_source: vtk.vtkGeneralTransform,
    sampling: Sampling,
) -> NDArray[Any]:
    ras_to_ijk = vtk_ijk_to_ras(source)
    ras_to_ijk.Invert()
    index_to_index = vtk.vtkGeneralTransform()
    index_to_index.PostMultiply()
    index_to_index.Concatenate(vtk_ijk_to_ras(target))
    index_to_index.Concatenate(target_to_source)
    index_to_index.Concatenate(ras_to_ijk)
    z, y, x = target.shape_zyx
    order, fill = sampling
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(image)
    reslice.SetResliceTransform(index_to_index)
    reslice.SetInterpolationMode(vtk.VTK_RESLICE_LINEAR if order == "linear" else vtk.VTK_RESLICE_NEAREST)
    reslice.SetBackgroundLevel(fill)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputExtent(0, x - 1, 0, y - 1, 0, z - 1)
    reslice.Update()
    return vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars()).reshape(target.shape_zyx)


def _lattice(geometry: Geometry) -> NDArray[np.float64]:
    """Voxel centres in LPS mm: all slices, for their steps may differ, and a few voxels within each."""
    z, y, x = geometry.shape_zyx
    axes = (np.arange(z), *(np.linspace(0, n - 1, min(n, LATTICE_STEPS)) for n in (y, x)))
    return geometry.index_to_world(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3))


def _best_affine(curved: Placement) -> tuple[NDArray[np.float64], float]:
    """Least-squares 4x4 matrix of a parent transform over the voxels, and its greatest deviation in mm."""
    points = _lattice(curved.local)
    moved = curved.points_to_world(points)
    # The identity has the say along an axis with one voxel only.
    step, *_ = np.linalg.lstsq(np.c_[points - points.mean(axis=0), np.ones(len(points))], moved - points, rcond=None)
    matrix = np.eye(4)
    matrix[:3, :3] += step[:3].T
    matrix[:3, 3] = step[3] - step[:3].T @ points.mean(axis=0)
    deviation = np.linalg.norm(points @ matrix[:3, :3].T + matrix[:3, 3] - moved, axis=1)
    return matrix, float(deviation.max())


def straight_grid(curved: Placement) -> Geometry:
    """LPS-aligned grid in the world over all voxels, as fine as the node's, whatever the parent transform."""
    matrix, _ = _best_affine(curved)
    spacing = np.abs(curved.local.transformed(matrix).affine[:3, :3]).max(axis=1)
    moved = curved.points_to_world(_lattice(curved.local))
    low, high = moved.min(axis=0), moved.max(axis=0)
    x, y, z = (int(n) for n in np.ceil((high - low) / spacing - 1e-6) + 1)
    return Geometry.from_parts((z, y, x), spacing, low)
