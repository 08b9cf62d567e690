"""Steps per second and share of time spent waiting for data, at chunks of 40 x 192 x 192.

Trains the paper's network on phantoms for a few steps of each stage, through the trainer itself, and reads its status.
Run: python Benchmarks/training.py [--device DEVICE] [--steps N] [--stages snet,sol,sos] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from focusnet_training.config import TrainingConfig
from focusnet_training.datasets import read_dataset
from focusnet_training.phantom import PhantomOptions, write_dataset
from focusnet_training.trainer import Trainer, TrainingOptions

SPACING_XYZ = (1.25, 1.25, 3.0)
CHUNK_ZYX = (40, 192, 192)
CASES = 5


def configuration(names: list[str], steps: int) -> TrainingConfig:
    """The paper's network, ``steps`` of each stage."""
    stages = [{"name": name, "steps": steps, "validate_every": steps, "warmup_steps": 0} for name in names]
    return TrainingConfig.model_validate(
        {
            "name": "benchmark",
            "data": {"spacing_xyz": SPACING_XYZ, "chunk_zyx": CHUNK_ZYX, "small_organs": ["optic_chiasm", "pituitary"]},
            "validation_cases": 1,
            "stages": stages,
        }
    )


def measure(data: Path, config: TrainingConfig, device: str) -> None:
    """Train and print a line per stage."""
    pace: dict[str, dict[str, Any]] = {}

    def note(status: dict[str, Any]) -> None:
        if "steps_per_second" in status:
            pace[status["stage"]] = status

    with tempfile.TemporaryDirectory() as folder:
        options = TrainingOptions(device, report=note, pictures=False)
        trainer = Trainer(config, read_dataset(data), Path(folder), options)
        trainer.run()
    name = torch.cuda.get_device_name() if trainer.device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{trainer.device} ({name}), {trainer.precision}, chunk {'x'.join(map(str, CHUNK_ZYX))}")
    for stage, status in pace.items():
        print(json.dumps({"stage": stage, **{k: status[k] for k in ("steps_per_second", "waiting_share")}}))


def main() -> None:
    """Make phantoms unless there are some, and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=4, help="of each stage; the first is not counted")
    parser.add_argument("--stages", default="snet,sol,sos")
    parser.add_argument("--data", type=Path, help="training data of phantoms; made anew by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.data is None:
            write_dataset(Path(folder), CASES, 1, PhantomOptions(spacing_xyz=SPACING_XYZ))
        config = configuration(given.stages.split(","), given.steps)
        measure(given.data or Path(folder), config, given.device)


if __name__ == "__main__":
    main()
