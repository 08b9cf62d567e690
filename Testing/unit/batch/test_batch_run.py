"""Batches: rows, numbers, resumption, faults of one case and of all."""

import csv
import errno
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from focusnet.batch import find_archive, find_number, run_batch
from focusnet.batch.manifest import Manifest, read_manifest
from focusnet.errors import FocusNetError
from focusnet.io import atomic
from focusnet.io.image import write_image
from focusnet.io.segmentation import read_segmentation
from focusnet.segment import segment_cases

pytestmark = pytest.mark.usefixtures("inline")


def nothing(*_: object) -> None:
    """A report that tells no one."""


def rows_of(folder):
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def outputs_of(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("case"))


def test_good_cases_are_done_bad_ones_coded_and_the_labels_are_those_of_segment(archive, options, tmp_path):
    folder, out = archive(4, bad=(1,)), tmp_path / "out"
    told = []
    rows = run_batch(find_archive(folder), out, options(), lambda row, result: told.append((row, result)))
    assert [(row.number, row.status, row.reason_code) for row in rows] == [
        (1, "done", ""),
        (2, "failed", "E_UNREADABLE"),
        (3, "done", ""),
        (4, "done", ""),
    ]
    assert outputs_of(out) == [f"case_000{n}.seg.nrrd" for n in (1, 3, 4)]
    assert sorted(row.number for row, _ in told) == [1, 2, 3, 4]
    written = rows_of(out)
    assert list(written[0]) == ["number", "input_sha256", "status", "reason_code", "flags", "seconds"]
    assert [row["number"] for row in written] == ["1", "2", "3", "4"]
    assert "truncated" in written[0]["flags"]
    assert float(written[0]["seconds"]) > 0
    case = find_archive(folder)[2]
    list(segment_cases([case], tmp_path / "one.seg.nrrd", options().segment))
    one, other = read_segmentation(tmp_path / "one.seg.nrrd"), read_segmentation(out / "case_0003.seg.nrrd")
    for name in one.names:
        np.testing.assert_array_equal(one[name].mask, other[name].mask)


def test_a_second_run_does_only_what_is_new_and_keeps_the_numbers(archive, options, tmp_path):
    folder, out = archive(3), tmp_path / "out"
    cases = find_archive(folder)
    run_batch(cases[1:], out, options(), nothing)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("case*")}
    told = []
    run_batch(cases, out, options(), lambda row, _: told.append(row.number))
    assert told == [3]
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("case*") if path.name in before} == before
    assert run_batch(cases, out, options(), lambda *_: pytest.fail("all were done")) == read_manifest(out)
    assert find_number(cases, out, 3).path.name == "patient 000.nrrd"
    moved = shutil.move(folder, tmp_path / "elsewhere")
    run_batch(find_archive(moved), out, options(), lambda *_: pytest.fail("the same content"))


def test_the_same_content_twice_is_done_once(archive, options, tmp_path):
    folder = archive(2)
    shutil.copy(folder / "patient 000.nrrd", folder / "zz copy.nrrd")
    for _ in range(2):
        rows = run_batch(find_archive(folder), tmp_path / "out", options(), nothing)
        assert [(row.status, row.reason_code) for row in rows] == [
            ("done", ""),
            ("done", ""),
            ("duplicate", "E_DUPLICATE_CASE"),
        ]
        assert rows[0].input_sha256 == rows[2].input_sha256


def test_failed_cases_are_done_again_on_request_only(archive, options, tmp_path):
    folder, out = archive(2), tmp_path / "out"
    (tmp_path / "table.csv").write_text(
        "path;series\narchive/patient 000.nrrd;\nlater.nrrd;\narchive/patient 001.nrrd;\n;\n"
    )
    bad = folder / "patient 001.nrrd"
    good = bad.read_bytes()
    bad.write_bytes(b"damaged")
    rows = run_batch(find_archive(tmp_path / "table.csv"), out, options(), nothing)
    assert [(row.number, row.status) for row in rows] == [(1, "done"), (2, "failed"), (3, "failed")]
    told = []
    run_batch(find_archive(tmp_path / "table.csv"), out, options(), lambda row, _: told.append(row.number))
    assert told == [2]  # what was not there may be there now
    told.clear()
    (tmp_path / "later.nrrd").write_bytes(good)
    again = run_batch(
        find_archive(tmp_path / "table.csv"), out, options(retry_failed=True), lambda row, _: told.append(row.number)
    )
    assert told == [2, 3]
    assert [(row.number, row.status, row.reason_code) for row in again] == [
        (1, "done", ""),
        (2, "done", ""),
        (3, "failed", "E_UNREADABLE"),
    ]


def test_what_an_interrupted_case_has_left_is_never_taken_for_a_result(archive, options, tmp_path):
    folder, out = archive(2, bad=(1,)), tmp_path / "out"
    run_batch(find_archive(folder), out, options(), nothing)
    manifest = (out / "manifest.csv").read_text()
    first, second, _ = manifest.splitlines(keepends=True)
    (out / "manifest.csv").write_text(first + second[:30])  # the row was being written
    (out / "case_0002.seg.nrrd").write_text("of a case that had this number before")
    (out / ".0123456789ab.seg.nrrd").write_text("half")
    (out / ".case_0001-ab12_xyz").mkdir()
    rows = run_batch(find_archive(folder), out, options(), nothing)
    assert [(row.number, row.status) for row in rows] == [(1, "done"), (2, "failed")]
    assert outputs_of(out) == ["case_0001.seg.nrrd"]
    assert sorted(path.name for path in out.iterdir()) == [".lock", "batch.json", "case_0001.seg.nrrd", "manifest.csv"]


def test_dicom_series_give_structure_sets_and_images_can_not(archive, options, dicom_folder, tmp_path):
    archive(1)
    shutil.move(dicom_folder, tmp_path / "archive" / "deep" / "er")
    rows = run_batch(find_archive(tmp_path / "archive"), tmp_path / "out", options(("rtstruct", "nii.gz")), nothing)
    assert [(row.status, row.reason_code) for row in rows] == [("done", ""), ("failed", "E_OUTPUT_FORMAT")]
    assert outputs_of(tmp_path / "out") == [
        "case_0001.labels.json",
        "case_0001.nii.gz",
        "case_0001.rtstruct.dcm",
    ]


def test_names_are_kept_on_request(archive, options, tmp_path):
    run_batch(find_archive(archive(1)), tmp_path / "out", options(names=True), nothing)
    assert outputs_of(tmp_path / "out") == ["case_0001_patient 000.seg.nrrd"]
    assert rows_of(tmp_path / "out")[0]["name"] == "patient 000"


@pytest.mark.parametrize("name", ["頭" * 70, "x" * 240])
def test_a_long_name_is_cut_to_what_the_file_system_takes(archive, options, tmp_path, name):
    folder = archive(2)
    (folder / "patient 000.nrrd").rename(folder / f"{name}.nrrd")
    rows = run_batch(find_archive(folder), tmp_path / "out", options(names=True), nothing)
    assert [row.status for row in rows] == ["done", "done"]
    assert name in [row["name"] for row in rows_of(tmp_path / "out")]
    assert all(len(name.encode()) < 140 for name in outputs_of(tmp_path / "out"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_utf_8_are_kept_as_escapes(archive, ct, options, tmp_path):
    write_image(ct, archive(1) / "b.nii.gz")
    (tmp_path / "archive" / "b.nii.gz").rename(tmp_path / "archive" / os.fsdecode(b"a\xff.nii.gz"))
    rows = run_batch(find_archive(tmp_path / "archive"), tmp_path / "out", options(names=True), nothing)
    assert [row.status for row in rows] == ["done", "done"]
    assert read_manifest(tmp_path / "out") == rows
    assert rows[0].name == "a\\udcff"
    assert outputs_of(tmp_path / "out")[0] == "case_0001_a_udcff.seg.nrrd"


@pytest.mark.parametrize(("number", "stops"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EIO, False)])
def test_what_stops_every_output_stops_the_batch_and_nothing_else(
    archive, options, tmp_path, monkeypatch, number, stops
):
    failed = []
    flush = atomic._flush_to_disk

    def fail_once(path):
        if path.name.endswith(".seg.nrrd") and not failed:
            failed.append(path)
            raise OSError(number, os.strerror(number))
        flush(path)

    monkeypatch.setattr(atomic, "_flush_to_disk", fail_once)
    cases, out = find_archive(archive(2)), tmp_path / "out"
    if stops:
        with pytest.raises(FocusNetError, match="E_OUTPUT_WRITE"):
            run_batch(cases, out, options(), nothing)
        assert rows_of(out) == []
    else:
        rows = run_batch(cases, out, options(), nothing)
        assert [(row.status, row.reason_code) for row in rows] == [("failed", "E_OUTPUT_WRITE"), ("done", "")]


def test_links_that_lead_back_up_are_not_followed(ct, tmp_path):
    write_image(ct, tmp_path / "a" / "ct.nrrd")
    (tmp_path / "a" / "loop").symlink_to("..", target_is_directory=True)
    (tmp_path / "a" / "itself").symlink_to(".", target_is_directory=True)
    assert [case.name for case in find_archive(tmp_path)] == ["ct"]


def test_a_table_chooses_series_by_number(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "t.csv").write_text("\ufeffpath;series\na;2\na;\n", encoding="utf-8")
    assert [(case.path, case.series) for case in find_archive(tmp_path / "t.csv")] == [
        (tmp_path / "a", 2),
        (tmp_path / "a", None),
    ]
    for text in ("file\nx\n", "path,series\nx,two\n", 'path\n"x\n'):
        (tmp_path / "t.csv").write_text(text)
        with pytest.raises(FocusNetError, match="E_CASE_TABLE"):
            find_archive(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_bytes(b"path\n\xff\n")
    with pytest.raises(FocusNetError, match="E_CASE_TABLE"):
        find_archive(tmp_path / "t.csv")


def test_archives_without_cases_are_refused(tmp_path):
    for path, code in ((tmp_path / "absent", "E_UNREADABLE"), (tmp_path, "E_NO_SERIES")):
        with pytest.raises(FocusNetError, match=code):
            find_archive(path)


def test_a_folder_of_damaged_dicom_files_is_a_case_that_fails(options, tmp_path):
    (tmp_path / "archive" / "x").mkdir(parents=True)
    (tmp_path / "archive" / "x" / "1.dcm").write_bytes(b"cut off")
    (row,) = run_batch(find_archive(tmp_path / "archive"), tmp_path / "out", options(), nothing)
    assert (row.status, row.reason_code) == ("failed", "E_UNREADABLE")


# --- what is wrong for all cases --------------------------------------------------------------------------------------


def test_other_settings_and_other_files_are_refused(archive, options, tmp_path):
    cases, out = find_archive(archive(1)), tmp_path / "out"
    run_batch(cases, out, options(), nothing)
    for other in (options(("nii.gz",)), options(names=True)):
        with pytest.raises(FocusNetError, match=r"E_BATCH_SETTINGS.*(formats|names)"):
            run_batch(cases, out, other, nothing)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").touch()
    with pytest.raises(FocusNetError, match="E_OUTPUT_EXISTS"):
        run_batch(cases, tmp_path / "full", options(), nothing)
    for name, content in (("batch.json", "{"), ("batch.json", "[]"), ("manifest.csv", "number\nx\n")):
        kept = (out / name).read_text()
        (out / name).write_text(content)
        with pytest.raises(FocusNetError, match="E_BATCH_SETTINGS"):
            run_batch(cases, out, options(), nothing)
        (out / name).write_text(kept)
    assert len(run_batch(cases, out, options(), nothing)) == 1


def test_two_runs_on_one_folder_are_refused(options, archive, tmp_path):
    out = tmp_path / "out"
    cases = find_archive(archive(1))
    settings = {"a": 1}
    with Manifest(out, settings), pytest.raises(FocusNetError, match="E_BATCH_RUNNING"):
        Manifest(out, settings)
    with Manifest(out, settings) as manifest:
        assert manifest.rows == []
    with pytest.raises(FocusNetError, match="E_BATCH_SETTINGS"):
        run_batch(cases, out, options(), nothing)


def test_a_wrong_model_or_organ_is_said_before_anything_is_made(archive, options, tmp_path):
    cases, out = find_archive(archive(1)), tmp_path / "out"
    good = options()
    for change, code in (
        ({"model": "nothing"}, "E_UNKNOWN_MODEL"),
        ({"organs": ("nose",)}, "E_UNKNOWN_ORGAN"),
        ({"organs": ("mandible",)}, "E_UNKNOWN_ORGAN"),
    ):
        with pytest.raises(FocusNetError, match=code):
            run_batch(cases, out, replace(good, segment=replace(good.segment, **change)), nothing)
        assert not out.exists()
