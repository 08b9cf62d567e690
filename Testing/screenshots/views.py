"""Slice and 3D views of 3D Slicer without its window: the classes that draw them in the application, off screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import vtk_to_numpy

COLOURS = {"Red": (0.953, 0.290, 0.200), "Green": (0.431, 0.690, 0.294), "Yellow": (0.929, 0.835, 0.298)}
ORIENTATIONS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}
THREE_D_MANAGERS = ("vtkMRMLCameraDisplayableManager", "vtkMRMLModelDisplayableManager")
SEGMENTS_2D, SEGMENTS_3D = "vtkMRMLSegmentationsDisplayableManager2D", "vtkMRMLSegmentationsDisplayableManager3D"
OUTLINE_PIXELS = 2
BACKGROUND_3D = ((0.756, 0.764, 0.909), (0.454, 0.470, 0.745))


@dataclass(frozen=True)
class Shot:
    """What a picture shows.

    Attributes:
        volume: CT node.
        centre_ras: Point that the slices go through, RAS mm.
        size: Width and height in pixels.
        zoom: Field of view as a share of the whole volume.
    """

    volume: Any
    centre_ras: tuple[float, float, float]
    size: tuple[int, int] = (480, 400)
    zoom: float = 0.8


def slice_picture(shot: Shot, name: str) -> NDArray[np.uint8]:
    """One slice view, ``(rows, columns, 3)``; the visible segmentations of the scene are drawn on it.

    Args:
        shot: What is shown.
        name: ``Red``, ``Green`` or ``Yellow``.
    """
    scene, application = slicer.mrmlScene, slicer.applicationLogic
    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLApplicationLogic(application)
    logic.SetMRMLScene(scene)
    node = logic.AddSliceNode(name)
    node.SetOrientation(ORIENTATIONS[name])
    logic.GetSliceCompositeNode().SetBackgroundVolumeID(shot.volume.GetID())
    width, height = shot.size
    node.SetDimensions(width, height, 1)
    logic.FitSliceToAll(width, height)
    field = [shot.zoom * extent for extent in node.GetFieldOfView()[:2]]
    node.SetFieldOfView(*field, node.GetFieldOfView()[2])
    node.JumpSliceByCentering(*shot.centre_ras)
    logic.UpdatePipeline()

    window, renderer = _window(shot.size)
    mapper = vtk.vtkImageMapper()
    mapper.SetInputConnection(logic.GetImageDataConnection())
    mapper.SetColorWindow(255)
    mapper.SetColorLevel(127.5)
    image = vtk.vtkActor2D()
    image.SetMapper(mapper)
    renderer.AddActor2D(image)
    renderer.GetActiveCamera().ParallelProjectionOn()
    for display in slicer.util.getNodesByClass("vtkMRMLSegmentationDisplayNode"):
        display.SetSliceIntersectionThickness(OUTLINE_PIXELS)
    group = _managers(slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), (SEGMENTS_2D,), renderer, node)
    picture = _grab(window)
    del group
    scene.RemoveNode(logic.GetSliceCompositeNode())
    scene.RemoveNode(node)
    return _with_bar(picture, COLOURS[name])


def three_d_picture(shot: Shot, azimuth: float = 35.0) -> NDArray[np.uint8]:
    """The 3D view from the front and the patient's left, ``(rows, columns, 3)``."""
    scene = slicer.mrmlScene
    node = scene.AddNewNodeByClass("vtkMRMLViewNode", "View1")
    node.SetBoxVisible(False)
    node.SetAxisLabelsVisible(False)
    window, renderer = _window(shot.size)
    renderer.GradientBackgroundOn()
    renderer.SetBackground2(BACKGROUND_3D[0])
    renderer.SetBackground(BACKGROUND_3D[1])
    factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
    group = _managers(factory, (*THREE_D_MANAGERS, SEGMENTS_3D), renderer, node)
    window.Render()
    camera = renderer.GetActiveCamera()
    camera.SetFocalPoint(0, 0, 0)
    camera.SetPosition(0, 500, 0)
    camera.SetViewUp(0, 0, 1)
    camera.Azimuth(azimuth)
    camera.Elevation(12)
    renderer.ResetCamera()
    camera.Zoom(1.35)
    renderer.ResetCameraClippingRange()
    picture = _grab(window)
    del group
    scene.RemoveNode(node)
    return picture


def four_up(shot: Shot) -> NDArray[np.uint8]:
    """The four views of the application's usual layout, ``(rows, columns, 3)``."""
    red, green, yellow = (slice_picture(shot, name) for name in ("Red", "Green", "Yellow"))
    solid = three_d_picture(shot)
    gap = 3
    column = np.full((red.shape[0], gap, 3), 40, np.uint8)
    upper = np.concatenate([red, column, _fitted(solid, red)], axis=1)
    lower = np.concatenate([green, column, yellow], axis=1)
    row = np.full((gap, upper.shape[1], 3), 40, np.uint8)
    return np.concatenate([upper, row, lower], axis=0)


def _managers(factory: Any, names: tuple[str, ...], renderer: Any, node: Any) -> Any:
    factory.SetMRMLApplicationLogic(slicer.applicationLogic)
    for name in names:
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
    group = factory.InstantiateDisplayableManagers(renderer)
    group.SetMRMLDisplayableNode(node)
    return group


def _window(size: tuple[int, int]) -> tuple[Any, Any]:
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(True)
    window.SetMultiSamples(8)
    window.SetSize(*size)
    renderer = vtk.vtkRenderer()
    window.AddRenderer(renderer)
    interactor = vtk.vtkGenericRenderWindowInteractor()
    interactor.SetRenderWindow(window)
    window._interactor = interactor  # the displayable managers look for it
    return window, renderer


def _grab(window: Any) -> NDArray[np.uint8]:
    window.Render()
    window.Render()
    reader = vtk.vtkWindowToImageFilter()
    reader.SetInput(window)
    reader.ReadFrontBufferOff()
    reader.Update()
    image = reader.GetOutput()
    width, height, _ = image.GetDimensions()
    return np.ascontiguousarray(vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1])


def _with_bar(picture: NDArray[np.uint8], colour: tuple[float, float, float]) -> NDArray[np.uint8]:
    """The coloured line by which the application tells its slice views apart."""
    bar = np.empty((8, picture.shape[1], 3), np.uint8)
    bar[:] = np.rint(np.multiply(colour, 255))
    return np.concatenate([bar, picture], axis=0)


def _fitted(picture: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    missing = other.shape[0] - picture.shape[0]
    return np.concatenate([np.repeat(picture[:1], missing, axis=0), picture], axis=0)
