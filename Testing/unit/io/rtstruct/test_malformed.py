"""Malformed structure sets and series of the field: each gives the right mask or one clear reason code."""

import numpy as np
import pydicom
import pytest
from focusnet.errors import FocusNetError
from focusnet.io.dicom import read_series
from focusnet.io.rtstruct import read_rtstruct
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, MRImageStorage

SQUARE = 16 * 16
SECRETS = ("Secret", "SECRET", "1.2.826", "description")

# --- structure sets: three squares of 16 x 16 voxels on slices 4, 5, 6, spoilt before they are written ----------------


def contours(ds):
    return ds.ROIContourSequence[0].ContourSequence


def retype(kind):
    def spoil(ds):
        contours(ds)[1].ContourGeometricType = kind

    return spoil


def repoint(number, points):
    def spoil(ds):
        with pydicom.config.disable_value_validation():
            contours(ds)[number].ContourData = [str(value) for value in np.ravel(points)]
        contours(ds)[number].NumberOfContourPoints = max(1, np.size(points) // 3)

    return spoil


def corners(ds, number):
    return np.array([float(value) for value in contours(ds)[number].ContourData]).reshape(-1, 3)


def keyhole(ds):
    outer = corners(ds, 1)
    hole = outer.mean(axis=0) + (outer - outer.mean(axis=0)) / 2
    repoint(1, np.concatenate([outer, outer[:1], hole, hole[:1]]))(ds)


def hole_drawn_apart(ds):
    outer = corners(ds, 1)
    repoint(2, outer.mean(axis=0) + (outer - outer.mean(axis=0)) / 2)(ds)


def between_slices(ds):
    repoint(1, np.add(corners(ds, 1), (0, 0, 1.4)))(ds)


def self_crossing(ds):
    repoint(1, corners(ds, 1)[[0, 2, 1, 3]])(ds)


def out_of_plane(ds):
    repoint(1, corners(ds, 1) + np.outer([0, 9, 0, 0], [0, 0, 1]))(ds)


def repeated_points(ds):
    repoint(1, np.repeat(corners(ds, 1), 3, axis=0))(ds)


def same_contour_twice(ds):
    contours(ds).append(contours(ds)[1])


def reversed_order(ds):
    ds.ROIContourSequence[0].ContourSequence = Sequence(list(contours(ds))[::-1])


def no_type(ds):
    del contours(ds)[1].ContourGeometricType


def no_images(ds):
    for item in contours(ds):
        if "ContourImageSequence" in item:
            del item.ContourImageSequence
    del ds.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence


def no_observations_and_colours(ds):
    del ds.ROIContourSequence[0].ROIDisplayColor


def empty_contour_sequence(ds):
    ds.ROIContourSequence[0].ContourSequence = Sequence()


def no_contour_sequence(ds):
    del ds.ROIContourSequence[0].ContourSequence


def no_roi_contours(ds):
    del ds.ROIContourSequence


def no_structures(ds):
    ds.StructureSetROISequence, ds.ROIContourSequence = Sequence(), Sequence()


def all_points(ds):
    for item in contours(ds):
        item.ContourGeometricType = "POINT"


def all_open(ds):
    for item in contours(ds):
        item.ContourGeometricType = "OPEN_PLANAR"


def number_twice(ds):
    ds.StructureSetROISequence.append(ds.StructureSetROISequence[0])


def other_frame(ds):
    ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.3"
    ds.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"


def other_place(ds):
    for number in range(3):
        repoint(number, np.add(corners(ds, number), (0, 4000, 0)))(ds)


def not_a_structure_set(ds):
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.Modality = "CT"


def japanese_name(ds):
    ds.StructureSetROISequence[0].ROIName = "左耳下腺 \\ ../../etc"


STRUCTURE_SETS = {
    # fault: (how, voxels on slices 4, 5, 6, or the reason code)
    "point among contours": (retype("POINT"), (1, 0, 1)),
    "open contour": (retype("OPEN_PLANAR"), (1, 0, 1)),
    "unknown type": (retype("SPLINE"), (1, 0, 1)),
    "type missing": (no_type, (1, 1, 1)),
    "one point": (repoint(1, [[10, 5, 0]]), (1, 0, 1)),
    "two points": (repoint(1, [[10, 5, 0], [12, 5, 0]]), (1, 0, 1)),
    "no coordinates": (repoint(1, []), (1, 0, 1)),
    "half a point": (repoint(1, [1, 2, 3, 4]), (1, 0, 1)),
    "impossible coordinates": (repoint(1, np.full((4, 3), 1e30)), (1, 0, 1)),
    "out of plane": (out_of_plane, (1, 0, 1)),
    "keyhole": (keyhole, (1, 0.75, 1)),
    "hole as a contour of its own": (hole_drawn_apart, (1, 0.75, 0)),
    "self-crossing": (self_crossing, (1, 0.5, 1)),
    "between slices": (between_slices, (1, 1, 1)),
    "repeated points": (repeated_points, (1, 1, 1)),
    "the same contour twice": (same_contour_twice, (1, 1, 1)),
    "contours in any order": (reversed_order, (1, 1, 1)),
    "no referenced images": (no_images, (1, 1, 1)),
    "no colours": (no_observations_and_colours, (1, 1, 1)),
    "name in any script, and a path": (japanese_name, (1, 1, 1)),
    "empty contour sequence": (empty_contour_sequence, "E_NO_CONTOURS"),
    "no contour sequence": (no_contour_sequence, "E_NO_CONTOURS"),
    "no ROI contours": (no_roi_contours, "E_NO_CONTOURS"),
    "no structures": (no_structures, "E_NO_STRUCTURES"),
    "points only": (all_points, "E_NO_CONTOURS"),
    "open contours only": (all_open, "E_NO_CONTOURS"),
    "ROI number twice": (number_twice, "E_DUPLICATE_ROI"),
    "of another scan": (other_frame, "E_FRAME_OF_REFERENCE"),
    "beside the image": (other_place, "E_OUTSIDE_IMAGE"),
    "another object": (not_a_structure_set, "E_NOT_RTSTRUCT"),
}


@pytest.mark.parametrize("fault", STRUCTURE_SETS)
def test_a_malformed_structure_set(rt, grid, tmp_path, fault):
    spoil, expected = STRUCTURE_SETS[fault]
    squares = [rt.contour(rt.square(z)) for z in (-3.0, 0.0, 3.0)]
    path = rt.File({"Parotid_L": squares}, edit=spoil).write(tmp_path / "rs.dcm")
    if isinstance(expected, str):
        check_refused(lambda: read_rtstruct(path, grid), expected, tmp_path)
        return
    found = read_rtstruct(path, grid)
    (structure,) = found.structures
    voxels = structure.mask.sum(axis=(1, 2))
    np.testing.assert_allclose(voxels[4:7], SQUARE * np.array(expected), atol=10)
    assert voxels[:4].sum() == voxels[7:].sum() == 0
    place = grid.index_to_world(np.argwhere(structure.mask)).mean(axis=0)
    np.testing.assert_allclose(place[:2], (10, 5), atol=0.5)
    lost = expected not in ((1, 1, 1), (1, 0.75, 1), (1, 0.75, 0))
    assert bool(structure.notes) >= lost


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_structure_set_cut_short(rt, grid, tmp_path, share):
    squares = [rt.contour(rt.square(z)) for z in (-3.0, 0.0, 3.0)]
    path = rt.File({"Parotid_L": squares}).write(tmp_path / "rs.dcm")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    check_refused(lambda: read_rtstruct(path, grid), ("E_UNREADABLE", "E_NO_STRUCTURES", "E_NO_CONTOURS"), tmp_path)


# --- series: an elliptic body with a dense ball on the left, spoilt slice by slice ------------------------------------


def changed(keyword, value, first=0):
    def spoil(ds, index):
        if index >= first:
            setattr(ds, keyword, value)

    return spoil


def without(keyword, only=None):
    def spoil(ds, index):
        if only in (None, index):
            delattr(ds, keyword)

    return spoil


def skipped(*numbers):
    return lambda ds, index: index not in numbers


def moved(index_moved, shift):
    def spoil(ds, index):
        if index == index_moved:
            ds.ImagePositionPatient = [float(v) for v in np.add(ds.ImagePositionPatient, shift)]

    return spoil


def as_mr(ds, _):
    ds.Modality = "MR"
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = MRImageStorage


def with_localizer(ds, index):
    if index == 0:
        return
    if index == 11:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def turned(ds, index):
    if index == 5:
        ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def short_pixels(ds, index):
    if index == 5:
        ds["PixelData"].value = ds.PixelData[:1000]


def swapped_numbers(ds, index):
    ds.InstanceNumber = 100 - index


SERIES = {
    "instance numbers run the other way": (swapped_numbers, None),
    "patient position is wrong": (changed("PatientPosition", "FFP"), None),
    "localizer in the series": (with_localizer, None),
    "first and last slices missing": (skipped(0, 11), None),
    "empty series number": (changed("SeriesNumber", None), None),
    "slice missing": (skipped(5), "E_MISSING_SLICES"),
    "slices unevenly spaced": (moved(5, (0, 0, 1.3)), "E_UNEVEN_SPACING"),
    "a slice in the place of the next": (moved(5, (0, 0, 4)), "E_MISSING_SLICES"),
    "two slices side by side": (moved(5, (7, 0, 4)), "E_DUPLICATE_SLICES"),
    "a slice turned": (turned, "E_MIXED_ORIENTATION"),
    "no position": (without("ImagePositionPatient"), "E_TOO_FEW_SLICES"),
    "no orientation": (without("ImageOrientationPatient", 3), "E_BAD_GEOMETRY"),
    "no pixel spacing": (without("PixelSpacing", 3), "E_BAD_GEOMETRY"),
    "pixel spacing of zero": (changed("PixelSpacing", [0, 0]), "E_BAD_GEOMETRY"),
    "pixel spacing changes": (changed("PixelSpacing", [1.2, 1.2], 6), "E_BAD_GEOMETRY"),
    "two frames of reference": (changed("FrameOfReferenceUID", "1.2.3", 6), "E_FRAME_OF_REFERENCE"),
    "two series": (changed("SeriesInstanceUID", "1.2.3", 6), "E_MULTIPLE_SERIES"),
    "rescale missing in some": (without("RescaleSlope", 3), "E_NO_RESCALE"),
    "rescale slope of zero": (changed("RescaleSlope", 0), "E_NO_RESCALE"),
    "no offset": (changed("RescaleIntercept", 0), "E_NOT_HU"),
    "an MR": (as_mr, "E_NOT_CT"),
    "colour": (changed("SamplesPerPixel", 3), "E_NOT_3D"),
    "pixels cut off": (short_pixels, "E_UNREADABLE"),
    "two slices only": (lambda ds, index: index < 2, "E_TOO_FEW_SLICES"),
    "no series UID": (without("SeriesInstanceUID", 3), "E_UNREADABLE"),
}


@pytest.mark.parametrize("fault", SERIES)
def test_a_malformed_series(ct_series, tmp_path, fault):
    spoil, code = SERIES[fault]
    series = ct_series(edit=spoil)
    folder = series.write(tmp_path / "ct")
    if code is not None:
        check_refused(lambda: read_series(folder), code, tmp_path)
        return
    volume = read_series(folder)
    index = volume.geometry.world_to_index(np.array([22.0, -14.0, 9.0]))
    assert volume.array[tuple(np.rint(index).astype(int))] == 1000  # the ball is where it was scanned
    mirrored = volume.geometry.world_to_index(np.array([-22.0, -14.0, 9.0]))
    assert volume.array[tuple(np.rint(mirrored).astype(int))] == 40


def check_refused(read, codes, folder):
    with pytest.raises(FocusNetError) as caught:
        read()
    assert caught.value.code in ([codes] if isinstance(codes, str) else codes)
    message = str(caught.value)
    assert "\n" not in message
    assert not any(secret in message for secret in (*SECRETS, str(folder)))
