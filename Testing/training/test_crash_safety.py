"""Thirty SIGKILLs over all stages of a run, at random moments and inside writes: the final weights are the same bits.

Run with ``-m slow -s`` for the list of kills.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections import Counter

import numpy as np
import pytest
from focusnet_training.checkpoint import load_checkpoint
from focusnet_training.config import TrainingConfig
from focusnet_training.runs import train
from focusnet_training.trainer import TrainingOptions

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is of Unix")]

STAGES = ("snet", "sol", "aae", "sos", "joint")
STEPS = 30
CONFIG = TrainingConfig.model_validate(
    {
        "name": "blobs",
        "seed": 11,
        "ema_decay": 0.9,
        "max_fall": 1.0,
        "network": {"widths": [4, 4, 4], "growth": 2, "dilations": [2, 3], "roi_shape_zyx": [8, 16, 16]},
        "data": {"spacing_xyz": [4, 4, 4], "window_hu": [-200, 800], "chunk_zyx": [16, 24, 24], "small_voxels": 60},
        "shape": {"constraint": "adversarial", "widths": [2, 4, 4], "code_size": 6},
        "augmentation": {"scale": [0.9, 1.1], "field_of_view_cut": 0.0},
        "stages": [
            {"name": name, "steps": STEPS, "validate_every": 10, "learning_rate": 3e-3, "warmup_steps": 5}
            for name in STAGES
        ],
    }
)
OPTIONS = TrainingOptions("cpu", "fp32", save_every_s=0.2, pictures=False)
RANDOM_KILLS = 18
# How a process dies in its own write of a checkpoint; the parent's clock would seldom meet these moments.
DYING = """
import io, os, signal
from pathlib import Path
import torch
from focusnet_training.runs import train

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def train_and_die(moment, writes, *args, **kwargs):
    save, replace, left = torch.save, Path.replace, [writes]

    def last(path):
        left[0] -= str(path).endswith(".pt.part")
        return left[0] == 0

    def dying_save(state, file):
        if moment == "half" and last(file.name):
            buffer = io.BytesIO()
            save(state, buffer)
            file.write(buffer.getvalue()[: len(buffer.getvalue()) // 2])
            file.flush()
            die()
        save(state, file)

    def dying_replace(path, target):
        now = moment != "half" and last(path)
        if now and moment == "before rename":
            die()
        done = replace(path, target)
        if now:
            die()
        return done

    torch.save, Path.replace = dying_save, dying_replace
    train(*args, **kwargs)
"""
MOMENTS = [(moment, writes) for moment in ("half", "before rename", "after rename") for writes in (1, 2, 3, 4)]


def fingerprint(run):
    """SHA-256 of all weights that a run ends with, and its log without times."""
    digest = hashlib.sha256()
    for name in ("last", *(f"best-{stage}" for stage in STAGES)):
        state = load_checkpoint(run / f"{name}.pt")
        for part in ("model", "ema", "autoencoder"):
            for key, tensor in (state.get(part) or {}).items():
                digest.update(key.encode())
                digest.update(tensor.contiguous().numpy().tobytes())
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return digest.hexdigest(), [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def where(run):
    """Stage and step of a run's last checkpoint, as numbers."""
    if not (run / "last.pt").exists():
        return 0, 0
    state = load_checkpoint(run / "last.pt")
    return state["stage"], state["step"]


def killed(start, run, death, moment, delay_s):
    """A process that dies in its own write, or some time after the run came to a moment, which may be at its start."""
    process = start(run, *(death or ()))
    if death is None:
        while process.is_alive() and where(run) < moment:
            time.sleep(0.01)
        process.join(delay_s)
        process.kill()
    process.join()
    return process


def test_thirty_kills_over_all_stages_change_no_bit(blobs, tmp_path, root, monkeypatch):
    (tmp_path / "dying_training.py").write_text(DYING)
    path = [str(tmp_path), *(str(root / part) for part in ("FocusNetSegmentation", "FocusNetTraining"))]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(tmp_path))
    import dying_training

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["focusnet_training.runs", "dying_training"])

    def start(run, *death):
        arguments = (*death, CONFIG, blobs, run, OPTIONS)
        target = dying_training.train_and_die if death else train
        process = context.Process(target=target, args=arguments, kwargs={"resume": (run / "last.pt").exists()})
        process.start()
        return process

    whole = tmp_path / "whole"
    began = time.monotonic()
    process = start(whole)
    process.join()
    assert process.exitcode == 0
    step_s = (time.monotonic() - began) / (STEPS * len(STAGES))
    expected = fingerprint(whole)

    rng = np.random.default_rng(30)
    deaths = [*MOMENTS, *[None] * RANDOM_KILLS]
    rng.shuffle(deaths)
    assert len(deaths) == 30
    spread = (np.arange(RANDOM_KILLS) + rng.random(RANDOM_KILLS)) / RANDOM_KILLS * (STEPS * len(STAGES) - 10)
    moments = iter([divmod(int(n), STEPS) for n in spread])
    stages, run = Counter(), tmp_path / "run"
    for number, death in enumerate(deaths, start=1):
        moment = next(moments) if death is None else (0, 0)
        while (process := killed(start, run, death, moment, rng.uniform(0, 3 * step_s))).exitcode == 0:
            assert fingerprint(run) == expected  # it came to its end before: the next run takes the kill
            shutil.rmtree(run)
        assert process.exitcode == -signal.SIGKILL
        stage, step = where(run)
        stages[STAGES[stage]] += 1
        how = "random moment" if death is None else f"write {death[1]}, {death[0]}"
        print(f"kill {number:2}: {how:22} checkpoint at {STAGES[stage]} {step}", flush=True)
    process = start(run)
    process.join()
    assert process.exitcode == 0
    assert fingerprint(run) == expected
    assert set(stages) == set(STAGES)
    print(f"30 kills, by stage {dict(stages)}; SHA-256 of all weights {expected[0]}")
