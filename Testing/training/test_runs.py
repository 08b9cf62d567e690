"""From a data set to a bundle that segments, and what is refused on the way."""

import json

import numpy as np
import pytest
from focusnet.bundle import load_bundle
from focusnet.errors import FocusNetError
from focusnet.inference import Predictor
from focusnet_training.config import TrainingConfig
from focusnet_training.datasets import read_case, read_dataset
from focusnet_training.model_card import OrganScore
from focusnet_training.runs import BundleOptions, make_bundle, train
from focusnet_training.trainer import TrainingOptions

CONFIG = TrainingConfig.model_validate(
    {
        "name": "blobs",
        "network": {"widths": [8, 8, 8], "growth": 4, "dilations": [2, 3], "roi_shape_zyx": [8, 12, 12]},
        "data": {"spacing_xyz": [4, 4, 4], "window_hu": [-200, 800], "chunk_zyx": [16, 24, 24], "small_voxels": 60},
        "augmentation": {"scale": [0.9, 1.1], "field_of_view_cut": 0.0, "translation_mm": 8},
        "stages": [
            {"name": "snet", "steps": 60, "validate_every": 60, "learning_rate": 1e-2, "warmup_steps": 0},
            {"name": "sol", "steps": 40, "validate_every": 40, "learning_rate": 1e-2, "warmup_steps": 0},
            {"name": "sos", "steps": 40, "validate_every": 40, "learning_rate": 1e-2, "warmup_steps": 0},
        ],
    }
)
OPTIONS = TrainingOptions(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def run(blobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert train(CONFIG, blobs, folder, OPTIONS, command="focusnet train --preset blobs")
    return folder


def test_a_run_becomes_a_bundle_that_segments_on_the_native_grid(run, blobs, tmp_path):
    lines = []
    bundle = make_bundle(run, tmp_path / "blobs", BundleOptions(device="cpu"), tell=lines.append)
    assert len(lines) == 2
    assert sorted(p.name for p in (tmp_path / "blobs").iterdir()) == [
        "MODEL_CARD.md",
        "bundle.json",
        "weights.safetensors",
    ]
    assert bundle.spec.small_organs == ("lens_l", "lens_r")
    image, labels = read_case(read_dataset(blobs), "blob_5")
    prediction = Predictor(load_bundle(tmp_path / "blobs"), "cpu", "fp32").predict(image)
    assert prediction.labelmap.geometry.is_close(image.geometry)
    for organ in ("brainstem", "parotid_l", "lens_l", "lens_r"):
        truth, answer = (np.argwhere(m.mask(organ)).mean(0) for m in (labels, prediction.labelmap))
        assert np.linalg.norm((truth - answer) * 4) < 6, organ
    card = (tmp_path / "blobs/MODEL_CARD.md").read_text()
    assert "focusnet train --preset blobs" in card
    assert f"{bundle.spec.metrics['dsc_brainstem']:.3f}" in card
    assert "Not a medical device" in card
    assert str(blobs) not in card + (tmp_path / "blobs/bundle.json").read_text()


def test_an_unfinished_run_ships_snet_alone(run, blobs, tmp_path):
    folder = tmp_path / "run"
    assert train(CONFIG, blobs, folder, OPTIONS, until="snet")
    bundle = make_bundle(folder, tmp_path / "bundle", BundleOptions(device="cpu"), tell=lambda line: None)
    assert bundle.spec.small_organs == ()
    assert json.loads((tmp_path / "bundle/bundle.json").read_text())["architecture"]["arguments"]["num_small"] == 0


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FocusNetError) as caught:
        make_bundle(tmp_path, tmp_path / "out")
    assert caught.value.code == "E_RUN"
    assert not (tmp_path / "out").exists()


def test_interval_of_a_constant_is_a_point():
    score = OrganScore.of([0.8, 0.8, 0.8])
    assert (score.n, score.low, score.high, score.least) == (3, pytest.approx(0.8), pytest.approx(0.8), 0.8)
    assert OrganScore.of([]).n == 0
