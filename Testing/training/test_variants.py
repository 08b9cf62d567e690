"""Every variant that a configuration can name trains all its stages, and holds still what it must."""

import hashlib
import json
import math

import pytest
import torch
from focusnet_training.assembly import build_autoencoder, build_model
from focusnet_training.checkpoint import load_checkpoint
from focusnet_training.config import TrainingConfig, load_preset, preset_names
from focusnet_training.datasets import read_dataset
from focusnet_training.trainer import Trainer, TrainingOptions

OPTIONS = TrainingOptions("cpu", "fp32")
STAGES = ["snet", "sol", "aae", "sos", "joint"]


def config(changes, stages=STAGES):
    values = {
        "name": "blobs",
        "max_fall": 1.0,
        "validation_cases": 1,
        "network": {"widths": [4, 4, 4], "growth": 2, "dilations": [2, 3], "roi_shape_zyx": [8, 16, 16]},
        "data": {"spacing_xyz": [4, 4, 4], "window_hu": [-200, 800], "chunk_zyx": [16, 24, 24], "small_voxels": 60},
        "augmentation": {"scale": [0.9, 1.1], "field_of_view_cut": 0.0},
        "shape": {"constraint": "adversarial", "widths": [2, 4, 4], "code_size": 6},
        "stages": [{"name": n, "steps": 1, "validate_every": 1, "learning_rate": 1e-3} for n in stages],
    }
    for table, change in changes.items():
        values[table] = values[table] | change
    return TrainingConfig.model_validate(values)


def sha(state):
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in state.values())).hexdigest()


@pytest.fixture(scope="module")
def dataset(blobs):
    return read_dataset(blobs)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


VARIANTS = {
    "adversarial": ({}, STAGES),
    "original autoencoder": ({"shape": {"constraint": "frozen"}}, STAGES),
    "no autoencoder": ({"shape": {"constraint": "none"}}, STAGES),
    "without raw CT": ({"network": {"concatenate_ct": False}}, STAGES),
    "SOS-Net as U-Net": ({"network": {"sos": "unet"}}, STAGES),
    "growth 32": ({"network": {"growth": 32}}, STAGES),
    "growth 64": ({"network": {"growth": 64}}, STAGES),
    "batch norm": ({"network": {"norm": "batch"}}, STAGES),
    "S-Net only": ({}, STAGES[:1]),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_trains_its_stages_with_finite_losses(name, dataset, cache, tmp_path):
    changes, stages = VARIANTS[name]
    trainer = Trainer(config(changes, stages), dataset, tmp_path, OPTIONS, cache)
    assert trainer.run()
    assert trainer.skipped == 0
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    trained = [r for r in rows if r["step"] > 0]
    expected = [s for s in stages if s != "aae" or name != "no autoencoder"]
    assert [r["stage"] for r in trained] == expected
    for row in trained:
        losses = {k.removeprefix("loss_"): v for k, v in row.items() if k.startswith("loss_")}
        assert losses
        assert all(map(math.isfinite, losses.values())), row
        if row["stage"] in ("sos", "joint"):
            assert ("shape_code" in losses) == (name != "no autoencoder")
            assert ("aae_apart" in losses) == (name not in ("no autoencoder", "original autoencoder"))
    assert all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())


def test_frozen_statistics_and_the_original_autoencoder_stay_bit_identical(dataset, cache, tmp_path):
    """With batch norm the running means are the trap: the released code never leaves training mode."""
    changes = {"network": {"norm": "batch"}, "shape": {"constraint": "frozen"}}
    trainer = Trainer(config(changes, STAGES), dataset, tmp_path, OPTIONS, cache)
    assert trainer.run()
    after = {s: load_checkpoint(tmp_path / f"best-{s}.pt") for s in STAGES}

    def part(stage, name, kind=""):
        return sha({k: v for k, v in after[stage]["model"].items() if k.startswith(f"{name}.") and kind in k})

    assert part("snet", "snet") == part("sol", "snet") == part("aae", "snet") == part("sos", "snet")
    assert part("sos", "snet", "running_mean") != part("joint", "snet", "running_mean")
    assert part("sol", "sol") == part("aae", "sol") == part("sos", "sol")
    assert part("aae", "sos") != part("sos", "sos")
    assert sha(after["sol"]["autoencoder"]) != sha(after["aae"]["autoencoder"])
    assert sha(after["aae"]["autoencoder"]) == sha(after["sos"]["autoencoder"]) == sha(after["joint"]["autoencoder"])


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_builds(name):
    """On the meta device, where a network of any size costs nothing."""
    preset = load_preset(name)
    organs = len(preset.data.organs or range(26))
    small = 0 if preset.data.small_organs == "auto" else len(preset.data.small_organs)
    with torch.device("meta"):
        model, autoencoder = build_model(preset, organs, small), build_autoencoder(preset)
    assert (model.snet.head.out_channels, len(model.sos)) == (organs + 1, small)
    assert (autoencoder is None) == (preset.shape.constraint == "none")
    if name.startswith("focusnetv2-") and small:  # tables 9 and 10 of the paper
        assert sum(p.numel() for p in model.snet.parameters()) == pytest.approx(2.37e6, rel=0.01)
        assert sum(p.numel() for p in autoencoder.parameters()) == pytest.approx(31.15e6, rel=0.001)
        assert [s.name for s in preset.schedule] == STAGES


def test_paper_presets_have_the_paper_s_organs():
    npc, pddca = load_preset("focusnetv2-npc22"), load_preset("focusnetv2-pddca")
    assert (len(npc.data.organs), len(npc.data.small_organs), npc.data.spacing_xyz) == (22, 6, (1.0, 1.0, 3.0))
    assert (len(pddca.data.organs), len(pddca.data.small_organs), pddca.data.spacing_xyz) == (9, 3, (1.0, 1.0, 2.5))
    for preset in (npc, pddca):
        assert set(preset.data.small_organs) <= set(preset.data.organs)
