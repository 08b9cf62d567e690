"""nnU-Net's training with a budget of CPU seconds instead of epochs, on one thread of a processor.

Everything is nnU-Net's own (plan, network, augmentation, SGD, Dice + cross-entropy, deep supervision), except:

- The learning rate falls with the used share of the budget (the same power 0.9), and training ends with it. The CPU
  seconds of the process count, augmentation included; start-up and preprocessing don't.
- No mirroring, in training or afterwards (nnU-Net's own trainer without it): left and right are organs of their own.
- bf16, channels-last layout and kept memory, as in our training; nnU-Net itself computes in float32 on a processor.
- No validation on the way: the last weights are the model, and the validation patients choose nothing.
- ``--loss marginal``: the scores of organs that were not drawn in a patient are merged into the background before the
  loss, so that they are not learned as absent. ``--loss plain`` is what nnU-Net does out of the box.

Run with nnU-Net's Python after prepare.py (see README.md); ``--resume`` goes on from the last checkpoint:

    python Benchmarks/nnunet/trainer.py --work WORK --loss marginal --budget 4800
    python Benchmarks/nnunet/trainer.py --work WORK --measure
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import CONFIGURATION, DATASET, PLANS, for_processor, one_thread, peak_mib, use_folders
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring
from torch import Tensor

POWER = 0.9
CLIP = 12.0
SEED = 1
NEVER = -1e4  # score of an organ that is out of the question; finite, so that no product becomes NaN
TELL_EVERY_S = 60.0


def merge_undrawn(logits: Tensor, drawn: Tensor) -> Tensor:
    """Scores with those of organs that were not drawn merged into the background.

    Args:
        logits: (N, 1 + organs, D, H, W) float32, background first.
        drawn: (N, 1 + organs) bool, background True.

    Returns:
        Same shape: the softmax of the background is the sum over it and the organs not drawn, theirs is 0.
    """
    known = drawn[:, :, None, None, None]  # (N, C, 1, 1, 1)
    organs = known.clone()
    organs[:, 0] = False
    background = logits.masked_fill(organs, -torch.inf).logsumexp(1, keepdim=True)  # (N, 1, D, H, W)
    return torch.cat([background, logits.masked_fill(~known, NEVER)[:, 1:]], dim=1)


class PlainBudgetTrainer(nnUNetTrainerNoMirroring):
    """nnU-Net's trainer by a budget; an organ that was not drawn is background to it.

    Attributes:
        budget_s: CPU seconds of the whole training.
        save_every_s: CPU seconds between checkpoints.
        used_s: Those already used, over all resumed parts.
        steps: Steps done.
        bf16: Whether the network computes in bf16.
        channels_last: Whether it computes in channels-last layout.
    """

    budget_s = 0.0
    save_every_s = 240.0
    used_s = 0.0
    steps = 0
    bf16 = True
    channels_last = True

    def initialize(self) -> None:
        """As nnU-Net does, then in the layout for a processor."""
        super().initialize()
        if self.channels_last:
            for_processor(self.network)

    def scores(self, outputs: Sequence[Tensor], cases: Sequence[str]) -> list[Tensor]:
        """What the loss gets of the network's outputs, one of each resolution."""
        return [output.float() for output in outputs]

    def train_step(self, batch: dict[str, Any]) -> dict[str, float]:
        """One step of SGD."""
        self.optimizer.zero_grad(set_to_none=True)
        data = batch["data"]
        if self.channels_last:
            data = data.contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            outputs = self.network(data)
        loss = self.loss(self.scores(outputs, batch["keys"]), batch["target"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        return {"loss": loss.item()}

    def run_training(self) -> None:
        """Train until the budget is used, with a checkpoint every few minutes and one at the end."""
        np.random.seed(SEED + self.steps)  # noqa: NPY002 - nnU-Net draws from the global generators
        torch.manual_seed(SEED + self.steps)
        self.on_train_start()
        self.network.train()
        start, wall = time.process_time() - self.used_s, time.perf_counter()
        saved = told = self.used_s
        losses: list[float] = []
        while self.used_s < self.budget_s:
            rate = self.initial_lr * (1 - self.used_s / self.budget_s) ** POWER
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            losses.append(self.train_step(next(self.dataloader_train))["loss"])
            self.steps += 1
            self.used_s = time.process_time() - start
            if self.used_s - told >= TELL_EVERY_S or self.used_s >= self.budget_s:
                told = self.used_s
                self.print_to_log_file(
                    f"step {self.steps}, {self.used_s:.0f} of {self.budget_s:.0f} CPU s, "
                    f"{time.perf_counter() - wall:.0f} s here, loss {np.mean(losses):.4f}, learning rate {rate:.5f}, "
                    f"peak {peak_mib():.0f} MiB"
                )
                losses = []
            if self.used_s - saved >= self.save_every_s:
                saved = self.used_s
                self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_latest.pth"))
        self.on_train_end()

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint with the used budget; the old one stays until the new one is whole."""
        partial = Path(f"{filename}.part")
        super().save_checkpoint(str(partial))
        checkpoint = torch.load(partial, weights_only=False)
        torch.save({**checkpoint, "used_s": self.used_s, "budget_s": self.budget_s, "steps": self.steps}, partial)
        partial.replace(filename)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Weights, optimiser and used budget."""
        super().load_checkpoint(filename_or_checkpoint)
        checkpoint = torch.load(filename_or_checkpoint, weights_only=False)
        self.used_s, self.steps = checkpoint["used_s"], checkpoint["steps"]


class MarginalBudgetTrainer(PlainBudgetTrainer):
    """The same with the marginal loss."""

    def initialize(self) -> None:
        """Read which organs were drawn in each patient."""
        super().initialize()
        cases = json.loads((Path(self.preprocessed_dataset_folder_base) / "cases.json").read_text())["cases"]
        names = sorted(self.dataset_json["labels"], key=self.dataset_json["labels"].get)
        self.drawn = {
            case: torch.tensor([name == "background" or name in detail["annotated"] for name in names])
            for case, detail in cases.items()
        }

    def scores(self, outputs: Sequence[Tensor], cases: Sequence[str]) -> list[Tensor]:
        """Scores with the organs not drawn in each patient merged into the background."""
        drawn = torch.stack([self.drawn[case] for case in cases])
        return [merge_undrawn(output.float(), drawn) for output in outputs]


TRAINERS = {"plain": PlainBudgetTrainer, "marginal": MarginalBudgetTrainer}


def make_trainer(work: Path, loss: str, plans_name: str, resume: bool = False) -> PlainBudgetTrainer:
    """Trainer of fold 0 with the plan of ``prepare.py``."""
    folder = work / "preprocessed" / DATASET
    plans = json.loads((folder / f"{plans_name}.json").read_text())
    plans["continue_training"] = resume
    description = json.loads((folder / "dataset.json").read_text())
    return TRAINERS[loss](plans, CONFIGURATION, 0, description, torch.device("cpu"))


def measure(work: Path, loss: str, plans_name: str) -> None:
    """Print seconds of a step in each arithmetic and layout, on one sample, and then on the planned batch."""
    batch: dict[str, Any] = {}
    for bf16, channels_last in product((False, True), repeat=2):
        trainer = make_trainer(work, loss, plans_name)
        trainer.bf16, trainer.channels_last = bf16, channels_last
        trainer.initialize()
        trainer.network.train()
        if not batch:
            loader, _ = trainer.get_dataloaders()
            start = time.process_time()
            batch = next(loader)
            print(f"augmentation of a batch of {len(batch['data'])}: {time.process_time() - start:.2f} CPU s")
            one = {"data": batch["data"][:1], "target": [t[:1] for t in batch["target"]], "keys": batch["keys"][:1]}
        seconds = step_seconds(trainer, one, 2)
        print(f"bf16 {bf16}, channels last {channels_last}, one sample: {seconds:.2f} CPU s", flush=True)
    print(f"the same, planned batch: {step_seconds(trainer, batch, 1):.2f} CPU s, peak {peak_mib():.0f} MiB")


def step_seconds(trainer: PlainBudgetTrainer, batch: dict[str, Any], steps: int) -> float:
    """CPU seconds of a step, after one that is not counted."""
    trainer.train_step(batch)
    start = time.process_time()
    for _ in range(steps):
        trainer.train_step(batch)
    return (time.process_time() - start) / steps


def main() -> None:
    """Train or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder that prepare.py has filled")
    parser.add_argument("--loss", choices=TRAINERS, default="marginal")
    parser.add_argument("--plans", default=PLANS, help="name of the plan, as prepare.py prints it")
    parser.add_argument("--budget", type=float, default=4800.0, metavar="S", help="CPU seconds of the whole training")
    parser.add_argument("--save-every", type=float, default=240.0, metavar="S", help="CPU seconds between checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--measure", action="store_true", help="only print the seconds of a step")
    parser.add_argument("--release-memory", action="store_true", help="leave malloc as it is, to measure what it costs")
    given = parser.parse_args()
    use_folders(given.work)
    one_thread(keep_memory=not given.release_memory)
    if given.measure:
        measure(given.work, given.loss, given.plans)
        return
    trainer = make_trainer(given.work, given.loss, given.plans, given.resume)
    trainer.budget_s, trainer.save_every_s = given.budget, given.save_every
    torch.manual_seed(SEED)
    trainer.initialize()
    latest = Path(trainer.output_folder) / "checkpoint_latest.pth"
    if given.resume and latest.exists():
        trainer.load_checkpoint(str(latest))
    trainer.run_training()


if __name__ == "__main__":
    main()
