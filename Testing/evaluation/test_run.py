"""Whole evaluations: matching, gathering, files."""

import csv
import json
import math
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import numpy as np
import pytest
from focusnet import DISCLAIMER
from focusnet.errors import Cancelled, FocusNetError
from focusnet.evaluation import EvaluationOptions, compare, evaluate
from focusnet.evaluation.case import CSV_COLUMNS
from focusnet.evaluation.plan import read_annotations
from focusnet.evaluation.reading import read_case
from focusnet.geometry import Volume
from focusnet.io.image import write_image
from focusnet.io.segmentation import write_segmentation

SERIAL = EvaluationOptions(jobs=1)
LEFT, RIGHT = np.s_[2:6, 3:7, 8:12], np.s_[2:6, 3:7, 1:5]
SHIFTED = np.s_[2:6, 3:7, 9:13]


@pytest.fixture
def folders(tmp_path, blocks):
    """Reference and prediction of three cases; the left parotid is shifted by one voxel (DSC 0.75)."""
    for case in ("p1", "p2", "p3"):
        write_segmentation(blocks({"parotid_l": LEFT, "parotid_r": RIGHT}), tmp_path / "ref" / f"{case}.seg.nrrd")
        write_segmentation(blocks({"parotid_l": SHIFTED, "parotid_r": RIGHT}), tmp_path / "new" / f"{case}.seg.nrrd")
    return tmp_path


def code_of(call, *arguments):
    with pytest.raises(FocusNetError) as error:
        call(*arguments)
    return error.value.code


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_files_of_an_evaluation(folders):
    result = evaluate(folders / "ref", folders / "new", folders / "out", SERIAL)
    assert sorted(p.name for p in (folders / "out").iterdir()) == ["metrics.csv", "metrics.json", "report.html"]
    rows = read_csv(folders / "out" / "metrics.csv")
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(row["case"], row["organ"], row["dsc"]) for row in rows] == [
        (case, organ, dsc)
        for case in ("p1", "p2", "p3")
        for organ, dsc in (("parotid_l", "0.75"), ("parotid_r", "1.0"))
    ]
    for row, kept in zip(rows, result.rows["prediction"], strict=True):
        for name in CSV_COLUMNS[3:]:
            assert float(row[name]) == getattr(kept, name)  # full precision
    content = json.loads((folders / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert content["disclaimer"] == DISCLAIMER
    assert {"slicer-focusnet", "numpy", "scipy", "SimpleITK", "python"} == set(content["versions"])
    assert content["summary"]["prediction"]["parotid_l"]["measures"]["dsc"]["mean"] == 0.75
    assert len(content["cases"]["p1"]["sha256"]["reference"]) == 64
    assert content["cases"]["p1"]["grid"]["prediction"].startswith("both on 14 × 12 × 10 voxels")
    assert str(folders) not in json.dumps(content)  # no paths


def test_undefined_values_are_empty_cells(folders, blocks):
    write_segmentation(blocks({"parotid_l": None, "parotid_r": RIGHT}), folders / "new" / "p2.seg.nrrd", overwrite=True)
    evaluate(folders / "ref", folders / "new", folders / "out", SERIAL)
    row = read_csv(folders / "out" / "metrics.csv")[2]
    assert (row["case"], row["organ"], row["state"], row["dsc"], row["hd95_max_mm"]) == (
        "p2",
        "parotid_l",
        "missed",
        "0.0",
        "",
    )


def test_two_processes_give_the_same_rows(folders):
    seen = []
    serial = compare(folders / "ref", folders / "new", SERIAL)
    parallel = compare(
        folders / "ref", folders / "new", replace(SERIAL, jobs=2), lambda *progress: seen.append(progress)
    )
    assert parallel.rows == serial.rows
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]
    assert {case for *_, case in seen} == {"p1", "p2", "p3"}


def test_a_cancelled_evaluation_writes_nothing(folders):
    def cancel(*_):
        raise Cancelled

    assert code_of(evaluate, folders / "ref", folders / "new", folders / "out", SERIAL, cancel) == "E_CANCELLED"
    assert not (folders / "out").exists()


def test_an_earlier_evaluation_is_kept_unless_overwriting_is_allowed(folders):
    options = replace(SERIAL, others={"other": folders / "new"}, tables=("latex",))
    evaluate(folders / "ref", folders / "new", folders / "out", options)
    (folders / "out" / "notes.txt").write_text("mine")
    assert code_of(evaluate, folders / "ref", folders / "new", folders / "out", SERIAL) == "E_OUTPUT_EXISTS"
    assert (folders / "out" / "metrics_other.csv").exists()
    evaluate(folders / "ref", folders / "new", folders / "out", replace(SERIAL, overwrite=True))
    names = sorted(p.name for p in (folders / "out").iterdir())
    assert names == ["metrics.csv", "metrics.json", "notes.txt", "report.html"]  # nothing stale, nothing foreign lost


def test_a_list_of_files_that_was_tampered_with_removes_nothing_outside(folders):
    (folders / "precious.csv").write_text("mine")
    (folders / "out").mkdir()
    (folders / "out" / "metrics.json").write_text(json.dumps({"files": ["../precious.csv", 7, ".."]}))
    evaluate(folders / "ref", folders / "new", folders / "out", replace(SERIAL, overwrite=True))
    assert (folders / "precious.csv").exists()


def test_the_output_folder_may_not_be_a_file(folders):
    (folders / "out").write_text("")
    assert code_of(evaluate, folders / "ref", folders / "new", folders / "out", SERIAL) == "E_OUTPUT_EXISTS"


def test_cases_on_one_side_only_are_listed(folders):
    (folders / "ref" / "p1.seg.nrrd").unlink()
    (folders / "new" / "p3.seg.nrrd").unlink()
    result = compare(folders / "ref", folders / "new", SERIAL)
    assert [o.case for o in result.outcomes] == ["p2"]
    assert (result.unscored.reference_only, result.unscored.prediction_only) == (("p3",), ("p1",))


def test_two_single_files_are_compared_whatever_their_names(folders, blocks):
    write_segmentation(blocks({"parotid_l": LEFT}), folders / "anything.seg.nrrd")
    result = compare(folders / "ref" / "p1.seg.nrrd", folders / "anything.seg.nrrd", SERIAL)
    assert [(row.case, row.organ, row.dsc) for row in result.rows["prediction"]] == [("p1", "parotid_l", 1.0)]


@pytest.mark.parametrize("side", ["prediction", "ct"])
def test_folders_with_one_case_each_are_matched_by_name(folders, blocks, side):
    """The only scan of one folder may be another patient's than that of the other."""
    write_segmentation(blocks({"parotid_l": LEFT}), folders / "one" / "p1.seg.nrrd")
    write_segmentation(blocks({"parotid_l": LEFT}), folders / "another" / "p2.seg.nrrd")
    other, options = folders / "another", SERIAL
    if side == "ct":
        other, options = folders / "one", replace(SERIAL, ct=other)
    assert code_of(compare, folders / "one", other, options) == "E_NO_CASES"


def test_patients_are_those_of_the_list_of_cases(folders):
    """Six scans of two patients are two differences, not six."""
    for number in range(4, 7):
        for place in ("ref", "new"):
            shutil.copy(folders / place / "p1.seg.nrrd", folders / place / f"p{number}.seg.nrrd")
    shutil.copytree(folders / "ref", folders / "other")
    listed = {f"p{n}": {"patient": "a" if n < 4 else "b"} for n in range(1, 7)}
    (folders / "ref" / "cases.json").write_text(json.dumps({"cases": listed}))
    result = compare(folders / "ref", folders / "new", replace(SERIAL, others={"other": folders / "other"}))
    tests = {(t.contest.organ, t.contest.metric): t for t in result.tests}
    assert tests["parotid_l", "dsc"].n == 2
    assert tests["parotid_l", "dsc"].p_value == 0.5  # 2 of 4 sign patterns
    given = replace(SERIAL, others={"other": folders / "other"}, patients={})
    assert next(t.n for t in compare(folders / "ref", folders / "new", given).tests) == 6


def test_folders_without_a_common_case_are_refused(folders, blocks):
    write_segmentation(blocks({"parotid_l": LEFT}), folders / "others" / "q1.seg.nrrd")
    assert code_of(compare, folders / "ref", folders / "others", SERIAL) == "E_NO_CASES"


def test_a_list_of_cases_need_not_list_organs(folders):
    (folders / "ref" / "cases.json").write_text(
        json.dumps({"cases": {"p1": {"split": "training"}, "p2": {"scored": []}, "p3": {"patient": "x"}}})
    )
    result = compare(folders / "ref", folders / "new", SERIAL)
    assert {row.case for row in result.rows["prediction"]} == {"p1", "p3"}


@pytest.mark.parametrize("source", ["others", "observer", "ct"])
def test_a_further_source_without_a_common_case_is_refused(folders, blocks, source):
    for case in ("q1", "q2"):
        write_segmentation(blocks({"parotid_l": LEFT}), folders / "others" / f"{case}.seg.nrrd")
    place = folders / "others"
    options = replace(SERIAL, **{source: {"second": place} if source == "others" else place})
    assert code_of(compare, folders / "ref", folders / "new", options) == "E_NO_CASES"


def test_a_failing_case_does_not_stop_the_rest(folders):
    (folders / "new" / "p2.seg.nrrd").write_bytes(b"damaged")
    result = evaluate(folders / "ref", folders / "new", folders / "out", SERIAL)
    assert {case: error.code for case, error in result.failed.items()} == {"p2": "E_UNREADABLE"}
    assert {row.case for row in result.rows["prediction"]} == {"p1", "p3"}
    assert "E_UNREADABLE" in (folders / "out" / "report.html").read_text(encoding="utf-8")


def test_a_case_too_large_for_the_memory_does_not_stop_the_rest(folders, monkeypatch):
    def read(path, settings):
        if path.name.startswith("p2"):
            raise MemoryError
        return read_case(path, settings)

    monkeypatch.setattr("focusnet.evaluation.job.read_case", read)
    result = compare(folders / "ref", folders / "new", SERIAL)
    assert {case: error.code for case, error in result.failed.items()} == {"p2": "E_OUT_OF_MEMORY"}
    assert {row.case for row in result.rows["prediction"]} == {"p1", "p3"}


def test_when_every_case_fails_the_reason_is_raised_and_nothing_written(folders):
    for path in (folders / "new").iterdir():
        path.write_bytes(b"damaged")
    assert code_of(evaluate, folders / "ref", folders / "new", folders / "out", SERIAL) == "E_UNREADABLE"
    assert not (folders / "out").exists()


def test_organs_that_no_prediction_names_are_listed_and_count_only_when_asked_for(folders, blocks):
    for case in ("p1", "p2", "p3"):
        write_segmentation(
            blocks({"parotid_l": LEFT, "lens_l": np.s_[8, 8, 8]}), folders / "new" / f"{case}.seg.nrrd", overwrite=True
        )
    result = compare(folders / "ref", folders / "new", SERIAL)
    assert {row.organ for row in result.rows["prediction"]} == {"parotid_l"}
    assert result.unscored.not_predicted == {"prediction": ("parotid_r",)}
    assert result.unscored.no_reference == ("lens_l",)
    asked = compare(folders / "ref", folders / "new", replace(SERIAL, organs=("parotid_l", "parotid_r")))
    assert [row.state for row in asked.rows["prediction"]] == ["ok", "missed"] * 3
    assert (asked.unscored.not_predicted, asked.unscored.no_reference) == ({}, ("lens_l",))


def test_an_organ_named_in_some_prediction_is_missed_where_it_is_absent(folders, blocks):
    write_segmentation(blocks({"parotid_l": LEFT}), folders / "new" / "p2.seg.nrrd", overwrite=True)
    rows = compare(folders / "ref", folders / "new", SERIAL).rows["prediction"]
    assert [(row.case, row.organ) for row in rows if row.state == "missed"] == [("p2", "parotid_r")]


def test_unknown_names_are_listed(folders, blocks):
    table = folders / "ref" / "dataset.json"
    write_segmentation(blocks({"parotid_l": LEFT, "parotid_r": RIGHT}), folders / "plain" / "p1.nrrd")
    (folders / "plain" / "p1.labels.json").write_text(json.dumps({"labels": {"1": "Parotid_L", "2": "Hyoid"}}))
    result = compare(folders / "plain" / "p1.nrrd", folders / "new" / "p1.seg.nrrd", SERIAL)
    assert result.unscored.unmapped == {"Hyoid": ("reference",)}
    assert not table.exists()
    names = folders / "names.csv"
    names.write_text("name,organ\nHyoid,parotid_r\n")
    known = compare(folders / "plain" / "p1.nrrd", folders / "new" / "p1.seg.nrrd", replace(SERIAL, spellings=names))
    assert known.unscored.unmapped == {}
    assert [row.dsc for row in known.rows["prediction"]] == [0.75, 1.0]


def test_organs_not_annotated_in_a_case_are_left_out(folders):
    listed = {
        "p1": {"annotated": ["LeftParotid", "RightParotid"], "scored": ["RightParotid"]},
        "p2": {"annotated": ["LeftParotid"]},
    }
    (folders / "cases.json").write_text(json.dumps({"cases": listed}))  # beside the folder, as in nnU-Net's layout
    result = compare(folders / "ref", folders / "new", SERIAL)
    assert [(row.case, row.organ) for row in result.rows["prediction"]] == [
        ("p1", "parotid_r"),
        ("p2", "parotid_l"),
        ("p3", "parotid_l"),  # not listed: everything
        ("p3", "parotid_r"),
    ]
    both = compare(folders / "ref", folders / "new", replace(SERIAL, organs=("parotid_r",)))
    assert [(row.case, row.organ) for row in both.rows["prediction"]] == [("p1", "parotid_r"), ("p3", "parotid_r")]


def test_lists_of_annotated_organs_in_another_form_are_refused(tmp_path):
    path = tmp_path / "cases.json"
    for content in ("[]", '{"cases": {"p": {"scored": 3}}}', "no json", '{"cases": 3}'):
        path.write_text(content)
        assert code_of(read_annotations, path) == "E_CASES"
    path.write_text('{"cases": {"p": {"scored": ["Flux capacitor"]}}}')
    assert code_of(read_annotations, path) == "E_UNKNOWN_ORGAN"


def test_methods_are_compared_with_each_other_and_the_observer_beside_them(folders):
    options = replace(SERIAL, name="ours", others={"theirs": folders / "ref"}, observer=folders / "new")
    result = evaluate(folders / "ref", folders / "new", folders / "out", options)
    assert list(result.rows) == ["ours", "theirs"]
    assert [row.dsc for row in result.observer] == [0.75, 1.0] * 3
    left = next(t for t in result.tests if t.contest == ("parotid_l", "dsc", "ours", "theirs"))
    assert (left.n, left.difference, left.wins, left.losses, left.p_value) == (3, -0.25, 0, 3, 0.25)
    names = {p.name for p in (folders / "out").iterdir()}
    assert {"metrics.csv", "metrics_theirs.csv", "metrics_observer.csv", "comparison.csv"} <= names
    table = read_csv(folders / "out" / "comparison.csv")
    assert table[0]["organ"] == "parotid_l"
    assert all(math.isfinite(float(line["interval_low"])) for line in table)
    assert {line["metric"] for line in table} == {"dsc", "surface_dsc", "hd95_max_mm", "hd95_mean_mm", "msd_mm"}


def test_a_method_without_a_case_is_listed(folders, blocks):
    write_segmentation(blocks({"parotid_l": LEFT}), folders / "few" / "p1.seg.nrrd")
    write_segmentation(blocks({"parotid_l": LEFT}), folders / "few" / "p2.seg.nrrd")
    result = compare(folders / "ref", folders / "new", replace(SERIAL, others={"few": folders / "few"}))
    assert result.unscored.absent == {"few": ("p3",)}
    assert {row.case for row in result.rows["few"]} == {"p1", "p2"}


def test_methods_need_names_of_their_own(folders):
    for name in ("prediction", "reference", "second observer", "Prediction"):
        options = replace(SERIAL, others={name: folders / "new"})
        assert code_of(compare, folders / "ref", folders / "new", options) == "E_USAGE"


def test_names_left_out_on_purpose_are_not_called_unknown(folders):
    names = folders / "names.csv"
    names.write_text("name,organ\nParotid_R,\n")
    result = compare(folders / "ref", folders / "new", replace(SERIAL, spellings=names))
    assert {row.organ for row in result.rows["prediction"]} == {"parotid_l"}
    assert result.unscored.unmapped == {}


def test_cases_without_a_ct_are_listed(folders, blocks):
    geometry = blocks({}).geometry
    hu = np.where(np.indices(geometry.shape_zyx)[0] > 4, 40, -1000).astype(np.int16)
    write_image(Volume(hu, geometry), folders / "ct" / "p2_0000.nrrd")
    result = compare(folders / "ref", folders / "new", replace(SERIAL, ct=folders / "ct"))
    assert result.unscored.no_image == ("p1", "p3")
    assert [job.reading.ct is None for job in result.jobs] == [True, False, True]


def test_a_worker_that_dies_is_reported(folders, monkeypatch):
    class Dying(ThreadPoolExecutor):
        def __init__(self, processes, mp_context):
            super().__init__(processes)

        def submit(self, *_):
            future = Future()
            future.set_exception(BrokenProcessPool())
            return future

    monkeypatch.setattr("focusnet.evaluation.run.ProcessPoolExecutor", Dying)
    assert code_of(compare, folders / "ref", folders / "new", replace(SERIAL, jobs=2)) == "E_WORKER"


def test_tables_need_a_known_form(folders):
    options = replace(SERIAL, tables=("excel",))
    assert code_of(evaluate, folders / "ref", folders / "new", folders / "out", options) == "E_USAGE"
    assert not (folders / "out").exists()
