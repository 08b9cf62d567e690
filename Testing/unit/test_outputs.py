import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from focusnet.analysis import Analysis
from focusnet.errors import FocusNetError
from focusnet.geometry import LabelMap, Volume
from focusnet.io import read_image
from focusnet.io.segmentation import read_segmentation
from focusnet.outputs import (
    Output,
    OutputOptions,
    Result,
    check_outputs,
    check_packages,
    plan_outputs,
    write_outputs,
)

HASH = "ab" * 32
SOURCE = Path("pt_1.nrrd")


def plan(out, several=False, source=SOURCE, **options) -> list[Output]:
    return plan_outputs("pt_1", source, Path(out), OutputOptions(**options), several=several)


def files(outputs) -> list[str]:
    return [output.path.as_posix() for output in outputs]


@pytest.mark.parametrize(
    ("out", "options", "expected"),
    [
        ("a/x.seg.nrrd", {}, ["a/x.seg.nrrd"]),
        ("a/x.nii.gz", {}, ["a/x.nii.gz"]),
        ("a/x.NRRD", {}, ["a/x.NRRD"]),
        ("a/x.mrb", {}, ["a/x.mrb"]),
        ("folder", {}, ["folder/pt_1.seg.nrrd"]),
        ("folder.v2", {}, ["folder.v2/pt_1.seg.nrrd"]),
        ("folder", {"formats": ("mrb", "nii.gz", "mrb")}, ["folder/pt_1.mrb", "folder/pt_1.nii.gz"]),
        ("x.seg.nrrd", {"formats": ("seg.nrrd", "mrb")}, ["x.seg.nrrd", "x.mrb"]),
        ("x.seg.nrrd", {"formats": ("nii.gz",)}, ["x.nii.gz"]),
        ("x.nii.gz", {"uncertainty": True}, ["x.nii.gz", "x.uncertainty.nrrd"]),
        ("x.nii.gz", {"per_organ": True}, ["x"]),
        ("folder", {"per_organ": True, "formats": ("nrrd", "mrb")}, ["folder/pt_1", "folder/pt_1.mrb"]),
    ],
)
def test_where_outputs_go(out, options, expected):
    assert files(plan(out, **options)) == expected


def test_dicom_objects_need_a_dicom_series(tmp_path):
    assert files(plan("x.dcm", source=tmp_path)) == ["x.dcm"]
    both = plan("f", source=tmp_path, formats=("rtstruct", "dicomseg"))
    assert files(both) == ["f/pt_1.rtstruct.dcm", "f/pt_1.seg.dcm"]
    assert plan("x.seg.dcm", source=tmp_path) == [Output(Path("x.seg.dcm"), ("dicomseg",))]
    with pytest.raises(FocusNetError, match="E_OUTPUT_FORMAT"):
        plan("x.dcm")


def test_several_cases_need_a_folder(tmp_path):
    with pytest.raises(FocusNetError, match="E_USAGE"):
        plan("x.seg.nrrd", several=True)
    folder = tmp_path / "odd.nrrd"
    folder.mkdir()
    assert files(plan(folder, several=True)) == [f"{folder.as_posix()}/pt_1.seg.nrrd"]


@pytest.mark.parametrize(("out", "options"), [("x.txt", {}), ("x.png", {}), ("x", {"formats": ("stl",)})])
def test_unknown_formats_are_refused(out, options):
    with pytest.raises(FocusNetError, match="E_OUTPUT_FORMAT"):
        plan(out, **options)


@pytest.fixture
def result(ct) -> Result:
    labels = np.zeros(ct.array.shape, np.uint8)
    labels[3:6, 10:14, 8:12] = 1
    labels[3:6, 10:14, 28:32] = 2
    certainty = np.full(ct.array.shape, 255, np.uint8)
    certainty[labels == 2] = 153
    prediction = SimpleNamespace(
        labelmap=LabelMap(labels, ct.geometry, {1: "parotid_r", 2: "parotid_l"}),
        certainty=Volume(certainty, ct.geometry),
        settings={"model": "tiny", "model_created": "2026-01-01", "weights_sha256": HASH, "piece_zyx": [16, 48, 48]},
    )
    return Result("pt_1", SOURCE, None, ct, Analysis(prediction, {}, (), 1.0))


def write(result: Result, out: Path, **options) -> None:
    given = OutputOptions(**options)
    outputs = plan_outputs(result.case, result.source, out, given, several=False)
    check_outputs(outputs, overwrite=given.overwrite)
    write_outputs(outputs, result, given)


def test_a_segmentation_says_what_made_it_and_that_nobody_reviewed_it(result, tmp_path):
    write(result, tmp_path / "x.seg.nrrd")
    read = read_segmentation(tmp_path / "x.seg.nrrd")
    assert read.geometry.is_close(result.volume.geometry)
    np.testing.assert_array_equal(read["Parotid_L"].mask, result.analysis.labelmap.mask("parotid_l"))
    header = (tmp_path / "x.seg.nrrd").read_bytes()[:5000].decode("utf-8", "replace")
    assert HASH in header
    assert "UNREVIEWED" in header
    assert "Not a medical device" in header


def test_two_label_maps_share_the_table_of_their_values(result, tmp_path):
    write(result, tmp_path / "out", formats=("nii.gz", "nrrd"))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["pt_1.labels.json", "pt_1.nii.gz", "pt_1.nrrd"]
    table = json.loads((tmp_path / "out" / "pt_1.labels.json").read_text())
    assert table["labels"] == {"1": "Parotid_R", "2": "Parotid_L"}
    assert table["status"] == "UNREVIEWED"
    with pytest.raises(FocusNetError, match="E_OUTPUT_EXISTS"):
        write(result, tmp_path / "out", formats=("nii.gz",))
    (tmp_path / "out" / "pt_1.nii.gz").unlink()
    with pytest.raises(FocusNetError, match="E_OUTPUT_EXISTS"):
        write(result, tmp_path / "out", formats=("nii.gz",))


def test_one_file_per_organ_and_no_stale_one(result, tmp_path):
    write(result, tmp_path, per_organ=True, formats=("nii.gz",))
    folder = tmp_path / "pt_1"
    assert sorted(p.name for p in folder.glob("*.nii.gz")) == ["Parotid_L.nii.gz", "Parotid_R.nii.gz"]
    left = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "Parotid_L.nii.gz")))
    np.testing.assert_array_equal(left == 1, result.analysis.labelmap.mask("parotid_l"))
    with pytest.raises(FocusNetError, match="E_OUTPUT_EXISTS"):
        write(result, tmp_path, per_organ=True, formats=("nii.gz",))
    (folder / "Larynx.nii.gz").touch()
    write(result, tmp_path, per_organ=True, formats=("seg.nrrd",), overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == ["Parotid_L.seg.nrrd", "Parotid_R.seg.nrrd"]


def test_uncertainty_is_in_percent(result, tmp_path):
    write(result, tmp_path / "x.seg.nrrd", uncertainty=True)
    image = read_image(tmp_path / "x.uncertainty.nrrd", hounsfield=False)
    assert image.geometry.is_close(result.volume.geometry)
    labels = result.analysis.labelmap.array
    assert np.unique(image.array[labels == 2]).tolist() == [40]
    assert not image.array[labels != 2].any()


def test_an_existing_file_is_kept_without_leave(result, tmp_path):
    (tmp_path / "x.seg.nrrd").write_text("precious")
    with pytest.raises(FocusNetError, match="E_OUTPUT_EXISTS"):
        write(result, tmp_path / "x.seg.nrrd")
    assert (tmp_path / "x.seg.nrrd").read_text() == "precious"
    write(result, tmp_path / "x.seg.nrrd", overwrite=True)
    assert read_segmentation(tmp_path / "x.seg.nrrd").names == ["Parotid_R", "Parotid_L"]
    (tmp_path / "folder.mrb").mkdir()
    with pytest.raises(FocusNetError, match="E_OUTPUT_EXISTS"):
        check_outputs([Output(tmp_path / "folder.mrb", ("mrb",))], overwrite=True)
    with pytest.raises(FocusNetError, match="E_OUTPUT_EXISTS"):
        check_outputs([Output(tmp_path / "x.seg.nrrd", ("nrrd",), is_folder=True)], overwrite=True)


def test_a_place_that_cannot_be_written_is_one_refusal(result, tmp_path):
    (tmp_path / "file").touch()
    for out, options in (
        (tmp_path / "file" / "x.seg.nrrd", {}),
        (tmp_path / "file" / "x.nii.gz", {"per_organ": True}),
        (tmp_path / "file", {"formats": ("nrrd",)}),
    ):
        with pytest.raises(FocusNetError, match="E_OUTPUT_WRITE"):
            write(result, out, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("formats", [("seg.nrrd", "rtstruct"), ("nii.gz", "nrrd", "rtstruct")])
def test_a_case_that_fails_in_its_last_format_leaves_no_file(result, dicom_folder, tmp_path, formats):
    """Without a voxel there is a label map, but no structure set."""
    empty = result.volume.with_array(np.zeros_like(result.analysis.labelmap.array))
    prediction = SimpleNamespace(**vars(result.analysis.prediction))
    prediction.labelmap = LabelMap(empty.array, empty.geometry, {1: "parotid_r"})
    failing = Result("pt_1", dicom_folder, None, result.volume, Analysis(prediction, {}, (), 1.0))
    with pytest.raises(FocusNetError, match="E_NO_STRUCTURES"):
        write(failing, tmp_path / "out", formats=formats)
    assert list((tmp_path / "out").iterdir()) == []
    write(result, tmp_path / "out", formats=formats[:1])
    before = {path.name for path in (tmp_path / "out").iterdir()}
    with pytest.raises(FocusNetError, match="E_NO_STRUCTURES"):
        write(failing, tmp_path / "out", formats=formats, overwrite=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == before  # replaced perhaps, but not lost


def test_a_structure_set_refers_to_its_series(result, dicom_folder, tmp_path):
    write(Result("pt_1", dicom_folder, None, result.volume, result.analysis), tmp_path / "x.dcm")
    written = pydicom.dcmread(tmp_path / "x.dcm")
    first = pydicom.dcmread(dicom_folder / "0.dcm")
    assert written.Modality == "RTSTRUCT"
    assert written.StudyInstanceUID == first.StudyInstanceUID
    assert [roi.ROIName for roi in written.StructureSetROISequence] == ["Parotid_R", "Parotid_L"]


def test_a_dicom_segmentation_refers_to_its_series(result, dicom_folder, tmp_path):
    pytest.importorskip("highdicom")
    write(Result("pt_1", dicom_folder, None, result.volume, result.analysis), tmp_path / "x.seg.dcm")
    written = pydicom.dcmread(tmp_path / "x.seg.dcm")
    assert written.Modality == "SEG"
    assert [segment.SegmentLabel for segment in written.SegmentSequence] == ["Parotid_R", "Parotid_L"]


@pytest.mark.parametrize("per_organ", [False, True])
def test_a_scene_holds_the_ct_and_its_organs(result, tmp_path, per_organ):
    pytest.importorskip("slicer")
    write(result, tmp_path / "x.mrb", per_organ=per_organ)
    from FocusNetSegmentationLib import runtime

    scene = runtime.ensure()
    assert scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == 0
    assert scene.ReadFromMRB(str(tmp_path / "x.mrb"))
    try:
        assert scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1
        assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == (2 if per_organ else 1)
    finally:
        scene.Clear(False)


def test_an_open_scene_is_left_alone(result, tmp_path, monkeypatch):
    slicer = pytest.importorskip("slicer")
    from FocusNetSegmentationLib import mrml, runtime

    scene = runtime.ensure()
    mrml.volume_to_node(result.volume, "open")
    monkeypatch.setattr(slicer, "app", object(), raising=False)
    try:
        with pytest.raises(FocusNetError, match="E_USAGE"):
            write(result, tmp_path / "x.mrb")
        assert scene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == 1
    finally:
        scene.Clear(False)
    assert not (tmp_path / "x.mrb").exists()


def test_an_output_never_replaces_the_ct(ct_file, dicom_folder, tmp_path):
    """With leave to overwrite: the CT's own file, its folder, and a folder above it."""
    given = tmp_path / "patients" / "pt_1"
    shutil.copytree(dicom_folder, given)
    for out, source, options in (
        (ct_file, ct_file, {"formats": ("nrrd",)}),
        (ct_file.parent, shutil.copy(ct_file, ct_file.with_name("pt_1.nrrd")), {"formats": ("nrrd",)}),
        (tmp_path / "patients", given, {"per_organ": True}),
        (tmp_path / "patients" / "pt_1.seg.nrrd", given, {"per_organ": True}),
    ):
        with pytest.raises(FocusNetError, match="would replace the CT") as caught:
            plan_outputs("pt_1", source, out, OutputOptions(overwrite=True, **options), several=False)
        assert caught.value.code == "E_USAGE"
    inside = plan_outputs("pt_1", given, given / "organs.seg.nrrd", OutputOptions(), several=False)
    assert files(inside) == [(given / "organs.seg.nrrd").as_posix()]


def test_a_folder_of_other_files_is_not_replaced_by_organs(result, tmp_path):
    folder = tmp_path / "pt_1"
    for name in ("scan.nrrd", "thesis.txt", "Brainstem.txt"):
        folder.mkdir()
        (folder / name).write_text("kept")
        with pytest.raises(FocusNetError, match="holds something else") as caught:
            write(result, tmp_path / "pt_1.seg.nrrd", per_organ=True, overwrite=True)
        assert caught.value.code == "E_OUTPUT_EXISTS"
        assert (folder / name).read_text() == "kept"
        shutil.rmtree(folder)


def test_missing_packages_are_told_before_a_case_is_computed(monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    check_packages(("seg.nrrd", "rtstruct"))
    with pytest.raises(FocusNetError, match="highdicom") as caught:
        check_packages(("rtstruct", "dicomseg"))
    assert caught.value.code == "E_MISSING_PACKAGE"
    monkeypatch.delitem(sys.modules, "slicer", raising=False)
    monkeypatch.setattr("focusnet.outputs.find_spec", lambda name: None if name == "slicer" else name)
    with pytest.raises(FocusNetError) as caught:
        check_packages(("mrb",))
    assert caught.value.code == "E_NO_MRML"
    assert "slicer-focusnet[" not in caught.value.message  # not on PyPI
