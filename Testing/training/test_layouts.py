"""Layouts of data sets: the Decathlon's list beside nnU-Net's folders, and what a description may not say."""

import json
import shutil

import pytest
from focusnet.errors import FocusNetError
from focusnet_training.datasets import read_case, read_dataset
from focusnet_training.layouts import read_layout

DECATHLON_LABELS = {"0": "background", "1": "Brainstem", "2": "Parotid_L", "3": "Lens_L", "4": "Lens_R"}


@pytest.fixture
def decathlon(blobs, tmp_path):
    """The blobs as the Medical Segmentation Decathlon stores its tasks."""
    folder = tmp_path / "Task99_Blobs"
    (folder / "imagesTr").mkdir(parents=True)
    shutil.copytree(blobs / "labelsTr", folder / "labelsTr")
    for image in (blobs / "imagesTr").iterdir():
        shutil.copy(image, folder / "imagesTr" / image.name.replace("_0000", ""))
    (folder / "imagesTr" / "._blob_0.nrrd").write_bytes(b"resource fork")
    names = [f"blob_{n}.nrrd" for n in range(6)]
    description = {
        "name": "Blobs",
        "description": "Six balls.",
        "modality": {"0": "CT"},
        "labels": DECATHLON_LABELS,
        "numTraining": 6,
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
        "test": ["./imagesTs/blob_9.nrrd"],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def edit(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_decathlon_and_nnunet_give_the_same_cases(decathlon, blobs):
    dataset, other = read_dataset(decathlon), read_dataset(blobs)
    assert dataset.labels == other.labels
    assert sorted(dataset.cases) == sorted(other.cases)
    assert dataset.statement == "Blobs. Six balls."
    for name in ("blob_0", "blob_5"):
        (image, labels), (other_image, other_labels) = read_case(dataset, name), read_case(other, name)
        assert image.geometry.is_close(other_image.geometry)
        assert (image.array == other_image.array).all()
        assert (labels.array == other_labels.array).all()


def test_only_listed_cases_of_the_decathlon_count(decathlon):
    edit(decathlon, training=json.loads((decathlon / "dataset.json").read_text())["training"][:4])
    assert sorted(read_layout(decathlon).files) == [f"blob_{n}" for n in range(4)]


def test_image_with_a_channel_that_the_list_leaves_out_is_found(decathlon):
    (decathlon / "imagesTr/blob_3.nrrd").rename(decathlon / "imagesTr/blob_3_0000.nrrd")
    assert read_layout(decathlon).files["blob_3"][0].name == "blob_3_0000.nrrd"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"modality": {"0": "CT", "1": "PET"}}, "2 channels"),
        ({"labels": {"0": "background", "1": "Parotid_L", "2": "Left Parotid"}}, "stand once"),
        ({"labels": {"background": 0, "Parotid_L": [1, 2]}}, "no single number"),
        ({"labels": {"background": 0, "Parotid_L": 300}}, "from 1 to 255"),
        ({"labels": {"background": 0}}, "names no organ"),
        ({"labels": None}, "no table 'labels'"),
        ({"training": [{"image": "imagesTr/blob_0.nrrd"}]}, "without 'image' and 'label'"),
        ({"training": [{"image": "../../x.nrrd", "label": "../../y.nrrd"}]}, "outside"),
        ({"training": [{"image": "imagesTr/ghost.nrrd", "label": "labelsTr/ghost.nrrd"}]}, "not there"),
    ],
)
def test_descriptions_that_make_no_sense_are_refused(decathlon, changes, part):
    edit(decathlon, **changes)
    with pytest.raises(FocusNetError, match=part) as caught:
        read_layout(decathlon)
    assert caught.value.code == "E_DATASET"


def test_hidden_files_beside_the_labels_are_passed_over(make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "hidden")
    (folder / "labelsTr/._blob_0.nrrd").write_bytes(b"resource fork")
    assert sorted(read_layout(folder).files) == [f"blob_{n}" for n in range(6)]


@pytest.mark.parametrize("content", ["{", "[]", '{"cases": []}', '{"cases": {"blob_0": 3}}'])
def test_damaged_case_list_is_refused(make_blobs, tmp_path, content):
    folder = make_blobs(tmp_path / "damaged")
    (folder / "cases.json").write_text(content)
    with pytest.raises(FocusNetError, match=r"cases\.json") as caught:
        read_dataset(folder)
    assert caught.value.code == "E_DATASET"


def test_a_case_in_which_nothing_was_drawn_is_not_one_in_which_all_was(make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "nothing", annotated={"blob_1": []})
    assert read_dataset(folder).cases["blob_1"].annotated == frozenset()


def test_names_with_points_stay_apart_in_the_decathlon_s_list(decathlon):
    pairs = []
    for number in range(6):
        for part in ("imagesTr", "labelsTr"):
            (decathlon / part / f"blob_{number}.nrrd").rename(decathlon / part / f"HN.00{number}.nrrd")
        pairs.append({"image": f"./imagesTr/HN.00{number}.nrrd", "label": f"./labelsTr/HN.00{number}.nrrd"})
    (decathlon / "imagesTr/HN.002.nrrd").rename(decathlon / "imagesTr/HN.002_0000.nrrd")
    edit(decathlon, training=pairs)
    files = read_layout(decathlon).files
    assert list(files) == [f"HN.00{n}" for n in range(6)]
    assert files["HN.002"][0].name == "HN.002_0000.nrrd"
    edit(decathlon, training=[*pairs, pairs[0]])
    with pytest.raises(FocusNetError, match=r"HN\.000 twice") as caught:
        read_layout(decathlon)
    assert caught.value.code == "E_DATASET"
