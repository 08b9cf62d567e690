"""The subcommands about training data: answers, exit codes, and what training does with a bad case."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from focusnet import cli
from focusnet_training.datasets import read_dataset


@pytest.fixture
def focusnet(capsys):
    """Run a command line in this process: exit code, lines of stdout, lines of stderr."""

    def call(*arguments):
        code = cli.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return call


def swap_sides(path):
    image = sitk.ReadImage(str(path))
    swapped = sitk.GetImageFromArray(np.array([0, 1, 2, 4, 3], np.uint8)[sitk.GetArrayFromImage(image)])
    swapped.CopyInformation(image)
    sitk.WriteImage(swapped, str(path))


def test_check_of_sound_and_of_swapped_data(focusnet, make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "data")
    code, out, err = focusnet("check", folder)
    assert code == 0
    assert "none is excluded" in out[-1]
    assert err[-1].startswith("data: checking, 100%")
    swap_sides(folder / "labelsTr/blob_3.nrrd")
    code, out, _ = focusnet("check", folder, "--json", "-q")
    assert code == 1
    assert json.loads("\n".join(out))["excluded"] == ["blob_3"]


def test_check_refuses_a_split_that_leaks(focusnet, make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "data")
    names = [f"blob_{n}" for n in range(6)]
    (folder / "splits_final.json").write_text(json.dumps([{"train": names, "val": names[4:]}]))
    code, out, err = focusnet("check", folder)
    assert (code, out) == (2, [])
    assert err == [
        "E_SPLIT_LEAK: The patient of case blob_4 is in training and validation at once; keep all images of a patient "
        "in one part, for example with 'focusnet split'."
    ]


def test_a_single_patient_can_be_checked(focusnet, make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "data")
    for kind in ("imagesTr", "labelsTr"):
        for path in list((folder / kind).iterdir()):
            if not path.name.startswith("blob_0"):
                path.unlink()
    (folder / "cases.json").unlink(missing_ok=True)
    code, out, _ = focusnet("check", folder)
    assert code == 0
    assert "none is excluded" in out[-1]


def test_split_writes_folds_that_training_reads(focusnet, make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "data")
    (folder / "cases.json").unlink()
    code, out, _ = focusnet("split", folder, "--folds", 3, "--seed", 5)
    assert code == 0
    assert out[0] == "fold 0: 4 cases to train on, 2 to validate with"
    folds = json.loads((folder / "splits_final.json").read_text())
    assert [list(read_dataset(folder, n).validation) for n in range(3)] == [fold["val"] for fold in folds]
    assert focusnet("split", folder)[0] == 2
    assert focusnet("split", folder, "--overwrite", "--folds", 2, "--json") == (
        0,
        ['{"folds": [[3, 3], [3, 3]], "missing": []}'],
        [],
    )


def test_split_leaves_test_cases_and_their_patients_out(focusnet, make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "data")
    path = folder / "cases.json"
    details = json.loads(path.read_text())["cases"]
    details["blob_5"]["split"] = "test"
    details["blob_2"]["patient"] = details["blob_5"]["patient"] = "p"
    path.write_text(json.dumps({"cases": details}))
    code, out, err = focusnet("split", folder, "--folds", 2)
    assert (code, out[0]) == (0, "fold 0: 2 cases to train on, 2 to validate with")
    assert err == ["kept out of all folds, as test cases or scans of their patients: blob_2, blob_5"]
    dataset = read_dataset(folder, 1)
    assert sorted((*dataset.training, *dataset.validation)) == ["blob_0", "blob_1", "blob_3", "blob_4"]
    assert focusnet("check", folder)[0] == 0


def test_an_empty_list_of_organs_is_a_wrong_option(focusnet, tmp_path):
    code, _, err = focusnet("import", tmp_path, "-o", tmp_path / "data", "--organs", ",")
    assert (code, err[0].split(":")[0]) == (2, "E_USAGE")


CONFIG = """
name = "blobs"
network = { widths = [4, 4, 4], growth = 4, dilations = [2], roi_shape_zyx = [8, 8, 8] }
data = { spacing_xyz = [4.0, 4.0, 4.0], chunk_zyx = [16, 24, 24] }
stages = [{ name = "snet", steps = 1, validate_every = 1 }]
"""


def test_training_names_and_leaves_out_a_swapped_case(focusnet, make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "data")
    swap_sides(folder / "labelsTr/blob_0.nrrd")
    (tmp_path / "blobs.toml").write_text(CONFIG)
    run = tmp_path / "run"
    code, _, err = focusnet(
        "train", "--config", tmp_path / "blobs.toml", "--data", folder, "-o", run, "--device", "cpu"
    )
    assert code == 0
    assert err[0].startswith("blob_0 is left out: Left eye lens: lies to the right of its partner")
    assert sorted({path.name.split("-")[0] for path in (run / "cache").iterdir()}) == [f"blob_{n}" for n in range(1, 6)]
    assert json.loads((run / "integrity.json").read_text())["excluded"] == ["blob_0"]
