"""Splits: by patient, every organ in every fold, the same for the same seed, leaks refused."""

import json

import pytest
from focusnet.errors import FocusNetError
from focusnet_training.datasets import read_dataset
from focusnet_training.splits import Fold, check_disjoint, make_folds, missing_organs, read_folds, write_folds
from hypothesis import given, settings
from hypothesis import strategies as st


def alone(names):
    return {name: name for name in names}


@st.composite
def data_sets(draw):
    """Organs and patient of up to 40 cases."""
    patients = draw(st.lists(st.integers(0, 25), min_size=6, max_size=40).filter(lambda p: len(set(p)) >= 5))
    organs = st.frozensets(st.sampled_from(["a", "b", "c"]))
    names = [f"case_{n}" for n in range(len(patients))]
    return {n: draw(organs) for n in names}, {n: str(p) for n, p in zip(names, patients, strict=True)}


@settings(max_examples=60, deadline=None)
@given(data=data_sets(), count=st.integers(2, 5), seed=st.integers(0, 3))
def test_folds_are_a_partition_by_patient(data, count, seed):
    organs, patients = data
    folds = make_folds(organs, patients, count, seed)
    assert sorted(n for fold in folds for n in fold.validation) == sorted(organs)
    for fold in folds:
        assert sorted(fold.training + fold.validation) == sorted(organs)
        assert not {patients[n] for n in fold.training} & {patients[n] for n in fold.validation}
    assert folds == make_folds(dict(reversed(organs.items())), patients, count, seed)


def test_a_rare_organ_reaches_every_fold():
    # 50 patients, of whom five have an esophagus and seven a larynx, three both.
    organs = {f"pt_{n:02d}": {"brainstem"} for n in range(50)}
    for n in (0, 1, 2, 3, 4):
        organs[f"pt_{n:02d}"] |= {"esophagus"}
    for n in (2, 3, 4, 5, 6, 7, 8):
        organs[f"pt_{n:02d}"] |= {"larynx"}
    for seed in range(20):
        folds = make_folds(organs, alone(organs), 5, seed)
        assert missing_organs(folds, organs) == []
        assert [sum("esophagus" in organs[n] for n in fold.validation) for fold in folds] == [1] * 5
        assert all(9 <= len(fold.validation) <= 11 for fold in folds)


def test_an_organ_of_too_few_patients_is_named():
    organs = {"p0": {"lens_l"}, "p1": {"eye_l"}, "p2": {"eye_l"}}
    lines = missing_organs(make_folds(organs, alone(organs), 3), organs)
    assert sum("validation has no lens_l" in line for line in lines) == 2
    assert sum("training has no lens_l" in line for line in lines) == 1


def test_another_seed_gives_another_split():
    organs = {f"p{n}": {"eye_l"} for n in range(20)}
    assert make_folds(organs, alone(organs), 5, 1) != make_folds(organs, alone(organs), 5, 2)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_impossible_numbers_of_folds_are_refused(count):
    organs = {"a": set(), "b": set(), "c": set(), "d": set()}
    with pytest.raises(FocusNetError) as caught:
        make_folds(organs, {"a": "1", "b": "1", "c": "2", "d": "3"}, count)
    assert caught.value.code == "E_SPLIT"


def test_written_folds_have_the_form_of_nnunet_and_are_read_back(tmp_path):
    folds = [Fold(("a", "b"), ("c",)), Fold(("c",), ("a", "b"))]
    path = tmp_path / "splits_final.json"
    write_folds(folds, path)
    assert json.loads(path.read_text()) == [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a", "b"]}]
    assert read_folds(path) == folds
    with pytest.raises(FocusNetError) as caught:
        write_folds(folds, path)
    assert caught.value.code == "E_OUTPUT_EXISTS"
    path.write_text('[{"train": ["a"]}]')
    with pytest.raises(FocusNetError) as caught:
        read_folds(path)
    assert caught.value.code == "E_DATASET"


def test_a_patient_in_two_parts_is_refused():
    patients = {"scan_1": "p", "scan_2": "p", "scan_3": "q"}
    check_disjoint({"training": ["scan_1", "scan_2"], "validation": ["scan_3"]}, patients)
    with pytest.raises(FocusNetError, match="scan_2 is in training and validation") as caught:
        check_disjoint({"training": ["scan_1"], "validation": ["scan_2", "scan_3"]}, patients)
    assert caught.value.code == "E_SPLIT_LEAK"


def _details(folder, **changes):
    path = folder / "cases.json"
    details = json.loads(path.read_text())["cases"]
    for name, change in changes.items():
        details[name] |= change
    path.write_text(json.dumps({"cases": details}))


@pytest.mark.parametrize("part", ["validation", "test"])
def test_reading_refuses_two_scans_of_a_patient_in_two_parts(make_blobs, tmp_path, part):
    folder = make_blobs(tmp_path / "leak")
    _details(folder, blob_0={"patient": "p"}, blob_3={"patient": "p", "split": part})
    with pytest.raises(FocusNetError, match="blob_3") as caught:
        read_dataset(folder)
    assert caught.value.code == "E_SPLIT_LEAK"
    assert read_dataset(folder, fold=None).cases["blob_3"].patient == "p"


def test_test_cases_are_not_trained_on_even_where_the_folds_name_them(make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "test")
    _details(folder, blob_2={"split": "test"})
    assert "blob_2" not in read_dataset(folder).training + read_dataset(folder).validation
    names = [f"blob_{n}" for n in range(6)]
    (folder / "splits_final.json").write_text(json.dumps([{"train": names[:4], "val": names[4:]}]))
    with pytest.raises(FocusNetError, match="blob_2 is in training and test"):
        read_dataset(folder)


def test_default_folds_keep_the_scans_of_a_patient_together(make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "together")
    details = {f"blob_{n}": {"patient": f"p{n // 2}"} for n in range(6)}
    (folder / "cases.json").write_text(json.dumps({"cases": details}))
    for fold in range(3):
        assert len({details[n]["patient"] for n in read_dataset(folder, fold).validation}) == 1


@pytest.mark.realdata
def test_openkbp_folds_have_every_organ(shared_data):
    dataset = read_dataset(shared_data / "openkbp", fold=None)
    organs = {name: case.annotated for name, case in dataset.cases.items()}
    folds = make_folds(organs, alone(organs), 5)
    assert missing_organs(folds, organs) == []
    assert {len(fold.validation) for fold in folds} <= {38, 39, 40}
    share = [sum("esophagus" in organs[n] for n in fold.validation) for fold in folds]
    assert max(share) - min(share) <= 1  # 64 of 196 patients
