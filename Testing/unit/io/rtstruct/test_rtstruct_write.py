"""Structure sets written from masks: round trips, content, the required attributes of the standard."""

import re
import shutil
import subprocess
import warnings
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from focusnet import DISCLAIMER, __version__
from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry, LabelMap
from focusnet.io.rtstruct import RTStructOptions, RTStructRules, read_rtstruct, write_rtstruct
from focusnet.io.segmentation import Segment, Segmentation
from focusnet.io.shapes import Provenance
from focusnet.organs import CATALOGUE, organ
from pydicom.uid import RTStructureSetStorage

PROVENANCE = Provenance("phantom model", "1.2.0", "0123456789abcdef" * 4)
TAGS = {
    "PatientName": "Müller^Jörg",
    "PatientID": "ID-7",
    "PatientBirthDate": "19500102",
    "PatientSex": "M",
    "StudyDate": "20240102",
    "StudyID": "42",
    "StudyDescription": "planning",
    "AccessionNumber": "A1",
}
ORGANS = {1: "brain", 2: "brainstem", 3: "parotid_l", 4: "parotid_r", 5: "lens_l", 6: "lens_r", 7: "optic_nerve_l"}


def ellipsoid(geometry, centre, radii):
    z, y, x = np.indices(geometry.shape_zyx, sparse=True)
    (cz, cy, cx), (rz, ry, rx) = centre, radii
    return ((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1


def head(geometry):
    """Organs of many sizes, on the patient's left at rising x: a shell with an island, a pair, a lens, a thin nerve."""
    labels = np.zeros(geometry.shape_zyx, dtype=np.uint8)
    labels[ellipsoid(geometry, (9, 50, 50), (7.5, 44, 38))] = 1
    labels[ellipsoid(geometry, (9, 50, 50), (5, 16, 14))] = 0
    labels[ellipsoid(geometry, (9, 50, 50), (3, 9, 8))] = 2
    labels[ellipsoid(geometry, (6, 58, 72), (4.2, 12, 8))] = 3
    labels[ellipsoid(geometry, (6, 58, 28), (4.2, 12, 8))] = 4
    labels[ellipsoid(geometry, (12, 20, 62), (1.7, 3, 4.2))] = 5
    labels[10, 25:45, 60:63] = labels[11, 30:40, 59:62] = 7
    return LabelMap(labels, geometry, ORGANS)


def rotation(axis, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    matrix[[first, first, second, second], [first, second, first, second]] = c, -s, s, c
    return matrix


def grid_of(direction, frame, spacing=(1.1, 0.9, 2.5), shape=(18, 100, 100)):
    half = np.multiply(spacing, np.subtract(shape[::-1], 1)) / 2
    return Geometry.from_parts(shape, spacing, -np.asarray(direction) @ half, direction, frame)


GRIDS = {
    "straight": np.eye(3),
    "feet first": np.diag([-1.0, 1.0, -1.0]),
    "flipped": np.diag([1.0, -1.0, 1.0]),
    "oblique": rotation(0, 14) @ rotation(2, 9),
    "coronal": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
}


@pytest.fixture
def straight(rt):
    return grid_of(np.eye(3), rt.FRAME)


@pytest.fixture
def written(rt, straight, tmp_path):
    """A structure set of the whole head, with its summary."""
    path = tmp_path / "rs.dcm"
    summary = write_rtstruct(
        head(straight), rt.reference_of(straight, **TAGS), path, RTStructOptions(provenance=PROVENANCE)
    )
    return path, summary


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "holes"), [*((o, "keyhole") for o in GRIDS), ("straight", "inner"), ("oblique", "xor")]
)
def test_masks_come_back_voxel_for_voxel_on_their_sides(rt, tmp_path, orientation, holes):
    geometry = grid_of(GRIDS[orientation], rt.FRAME)
    labels = head(geometry)
    summary = write_rtstruct(labels, rt.reference_of(geometry), tmp_path / "rs.dcm", RTStructOptions(holes=holes))
    found = read_rtstruct(tmp_path / "rs.dcm", geometry, RTStructRules(series_uid=rt.SERIES))
    assert summary.left_out == ("Lens_R",)
    assert summary.cut == found.notes == found.unmapped == ()
    assert [s.organ for s in found.structures] == [key for key in ORGANS.values() if key != "lens_r"]
    for structure in found.structures:
        np.testing.assert_array_equal(structure.mask, labels.mask(structure.organ))
        assert structure.notes == ()
        assert structure.contour_volume_ml == pytest.approx(structure.volume_ml, rel=0.08)


def test_a_wide_tolerance_saves_points_and_keeps_the_organs(rt, straight, tmp_path):
    labels = head(straight)
    points = {}
    for tolerance in (0.05, 0.6):
        path = tmp_path / f"{tolerance}.dcm"
        write_rtstruct(labels, rt.reference_of(straight), path, RTStructOptions(tolerance_mm=tolerance))
        drawn = pydicom.dcmread(path).ROIContourSequence
        points[tolerance] = sum(item.NumberOfContourPoints for roi in drawn for item in roi.ContourSequence)
    assert points[0.6] < 0.5 * points[0.05]
    for structure in read_rtstruct(path, straight).structures:
        mask = labels.mask(structure.organ)
        assert dice(structure.mask, mask) >= (0.98 if structure.volume_ml >= 1 else 0.9)


def test_a_part_of_the_grid_is_placed_where_it_belongs(rt, straight, tmp_path):
    labels = head(straight)
    part = labels.crop(Box((2, 5, 8), (17, 95, 90)))
    write_rtstruct(part, rt.reference_of(straight), tmp_path / "rs.dcm")
    for structure in read_rtstruct(tmp_path / "rs.dcm", straight).structures:
        np.testing.assert_array_equal(structure.mask, labels.mask(structure.organ))


def test_slices_of_a_tilted_gantry_need_no_resampling(rt, straight, tmp_path):
    """The straightened mask grid shares the slice planes of a series whose slices step aside."""
    affine = straight.affine.copy()
    affine[1, 2] += 0.7
    labels = head(straight)
    write_rtstruct(labels, rt.reference_of(Geometry(straight.shape_zyx, affine, rt.FRAME)), tmp_path / "rs.dcm")
    for structure in read_rtstruct(tmp_path / "rs.dcm", straight).structures:
        np.testing.assert_array_equal(structure.mask, labels.mask(structure.organ))


@pytest.mark.parametrize("turn", [rotation(0, 12), rotation(1, 7) @ rotation(2, 20)], ids=["pitch", "roll and yaw"])
def test_masks_of_an_oblique_grid_are_drawn_on_the_ct_slices(rt, tmp_path, turn):
    """A mask grid that lies across the CT: volume, place and side are kept."""
    own = grid_of(turn, rt.FRAME, (1.0, 1.0, 1.5), (40, 80, 80))
    ct = grid_of(np.eye(3), rt.FRAME, (0.9, 0.9, 2.0), (40, 100, 100))
    labels = np.zeros(own.shape_zyx, dtype=np.uint8)
    labels[ellipsoid(own, (20, 40, 58), (9, 14, 11))] = 3
    labels[ellipsoid(own, (20, 40, 22), (9, 14, 11))] = 4
    labels[ellipsoid(own, (24, 20, 50), (4.5, 6.5, 6.5))] = 2
    masks = LabelMap(labels, own, ORGANS)
    write_rtstruct(masks, rt.reference_of(ct), tmp_path / "rs.dcm")
    found = read_rtstruct(tmp_path / "rs.dcm", ct)
    for key in ("parotid_l", "parotid_r", "brainstem"):
        structure, mask = found.find(key), masks.mask(key)
        expected = own.index_to_world(np.argwhere(mask)).mean(axis=0)
        np.testing.assert_allclose(ct.index_to_world(np.argwhere(structure.mask)).mean(axis=0), expected, atol=0.2)
        assert structure.volume_ml == pytest.approx(mask.sum() * own.voxel_volume_ml, rel=0.01)
    for structure in read_rtstruct(tmp_path / "rs.dcm", own).structures:
        mask = masks.mask(structure.organ)
        assert dice(structure.mask, mask) > 0.95
        assert structure.crop.sum() == pytest.approx(mask.sum(), rel=0.02)


def test_a_fine_mask_grid_is_drawn_on_coarse_ct_slices(rt, tmp_path):
    own = grid_of(np.eye(3), rt.FRAME, (0.5, 0.5, 1.0), (40, 60, 60))
    ct = grid_of(np.eye(3), rt.FRAME, (1.2, 1.2, 3.0), (16, 40, 40))
    mask = ellipsoid(own, (19.5, 30, 34), (14, 22, 20))
    write_rtstruct(LabelMap(mask.astype(np.uint8), own, {1: "brainstem"}), rt.reference_of(ct), tmp_path / "rs.dcm")
    structure = read_rtstruct(tmp_path / "rs.dcm", ct).structures[0]
    assert structure.volume_ml == pytest.approx(mask.sum() * own.voxel_volume_ml, rel=0.01)


# --- content ----------------------------------------------------------------------------------------------------------


def test_names_codes_colours_and_status(written):
    ds = pydicom.dcmread(written[0])
    assert ds.SOPClassUID == RTStructureSetStorage
    assert (ds.Modality, ds.ApprovalStatus) == ("RTSTRUCT", "UNAPPROVED")
    for roi, drawn, seen in zip(
        ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence, strict=True
    ):
        found = next(o for o in CATALOGUE.values() if o.tg263 == roi.ROIName)
        assert roi.ROINumber == drawn.ReferencedROINumber == seen.ReferencedROINumber == seen.ObservationNumber
        assert (roi.ROIGenerationAlgorithm, seen.RTROIInterpretedType) == ("AUTOMATIC", "ORGAN")
        assert tuple(drawn.ROIDisplayColor) == found.colour
        (code,) = seen.RTROIIdentificationCodeSequence
        assert (code.CodeValue, code.CodingSchemeDesignator) == (found.snomed_code, "SCT")
        sides = [c.CodeMeaning.lower() for c in code.get("SegmentedPropertyTypeModifierCodeSequence", ())]
        assert sides == ([found.side] if found.side else [])


def test_left_and_right_names_lie_on_their_sides(written, straight):
    ds = pydicom.dcmread(written[0])
    numbers = {roi.ROIName: roi.ROINumber for roi in ds.StructureSetROISequence}
    contours = {drawn.ReferencedROINumber: drawn.ContourSequence for drawn in ds.ROIContourSequence}
    x = {
        name: np.concatenate([np.array(c.ContourData, dtype=float)[::3] for c in contours[numbers[name]]])
        for name in ("Parotid_L", "Parotid_R")
    }
    assert x["Parotid_L"].min() > 0 > x["Parotid_R"].max()


def test_each_contour_lies_in_the_plane_of_the_slice_it_refers_to(rt, written, straight):
    ds = pydicom.dcmread(written[0])
    reference = rt.reference_of(straight)
    heights = {item.sop_instance_uid: item.position_mm[2] for item in reference.slices}
    for drawn in ds.ROIContourSequence:
        for item in drawn.ContourSequence:
            z = np.array(item.ContourData, dtype=float)[2::3]
            np.testing.assert_allclose(z, heights[item.ContourImageSequence[0].ReferencedSOPInstanceUID], atol=6e-5)
            assert item.ContourGeometricType == "CLOSED_PLANAR"
            assert item.NumberOfContourPoints == len(z)
    (frame,) = ds.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == reference.series_uid
    assert {i.ReferencedSOPInstanceUID for i in series.ContourImageSequence} == set(heights)
    assert frame.FrameOfReferenceUID == ds.FrameOfReferenceUID == straight.frame_of_reference


def test_patient_and_study_are_the_ct_s_and_the_rest_is_new(rt, written, straight):
    ds, reference = pydicom.dcmread(written[0]), rt.reference_of(straight)
    assert {keyword: str(ds.get(keyword)) for keyword in TAGS} == TAGS
    assert ds.StudyInstanceUID == reference.study_uid
    assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID == written[1].sop_instance_uid
    assert ds.SeriesInstanceUID != reference.series_uid
    assert ds.InstanceNumber == 1


def test_every_writing_has_uids_of_its_own(rt, straight, tmp_path):
    labels, reference = head(straight), rt.reference_of(straight)
    for name in "ab":
        write_rtstruct(labels, reference, tmp_path / name)
    a, b = (pydicom.dcmread(tmp_path / name) for name in "ab")
    assert a.SOPInstanceUID != b.SOPInstanceUID
    assert a.SeriesInstanceUID != b.SeriesInstanceUID


def test_origin_and_disclaimer_are_in_the_object(written):
    ds = pydicom.dcmread(written[0])
    description = ds.StructureSetDescription
    assert DISCLAIMER in description
    assert "UNREVIEWED" in description
    assert PROVENANCE.weights_sha256 in description
    assert ds.SoftwareVersions == f"SlicerFocusNet {__version__}"
    for roi in ds.StructureSetROISequence:
        assert PROVENANCE.weights_sha256[:16] in roi.ROIGenerationDescription
        (algorithm,) = roi.ROIDerivationAlgorithmIdentificationSequence
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("phantom model", "1.2.0")


def test_every_value_fits_its_type(written):
    """Coordinates of at most 16 characters, short strings within their limits: pydicom checks all of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = {element.keyword for element in pydicom.dcmread(written[0]).iterall()}
    assert {"ContourData", "ROIVolume", "AlgorithmVersion", "PixelSpacing"} <= names
    raw = pydicom.dcmread(written[0]).ROIContourSequence[0].ContourSequence[0].get_item("ContourData").value
    numbers = raw.decode().strip().split("\\")
    assert max(map(len, numbers)) <= 16
    assert all(re.fullmatch(r"-?\d+\.\d{4}", number) and number != "-0.0000" for number in numbers)


def test_unknown_and_repeated_names_are_kept_apart(rt, straight, tmp_path):
    mask = ellipsoid(straight, (9, 50, 50), (4, 20, 20))
    names = ["PTV\\70", "left parotid", "Parotid_L", "x" * 90, "x" * 90]
    masks = Segmentation(straight, [Segment(name, mask, (1, 2, 3)) for name in names])
    summary = write_rtstruct(masks, rt.reference_of(straight), tmp_path / "rs.dcm")
    assert list(summary.contours) == ["PTV/70", "Parotid_L", "Parotid_L (2)", "x" * 64, "x" * 60 + " (2)"]
    ds = pydicom.dcmread(tmp_path / "rs.dcm")
    assert all(tuple(drawn.ROIDisplayColor) == (1, 2, 3) for drawn in ds.ROIContourSequence)


def test_parts_above_and_below_the_ct_are_said(rt, straight, tmp_path):
    ct = straight.crop(Box((6, 0, 0), (14, 100, 100)))
    labels = head(straight)
    summary = write_rtstruct(labels, rt.reference_of(ct), tmp_path / "rs.dcm")
    assert set(summary.cut) == {"Brain", "Parotid_L", "Parotid_R"}
    np.testing.assert_array_equal(read_rtstruct(tmp_path / "rs.dcm", ct).find("brain").mask, labels.mask("brain")[6:14])


def test_multi_frame_references_name_the_frame(rt, straight, tmp_path):
    reference = rt.reference_of(straight)
    slices = tuple(replace(item, sop_instance_uid="1.2.5", frame=k) for k, item in enumerate(reference.slices))
    write_rtstruct(head(straight), replace(reference, slices=slices), tmp_path / "rs.dcm")
    item = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence[0].ContourSequence[0]
    assert item.ContourImageSequence[0].ReferencedFrameNumber == 1 + 2


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_what_is_refused_leaves_no_file(rt, straight, tmp_path):
    labels, reference = head(straight), rt.reference_of(straight)
    path = tmp_path / "rs.dcm"
    foreign = rt.reference_of(Geometry(straight.shape_zyx, straight.affine, "1.2.3"))
    nameless = rt.reference_of(Geometry(straight.shape_zyx, straight.affine))
    empty = LabelMap(np.zeros(straight.shape_zyx, np.uint8), straight, {1: "brain"})
    elsewhere = rt.reference_of(straight.transformed([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 900], [0, 0, 0, 1]]))
    for masks, ct, code in (
        (labels, foreign, "E_FRAME_OF_REFERENCE"),
        (
            LabelMap(labels.array, Geometry(straight.shape_zyx, straight.affine), ORGANS),
            nameless,
            "E_FRAME_OF_REFERENCE",
        ),
        (empty, reference, "E_NO_STRUCTURES"),
        (labels, elsewhere, "E_NO_STRUCTURES"),
    ):
        with pytest.raises(FocusNetError) as caught:
            write_rtstruct(masks, ct, path)
        assert caught.value.code == code
    gap = replace(reference, slices=reference.slices[:7] + reference.slices[8:])
    with pytest.raises(FocusNetError, match="E_UNEVEN_SPACING"):
        write_rtstruct(labels, gap, path)
    assert list(tmp_path.iterdir()) == []
    path.write_text("kept")
    with pytest.raises(FocusNetError, match="E_OUTPUT_EXISTS"):
        write_rtstruct(labels, reference, path)
    assert path.read_text() == "kept"
    write_rtstruct(labels, reference, path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["rs.dcm"]


# --- the standard -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(rt, tmp_path):
    """A structure set with every kind of content but few points, for the checkers."""
    geometry = grid_of(np.eye(3), rt.FRAME, shape=(5, 20, 20))
    labels = np.zeros(geometry.shape_zyx, dtype=np.uint8)
    labels[1:4, 4:12, 4:12] = 1
    labels[1:4, 7, 7] = 0
    labels[2, 15:18, 15:18] = 3
    path = tmp_path / "small.dcm"
    write_rtstruct(
        LabelMap(labels, geometry, ORGANS),
        rt.reference_of(geometry, **TAGS),
        path,
        RTStructOptions(provenance=PROVENANCE),
    )
    return path


def test_dicom_validator_finds_no_error(rt, small):
    result = rt.validate(pydicom.dcmread(small))
    assert result.errors == 0, result.module_errors


def test_dicom_validator_would_find_missing_attributes(rt, small):
    dataset = pydicom.dcmread(small)
    del dataset.StructureSetLabel, dataset.OperatorsName
    del dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    assert rt.validate(dataset).errors == 3


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy of dicom3tools is not installed")
def test_dciodvfy_finds_no_error(small):
    result = subprocess.run(["dciodvfy", "-new", str(small)], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    assert "RTStructureSet" in lines
    assert [line for line in lines if line.startswith("Error")] == []


def test_organ_names_fit_the_dicom_limits():
    assert max(len(o.tg263) for o in CATALOGUE.values()) <= 64
    assert all(organ(o.key).snomed_meaning and len(o.snomed_meaning) <= 64 for o in CATALOGUE.values())
