"""Our .seg.nrrd in 3D Slicer's own reader, and Slicer's in ours."""

import numpy as np
import pytest
from focusnet.geometry import Geometry, LabelMap
from focusnet.io.segmentation import Segment, Segmentation, read_segmentation, write_segmentation
from focusnet.organs import organ
from focusnet.terminology import terminology_string

TURN = np.array([[0.0, -0.8, 0.6], [1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])
GRID = Geometry.from_parts((30, 36, 40), (1.9, 2.1, 2.4), (-35.5, -37.25, -33.125), TURN)


def load(scene, path):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    reader = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    reader.SetFileName(str(path))
    assert reader.ReadData(node)
    assert reader.GetUserMessages().GetNumberOfMessages() == 0
    return node


def save(scene, node, path):
    writer = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    writer.SetFileName(str(path))
    assert writer.WriteData(node)


def check_place(points, mask, geometry):
    """Same voxels at the same places, whatever order they are listed in."""
    expected = geometry.index_to_world(np.argwhere(mask))
    assert points.shape == expected.shape
    np.testing.assert_allclose(
        points[np.lexsort(np.round(points, 2).T)], expected[np.lexsort(np.round(expected, 2).T)], atol=1e-3
    )


@pytest.mark.parametrize("mirror", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_labels_keep_names_colours_terms_and_places(scene, balls, segment_points, tmp_path, mirror):
    geometry = Geometry.from_parts(GRID.shape_zyx, GRID.spacing_xyz, GRID.center_mm, TURN * mirror)
    centred = geometry.affine.copy()
    centred[:3, 3] -= geometry.center_mm
    labelmap = balls(Geometry(GRID.shape_zyx, centred))
    path = tmp_path / "Fälle 頭頸部 1.seg.nrrd"
    write_segmentation(labelmap, path, stamp={"Model": "openkbp7", "Weights": "ab|c:d"})
    node = load(scene, path)
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == len(labelmap.organs)
    for index, key in enumerate(labelmap.organs.values()):
        o = organ(key)
        segment = segmentation.GetNthSegment(index)
        assert segmentation.GetNthSegmentID(index) == o.tg263
        assert segment.GetName() == o.tg263
        np.testing.assert_allclose(np.array(segment.GetColor()) * 255, o.colour, atol=0.01)
        assert segment.GetTerminology() == terminology_string(o)
        assert "UNREVIEWED; Model=openkbp7; Weights=ab/c-d" in tag(segment, "FocusNet")
        assert tag(segment, "Segmentation.Status") == "inprogress"
        points = segment_points(node, o.tg263)
        check_place(points, labelmap.mask(key), labelmap.geometry)
        if o.side:
            assert (points[:, 0].mean() > 0) == (o.side == "left")


def tag(segment, name):
    import vtk

    value = vtk.mutable("")
    assert segment.GetTag(name, value)
    return str(value)


def test_reference_grid_is_that_of_the_ct(scene, balls, tmp_path):
    import slicer

    labelmap = balls(GRID)
    write_segmentation(labelmap, tmp_path / "a.seg.nrrd")
    segmentation = load(scene, tmp_path / "a.seg.nrrd").GetSegmentation()
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    numbers = [float(n) for n in segmentation.GetConversionParameter(parameter).split(";") if n]
    np.testing.assert_allclose(np.reshape(numbers[:16], (4, 4)), np.diag([-1, -1, 1, 1]) @ GRID.affine, atol=1e-9)
    assert numbers[16:] == [0, 39, 0, 35, 0, 29]
    # The other parameters, which the file does not name, keep Slicer's defaults.
    assert segmentation.GetConversionParameter("Smoothing factor") == "0.5"


def overlapping():
    whole = np.zeros(GRID.shape_zyx, bool)
    whole[5:20, 8:25, 10:30] = True
    inside = np.zeros_like(whole)
    inside[8:12, 12:16, 14:20] = True
    apart = np.zeros_like(whole)
    apart[25:28, 30:33, 2:6] = True
    empty = np.zeros_like(whole)
    return Segmentation(
        GRID,
        [
            Segment("Eye_L", whole),
            Segment("Lens_L", inside, colour=(1, 2, 3), terminology="own~^^~^^~^^~~^^~^^"),
            Segment("Опухоль 腫瘍", apart),
            Segment("Опухоль 腫瘍", empty),
        ],
    )


def test_overlapping_segments(scene, segment_points, tmp_path):
    original = overlapping()
    write_segmentation(original, tmp_path / "a.seg.nrrd")
    node = load(scene, tmp_path / "a.seg.nrrd")
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfLayers() == 2
    for index, expected in enumerate(original.segments):
        segment = segmentation.GetNthSegment(index)
        assert segment.GetName() == expected.name
        if expected.mask.any():
            check_place(segment_points(node, segmentation.GetNthSegmentID(index)), expected.mask, GRID)
    assert segmentation.GetNthSegment(1).GetTerminology() == "own~^^~^^~^^~~^^~^^"
    np.testing.assert_allclose(np.array(segmentation.GetNthSegment(1).GetColor()) * 255, (1, 2, 3), atol=0.01)


def test_what_slicer_writes_we_read(scene, tmp_path):
    """Slicer crops and reorders as it likes; names, colours, terms and places come back."""
    original = overlapping()
    write_segmentation(original, tmp_path / "a.seg.nrrd")
    save(scene, load(scene, tmp_path / "a.seg.nrrd"), tmp_path / "b.seg.nrrd")
    again = read_segmentation(tmp_path / "b.seg.nrrd")
    assert again.names == original.names
    for index in range(3):
        mine, theirs = original.segments[index], again.segments[index]
        check_place(again.geometry.index_to_world(np.argwhere(theirs.mask)), mine.mask, GRID)
    assert again["Lens_L"].colour == (1, 2, 3)
    assert again["Lens_L"].terminology == "own~^^~^^~^^~~^^~^^"
    assert again["Eye_L"].terminology == terminology_string(organ("eye_l"))


def test_sixteen_bit_labels(scene, segment_points, tmp_path):
    array = np.zeros(GRID.shape_zyx, np.uint16)
    array[3:6, 4:9, 5:7] = 300
    write_segmentation(LabelMap(array, GRID, {300: "larynx"}), tmp_path / "a.seg.nrrd")
    node = load(scene, tmp_path / "a.seg.nrrd")
    check_place(segment_points(node, "Larynx"), array == 300, GRID)
