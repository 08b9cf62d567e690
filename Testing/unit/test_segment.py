import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from focusnet.batch.cases import content_hash, find_archive
from focusnet.errors import Cancelled, FocusNetError
from focusnet.geometry import LabelMap
from focusnet.inference import Predictor
from focusnet.io import read_volume
from focusnet.io.dicom import read_series_reference
from focusnet.io.image import write_image
from focusnet.io.segmentation import read_segmentation, write_segmentation
from focusnet.model_store import find_bundle
from focusnet.outputs import OutputOptions
from focusnet.segment import SegmentOptions, case_name, find_cases, make_predictor, segment_cases


@pytest.fixture
def folder(ct, dicom_folder, tmp_path) -> Path:
    """A folder of cases in several formats, with results and other files between them."""
    folder = tmp_path / "cases"
    folder.mkdir()
    write_image(ct, folder / "pt_2_0000.nii.gz")
    write_image(ct, folder / "Pt 10 ä.mha")
    shutil.copytree(dicom_folder, folder / "pt_3")
    (folder / "pt_9.seg.nrrd").touch()
    (folder / "pt_9.uncertainty.nrrd").touch()
    (folder / "README.txt").touch()
    (folder / ".hidden.nrrd").touch()
    (folder / "empty").mkdir()
    return folder


def test_every_ct_of_a_folder_is_a_case(folder):
    assert [(case.name, case.path.name) for case in find_cases([folder])] == [
        ("Pt 10 ä", "Pt 10 ä.mha"),
        ("pt_2", "pt_2_0000.nii.gz"),
        ("pt_3", "pt_3"),
    ]


def test_a_folder_of_dicom_files_is_one_case(dicom_folder):
    (case,) = find_cases([dicom_folder])
    assert (case.name, case.path) == ("series", dicom_folder)


@pytest.mark.parametrize(
    ("file", "name"),
    [("pt_1_0000.nrrd", "pt_1"), ("pt_1.nrrd", "pt_1"), ("a.b.nii.gz", "a.b"), ("x_0000_0000.mha", "x_0000")],
)
def test_outputs_are_named_after_the_case(file, name):
    assert case_name(Path(file)) == name


def test_the_current_folder_has_a_name(dicom_folder, monkeypatch):
    monkeypatch.chdir(dicom_folder)
    assert find_cases([Path()])[0].name == "series"


def test_links_are_named_after_themselves(ct, tmp_path):
    for number in (1, 2):
        write_image(ct, tmp_path / "store" / f"{number}" / "ct.nrrd")
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"pt_{number}.nrrd").symlink_to(tmp_path / "store" / f"{number}" / "ct.nrrd")
    (tmp_path / "in" / "pt_3.nii.gz").symlink_to(tmp_path / "blob77777")
    (tmp_path / "blob77777").touch()
    assert [case.name for case in find_cases([tmp_path / "in"])] == ["pt_1", "pt_2", "pt_3"]


def test_own_label_maps_beside_the_cts_are_no_cases(ct, tmp_path):
    """A CT that shares the name of its label map, and so the table beside it, is one all the same."""
    labels = LabelMap((ct.array > 400).astype(np.uint8), ct.geometry, {1: "brain"})
    write_image(ct, tmp_path / "pt_1_0000.nrrd")
    write_image(ct, tmp_path / "pt_2.nrrd")
    for name in ("pt_1.nii.gz", "pt_2.nii.gz", "pt_3.nrrd"):
        write_segmentation(labels, tmp_path / name)
    assert [case.path.name for case in find_cases([tmp_path])] == ["pt_1_0000.nrrd", "pt_2.nrrd"]
    assert [case.path.name for case in find_archive(tmp_path)] == ["pt_1_0000.nrrd", "pt_2.nrrd"]
    (tmp_path / "pt_3.nrrd").write_bytes(b"damaged")
    assert len(find_cases([tmp_path])) == 3


def test_dicom_files_without_preamble_are_a_case_here_as_in_an_archive(dicom_folder):
    for path in dicom_folder.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    read_volume(dicom_folder)
    assert find_cases([dicom_folder]) == find_archive(dicom_folder) == find_cases([dicom_folder.parent])
    assert find_cases([dicom_folder])[0].path == dicom_folder


def test_what_is_no_case_is_refused(tmp_path, folder):
    with pytest.raises(FocusNetError, match="E_UNREADABLE"):
        find_cases([tmp_path / "absent"])
    with pytest.raises(FocusNetError, match="E_NO_SERIES"):
        find_cases([folder / "empty"])
    with pytest.raises(FocusNetError, match="E_USAGE"):
        find_cases([folder, folder / "pt_2_0000.nii.gz"])


def options(model: str, **output) -> SegmentOptions:
    return SegmentOptions(model, device="cpu", precision="fp32", output=OutputOptions(**output))


def test_a_case_that_fails_does_not_stop_the_others(folder, tiny_model, tmp_path):
    (folder / "pt_2_0000.nii.gz").write_bytes(b"damaged")
    results = list(segment_cases(find_cases([folder]), tmp_path / "out", options(tiny_model)))
    assert [(r.case, r.status) for r in results] == [("Pt 10 ä", "done"), ("pt_2", "failed"), ("pt_3", "done")]
    assert results[1].error is not None
    assert results[1].error[0] == "E_UNREADABLE"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Pt 10 ä.seg.nrrd", "pt_3.seg.nrrd"]
    # DICOM and MHA hold the same voxels in the same place.
    one, other = (read_segmentation(tmp_path / "out" / f"{name}.seg.nrrd") for name in ("Pt 10 ä", "pt_3"))
    for name in one.names:
        np.testing.assert_array_equal(one[name].mask, other[name].mask)


def test_a_fault_of_ours_is_one_line_too(ct_file, tiny_model, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(Predictor, "predict", broken)
    (result,) = segment_cases(find_cases([ct_file]), tmp_path / "out", options(tiny_model))
    assert result.error == ("E_INTERNAL", "ZeroDivisionError: division by zero; please report this.")
    assert not (tmp_path / "out").exists()


def test_lack_of_memory_is_told_as_such(ct_file, tiny_model, tmp_path, monkeypatch):
    def short(*args):
        raise MemoryError

    monkeypatch.setattr("focusnet.segment.read_volume", short)
    (result,) = segment_cases(find_cases([ct_file]), tmp_path / "out", options(tiny_model))
    assert result.error is not None
    assert result.error[0] == "E_OUT_OF_MEMORY"


@pytest.fixture
def uncomputed(monkeypatch):
    """Computing is not expected."""
    monkeypatch.setattr("focusnet.segment.analyse", lambda *_: pytest.fail("computed before the refusal"))


@pytest.mark.usefixtures("uncomputed")
@pytest.mark.parametrize("name", ["rtstruct", "dicomseg"])
def test_a_ct_that_dicom_objects_can_t_refer_to_is_refused_before_computing(dicom_folder, tiny_model, tmp_path, name):
    if name == "dicomseg":
        pytest.importorskip("highdicom")
    for path in dicom_folder.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.FrameOfReferenceUID
        dataset.save_as(path)
    given = options(tiny_model, formats=("seg.nrrd", name))
    (result,) = segment_cases(find_cases([dicom_folder]), tmp_path / "out", given)
    assert result.error is not None
    assert result.error[0] == "E_FRAME_OF_REFERENCE"
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("uncomputed")
def test_a_place_that_can_t_be_written_is_refused_before_computing(ct_file, tiny_model, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (result,) = segment_cases(find_cases([ct_file]), tmp_path / "file" / "x.seg.nrrd", options(tiny_model))
    assert result.error is not None
    assert (result.error[0], result.stops_all) == ("E_OUTPUT_WRITE", False)

    def denied(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    (result,) = segment_cases(find_cases([ct_file]), tmp_path / "out", options(tiny_model))
    assert result.error is not None
    assert (result.error[0], result.stops_all) == ("E_OUTPUT_WRITE", True)
    assert not (tmp_path / "out").exists()


def test_the_series_is_referred_to_as_it_was_read_first(dicom_folder, tiny_model, tmp_path, monkeypatch):
    asked = []

    def once(*args, **options):
        asked.append(args)
        return read_series_reference(*args, **options)

    monkeypatch.setattr("focusnet.io.dicom.read_series_reference", once)
    (result,) = segment_cases(
        find_cases([dicom_folder]), tmp_path / "x.dcm", options(tiny_model, formats=("rtstruct",))
    )
    assert (result.status, len(asked)) == ("done", 1)


def test_a_result_tells_volumes_confidences_and_flags(ct_file, tiny_model, tmp_path):
    told: list[tuple] = []
    (result,) = segment_cases(
        find_cases([ct_file]), tmp_path / "x.seg.nrrd", options(tiny_model), lambda *message: told.append(message)
    )
    values = result.to_dict()
    assert values["case"] == "pt_1"
    assert values["status"] == "done"
    assert values["seconds"] > 0
    assert set(values["organs"]) == {"brainstem", "parotid_l", "parotid_r", "lens_l", "optic_chiasm"}
    for organ in values["organs"].values():
        assert set(organ) == {"volume_ml", "confidence", "flags"}
        assert 0 <= organ["confidence"] <= 1
    assert any(flag["code"] == "truncated" for flag in values["flags"])
    assert values["outputs"] == [str(tmp_path / "x.seg.nrrd")]
    assert "error" not in values
    assert told[0] == ("pt_1", "reading", 0.0, None)
    assert told[-1][2] == pytest.approx(1.0)


def test_existing_outputs_are_refused_before_the_ct_is_read(ct_file, tiny_model, tmp_path):
    out = tmp_path / "x.seg.nrrd"
    out.write_text("precious")
    ct_file.write_bytes(b"unreadable")
    (result,) = segment_cases(find_cases([ct_file]), out, options(tiny_model))
    assert result.error is not None
    assert result.error[0] == "E_OUTPUT_EXISTS"
    assert out.read_text() == "precious"


def test_what_is_wrong_for_all_cases_is_said_once(folder, tiny_model, tmp_path):
    cases = find_cases([folder])
    for wrong, code in (
        (SegmentOptions("nothing"), "E_UNKNOWN_MODEL"),
        (SegmentOptions(tiny_model, organs=("nose",)), "E_UNKNOWN_ORGAN"),
        (SegmentOptions(tiny_model, organs=("mandible",)), "E_UNKNOWN_ORGAN"),
        (SegmentOptions(tiny_model, device="tpu"), "E_DEVICE"),
        (SegmentOptions(tiny_model, precision="int4"), "E_PRECISION"),
    ):
        with pytest.raises(FocusNetError, match=code):
            next(segment_cases(cases, tmp_path / "out", wrong))
    assert not (tmp_path / "out").exists()


def test_cancelling_leaves_nothing_half_written(ct_file, tiny_model, tmp_path):
    with pytest.raises(Cancelled):
        list(segment_cases(find_cases([ct_file]), tmp_path / "out", options(tiny_model), cancel=lambda: True))
    assert not (tmp_path / "out").exists()


def test_fast_puts_pieces_side_by_side(ct_file, tiny_model, tmp_path):
    fast = SegmentOptions(tiny_model, device="cpu", precision="fp32", fast=True)
    (result,) = segment_cases(find_cases([ct_file]), tmp_path / "x.seg.nrrd", fast)
    assert result.status == "done"
    header = (tmp_path / "x.seg.nrrd").read_bytes()[:5000].decode("utf-8", "replace")
    assert "[0, 8, 8]" in header


@pytest.mark.parametrize(("fast", "grids"), [(False, 4), (True, 1)])
def test_fast_takes_one_grid_of_a_model_of_four(tiny_model, ct_file, tmp_path, fast, grids):
    shutil.copytree(find_bundle(tiny_model), tmp_path / "four")
    spec = json.loads((tmp_path / "four" / "bundle.json").read_text())
    (tmp_path / "four" / "bundle.json").write_text(json.dumps(spec | {"grids": 4}))
    predictor = make_predictor(SegmentOptions(str(tmp_path / "four"), device="cpu", fast=fast))
    assert predictor.predict(read_volume(ct_file)).settings["grids"] == grids


def test_cases_side_by_side_give_the_same_labels(folder, tiny_model, tmp_path):
    (folder / "pt_2_0000.nii.gz").write_bytes(b"damaged")
    cases = find_cases([folder])
    results = list(segment_cases(cases, tmp_path / "two", options(tiny_model), jobs=2))
    assert sorted((r.case, r.status) for r in results) == [("Pt 10 ä", "done"), ("pt_2", "failed"), ("pt_3", "done")]
    list(segment_cases(cases[:1], tmp_path / "one", options(tiny_model)))
    one, two = (read_segmentation(tmp_path / place / "Pt 10 ä.seg.nrrd") for place in ("one", "two"))
    for name in one.names:
        np.testing.assert_array_equal(one[name].mask, two[name].mask)


def test_dicom_deeper_in_a_patient_s_folder_is_found(folder, dicom_folder):
    shutil.copytree(dicom_folder, folder / "pt_4" / "study" / "ct")
    assert "pt_4" in [case.name for case in find_cases([folder])]


def test_a_plan_beside_the_patients_does_not_make_them_one_case(folder, dicom_folder):
    stray = pydicom.dcmread(next(dicom_folder.iterdir()))
    stray.Modality = "RTPLAN"
    for keyword in ("Rows", "Columns", "PixelData", "ImagePositionPatient"):
        delattr(stray, keyword)
    stray.save_as(folder / "plan.dcm")
    names = ["Pt 10 ä", "pt_2", "pt_3"]
    assert [case.name for case in find_cases([folder])] == names
    assert [case.name for case in find_archive(folder)] == names


def test_a_process_that_is_ended_loses_no_other_case(ct, tiny_model, tmp_path):
    """One worker is killed after the first result: the cases it left are done all the same, and the call returns."""
    for number in range(5):
        write_image(ct, tmp_path / "in" / f"p{number}.nrrd")
    found = segment_cases(find_cases([tmp_path / "in"]), tmp_path / "out", options(tiny_model), jobs=2)
    results = [next(found)]
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    results += found
    assert sorted((r.case, r.status, r.error) for r in results) == [(f"p{n}", "done", None) for n in range(5)]
    assert not multiprocessing.active_children()


def test_a_worker_ends_when_told_even_where_the_exception_is_lost():
    """One that is raised in a destructor, or in a callback of a library, is printed and forgotten."""
    script = (
        "import signal, sys, time\n"
        "from focusnet import segment\n"
        "segment.GRACE_SECONDS = 0.5\n"
        "signal.signal(signal.SIGTERM, segment._end_worker)\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    try:\n"
        "        time.sleep(1)\n"
        "    except SystemExit:\n"
        "        continue\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout.readline() == "ready\n"
        worker.terminate()
        try:
            assert worker.wait(timeout=60) == 1
        finally:
            worker.kill()


def test_folders_and_files_that_can_t_be_read_fail_alone(folder, ct, tiny_model, tmp_path, monkeypatch):
    """Permission denied for two folders of an archive and for a file: as root there is none, so it is played."""
    for name in ("a", "b"):
        (folder / name).mkdir()
        write_image(ct, folder / name / "hidden.nrrd")
    iterdir, open_ = Path.iterdir, Path.open

    def refusing(path):
        if path.name in ("a", "b"):
            raise PermissionError(13, "Permission denied", str(path))
        return iterdir(path)

    with monkeypatch.context() as played:
        played.setattr(Path, "iterdir", refusing)
        found = find_archive(folder)
        assert [case.name for case in found] == ["Pt 10 ä", "a", "b", "pt_2", "pt_3"]
        played.setattr(Path, "rglob", lambda path, pattern: [])
        for case in found[1:3]:
            with pytest.raises(OSError, match=case.name):
                content_hash(case)

    def closed(path, *mode, **options):
        if path.name == "notes":
            raise PermissionError(13, "Permission denied", str(path))
        return open_(path, *mode, **options)

    (folder / "notes").write_text("mode 600 of somebody else")
    with monkeypatch.context() as played:
        played.setattr(Path, "open", closed)
        assert [case.name for case in find_cases([folder])][:1] == ["Pt 10 ä"]

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("focusnet.segment.read_volume", denied)
    (result,) = segment_cases(find_cases([folder / "pt_2_0000.nii.gz"]), tmp_path / "out", options(tiny_model))
    assert result.error == ("E_UNREADABLE", "A file of the case can't be read or written: Permission denied.")
