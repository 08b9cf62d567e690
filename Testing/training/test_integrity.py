"""Integrity: every fault is found, named and kept out of the training; sound data stay untouched."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from focusnet.errors import FocusNetError
from focusnet.geometry import LabelMap
from focusnet.organs import CATALOGUE
from focusnet_training.datasets import read_case, read_dataset
from focusnet_training.integrity import check_dataset, check_once, check_pair


@pytest.fixture
def folder(make_blobs, tmp_path):
    return make_blobs(tmp_path / "blobs")


def change(path, edit):
    """Rewrite an image; ``edit`` takes the array and returns it (or another), or moves the image itself."""
    image = sitk.ReadImage(str(path))
    changed = edit(sitk.GetArrayFromImage(image))
    result = sitk.GetImageFromArray(changed)
    if changed.shape == tuple(reversed(image.GetSize())):
        result.CopyInformation(image)
    sitk.WriteImage(result, str(path))


def codes(report, case):
    return [finding.code for finding in report.findings if finding.case == case]


def label_map(table):
    lookup = np.arange(10, dtype=np.uint8)
    for old, new in table.items():
        lookup[old] = new
    return lambda array: lookup[array]


def test_sound_data_have_no_error(folder):
    report = check_dataset(read_dataset(folder))
    assert report.cases == 6
    assert report.excluded == {}
    assert {f.code for f in report.findings} <= {"volume_out_of_range"}  # blobs are no organs


def with_nan(array):
    array = array.astype(np.float32)
    array[3, 4, 5] = np.nan
    return array


def shorter(array):
    return array[:-1]


@pytest.mark.parametrize(
    ("part", "edit", "code"),
    [
        ("imagesTr/blob_1_0000.nrrd", with_nan, "E_NON_FINITE"),
        ("imagesTr/blob_1_0000.nrrd", shorter, "E_BAD_GEOMETRY"),
        ("imagesTr/blob_1_0000.nrrd", lambda a: (a + 1024).astype(np.uint16), "E_NOT_HU"),
        ("labelsTr/blob_1.nrrd", label_map({1: 9}), "E_LABELS"),
        ("labelsTr/blob_1.nrrd", lambda a: a * np.float32(0.5), "E_LABELS"),
        ("labelsTr/blob_1.nrrd", np.zeros_like, "no_labels"),
        ("labelsTr/blob_1.nrrd", label_map({3: 4, 4: 3}), "sides_swapped"),
        ("labelsTr/blob_1.nrrd", lambda a: a[:, :, ::-1].copy(), "sides_swapped"),
    ],
)
def test_a_bad_case_is_named_and_not_trained_on(folder, part, edit, code):
    change(folder / part, edit)
    dataset = read_dataset(folder)
    report = check_dataset(dataset)
    assert list(report.excluded) == ["blob_1"]
    assert code in codes(report, "blob_1")
    assert code in report.excluded["blob_1"]
    kept = dataset.without(report.excluded)
    assert kept.training == ("blob_0", "blob_2", "blob_3")
    assert kept.validation == dataset.validation


def test_a_lone_left_organ_on_the_right_is_found_by_the_middle_of_the_body(folder):
    change(folder / "labelsTr/blob_2.nrrd", lambda a: np.where(a[:, :, ::-1] == 2, 2, 0).astype(np.uint8))
    report = check_dataset(read_dataset(folder))
    assert [f.organ for f in report.findings if f.code == "sides_swapped"] == ["parotid_l"]


def test_a_mirrored_array_with_its_own_direction_is_not_swapped(folder):
    for part in ("imagesTr/blob_1_0000.nrrd", "labelsTr/blob_1.nrrd"):
        flipped = sitk.Flip(sitk.ReadImage(str(folder / part)), (True, False, False))
        assert flipped.GetDirection()[0] == -1
        sitk.WriteImage(flipped, str(folder / part))
    assert check_dataset(read_dataset(folder)).excluded == {}


def test_damaged_file_stops_only_its_case(folder):
    (folder / "imagesTr/blob_0_0000.nrrd").write_bytes(b"NRRD0005\nnonsense\n")
    report = check_dataset(read_dataset(folder))
    assert codes(report, "blob_0") == ["E_UNREADABLE"]
    assert report.cases == 6


def test_annotation_list_and_voxels_that_disagree_are_warned_of(folder):
    change(folder / "labelsTr/blob_0.nrrd", label_map({2: 0}))
    path = folder / "cases.json"
    details = json.loads(path.read_text())
    details["cases"]["blob_3"]["annotated"] = ["Brainstem", "Parotid_L", "Lens_R"]
    path.write_text(json.dumps(details))
    report = check_dataset(read_dataset(folder))
    found = {(f.case, f.code, f.organ) for f in report.findings if f.code != "volume_out_of_range"}
    assert found == {("blob_0", "empty_organ", "parotid_l"), ("blob_3", "unlisted_organ", "lens_l")}
    assert report.excluded == {}


@pytest.mark.parametrize("same_patient", [False, True])
def test_one_image_under_two_patients_is_kept_once(folder, same_patient):
    # Stored in another type, so that the files differ.
    image = sitk.Cast(sitk.ReadImage(str(folder / "imagesTr/blob_0_0000.nrrd")), sitk.sitkFloat32)
    sitk.WriteImage(image, str(folder / "imagesTr/blob_4_0000.nrrd"), True)
    if same_patient:
        path = folder / "cases.json"
        details = json.loads(path.read_text())
        details["cases"]["blob_0"]["patient"] = details["cases"]["blob_4"]["patient"] = "p"
        details["cases"]["blob_4"]["split"] = "training"
        path.write_text(json.dumps(details))
    report = check_dataset(read_dataset(folder))
    assert list(report.excluded) == ([] if same_patient else ["blob_4"])
    if not same_patient:
        assert "blob_0" in report.excluded["blob_4"]


def test_the_image_of_a_test_case_is_not_trained_on(folder, tmp_path):
    path = folder / "cases.json"
    details = json.loads(path.read_text())
    details["cases"]["blob_3"]["split"] = "test"
    path.write_text(json.dumps(details))
    (folder / "imagesTr/blob_1_0000.nrrd").write_bytes((folder / "imagesTr/blob_3_0000.nrrd").read_bytes())
    (folder / "labelsTr/blob_3.nrrd").write_bytes((folder / "labelsTr/blob_1.nrrd").read_bytes())
    dataset = read_dataset(folder)
    for report, cases in ((check_once(dataset, tmp_path / "integrity.json"), 5), (check_dataset(dataset), 6)):
        assert report.cases == cases
        assert list(report.excluded) == ["blob_1"]
        assert "blob_3" in report.excluded["blob_1"]
    (folder / "imagesTr/blob_3_0000.nrrd").write_bytes((folder / "imagesTr/blob_4_0000.nrrd").read_bytes())
    assert list(check_once(dataset, tmp_path / "integrity.json").excluded) == ["blob_4"]
    (folder / "imagesTr/blob_3_0000.nrrd").write_bytes(b"NRRD0005\n")
    assert check_once(dataset, tmp_path / "integrity.json").excluded == {}


def test_report_as_text_and_json(folder):
    change(folder / "labelsTr/blob_1.nrrd", np.zeros_like)
    for n in (0, 2):
        change(folder / f"labelsTr/blob_{n}.nrrd", label_map({1: 0}))
    report = check_dataset(read_dataset(folder))
    lines = report.to_text().splitlines()
    assert lines[0] == "blob_1: error: no voxel is labelled. [no_labels]"
    assert any(line.startswith("blob_0, blob_2: warning: Brainstem: said to be annotated") for line in lines)
    assert lines[-1].startswith("blobs: 6 cases, 1 are excluded from training")
    content = json.loads(report.to_json())
    assert content["excluded"] == ["blob_1"]
    assert set(content["findings"][0]) == {"case", "code", "organ", "severity", "message"}
    assert str(folder) not in report.to_json()


def test_progress_is_told_and_may_stop_the_check(folder):
    told = []

    def stop(done, count, case):
        told.append((done, count, case))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_dataset(read_dataset(folder), progress=stop)
    assert told == [(1, 6, "blob_0"), (2, 6, "blob_1")]


def test_the_check_is_repeated_only_when_something_changed(folder, tmp_path):
    record, seen = tmp_path / "run" / "integrity.json", []

    def run():
        seen.clear()
        return check_once(read_dataset(folder), record, progress=lambda *a: seen.append(a))

    change(folder / "labelsTr/blob_1.nrrd", np.zeros_like)
    report = run()
    assert len(seen) == 6
    assert list(report.excluded) == ["blob_1"]
    assert run() == report
    assert seen == []
    change(folder / "labelsTr/blob_2.nrrd", np.zeros_like)
    again = run()
    assert len(seen) == 6
    assert list(again.excluded) == ["blob_1", "blob_2"]
    record.write_text("{")
    assert run() == again


def test_nothing_left_to_validate_with_is_refused(folder):
    for n in (4, 5):
        change(folder / f"labelsTr/blob_{n}.nrrd", np.zeros_like)
    dataset = read_dataset(folder)
    with pytest.raises(FocusNetError, match="No sound case") as caught:
        dataset.without(check_dataset(dataset).excluded)
    assert caught.value.code == "E_DATASET"


def turned(labels):
    """The same labels with left and right names exchanged."""
    table = np.arange(256, dtype=np.uint8)
    for value, key in labels.organs.items():
        if (partner := CATALOGUE[key].partner) is not None:
            table[value] = labels.label_of(partner)
    return LabelMap(table[labels.array], labels.geometry, labels.organs)


@pytest.mark.realdata
def test_sides_of_real_cases(shared_data):
    dataset = read_dataset(shared_data / "openkbp")
    for name in sorted(dataset.cases)[::25]:
        ct, labels = read_case(dataset, name)
        mirrored = LabelMap(labels.array[:, :, ::-1].copy(), labels.geometry, labels.organs)
        lone = LabelMap(turned(labels).array * labels.mask("parotid_l"), labels.geometry, labels.organs)
        for image, drawn, is_wrong in (
            (ct, labels, False),
            (ct, turned(labels), True),
            (ct.with_array(ct.array[:, :, ::-1].copy()), mirrored, True),
            (ct, lone, bool(lone.array.any())),
        ):
            found = {f.code for f in check_pair(name, image, drawn, dataset.cases[name].annotated)}
            assert ("sides_swapped" in found) == is_wrong, name
