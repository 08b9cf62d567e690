"""From a data set to a bundle that segments, through the command line, and what is refused on the way."""

import json
import os
import shutil
import signal
import sys
import threading
import time

import numpy as np
import pytest
import SimpleITK as sitk
from focusnet.bundle import load_bundle
from focusnet.cli import run as focusnet
from focusnet.errors import FocusNetError
from focusnet.inference import Predictor
from focusnet_training.checkpoint import load_checkpoint, save_checkpoint
from focusnet_training.config import load_config
from focusnet_training.datasets import read_case, read_dataset
from focusnet_training.runs import BundleOptions, is_finished, make_bundle, train
from focusnet_training.trainer import TrainingOptions
from safetensors.numpy import load_file

CONFIG = """
name = "blobs"
[network]
widths = [8, 8, 8]
growth = 4
dilations = [2, 3]
roi_shape_zyx = [8, 16, 16]
[shape]
constraint = "adversarial"
widths = [4, 4, 8]
code_size = 8
[data]
spacing_xyz = [4.0, 4.0, 4.0]
window_hu = [-200.0, 800.0]
chunk_zyx = [16, 24, 24]
small_voxels = 60
[augmentation]
scale = [0.9, 1.1]
field_of_view_cut = 0.0
translation_mm = 2.0
[[stages]]
name = "snet"
steps = 999
validate_every = 60
learning_rate = 1e-2
warmup_steps = 0
[[stages]]
name = "sol"
steps = 40
validate_every = 40
learning_rate = 1e-2
warmup_steps = 0
[[stages]]
name = "aae"
steps = 10
validate_every = 10
learning_rate = 1e-2
warmup_steps = 0
[[stages]]
name = "sos"
steps = 40
validate_every = 40
learning_rate = 1e-2
warmup_steps = 0
"""
TRAIN = ["--device", "cpu", "--precision", "fp32", "--set", "stages.snet.steps=60"]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "blobs.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def run(blobs, config_file, tmp_path_factory):
    """Trained in two calls: S-Net, then the rest from its checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    command = ["train", "--config", str(config_file), "--data", str(blobs), "-o", str(folder), *TRAIN]
    assert focusnet([*command, "--stage", "snet", "-q"]) == 0
    assert focusnet([*command, "--resume"]) == 0
    return folder


def test_a_run_becomes_a_bundle_that_segments_on_the_native_grid(run, blobs, tmp_path, capsys):
    target = tmp_path / "blobs"
    notes = tmp_path / "notes.md"
    notes.write_text("## Limits\n\nBalls only.")
    assert focusnet(["bundle", str(run), "-o", str(target), "--notes", str(notes), "--device", "cpu", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["name"] == "blobs"
    assert len(printed.err.splitlines()) == 2  # a line per validation case
    assert sorted(p.name for p in target.iterdir()) == ["MODEL_CARD.md", "bundle.json", "weights.safetensors"]
    bundle = load_bundle(target)
    parts = {name.split(".")[0] for name in load_file(target / "weights.safetensors")}
    assert parts == {"snet", "sol", "sos"}  # the autoencoder taught shapes and stays behind
    assert bundle.spec.small_organs == ("lens_l", "lens_r")
    image, labels = read_case(read_dataset(blobs), "blob_5")
    prediction = Predictor(bundle, "cpu", "fp32").predict(image)
    assert prediction.labelmap.geometry.is_close(image.geometry)
    for organ in ("brainstem", "parotid_l", "lens_l", "lens_r"):
        truth, answer = (np.argwhere(m.mask(organ)).mean(0) for m in (labels, prediction.labelmap))
        assert np.linalg.norm((truth - answer) * 4) < 6, organ
    card = (target / "MODEL_CARD.md").read_text()
    assert "focusnet train --config CONFIG --data DATA -o RUN --set stages.snet.steps=60" in card
    assert "Balls only." in card
    assert f"{bundle.spec.metrics['dsc_brainstem']:.3f}" in card
    assert "Not a medical device" in card
    weights = (target / "weights.safetensors").read_bytes().decode("latin-1")
    for secret in (str(blobs), "blob_"):  # neither the place of the data nor a case
        assert secret not in card + (target / "bundle.json").read_text() + weights


def test_an_unfinished_run_ships_snet_alone(blobs, config_file, tmp_path):
    folder = tmp_path / "run"
    config = load_config(config_file, ["stages.snet.steps=2", "stages.snet.validate_every=2"])
    assert train(config, blobs, folder, TrainingOptions("cpu", "fp32"), until="snet")
    bundle = make_bundle(folder, tmp_path / "bundle", BundleOptions(device="cpu", grids=4), tell=lambda line: None)
    assert bundle.spec.small_organs == ()
    assert bundle.spec.grids == 4
    assert "the mean of 4 working grids" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert Predictor(bundle, "cpu").predict(read_case(read_dataset(blobs), "blob_5")[0]).settings["grids"] == 4
    assert "- Stages: snet 2 steps, learning rate 0.01; seed" in (tmp_path / "bundle/MODEL_CARD.md").read_text()
    assert json.loads((tmp_path / "bundle/bundle.json").read_text())["architecture"]["arguments"]["num_small"] == 0


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FocusNetError) as caught:
        make_bundle(tmp_path, tmp_path / "out")
    assert caught.value.code == "E_RUN"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "E_USAGE"),
        (["--preset", "nonsense"], "E_UNKNOWN_PRESET"),
        (["--preset", "focusnetv2-openkbp", "--stage", "sos2"], "E_USAGE"),
        (["--preset", "phantom22", "--set", "seed=x"], "E_CONFIG"),
        (["--preset", "phantom22"], "E_DATASET"),
    ],
)
def test_wrong_training_commands_get_one_line_and_code_2(tmp_path, capsys, arguments, code):
    assert focusnet(["train", "--data", str(tmp_path / "none"), "-o", str(tmp_path / "run"), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"{code}: ")
    assert "\n" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("how", "code"), [("file", 3), ("SIGTERM", 3), ("SIGINT", 130)])
def test_a_run_asked_to_stop_saves_and_says_so(blobs, config_file, tmp_path, capsys, how, code):
    if how != "file" and sys.platform == "win32":
        pytest.skip("signals of Unix")
    run = tmp_path / "run"

    def ask():
        while not (run / "status.json").exists() or json.loads((run / "status.json").read_text())["steps_done"] == 0:
            time.sleep(0.02)
        if how == "file":
            (run / "stop").touch()
        else:
            os.kill(os.getpid(), getattr(signal, how))

    asking = threading.Thread(target=ask)
    asking.start()
    command = ["train", "--config", str(config_file), "--data", str(blobs), "-o", str(run), "--device", "cpu"]
    assert focusnet([*command, "--json"]) == code
    asking.join()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[-1] == json.loads((run / "status.json").read_text())
    assert (told[-1]["state"], "on request" in told[-1]["message"]) == ("paused", True)
    assert 0 < load_checkpoint(run / "last.pt")["step"] == told[-1]["steps_done"] < 999
    assert not (run / "stop").exists()


def test_a_refused_start_leaves_the_run_as_it_was(run, blobs, config_file, tmp_path, capsys):
    """The same patients with the lenses' label values exchanged: a bundle made afterwards must not exchange them."""
    folder, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(run, folder)
    shutil.copytree(blobs, other)
    table = json.loads((other / "dataset.json").read_text())
    table["labels"] |= {"Lens_L": 4, "Lens_R": 3}
    (other / "dataset.json").write_text(json.dumps(table))
    for path in (other / "labelsTr").iterdir():
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(sitk.ChangeLabel(image, {3: 4, 4: 3}), str(path))
    before = (folder / "run.json").read_bytes()
    command = ["train", "--config", str(config_file), "--data", str(other), "-o", str(folder), *TRAIN]
    assert focusnet(command) == 2
    assert "E_RUN_EXISTS" in capsys.readouterr().err
    assert focusnet([*command, "--resume"]) == 2
    assert "E_RESUME_MISMATCH" in capsys.readouterr().err
    assert (folder / "run.json").read_bytes() == before

    facts = json.loads(before)
    facts["organs"] = ["brainstem", "parotid_l", "lens_r", "lens_l"]
    (folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(FocusNetError, match="other organs than its checkpoint") as caught:
        make_bundle(folder, tmp_path / "bundle", tell=lambda line: None)
    assert caught.value.code == "E_RUN"


def test_a_model_is_not_measured_on_cases_that_it_has_learned(run, blobs, tmp_path):
    """The split was changed after the training: the validation cases of now were training cases."""
    folder, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(run, folder)
    shutil.copytree(blobs, data)
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(facts | {"data": str(data)}))
    names = [f"blob_{n}" for n in range(6)]
    split = data / "splits_final.json"
    split.write_text(json.dumps([{"train": names[2:], "val": names[:2]}]))
    with pytest.raises(FocusNetError, match="cases changed: blob_") as caught:
        make_bundle(folder, tmp_path / "bundle", BundleOptions(device="cpu"), tell=lambda line: None)
    assert caught.value.code == "E_RUN"
    assert not (tmp_path / "bundle").exists()
    split.write_text(json.dumps([{"train": names[:4], "val": names[4:]}]))
    make_bundle(folder, tmp_path / "bundle", BundleOptions(device="cpu"), tell=lambda line: None)


def test_a_stage_in_progress_that_does_harm_is_not_shipped(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    best = load_checkpoint(folder / "best-sos.pt")
    start = best | {"score": best["score"] + 0.1}
    save_checkpoint(folder / "start-sos.pt", start)
    bundle = make_bundle(folder, tmp_path / "bundle", BundleOptions(device="cpu"), tell=lambda line: None)
    assert bundle.spec.small_organs == ()
    save_checkpoint(folder / "start-sos.pt", best)
    bundle = make_bundle(folder, tmp_path / "other", BundleOptions(device="cpu"), tell=lambda line: None)
    assert bundle.spec.small_organs == ("lens_l", "lens_r")


def test_a_resume_without_a_run_is_refused_at_once_and_leaves_nothing(blobs, config_file, tmp_path, capsys):
    command = ["train", "--config", str(config_file), "--data", str(blobs), "-o", str(tmp_path / "typo"), *TRAIN]
    assert focusnet([*command, "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("E_CHECKPOINT: 'typo' has no checkpoint")
    assert not (tmp_path / "typo").exists()


def test_stages_that_are_finished(run):
    assert is_finished(run, "snet")
    assert is_finished(run, None)


def test_the_autoencoder_s_stage_is_unknown_without_one(blobs, config_file, tmp_path, capsys):
    command = ["train", "--config", str(config_file), "--data", str(blobs), "-o", str(tmp_path / "run"), *TRAIN]
    assert focusnet([*command, "--set", "shape.constraint=none", "--stage", "aae"]) == 2
    assert "E_USAGE" in capsys.readouterr().err
