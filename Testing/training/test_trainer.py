"""The trainer on real files: it learns, resumes bit for bit, freezes what it must, refuses what does not fit."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from focusnet.bundle import Architecture, ModelSpec, save_bundle
from focusnet.errors import FocusNetError
from focusnet.networks.builders import build
from focusnet_training.assembly import network_arguments
from focusnet_training.augmentation import extract_chunk
from focusnet_training.checkpoint import load_checkpoint, save_checkpoint
from focusnet_training.config import TrainingConfig
from focusnet_training.datasets import read_dataset
from focusnet_training.trainer import Trainer, TrainingOptions
from focusnet_training.validation import ValidationResult, validate

OPTIONS = TrainingOptions(device="cpu", precision="fp32", pictures=False)


def config(stages, **changes):
    values = {
        "name": "blobs",
        "seed": 5,
        "ema_decay": 0.9,
        "max_fall": 1.0,
        "network": {"widths": [4, 4, 4], "growth": 2, "dilations": [2, 3], "roi_shape_zyx": [8, 16, 16]},
        "data": {"spacing_xyz": [4, 4, 4], "window_hu": [-200, 800], "chunk_zyx": [16, 24, 24], "small_voxels": 60},
        "shape": {"constraint": "adversarial", "widths": [2, 4, 4], "code_size": 6},
        "augmentation": {"scale": [0.9, 1.1], "field_of_view_cut": 0.0},
        "stages": [{"learning_rate": 1e-2, "warmup_steps": 0, **s} for s in stages],
    }
    return TrainingConfig.model_validate(values | changes)


def sha(state):
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in state.values())).hexdigest()


ALL = [
    {"name": "snet", "steps": 3, "validate_every": 3},
    {"name": "sol", "steps": 3, "validate_every": 3},
    {"name": "aae", "steps": 3, "validate_every": 3},
    {"name": "sos", "steps": 3, "validate_every": 3},
    {"name": "joint", "steps": 2, "validate_every": 2},
]


@pytest.fixture(scope="module")
def dataset(blobs):
    return read_dataset(blobs)


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """A whole run of all stages, and the trainer after it."""
    folder = tmp_path_factory.mktemp("run")
    trainer = Trainer(config(ALL), dataset, folder, OPTIONS)
    assert trainer.run()
    return folder, trainer


def test_small_organs_follow_the_volume_rule(finished):
    assert finished[1].small == ("lens_l", "lens_r")


def test_every_stage_logs_and_leaves_its_best(finished):
    folder, _ = finished
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    # Guarded stages are measured before their first step.
    assert [r["stage"] for r in rows] == ["snet", "sol", "aae", "sos", "sos", "joint", "joint"]
    assert [r["step"] for r in rows] == [3, 3, 3, 0, 3, 0, 2]
    assert {"loss_focal", "loss_dice", "dsc_brainstem"} <= rows[0].keys()
    assert {"loss_heatmap", "error_mm_lens_l"} <= rows[1].keys()
    assert {"loss_aae_reconstruction", "dsc_lens_l"} <= rows[2].keys()
    game = {"loss_roi_dice", "loss_shape_code", "loss_shape_features", "loss_aae_reconstruction", "loss_aae_apart"}
    assert game | {"error_mm_lens_r", "dsc_lens_l"} <= rows[4].keys()
    assert game | {"loss_heatmap", "loss_focal"} <= rows[6].keys()
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert {p.name for p in folder.glob("best-*.pt")} == {f"best-{s['name']}.pt" for s in ALL}


def test_frozen_parts_stay_bit_identical(finished):
    folder, _ = finished
    best = {s["name"]: load_checkpoint(folder / f"best-{s['name']}.pt") for s in ALL}

    def part(stage, name):
        if name == "aae":
            return sha(best[stage]["autoencoder"])
        return sha({k: v for k, v in best[stage]["model"].items() if k.startswith(f"{name}.")})

    assert part("snet", "snet") == part("sol", "snet") == part("aae", "snet") == part("sos", "snet")
    assert part("sos", "snet") != part("joint", "snet")
    assert part("snet", "sol") != part("sol", "sol") == part("aae", "sol") == part("sos", "sol")
    assert part("sol", "sos") == part("aae", "sos") != part("sos", "sos")
    assert part("snet", "aae") == part("sol", "aae") != part("aae", "aae") != part("sos", "aae")


@pytest.mark.parametrize("stop_at", [1, 4, 8, 10, 13])
def test_a_stopped_run_resumes_bit_for_bit(finished, dataset, tmp_path, monkeypatch, stop_at):
    """Killed at a step that no checkpoint follows, in every stage: what was lost is trained again, exactly."""
    steps = 0
    real = Trainer._train_step

    def dying(self, *args):
        nonlocal steps
        steps += 1
        if steps > stop_at:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(Trainer, "_train_step", dying)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config(ALL), dataset, tmp_path, replace(OPTIONS, save_every_s=0.0)).run()
    monkeypatch.undo()
    resumed = Trainer(config(ALL), dataset, tmp_path, OPTIONS)
    assert resumed.run(resume=True)
    assert sha(resumed.model.state_dict()) == sha(finished[1].model.state_dict())
    assert sha(resumed.averaged.state_dict()) == sha(finished[1].averaged.state_dict())
    assert sha(resumed.autoencoder.state_dict()) == sha(finished[1].autoencoder.state_dict())


def test_a_stage_that_does_harm_is_undone_and_says_so(finished, dataset, tmp_path, monkeypatch):
    """The run ends with the weights of the stage before."""
    folder, _ = finished
    falls = iter([0.0, 0.1])

    def falling(*given, **named):  # networks of a few steps know nothing that could be lost
        result = validate(*given, **named)
        return replace(result, score=result.score - next(falls))

    monkeypatch.setattr("focusnet_training.trainer.validate", falling)
    start = folder / "best-sos.pt"
    wild = [{"name": "joint", "steps": 2, "validate_every": 2, "learning_rate": 1e3}]
    told = []
    options = replace(OPTIONS, initial=start, report=told.append)
    trainer = Trainer(config(wild, max_fall=0.0), dataset, tmp_path, options)
    assert trainer.run()
    before = load_checkpoint(start)
    assert sha(trainer.averaged.state_dict()) == sha(trainer.model.state_dict()) == sha(before["model"])
    assert sha(trainer.autoencoder.state_dict()) == sha(before["autoencoder"])
    shipped = load_checkpoint(tmp_path / "best-joint.pt")
    assert sha(shipped["model"]) == sha(before["model"])
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [0, 2, 2]
    assert rows[1]["score"] < rows[0]["score"]
    assert shipped["score"] == before["score"] == pytest.approx(rows[0]["score"], abs=1e-5)
    assert "undone" in rows[2]["note"]
    assert any("undone" in status.get("note", "") for status in told)
    assert not (tmp_path / "start-joint.pt").exists()


def test_time_budget_pauses_and_resume_finishes(dataset, tmp_path, finished):
    paused = Trainer(config(ALL), dataset, tmp_path, replace(OPTIONS, max_hours=0.0))
    assert not paused.run()
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "paused"
    resumed = Trainer(config(ALL), dataset, tmp_path, OPTIONS)
    assert resumed.run(resume=True)
    assert sha(resumed.model.state_dict()) == sha(finished[1].model.state_dict())


def test_a_pause_asked_for_comes_after_the_step_and_resume_finishes(dataset, tmp_path, finished):
    answers = iter([False, True])
    paused = Trainer(config(ALL), dataset, tmp_path, replace(OPTIONS, pause=lambda: next(answers)))
    assert not paused.run()
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["steps_done"]) == ("paused", 2)
    resumed = Trainer(config(ALL), dataset, tmp_path, OPTIONS)
    assert resumed.run(resume=True)
    assert sha(resumed.model.state_dict()) == sha(finished[1].model.state_dict())


def test_resume_with_another_configuration_names_the_difference(finished, dataset):
    folder, _ = finished
    with pytest.raises(FocusNetError, match=r"seed.*stages") as caught:
        Trainer(config(ALL[:1], seed=6), dataset, folder, OPTIONS).run(resume=True)
    assert caught.value.code == "E_RESUME_MISMATCH"
    with pytest.raises(FocusNetError) as caught:
        Trainer(config(ALL), dataset, folder, OPTIONS).run()
    assert caught.value.code == "E_RUN_EXISTS"


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_non_finite_losses_are_skipped_and_then_stop_the_run(dataset, tmp_path, monkeypatch, norm):
    """They change nothing, running statistics neither."""
    bad = config([{"name": "snet", "steps": 9, "validate_every": 9}], max_skipped_steps=2)
    bad = bad.model_copy(update={"network": bad.network.model_copy(update={"norm": norm})})
    trainer = Trainer(bad, dataset, tmp_path, OPTIONS)
    before = sha(trainer.model.state_dict())
    real = Trainer._batch

    def poisoned(self, *args):
        batch = real(self, *args)
        batch.ct.fill_(float("nan"))
        return batch

    monkeypatch.setattr(Trainer, "_batch", poisoned)
    with pytest.raises(FocusNetError, match="snet") as caught:
        trainer.run()
    assert caught.value.code == "E_DIVERGED"
    assert sha(trainer.model.state_dict()) == before


def test_small_stages_without_small_organs_are_refused(dataset, tmp_path):
    values = config(ALL).model_dump()
    values["data"]["small_voxels"] = 1
    with pytest.raises(FocusNetError, match="volume rule") as caught:
        Trainer(TrainingConfig.model_validate(values), dataset, tmp_path, OPTIONS).run()
    assert caught.value.code == "E_CONFIG"
    assert not (tmp_path / "config.json").exists()


def test_s_net_may_be_trained_alone_where_no_organ_is_small(dataset, tmp_path):
    """As the refusal of the other stages says."""
    values = config(SHORT).model_dump()
    values["data"]["small_voxels"] = 1
    settings = TrainingConfig.model_validate(values)
    assert Trainer(settings, dataset, tmp_path, OPTIONS).run(until="snet")
    with pytest.raises(FocusNetError, match="--stage snet"):
        Trainer(settings, dataset, tmp_path, OPTIONS).run(resume=True)
    assert Trainer(settings, dataset, tmp_path, OPTIONS).run(resume=True, until="snet")


def test_small_organs_that_no_training_case_shows_are_refused_before_the_training(make_blobs, tmp_path):
    missing = {f"blob_{n}": ["Brainstem", "Parotid_L"] for n in range(4)}
    dataset = read_dataset(make_blobs(tmp_path / "data", annotated=missing))
    values = config(SHORT).model_dump()
    values["data"]["small_organs"] = ("lens_l", "lens_r")
    with pytest.raises(FocusNetError, match="No training case shows any of lens_l, lens_r") as caught:
        Trainer(TrainingConfig.model_validate(values), dataset, tmp_path / "run", OPTIONS).run()
    assert caught.value.code == "E_CONFIG"
    assert not (tmp_path / "run/config.json").exists()


def test_it_learns_the_blobs_and_an_organ_missing_in_half_of_the_cases(make_blobs, tmp_path):
    """Parotid not drawn in two of four training cases: the marginal loss must still find it in every case."""
    missing = {f"blob_{n}": ["Brainstem", "Lens_L", "Lens_R"] for n in (0, 1)}
    dataset = read_dataset(make_blobs(tmp_path / "data", annotated=missing))
    stages = [{"name": "snet", "steps": 60, "validate_every": 60}]
    trainer = Trainer(config(stages, ema_decay=0.0), dataset, tmp_path / "run", OPTIONS)
    trainer.run()
    row = json.loads((tmp_path / "run/log.jsonl").read_text().splitlines()[-1])
    assert row["dsc_parotid_l"] > 0.7
    assert row["dsc_brainstem"] > 0.7
    assert np.isfinite(row["loss_focal"])
    assert not any(torch.isnan(p).any() for p in trainer.model.parameters())


def test_a_run_may_start_from_another_s_weights(finished, dataset, tmp_path):
    start = finished[0] / "best-snet.pt"
    options = replace(OPTIONS, initial=start)
    trainer = Trainer(config(ALL), dataset, tmp_path / "next", options)
    assert sha(trainer.model.state_dict()) == sha(load_checkpoint(start)["model"])
    assert trainer.run(until="snet")
    assert Trainer(config(ALL), dataset, tmp_path / "next", OPTIONS).run(resume=True, until="sol")
    other = replace(OPTIONS, initial=finished[0] / "best-sol.pt")
    with pytest.raises(FocusNetError, match="weights it starts from") as caught:
        Trainer(config(ALL), dataset, tmp_path / "next", other).run(resume=True)
    assert caught.value.code == "E_RESUME_MISMATCH"
    narrow = config(ALL).model_dump()
    narrow["network"]["widths"] = (4, 4, 8)
    with pytest.raises(FocusNetError, match="another network") as caught:
        Trainer(TrainingConfig.model_validate(narrow), dataset, tmp_path / "narrow", options)
    assert caught.value.code == "E_CHECKPOINT"


def bundle_of(folder, trainer, organs, small):
    settings = trainer.config
    arguments = network_arguments(settings, len(organs), len(small))
    spec = ModelSpec(
        name="blobs",
        description="test",
        architecture=Architecture(name="focusnetv2", arguments=arguments),
        organs=organs,
        small_organs=small,
        spacing_mm_xyz=settings.data.spacing_xyz,
        window_hu=settings.data.window_hu,
        chunk_shape_zyx=settings.data.chunk_zyx,
        overlap_zyx=(4, 4, 4),
        roi_shape_zyx=settings.network.roi_shape_zyx,
        training_data="phantoms",
    )
    network = build("focusnetv2", **arguments)
    network.load_state_dict({k: v for k, v in trainer.model.state_dict().items() if small or k.startswith("snet.")})
    return save_bundle(folder, spec, network, "card", precision="fp32").folder


def test_a_run_may_start_from_a_bundle(finished, dataset, tmp_path):
    trainer = finished[1]
    whole = bundle_of(tmp_path / "whole", trainer, trainer.organs, trainer.small)
    options = replace(OPTIONS, initial=whole)
    next_run = Trainer(config(ALL), dataset, tmp_path / "next", options)
    assert next_run.sos_learned
    assert sha(next_run.model.state_dict()) == sha(trainer.model.state_dict())
    assert next_run.run(until="snet")
    assert Trainer(config(ALL), dataset, tmp_path / "next", OPTIONS).run(resume=True, until="sol")

    alone = bundle_of(tmp_path / "alone", trainer, trainer.organs, ())
    fresh = Trainer(config(ALL), dataset, tmp_path / "fresh", OPTIONS).model.state_dict()
    started = Trainer(config(ALL), dataset, tmp_path / "snet", replace(OPTIONS, initial=alone))
    assert started.sos_learned is False
    for name, tensor in started.model.state_dict().items():
        same = trainer.model.state_dict() if name.startswith("snet.") else fresh
        assert torch.equal(tensor, same[name]), name


def test_weights_of_organs_in_another_order_are_refused(finished, dataset, tmp_path):
    """Left and right have weights of one shape; only the names tell them apart."""
    trainer = finished[1]
    swapped = tuple({"lens_l": "lens_r", "lens_r": "lens_l"}.get(o, o) for o in trainer.organs)
    path = bundle_of(tmp_path / "swapped", trainer, swapped, trainer.small)
    with pytest.raises(FocusNetError, match="another order") as caught:
        Trainer(config(ALL), dataset, tmp_path / "next", replace(OPTIONS, initial=path))
    assert caught.value.code == "E_CHECKPOINT"
    settings = config(ALL).model_dump()
    settings["data"]["organs"] = swapped
    other = TrainingConfig.model_validate(settings)
    with pytest.raises(FocusNetError, match="another order") as caught:
        Trainer(other, dataset, tmp_path / "run", replace(OPTIONS, initial=finished[0] / "best-joint.pt"))
    assert caught.value.code == "E_CHECKPOINT"
    narrow = config(ALL).model_dump()
    narrow["network"]["widths"] = (4, 4, 8)
    fits = bundle_of(tmp_path / "fits", trainer, trainer.organs, trainer.small)
    with pytest.raises(FocusNetError, match="another network") as caught:
        Trainer(TrainingConfig.model_validate(narrow), dataset, tmp_path / "narrow", replace(OPTIONS, initial=fits))
    assert caught.value.code == "E_CHECKPOINT"


SHORT = [{"name": "snet", "steps": 3, "validate_every": 2}, {"name": "sol", "steps": 2, "validate_every": 2}]


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def without_time(log):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in log]


@pytest.mark.parametrize("crash_in", ["_score", "_save_weights", "_finish_stage"])
def test_a_crash_in_or_after_a_validation_loses_no_step_and_repeats_no_line(dataset, tmp_path, monkeypatch, crash_in):
    whole = Trainer(config(SHORT), dataset, tmp_path / "whole", OPTIONS)
    assert whole.run()

    def dying(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, crash_in, dying)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config(SHORT), dataset, tmp_path / "run", OPTIONS).run()
    monkeypatch.undo()
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert (status["state"], "interrupted" in status["message"]) == ("paused", True)
    saved = load_checkpoint(tmp_path / "run/last.pt")
    assert (saved["stage"], saved["step"]) == (0, 3 if crash_in == "_finish_stage" else 2)
    resumed = Trainer(config(SHORT), dataset, tmp_path / "run", OPTIONS)
    assert resumed.run(resume=True)
    assert without_time(rows(tmp_path / "run")) == without_time(rows(tmp_path / "whole"))
    assert sha(resumed.model.state_dict()) == sha(whole.model.state_dict())


def test_a_stage_without_progress_ends_early(dataset, tmp_path, monkeypatch):
    scores = iter([0.5, 0.6, 0.6, 0.55])
    monkeypatch.setattr(Trainer, "_score", lambda self, stage: ValidationResult(next(scores), {}, {}))
    stage = {"name": "snet", "steps": 90, "validate_every": 1, "patience": 2}
    trainer = Trainer(config([stage]), dataset, tmp_path, OPTIONS)
    assert trainer.run()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4]
    assert load_checkpoint(tmp_path / "best-snet.pt")["step"] == 2
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["steps_done"], status["best_score"]) == ("finished", 90, 0.6)


def test_until_a_stage_that_is_finished_trains_nothing_more(finished, dataset, tmp_path):
    first = Trainer(config(SHORT), dataset, tmp_path, OPTIONS)
    assert first.run(until="snet")
    before = load_checkpoint(tmp_path / "last.pt")
    assert Trainer(config(SHORT), dataset, tmp_path, OPTIONS).run(resume=True, until="snet")
    assert sha(load_checkpoint(tmp_path / "last.pt")["model"]) == sha(before["model"])
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "paused"


def test_a_full_disk_stops_clearly_and_resume_finishes(dataset, tmp_path, monkeypatch, finished):
    def full(path, state):
        raise FocusNetError("E_CHECKPOINT_WRITE", "No space left on device")

    trainer = Trainer(config(ALL), dataset, tmp_path, OPTIONS)
    assert trainer.run(until="snet")
    whole = (tmp_path / "last.pt").read_bytes()
    monkeypatch.setattr("focusnet_training.trainer.save_checkpoint", full)
    with pytest.raises(FocusNetError, match="No space left"):
        Trainer(config(ALL), dataset, tmp_path, OPTIONS).run(resume=True)
    monkeypatch.undo()
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], "No space left" in status["message"]) == ("failed", True)
    assert (tmp_path / "last.pt").read_bytes() == whole
    resumed = Trainer(config(ALL), dataset, tmp_path, OPTIONS)
    assert resumed.run(resume=True)
    assert sha(resumed.model.state_dict()) == sha(finished[1].model.state_dict())


def test_a_run_folder_that_cannot_be_made_is_refused(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FocusNetError) as caught:
        Trainer(config(SHORT), dataset, tmp_path / "file" / "run", OPTIONS)
    assert caught.value.code == "E_OUTPUT_WRITE"


def test_resume_with_other_data_names_what_is_other(make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "data")
    dataset = read_dataset(folder)
    assert Trainer(config(SHORT), dataset, tmp_path / "run", OPTIONS).run(until="snet")
    saved = (tmp_path / "run/last.pt").read_bytes()
    assert b"blob_" not in saved  # no case name, which may be a patient's, leaves in a checkpoint
    for other, phrase in (
        (make_blobs(tmp_path / "more", cases=7), "cases added: blob_6"),
        (make_blobs(tmp_path / "drawn", annotated={"blob_1": ["Brainstem"]}), "cases changed: blob_1"),
        (make_blobs(tmp_path / "fewer", cases=5), "cases missing: 1"),
    ):
        with pytest.raises(FocusNetError, match=phrase) as caught:
            Trainer(config(SHORT), read_dataset(other), tmp_path / "run", OPTIONS).run(resume=True)
        assert caught.value.code == "E_RESUME_MISMATCH"
    assert (tmp_path / "run/last.pt").read_bytes() == saved
    values = config(SHORT).model_dump()
    values["data"]["organs"] = ("brainstem", "lens_l", "lens_r")
    with pytest.raises(FocusNetError, match="without parotid_l"):
        Trainer(TrainingConfig.model_validate(values), dataset, tmp_path / "run", OPTIONS).run(resume=True)
    (folder / "imagesTr/blob_2_0000.nrrd").unlink()
    with pytest.raises(FocusNetError, match="blob_2") as caught:
        read_dataset(folder)
    assert caught.value.code == "E_DATASET"


def test_a_checkpoint_of_another_version_is_refused(dataset, tmp_path):
    assert Trainer(config(SHORT), dataset, tmp_path, OPTIONS).run(until="snet")
    state = load_checkpoint(tmp_path / "last.pt")
    torch.save(state | {"data": "0" * 64}, tmp_path / "last.pt")
    with pytest.raises(FocusNetError, match="another version") as caught:
        Trainer(config(SHORT), dataset, tmp_path, OPTIONS).run(resume=True)
    assert caught.value.code == "E_CHECKPOINT"


def test_memory_that_does_not_suffice_is_one_clear_line(dataset, tmp_path, monkeypatch):
    def greedy(self, *args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Trainer, "_train_step", greedy)
    with pytest.raises(FocusNetError, match="chunk_zyx") as caught:
        Trainer(config(SHORT), dataset, tmp_path, OPTIONS).run()
    assert caught.value.code == "E_OUT_OF_MEMORY"
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"


def test_a_validation_leaves_a_picture(dataset, tmp_path):
    stage = {"name": "snet", "steps": 2, "validate_every": 2}
    assert Trainer(config([stage]), dataset, tmp_path, TrainingOptions("cpu", "fp32")).run()
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["picture"] == "pictures/snet-000002.png"
    assert (tmp_path / status["picture"]).read_bytes().startswith(b"\x89PNG")


def test_a_sos_net_that_is_worse_than_s_net_alone_is_not_kept(dataset, tmp_path, monkeypatch):
    """What the stage sos must not fall below are S-Net's own answers; the joint stage after it neither."""
    scores = {"snet": 0.8, "sol": -0.1, "aae": 0.5, "sos": 0.6, "joint": 0.5}
    asked = []

    def score(self, stage):
        asked.append(stage)
        return ValidationResult(scores[stage], {}, {})

    monkeypatch.setattr(Trainer, "_score", score)
    stages = [s | {"steps": 1, "validate_every": 1} for s in ALL]
    trainer = Trainer(config(stages, max_fall=0.005), dataset, tmp_path, OPTIONS)
    assert trainer.run()
    assert asked == ["snet", "sol", "aae", "snet", "sos", "snet", "joint"]
    assert sha(trainer.averaged.state_dict()) == sha(load_checkpoint(tmp_path / "best-aae.pt")["model"])
    assert {p.name for p in tmp_path.glob("*-*.pt")} == {"best-snet.pt", "best-sol.pt", "best-aae.pt"}
    assert sum("undone" in row.get("note", "") for row in rows(tmp_path)) == 2


NO_SHAPE = {"constraint": "none"}


@pytest.mark.parametrize(
    ("name", "keys", "asked", "kept"),
    [
        ("best-snet.pt", {}, ["snet", "sos"], False),
        ("best-joint.pt", {}, ["sos", "sos"], True),
        # Checkpoints of earlier versions don't say whether SOS-Net has learned: their names do, or its score decides.
        ("best-snet.pt", {"sos_learned"}, ["snet", "sos"], False),
        ("best-sos.pt", {"sos_learned"}, ["sos", "sos"], True),
        ("weights.pt", {"sos_learned"}, ["snet", "sos", "sos"], False),
    ],
)
def test_weights_without_a_trained_sos_net_are_guarded_as_s_net_alone(
    finished, dataset, tmp_path, monkeypatch, name, keys, asked, kept
):
    source = finished[0] / (name if name != "weights.pt" else "best-aae.pt")
    state = {key: value for key, value in load_checkpoint(source).items() if key not in keys}
    save_checkpoint(tmp_path / name, state)
    scores = iter([0.8, 0.7, 0.75] if len(asked) == 3 else [0.8, 0.75])
    told = []
    monkeypatch.setattr(
        Trainer, "_score", lambda self, stage: told.append(stage) or ValidationResult(next(scores), {}, {})
    )
    stages = [{"name": "sos", "steps": 1, "validate_every": 1}]
    settings = config(stages, max_fall=0.005, shape=NO_SHAPE)
    trainer = Trainer(settings, dataset, tmp_path / "run", replace(OPTIONS, initial=tmp_path / name))
    assert trainer.run()
    assert told == asked
    assert (tmp_path / "run/best-sos.pt").exists() == kept
    assert sha(trainer.model.state_dict()) == sha(state["model"])


def test_joint_training_without_a_stage_of_sos_net_is_guarded_as_s_net_alone(dataset, tmp_path, monkeypatch):
    scores = {"snet": 0.8, "joint": 0.7}
    monkeypatch.setattr(Trainer, "_score", lambda self, stage: ValidationResult(scores[stage], {}, {}))
    stages = [{"name": name, "steps": 1, "validate_every": 1} for name in ("snet", "joint")]
    trainer = Trainer(config(stages, max_fall=0.005, shape=NO_SHAPE), dataset, tmp_path, OPTIONS)
    assert trainer.run()
    assert {p.name for p in tmp_path.glob("*-*.pt")} == {"best-snet.pt"}
    assert sha(trainer.averaged.state_dict()) == sha(load_checkpoint(tmp_path / "best-snet.pt")["model"])


def test_what_sos_net_has_learned_is_known_after_a_resume(dataset, tmp_path, monkeypatch):
    """Also by checkpoints of an earlier version, which don't say it."""
    scores = {"snet": [0.8, 0.8], "sol": [-0.1], "sos": [0.9], "joint": [0.7, 0.9]}
    asked = []
    monkeypatch.setattr(
        Trainer, "_score", lambda self, stage: asked.append(stage) or ValidationResult(scores[stage].pop(), {}, {})
    )
    stages = [{"name": name, "steps": 1, "validate_every": 1} for name in scores]
    settings = config(stages, max_fall=0.005, shape=NO_SHAPE)
    assert Trainer(settings, dataset, tmp_path, OPTIONS).run(until="sos")
    state = load_checkpoint(tmp_path / "last.pt")
    assert state.pop("sos_learned") is True
    save_checkpoint(tmp_path / "last.pt", state)
    assert Trainer(settings, dataset, tmp_path, OPTIONS).run(resume=True)
    assert asked == ["snet", "sol", "snet", "sos", "joint", "joint"]
    assert sha(load_checkpoint(tmp_path / "best-joint.pt")["model"]) == sha(
        load_checkpoint(tmp_path / "best-sos.pt")["model"]
    )


def test_a_crash_after_a_stage_was_undone_is_survived(dataset, tmp_path, monkeypatch):
    scores = {"snet": 0.8, "sol": -0.1, "aae": 0.5, "sos": 0.6}
    monkeypatch.setattr(Trainer, "_score", lambda self, stage: ValidationResult(scores[stage], {}, {}))
    stages = [s | {"steps": 1, "validate_every": 1} for s in ALL[:4]]
    save = Trainer._save

    def dying(self, learners):
        if self.stage_index == 4:
            raise KeyboardInterrupt
        save(self, learners)

    monkeypatch.setattr(Trainer, "_save", dying)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config(stages, max_fall=0.005), dataset, tmp_path, OPTIONS).run()
    monkeypatch.setattr(Trainer, "_save", save)
    resumed = Trainer(config(stages, max_fall=0.005), dataset, tmp_path, OPTIONS)
    assert resumed.run(resume=True)
    assert sha(resumed.averaged.state_dict()) == sha(load_checkpoint(tmp_path / "best-aae.pt")["model"])


def test_organs_that_are_nowhere_don_t_count_as_found(make_blobs, tmp_path, monkeypatch):
    """Both empty is no answer: a network that labels nothing gets nothing for it."""
    missing = {f"blob_{n}": ["Brainstem", "Parotid_L"] for n in (4, 5)}
    folder = make_blobs(tmp_path / "data", annotated=missing)
    (folder / "cases.json").write_text(
        json.dumps({"cases": {f"blob_{n}": {"split": "validation" if n > 3 else "training"} for n in range(6)}})
    )
    trainer = Trainer(config(SHORT[:1]), read_dataset(folder), tmp_path / "run", OPTIONS)
    with torch.no_grad():
        for parameter in trainer.averaged.snet.head.parameters():
            parameter.zero_()
    result = trainer._score("snet")
    assert result.dsc == {"brainstem": 0.0, "parotid_l": 0.0}
    assert result.score == 0.0


def test_validation_cases_that_can_t_choose_a_checkpoint_are_refused_at_once(make_blobs, tmp_path):
    missing = {f"blob_{n}": ["Brainstem", "Parotid_L"] for n in (4, 5)}
    dataset = read_dataset(make_blobs(tmp_path / "data", annotated=missing))
    with pytest.raises(FocusNetError, match="lens_l, lens_r") as caught:
        Trainer(config(SHORT), dataset, tmp_path / "run", OPTIONS).run()
    assert caught.value.code == "E_CONFIG"
    assert Trainer(config(SHORT), dataset, tmp_path / "run", OPTIONS).run(until="snet")


def test_fp16_is_not_trained_in(dataset, tmp_path, monkeypatch):
    """Without scaling of the loss most gradients of the background are zero in it."""
    monkeypatch.setattr("focusnet_training.assembly.resolve_precision", lambda name, device: "fp16")
    assert Trainer(config(SHORT), dataset, tmp_path, replace(OPTIONS, precision="auto")).precision == "fp32"
    with pytest.raises(FocusNetError, match="vanish") as caught:
        Trainer(config(SHORT), dataset, tmp_path, replace(OPTIONS, precision="fp16"))
    assert caught.value.code == "E_PRECISION"


def test_a_stage_that_the_run_does_not_have_is_refused(dataset, tmp_path):
    without = config(ALL, shape={"constraint": "none"})
    with pytest.raises(FocusNetError, match="no stage 'aae'") as caught:
        Trainer(without, dataset, tmp_path, OPTIONS).run(until="aae")
    assert caught.value.code == "E_CONFIG"
    assert not (tmp_path / "config.json").exists()


def test_chunks_are_moved_in_plane_by_as_much_as_the_configuration_says(dataset, tmp_path, monkeypatch):
    trainer = Trainer(config(SHORT, augmentation={"translation_mm": 12.0}), dataset, tmp_path, OPTIONS)
    case, still = trainer.training[0], np.array([8.0, 20.0, 20.0])
    centres = []

    def noted(ct, labels, centre, *rest):
        centres.append(centre)
        return extract_chunk(ct, labels, centre, *rest)

    monkeypatch.setattr("focusnet_training.trainer.extract_chunk", noted)

    class Sampler:
        def draw(self, rng):
            return case, still

    for seed in range(60):
        trainer._batch(Sampler(), np.random.default_rng(seed))
    moved_mm = np.abs(np.array(centres) - still) * 4.0
    assert (moved_mm[:, 0] == 0).all()
    assert 11.0 < moved_mm[:, 1:].max() <= 12.0
