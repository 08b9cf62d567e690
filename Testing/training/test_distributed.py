"""Two processes train what one trains: same losses, same weights, by the command of the documentation."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from focusnet.errors import FocusNetError
from focusnet_training.checkpoint import load_checkpoint
from focusnet_training.config import TrainingConfig
from focusnet_training.datasets import read_dataset
from focusnet_training.distributed import Processes, connected
from focusnet_training.trainer import Trainer, TrainingOptions

CONFIG = """
name = "blobs"
ema_decay = 0.9
max_fall = 1.0
[network]
widths = [4, 4, 4]
growth = 2
dilations = [2, 3]
roi_shape_zyx = [8, 16, 16]
[shape]
constraint = "adversarial"
widths = [2, 4, 4]
code_size = 6
[data]
spacing_xyz = [4.0, 4.0, 4.0]
window_hu = [-200.0, 800.0]
chunk_zyx = [16, 24, 24]
small_voxels = 60
[augmentation]
scale = [0.9, 1.1]
field_of_view_cut = 0.0
"""
STAGE = """
[[stages]]
name = "{}"
steps = 2
accumulate = 2
validate_every = 2
learning_rate = 1e-3
warmup_steps = 0
"""
TOLERANCE = {"loss": 1e-6, "score": 1.1e-5, "dsc": 1.1e-4, "error": 0.011}  # but for losses: the digits that are kept
SINGLE = ["-m", "focusnet_training"]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "focusnet_training"]


@pytest.fixture(scope="module")
def environment(root):
    path = os.pathsep.join(str(root / part) for part in ("FocusNetSegmentation", "FocusNetTraining"))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def train(start, config, data, run, environment, *more):
    command = [sys.executable, *start, "--config", str(config), "--data", str(data), "-o", str(run)]
    command += ["--device", "cpu", "--precision", "fp32", *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def rows(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_two_processes_train_what_one_trains(blobs, environment, tmp_path):
    config = tmp_path / "blobs.toml"
    config.write_text(CONFIG + "".join(STAGE.format(name) for name in ("snet", "sol", "aae", "sos", "joint")))
    done = train(SINGLE, config, blobs, tmp_path / "one", environment)
    assert done.returncode == 0, done.stderr
    done = train(TWO, config, blobs, tmp_path / "two", environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished") == 1  # process 0 alone speaks
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    stages = ["snet", "sol", "aae", "sos", "sos", "joint", "joint"]  # sos and joint are measured at their start, too
    assert [r["stage"] for r in one] == [r["stage"] for r in two] == stages
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"stage", "seconds"}:
            kind = key.split("_")[0]
            assert a[key] == pytest.approx(b[key], abs=TOLERANCE.get(kind, 0)), (a["stage"], key)
    for name in ("last", "best-snet", "best-joint"):
        a, b = (load_checkpoint(tmp_path / run / f"{name}.pt") for run in ("one", "two"))
        for network in ("model", "autoencoder"):
            for key, value in a[network].items():
                torch.testing.assert_close(
                    value, b[network][key], rtol=1e-5, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
                )


def test_uneven_shares_are_refused_with_the_change(blobs, tmp_path):
    config = TrainingConfig.model_validate({"name": "x", "stages": [{"name": "snet", "steps": 1, "accumulate": 3}]})
    options = TrainingOptions("cpu", "fp32", processes=Processes(0, 2))
    with pytest.raises(FocusNetError, match=r"--set stages\.snet\.accumulate=2") as caught:
        Trainer(config, read_dataset(blobs), tmp_path / "run", options)
    assert caught.value.code == "E_CONFIG"
    assert not (tmp_path / "run").exists()


def test_shares_cover_the_work_once():
    shares = [list(Processes(rank, 3).share(8)) for rank in range(3)]
    assert sorted(n for share in shares for n in share) == list(range(8))


def test_alone_nothing_is_exchanged(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with connected() as alone:
        assert (alone.rank, alone.count, alone.is_first) == (0, 1, True)
        assert alone.sum_terms({"a": 0.1, "b": 3.0}) == {"a": 0.1, "b": 3.0}
        assert np.array_equal(alone.sum(np.arange(3.0)), np.arange(3.0))
        assert alone.from_first(lambda: "read") == "read"
        parameter = torch.nn.Parameter(torch.ones(2))
        alone.sum_gradients([parameter])
        assert parameter.grad is None


def test_processes_without_their_meeting_point_say_so(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(FocusNetError, match="torchrun") as caught, connected():
        pytest.fail("connected without the others")
    assert caught.value.code == "E_DISTRIBUTED"


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert Processes(3, 4, local_rank=1).device("auto") == "cuda:1"
    assert Processes(3, 4, local_rank=1).device("cpu") == "cpu"
    assert Processes().device("auto") == "auto"
    with pytest.raises(FocusNetError, match="3 processes but 2 GPUs") as caught:
        Processes(2, 4, local_rank=2).device("cuda")
    assert caught.value.code == "E_DEVICE"
