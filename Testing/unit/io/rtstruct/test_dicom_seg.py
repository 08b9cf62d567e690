"""DICOM Segmentation objects: round trips, codes, overlapping structures, an independent reader, refusals."""

import builtins
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from focusnet import DISCLAIMER
from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry, LabelMap
from focusnet.io.dicom import read_series, read_series_reference
from focusnet.io.dicom_seg import DicomSegOptions, read_dicom_seg, write_dicom_seg
from focusnet.io.names import structure_names
from focusnet.io.rtstruct import write_rtstruct
from focusnet.io.segmentation import Segment, Segmentation
from focusnet.io.shapes import Provenance, native_geometry
from focusnet.organs import find
from pydicom.multival import MultiValue

pytest.importorskip("highdicom")

ORGANS = {1: "brain", 2: "parotid_l", 3: "parotid_r", 4: "lens_l", 5: "lens_r"}
PROVENANCE = Provenance("phantom model", "1.2.0", "0123456789abcdef" * 4)


def labels_on(geometry):
    array = np.zeros(geometry.shape_zyx, dtype=np.uint8)
    array[2:9, 10:40, 12:50] = 1
    array[3:6, 20:30, 45:52] = 2
    array[3:6, 20:30, 8:15] = 3
    array[4, 12, 40] = 4
    return LabelMap(array, geometry, ORGANS)


def grid_of(frame, direction=None):
    return Geometry.from_parts((12, 50, 60), (0.9, 1.1, 2.5), (-27, 30, -60), direction, frame)


@pytest.fixture
def grid(rt):
    return grid_of(rt.FRAME)


def placed(segmentation, name, geometry):
    """Mask of a segment on another grid with the same voxels."""
    index = np.argwhere(segmentation[name].mask)
    mask = np.zeros(geometry.shape_zyx, dtype=bool)
    at = np.rint(geometry.world_to_index(segmentation.geometry.index_to_world(index))).astype(int)
    mask[tuple(at.T)] = True
    return mask


ORIENTATIONS = {
    "straight": np.eye(3),
    "feet first": np.diag([-1.0, 1.0, -1.0]),
    "left-handed": np.diag([1.0, 1.0, -1.0]),
    "sagittal": np.array([[0, 0, 1.0], [1.0, 0, 0], [0, 1.0, 0]]),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_all_organs_come_back_on_their_sides(rt, tmp_path, orientation):
    geometry = grid_of(rt.FRAME, ORIENTATIONS[orientation])
    labels = labels_on(geometry)
    summary = write_dicom_seg(labels, rt.reference_of(geometry), tmp_path / "seg.dcm")
    assert summary.segments == ("Brain", "Parotid_L", "Parotid_R", "Lens_L")
    assert summary.left_out == ("Lens_R",)
    found = read_dicom_seg(tmp_path / "seg.dcm")
    assert found.geometry.frame_of_reference == rt.FRAME
    assert np.linalg.det(found.geometry.affine) > 0
    for name in summary.segments:
        organ = find(name)
        np.testing.assert_array_equal(placed(found, name, geometry), labels.mask(organ.key))
        assert found[name].colour == organ.colour


def test_segments_carry_their_codes_and_sides(rt, grid, tmp_path):
    write_dicom_seg(labels_on(grid), rt.reference_of(grid), tmp_path / "s", DicomSegOptions(provenance=PROVENANCE))
    ds = pydicom.dcmread(tmp_path / "s")
    assert (ds.Modality, ds.SegmentationType) == ("SEG", "BINARY")
    for item in ds.SegmentSequence:
        organ = find(item.SegmentLabel)
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == (organ.snomed_code, "SCT")
        sides = [c.CodeMeaning.lower() for c in kind.get("SegmentedPropertyTypeModifierCodeSequence", ())]
        assert sides == ([organ.side] if organ.side else [])
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        assert PROVENANCE.weights_sha256 in item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert DISCLAIMER in ds.ImageComments
    assert "UNREVIEWED" in ds.ContentDescription


def test_patient_and_references_are_the_ct_s(rt, grid, tmp_path, recwarn):
    reference = rt.reference_of(grid, PatientName="Müller", PatientID="ID-7", StudyDate="20240102")
    write_dicom_seg(labels_on(grid), reference, tmp_path / "s")
    assert not [w for w in recwarn if "Müller" in str(w.message)]
    ds = pydicom.dcmread(tmp_path / "s")
    assert (str(ds.PatientName), ds.PatientID, ds.StudyInstanceUID) == ("Müller", "ID-7", reference.study_uid)
    assert ds.FrameOfReferenceUID == rt.FRAME
    (series,) = ds.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == rt.SERIES
    assert {i.ReferencedSOPInstanceUID for i in series.ReferencedInstanceSequence} == {
        s.sop_instance_uid for s in reference.slices
    }


def test_overlapping_and_unknown_structures(rt, grid, tmp_path):
    one = np.zeros(grid.shape_zyx, dtype=bool)
    one[2:6, 5:30, 5:30] = True
    other = np.roll(one, 10, axis=2)
    masks = Segmentation(grid, [Segment("Brainstem", one), Segment("my ring", other, (9, 8, 7))])
    write_dicom_seg(masks, rt.reference_of(grid), tmp_path / "s")
    found = read_dicom_seg(tmp_path / "s")
    assert found.names == structure_names(tmp_path / "s") == ["Brainstem", "my ring"]
    np.testing.assert_array_equal(placed(found, "Brainstem", grid), one)
    np.testing.assert_array_equal(placed(found, "my ring", grid), other)
    np.testing.assert_allclose(found["my ring"].colour, (9, 8, 7), atol=1)


def test_parts_and_other_grids_are_placed_on_the_ct(rt, grid, tmp_path):
    labels = labels_on(grid)
    write_dicom_seg(labels.crop(Box((1, 5, 5), (10, 45, 55))), rt.reference_of(grid), tmp_path / "part")
    np.testing.assert_array_equal(placed(read_dicom_seg(tmp_path / "part"), "Brain", grid), labels.mask("brain"))
    turned = Geometry.from_parts((40, 70, 70), (0.8, 0.8, 1.0), (-28, 28, -66), None, rt.FRAME)
    mask = np.zeros(turned.shape_zyx, dtype=np.uint8)
    mask[10:30, 20:50, 15:45] = 1
    write_dicom_seg(LabelMap(mask, turned, ORGANS), rt.reference_of(grid), tmp_path / "other")
    found = read_dicom_seg(tmp_path / "other")
    volume = np.count_nonzero(found["Brain"].mask) * found.geometry.voxel_volume_ml
    assert volume == pytest.approx(mask.sum() * turned.voxel_volume_ml, rel=0.03)
    place = found.geometry.index_to_world(np.argwhere(found["Brain"].mask)).mean(axis=0)
    np.testing.assert_allclose(place, turned.index_to_world(np.argwhere(mask)).mean(axis=0), atol=0.4)


def test_multi_frame_series_can_be_referred_to(rt, grid, tmp_path):
    reference = rt.reference_of(grid)
    enhanced = "1.2.840.10008.5.1.4.1.1.2.1"
    slices = tuple(
        replace(item, sop_class_uid=enhanced, sop_instance_uid="1.2.5", frame=k)
        for k, item in enumerate(reference.slices)
    )
    write_dicom_seg(labels_on(grid), replace(reference, slices=slices), tmp_path / "s")
    labels = labels_on(grid)
    np.testing.assert_array_equal(placed(read_dicom_seg(tmp_path / "s"), "Parotid_L", grid), labels.mask("parotid_l"))


@pytest.mark.parametrize("overlapping", [False, True])
def test_an_enhanced_ct_stored_head_to_feet_keeps_every_slice_in_its_place(ct_series, tmp_path, overlapping):
    """Its frames lie in the other order than the slices of the volume."""
    series = ct_series()
    (tmp_path / "ct").mkdir()
    series.enhanced().save_as(tmp_path / "ct" / "e.dcm", enforce_file_format=True)
    volume = read_series(tmp_path / "ct")
    ball = volume.array > 900
    other = np.roll(ball, 2 if overlapping else 40, axis=2)
    masks = Segmentation(volume.geometry, [Segment("Parotid_L", ball), Segment("ring", other)])
    write_dicom_seg(masks, read_series_reference(tmp_path / "ct"), tmp_path / "s")
    found = read_dicom_seg(tmp_path / "s")
    for name, mask in (("Parotid_L", ball), ("ring", other)):
        np.testing.assert_array_equal(placed(found, name, volume.geometry), mask)
    for frame in pydicom.dcmread(tmp_path / "s").PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(place, series.position(series.count - source.ReferencedFrameNumber))


def test_frames_that_can_t_be_referred_to_are_refused(ct_series, tmp_path):
    series = ct_series()
    layouts = {"repeated": [[0, *range(12)]], "two files": [range(6), range(6, 12)]}
    for name, files in layouts.items():
        for number, order in enumerate(files):
            (tmp_path / name).mkdir(exist_ok=True)
            series.enhanced(order).save_as(tmp_path / name / f"{number}.dcm", enforce_file_format=True)
        volume, reference = read_series(tmp_path / name), read_series_reference(tmp_path / name)
        masks = LabelMap((volume.array > 900).astype(np.uint8), volume.geometry, {1: "parotid_l"})
        with pytest.raises(FocusNetError, match="E_MULTIFRAME"):
            write_dicom_seg(masks, reference, tmp_path / "s")
    assert not (tmp_path / "s").exists()


CLINICAL_VALUES = {
    "PatientBirthDate": "19450000",
    "PatientSex": "UNKNOWN",
    "StudyDate": "1999-01-01",
    "StudyTime": "12:34:56",
    "PatientID": "12\\34",
    "PatientName": "Ab^C\\De^F",
    "StudyID": "12345678901234567890",
    "StudyDescription": "neck " * 20,
}


@pytest.mark.parametrize("write", [write_dicom_seg, write_rtstruct])
def test_header_values_against_the_standard_are_copied_without_a_word(ct_series, tmp_path, recwarn, write):
    def as_in_clinics(ds, index):
        for keyword, value in CLINICAL_VALUES.items():
            setattr(ds, keyword, value)

    reference = read_series_reference(ct_series(edit=as_in_clinics).write(tmp_path / "ct"))
    labels = np.zeros(native_geometry(reference).shape_zyx, np.uint8)
    labels[3:6, 20:30, 20:30] = 1
    recwarn.clear()
    write(LabelMap(labels, native_geometry(reference), {1: "brain"}), reference, tmp_path / "s")
    assert [str(warning.message) for warning in recwarn] == []
    ds = pydicom.dcmread(tmp_path / "s")
    for keyword, value in CLINICAL_VALUES.items():
        stored = ds[keyword].value
        text = "\\".join(map(str, stored)) if isinstance(stored, MultiValue) else str(stored)
        assert text == value.strip(), keyword


def test_dcmqi_reads_the_same_masks(ct_series, tmp_path):
    pytest.importorskip("dcmqi")
    program = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("the program of dcmqi is not on the path")
    reference = read_series_reference(ct_series(count=12, shape=(50, 60)).write(tmp_path / "ct"))
    labels = labels_on(native_geometry(reference))
    write_dicom_seg(labels, reference, tmp_path / "seg.dcm")
    (tmp_path / "out").mkdir()
    command = [program, "--inputDICOM", str(tmp_path / "seg.dcm"), "--outputDirectory", str(tmp_path / "out")]
    subprocess.run([*command, "--outputType", "nrrd"], check=True, capture_output=True)
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    described = [segment for group in meta["segmentAttributes"] for segment in group]
    assert [s["SegmentLabel"] for s in described] == ["Brain", "Parotid_L", "Parotid_R", "Lens_L"]
    for segment in described:
        image = sitk.ReadImage(str(tmp_path / "out" / f"{segment['labelID']}.nrrd"))
        array = sitk.GetArrayFromImage(image)
        index = np.argwhere(array > 0)[:, ::-1].tolist()
        world = np.array([image.TransformIndexToPhysicalPoint(i) for i in index])
        at = np.rint(labels.geometry.world_to_index(world)).astype(int)
        mask = np.zeros(labels.geometry.shape_zyx, dtype=bool)
        mask[tuple(at.T)] = True
        np.testing.assert_array_equal(mask, labels.mask(find(segment["SegmentLabel"]).key))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy of dicom3tools is not installed")
def test_dciodvfy_finds_no_error(rt, grid, tmp_path):
    write_dicom_seg(labels_on(grid), rt.reference_of(grid, PatientID="7"), tmp_path / "s")
    result = subprocess.run(["dciodvfy", "-new", str(tmp_path / "s")], capture_output=True, text=True, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    assert "Segmentation" in lines
    assert [line for line in lines if line.startswith("Error")] == []


def test_refusals(rt, grid, tmp_path):
    labels, reference = labels_on(grid), rt.reference_of(grid)
    empty = LabelMap(np.zeros(grid.shape_zyx, np.uint8), grid, ORGANS)
    foreign = rt.reference_of(Geometry(grid.shape_zyx, grid.affine, "1.2.3"))
    for masks, ct, code in ((labels, foreign, "E_FRAME_OF_REFERENCE"), (empty, reference, "E_NO_STRUCTURES")):
        with pytest.raises(FocusNetError) as caught:
            write_dicom_seg(masks, ct, tmp_path / "s")
        assert caught.value.code == code
    assert list(tmp_path.iterdir()) == []
    rtstruct = rt.File({"Brain": [rt.contour(rt.square(0.0))]}).write(tmp_path / "rs.dcm")
    (tmp_path / "text").write_text("nothing")
    for path in (rtstruct, tmp_path / "text", tmp_path / "absent"):
        with pytest.raises(FocusNetError) as caught:
            read_dicom_seg(path)
        assert caught.value.code in ("E_UNREADABLE", "E_NOT_SEG")


def test_a_missing_highdicom_is_a_clear_refusal(rt, grid, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "highdicom":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "highdicom")
    monkeypatch.setattr("focusnet.io.dicom_seg.import_module", without)
    with pytest.raises(FocusNetError, match=r"E_MISSING_PACKAGE.*pip install highdicom"):
        write_dicom_seg(labels_on(grid), rt.reference_of(grid), tmp_path / "s")
