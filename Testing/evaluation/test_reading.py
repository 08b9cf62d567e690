"""Finding cases and reading them in every form."""

import json
import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from focusnet.errors import FocusNetError
from focusnet.evaluation import EvaluationOptions, evaluate
from focusnet.evaluation.case import evaluate_case, lay_over
from focusnet.evaluation.reading import (
    ReadSettings,
    case_name,
    find_cases,
    find_images,
    read_case,
    read_label_names,
)
from focusnet.geometry import Geometry, LabelMap, to_sitk
from focusnet.io.dicom import read_series, read_series_reference
from focusnet.io.dicom_seg import write_dicom_seg
from focusnet.io.rtstruct import write_rtstruct
from focusnet.io.segmentation import Segment, Segmentation, write_segmentation
from pydicom.uid import generate_uid

ORGANS = {"parotid_l": np.s_[2:6, 3:7, 8:12], "parotid_r": np.s_[2:6, 3:7, 1:5], "lens_l": None}


def code_of(call, *arguments):
    with pytest.raises(FocusNetError) as error:
        call(*arguments)
    return error.value.code


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_names_of_cases(tmp_path):
    for name, case in (
        ("pt_1.seg.nrrd", "pt_1"),
        ("pt_1.nii.gz", "pt_1"),
        ("a.b.mha", "a.b"),
        ("RS.1.2.dcm", "RS.1.2"),
    ):
        touch(tmp_path / name)
        assert case_name(tmp_path / name) == case
    assert case_name(tmp_path) == tmp_path.name


def test_a_folder_of_files(tmp_path):
    touch(tmp_path / "pt_2.nii.gz", tmp_path / "pt_1.seg.nrrd", tmp_path / "notes.txt", tmp_path / ".pt_3.nrrd")
    assert find_cases(tmp_path) == {"pt_1": tmp_path / "pt_1.seg.nrrd", "pt_2": tmp_path / "pt_2.nii.gz"}


def test_a_folder_of_folders(tmp_path):
    touch(tmp_path / "a" / "x.seg.nrrd", tmp_path / "b" / "structures" / "BrainStem.nrrd", tmp_path / "c" / "x.txt")
    assert find_cases(tmp_path) == {"a": tmp_path / "a", "b": tmp_path / "b"}


def test_a_pattern_names_the_case(tmp_path):
    touch(*(tmp_path / case / f"{who}.seg.nrrd" for case in ("p1", "p2") for who in ("one", "two")))
    expected = {"p1": tmp_path / "p1" / "two.seg.nrrd", "p2": tmp_path / "p2" / "two.seg.nrrd"}
    assert find_cases(tmp_path / "*" / "two.seg.nrrd") == expected
    touch(tmp_path / "flat" / "x_auto.nrrd", tmp_path / "flat" / "y_auto.nrrd", tmp_path / "flat" / "y_hand.nrrd")
    assert list(find_cases(tmp_path / "flat" / "*_auto.nrrd")) == ["x", "y"]
    assert code_of(find_cases, tmp_path / "*" / "*.nrrd") == "E_USAGE"


def test_nothing_to_read(tmp_path):
    for place in (tmp_path, tmp_path / "absent.nrrd", tmp_path / "*.nrrd"):
        assert code_of(find_cases, place) == "E_NO_CASES"
        assert code_of(find_images, place) == "E_NO_CASES"


def test_images_by_case(tmp_path, write_ct):
    touch(tmp_path / "pt_1_0000.nrrd", tmp_path / "pt_2_0000.nrrd")
    assert list(find_images(tmp_path)) == ["pt_1", "pt_2"]
    assert list(find_images(tmp_path / "pt_1_0000.nrrd")) == ["pt_1"]
    folder = write_ct(tmp_path / "series", "1.2.3", slices=3)
    assert find_images(folder) == {"series": folder}


def test_seg_nrrd_with_overlaps_and_unknown_names(tmp_path):
    geometry = Geometry.from_parts((6, 7, 8), (1.0, 1.2, 2.5), (-3.0, 4.0, 50.0))
    eye, lens = np.zeros((2, 6, 7, 8), dtype=bool)
    eye[1:5, 2:6, 2:7] = True
    lens[2:4, 2, 4] = True
    segments = [Segment("Orbit-Lt", eye), Segment("Lens-Lt", lens), Segment("PTV 70", eye)]
    write_segmentation(Segmentation(geometry, segments), tmp_path / "p.seg.nrrd")
    masks = read_case(tmp_path / "p.seg.nrrd")
    assert masks.unmapped == ("PTV 70",)
    assert masks.geometry.is_close(geometry)
    assert masks.volume_ml("eye_l") == pytest.approx(4 * 4 * 5 * 3 / 1000)
    assert masks.volume_ml("lens_l") == pytest.approx(2 * 3 / 1000)


def test_label_maps_with_names_beside_them(tmp_path, blocks):
    labels = blocks(ORGANS)
    write_segmentation(labels, tmp_path / "own" / "p.nii.gz")  # with p.labels.json
    nnunet = tmp_path / "dataset" / "labelsTr" / "p.nrrd"
    nnunet.parent.mkdir(parents=True)
    sitk.WriteImage(to_sitk(labels), str(nnunet))
    table = {"background": 0, "LeftParotid": 1, "RightParotid": 2, "Lens_L": 3, "Tongue base": 4}
    (tmp_path / "dataset" / "dataset.json").write_text(json.dumps({"labels": table}))
    for path, unmapped in ((tmp_path / "own" / "p.nii.gz", ()), (nnunet, ("Tongue base",))):
        masks = read_case(path)
        assert [(key, masks.volume_ml(key)) for key in ORGANS] == [
            ("parotid_l", pytest.approx(0.128)),
            ("parotid_r", pytest.approx(0.128)),
            ("lens_l", 0.0),
        ]
        assert masks.masks["parotid_l"].box.start_zyx == (2, 3, 8)
        assert masks.unmapped == unmapped


def test_label_names_given_outright(tmp_path, blocks):
    path = tmp_path / "p.nrrd"
    sitk.WriteImage(to_sitk(blocks(ORGANS)), str(path))
    assert code_of(read_case, path) == "E_LABEL_NAMES"
    names = {1: "Parotid_L", 2: "my name"}
    masks = read_case(path, ReadSettings(label_names=names, spellings={"my name": "parotid_r"}))
    assert sorted(masks.masks) == ["parotid_l", "parotid_r"]
    only_one = read_case(path, ReadSettings(label_names={1: "Parotid_L"}))
    assert only_one.unmapped == ("label 2",)  # a value without a name is listed


def test_tables_of_label_names(tmp_path):
    path = tmp_path / "labels.json"
    for content in ({"a": 1, "background": 0, "b": 3}, {"1": "a", "3": "b"}, {"labels": {"a": 1, "b": 3}, "x": 2}):
        path.write_text(json.dumps(content))
        assert read_label_names(path) == {1: "a", 3: "b"}
    for content in ('{"a": [1, 2]}', "[]", "no json", '{"a": "b"}'):
        path.write_text(content)
        assert code_of(read_label_names, path) == "E_LABEL_NAMES"


def test_one_mask_per_organ(tmp_path, blocks):
    labels = blocks(ORGANS)
    for name, key in (("Parotid_L", "parotid_l"), ("Parotid_R", "parotid_r"), ("Hyoid", "parotid_l")):
        mask = LabelMap(labels.mask(key).astype(np.uint8) * 255, labels.geometry, {255: key})
        path = tmp_path / "0522c0001" / "structures" / f"{name}.nrrd"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(to_sitk(mask), str(path))
    masks = read_case(find_cases(tmp_path)["0522c0001"])
    assert {key: m.box for key, m in masks.masks.items()} == {
        key: m.box for key, m in read_masks(labels).items() if m is not None
    }
    assert masks.unmapped == ("Hyoid",)


def read_masks(labels):
    return lay_over(labels, labels).reference.masks


def test_several_labelled_files_are_not_guessed_between(tmp_path, blocks):
    for who in ("oncologist", "radiographer"):
        write_segmentation(blocks(ORGANS), tmp_path / "p" / f"{who}.seg.nrrd")
    with pytest.raises(FocusNetError) as error:
        read_case(tmp_path / "p")
    assert error.value.code == "E_AMBIGUOUS_CASE"
    assert "*/oncologist.seg.nrrd" in error.value.message


def test_an_image_beside_the_labels_is_not_taken_for_labels(tmp_path, blocks):
    write_segmentation(blocks(ORGANS), tmp_path / "p" / "labels.seg.nrrd")
    touch(tmp_path / "p" / "p_0000.nrrd")
    assert read_case(tmp_path / "p").volume_ml("parotid_l") == pytest.approx(0.128)


def test_two_names_of_one_organ_are_refused(tmp_path):
    mask = np.ones((3, 3, 3), dtype=bool)
    segments = [Segment("Parotid_L", mask), Segment("LeftParotid", mask)]
    write_segmentation(Segmentation(Geometry.from_parts((3, 3, 3)), segments), tmp_path / "p.seg.nrrd")
    assert code_of(read_case, tmp_path / "p.seg.nrrd") == "E_AMBIGUOUS_ORGAN"


def test_files_that_hold_no_labels(tmp_path):
    (tmp_path / "p.nrrd").write_bytes(b"no image")
    assert code_of(read_case, tmp_path / "p.nrrd") == "E_UNREADABLE"
    (tmp_path / "p.txt").write_text("no image")
    assert code_of(read_case, tmp_path / "p.txt") == "E_UNREADABLE"
    assert code_of(read_case, tmp_path) == "E_UNREADABLE"
    (tmp_path / "empty").mkdir()
    assert code_of(read_case, tmp_path / "empty") == "E_NO_CASES"


def test_rtstruct_with_its_ct(tmp_path, write_ct):
    folder = write_ct(tmp_path / "p", generate_uid())
    geometry = read_series(folder).geometry
    array = np.zeros(geometry.shape_zyx, dtype=np.uint8)
    array[2:7, 10:20, 18:26] = 1  # +x is the patient's left
    labels = LabelMap(array, geometry, {1: "parotid_l"})
    write_rtstruct(labels, read_series_reference(folder), folder / "rs.dcm")
    assert find_cases(folder) == {"p": folder}
    assert find_cases(tmp_path) == {"p": folder}
    for path, settings in ((folder, None), (folder / "rs.dcm", None), (folder / "rs.dcm", ReadSettings(ct=folder))):
        (row,) = evaluate_case(labels, read_case(path, settings), "p")
        assert (row.organ, row.state) == ("parotid_l", "ok")
        assert row.dsc == 1.0


def test_dicom_seg_alone_and_beside_its_ct(tmp_path, write_ct):
    folder = write_ct(tmp_path / "p", generate_uid())
    geometry = read_series(folder).geometry
    array = np.zeros(geometry.shape_zyx, dtype=np.uint8)
    array[2:7, 10:20, 18:26] = 1  # +x is the patient's left
    array[2:7, 10:20, 6:14] = 2
    labels = LabelMap(array, geometry, {1: "parotid_l", 2: "parotid_r"})
    alone = tmp_path / "segs" / "p.dcm"
    write_dicom_seg(labels, read_series_reference(folder), alone)
    assert find_cases(tmp_path / "segs") == {"p": alone}
    shutil.copy(alone, folder / "seg.dcm")
    assert find_cases(folder) == {"p": folder}
    for path in (alone, folder):
        rows = evaluate_case(labels, read_case(path), "p")
        assert [(row.organ, row.state, row.dsc) for row in rows] == [("parotid_l", "ok", 1.0), ("parotid_r", "ok", 1.0)]


def test_what_the_reader_of_a_structure_set_leaves_out_is_told(tmp_path, write_ct):
    """Open contours are no empty organ, and a slice left empty is said."""
    folder = write_ct(tmp_path / "p", generate_uid())
    geometry = read_series(folder).geometry
    array = np.zeros(geometry.shape_zyx, dtype=np.uint8)
    array[2:7, 10:20, 18:26] = 1
    array[2:7, 10:20, 6:14] = 2
    labels = LabelMap(array, geometry, {1: "parotid_l", 2: "parotid_r"})
    path = tmp_path / "rs.dcm"
    write_rtstruct(labels, read_series_reference(folder), path)
    structures = pydicom.dcmread(path)
    left, right = structures.ROIContourSequence
    for contour in left.ContourSequence:
        contour.ContourGeometricType = "OPEN_PLANAR"
    del right.ContourSequence[2]
    structures.save_as(path)
    found = read_case(path, ReadSettings(ct=folder))
    assert set(found.masks) == {"parotid_r"}
    assert [note.partition(":")[0] for note in found.notes] == ["Parotid_L", "Parotid_R"]
    (tmp_path / "drawn").mkdir()
    (tmp_path / "answer").mkdir()
    write_segmentation(labels, tmp_path / "drawn" / "p.seg.nrrd")
    path.rename(tmp_path / "answer" / "p.dcm")
    (tmp_path / "cts").mkdir()
    folder.rename(tmp_path / "cts" / "p")
    options = EvaluationOptions(ct=tmp_path / "cts", jobs=1)
    evaluate(tmp_path / "drawn", tmp_path / "answer", tmp_path / "out", options)
    case = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))["cases"]["p"]
    assert list(case["notes"].values()) == [list(found.notes)]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "Left out when read (2)" in page
    assert "open contour" in page


def test_a_structure_without_contours_is_missed_in_a_prediction_and_undrawn_in_a_reference(tmp_path, write_ct):
    folder = write_ct(tmp_path / "cts" / "p", generate_uid())
    geometry = read_series(folder).geometry
    array = np.zeros(geometry.shape_zyx, dtype=np.uint8)
    array[2:7, 10:20, 18:26] = 1
    array[2:7, 10:20, 6:14] = 2
    labels = LabelMap(array, geometry, {1: "parotid_l", 2: "parotid_r"})
    for name in ("full", "half"):
        path = tmp_path / name / "p.dcm"
        path.parent.mkdir()
        write_rtstruct(labels, read_series_reference(folder), path)
        if name == "half":
            structures = pydicom.dcmread(path)
            del structures.ROIContourSequence[0].ContourSequence
            structures.save_as(path)
    options = EvaluationOptions(ct=tmp_path / "cts", jobs=1)
    for reference, prediction, expected in (
        ("full", "half", {"parotid_l": ("missed", 0.0), "parotid_r": ("ok", 1.0)}),
        ("half", "full", {"parotid_r": ("ok", 1.0)}),
    ):
        result = evaluate(tmp_path / reference, tmp_path / prediction, tmp_path / f"of {prediction}", options)
        assert {row.organ: (row.state, row.dsc) for row in result.rows["prediction"]} == expected


@pytest.mark.parametrize("values", [(0.9, 0.01), (1, -1), (np.nan, 0), (2, 1)], ids=str)
def test_a_file_of_other_values_is_no_mask(tmp_path, values):
    for name in ("Parotid_L", "Parotid_R"):
        array = np.full((4, 5, 6), values[1], np.float32)
        array[1:3, 1:3, 1:3] = values[0]
        path = tmp_path / "p" / "structures" / f"{name}.nrrd"
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
    assert code_of(read_case, tmp_path / "p") == "E_UNREADABLE"


def test_rtstruct_of_another_scan_is_refused(tmp_path, write_ct):
    own, other = write_ct(tmp_path / "own", generate_uid()), write_ct(tmp_path / "other", generate_uid())
    array = np.zeros((10, 32, 32), dtype=np.uint8)
    array[2:7, 10:20, 18:26] = 1
    labels = LabelMap(array, read_series(own).geometry, {1: "parotid_l"})
    write_rtstruct(labels, read_series_reference(own), tmp_path / "rs.dcm")
    assert code_of(read_case, tmp_path / "rs.dcm", ReadSettings(ct=other)) == "E_FRAME_OF_REFERENCE"
    moved = LabelMap(array, read_series(other).geometry, {1: "parotid_l"})
    assert code_of(evaluate_case, moved, read_case(tmp_path / "rs.dcm", ReadSettings(ct=own)), "p") == (
        "E_FRAME_OF_REFERENCE"
    )


def test_a_folder_of_structure_sets(tmp_path, write_ct):
    ct = write_ct(tmp_path / "ct", generate_uid())
    labels = LabelMap(np.ones((10, 32, 32), dtype=np.uint8), read_series(ct).geometry, {1: "brain"})
    for case in ("p1", "p2"):
        write_rtstruct(labels, read_series_reference(ct), tmp_path / "sets" / f"{case}.dcm")
    assert list(find_cases(tmp_path / "sets")) == ["p1", "p2"]


def test_the_grid_compared_on_is_stated(blocks):
    fine, coarse = blocks({"brain": np.s_[:]}), blocks({"brain": np.s_[:]}, spacing_xyz=(1.0, 1.0, 2.5))
    assert lay_over(fine, fine).statement == "both on 14 × 12 × 10 voxels of 1 × 1 × 2 mm"
    assert lay_over(fine, coarse).statement == (
        "on the reference's grid, 14 × 12 × 10 voxels of 1 × 1 × 2 mm; "
        "the other came as 14 × 12 × 10 voxels of 1 × 1 × 2.5 mm"
    )
    assert lay_over(coarse, fine).statement.startswith("on the prediction's grid, ")
