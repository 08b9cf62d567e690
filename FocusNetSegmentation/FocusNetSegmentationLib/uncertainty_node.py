"""The uncertainty of a segmentation as a volume node on its CT."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from focusnet.geometry import Volume
from numpy.typing import NDArray

from FocusNetSegmentationLib import geometry_bridge as bridge

NAME_SUFFIX = "uncertainty (%)"
COLOURS_ID = "vtkMRMLColorTableNodeIron"
PERCENT = (0, 100)


def add_uncertainty(percent: Volume, volume_node: Any) -> Any:
    """New scalar volume node with a map of percents, on the CT's grid and under its parent transform.

    Voxels of 0 percent are shown transparent, so that the map can lie over the CT.

    Args:
        percent: 0 to 100 in the world, uint8 ``(z, y, x)``; see :func:`focusnet.uncertainty.uncertainty_percent`.
        volume_node: The CT.
    """
    if slicer.mrmlScene.GetNodeByID(COLOURS_ID) is None:  # a cleared scene has lost the colour tables
        slicer.modules.colors.logic().AddDefaultColorNodes()
    place = bridge.volume_placement(volume_node)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{volume_node.GetName()} {NAME_SUFFIX}")
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetIJKToRASMatrix(bridge.vtk_ijk_to_ras(place.local))
    node.SetAndObserveImageData(bridge.image_of(_on_grid(percent, place)))
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(COLOURS_ID)
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(*PERCENT)
    display.SetAutoThreshold(False)
    display.SetThreshold(1, PERCENT[1])
    display.SetApplyThreshold(True)
    return node


def _on_grid(percent: Volume, place: bridge.Placement) -> NDArray[np.uint8]:
    """The percents on the CT's own grid."""
    if place.to_world is not None and percent.geometry.is_close(place.world):
        return percent.array
    return bridge.reslice_to_local(percent.array, percent.geometry, place)
