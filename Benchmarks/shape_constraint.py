"""What the adversarial autoencoder adds where boundaries are weak: SOS-Net trained with and without it.

Synthetic phantoms of the orbits and the sella in which chiasm and optic nerves have 6 % of their contrast. S-Net and
SOL-Net are trained once; from their weights SOS-Net is trained for each seed without the autoencoder ("none"), with a
pre-trained one that is held ("frozen") and against it ("adversarial"). Only this stage differs: the arms of a seed
start from the same weights and see the same chunks. Test phantoms are seen by no stage. Finished arms are kept in the
output folder and not trained again. ``--offsets`` measures every arm at other thresholds, too: the number is added to
SOS-Net's logits before they decide, so that arms can be compared at the same volume.

    python Benchmarks/shape_constraint.py [-o runs/shape-constraint] [--seeds 3] [--steps 450] [--offsets 0 0.5]
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from focusnet.devices import computing
from focusnet.evaluation.overlap import dice
from focusnet.evaluation.surface import hausdorff_percentile_mm, surface_distances
from focusnet.networks.roi import find_agreed_peaks
from focusnet_training.assembly import build_model
from focusnet_training.checkpoint import load_checkpoint, save_checkpoint
from focusnet_training.config import TrainingConfig
from focusnet_training.datasets import PreparedCase, prepare, read_dataset
from focusnet_training.phantom import PhantomOptions, write_dataset
from focusnet_training.trainer import Trainer, TrainingOptions
from focusnet_training.validation import predict_case, refine

SMALL = ("optic_chiasm", "optic_nerve_l", "optic_nerve_r")
ORGANS = ("eye_l", "eye_r", "pituitary", *SMALL)
ARMS = ("none", "adversarial", "frozen")
PHANTOMS = PhantomOptions(
    spacing_xyz=(1.5, 1.5, 2.5),
    shape_zyx=(26, 72, 76),
    centre_xyz_mm=(0.0, -46.0, 24.0),
    metal=False,
    weak_boundaries=True,
    couch=False,
)
TRAINING_SEED, TEST_SEED = 41, 42
NOT_FOUND_MM = 30.0


def configuration(seed: int, constraint: str, stages: Iterable[dict[str, Any]], weight: float = 5.0) -> TrainingConfig:
    """A small FocusNetv2; ``constraint`` is the arm, ``weight`` its λ1."""
    return TrainingConfig.model_validate(
        {
            "name": "shape-constraint",
            "seed": seed,
            "ema_decay": 0.97,
            "validation_cases": 2,
            "max_fall": 1.0,  # an arm is measured, not undone
            "network": {"widths": (12, 16, 24), "growth": 8, "roi_shape_zyx": (8, 32, 32)},
            "data": {
                "spacing_xyz": (1.5, 1.5, 2.5),
                "window_hu": (-250, 750),
                "organs": ORGANS,
                "small_organs": SMALL,
                "chunk_zyx": (20, 64, 64),
            },
            "augmentation": {
                "rotation_axial_deg": 8,
                "scale": (0.9, 1.1),
                "translation_mm": 2,
                "probability": 0.2,
                "field_of_view_cut": 0,
            },
            "shape": {"constraint": constraint, "widths": (16, 32, 64), "code_size": 64, "weight": weight},
            "stages": [{"warmup_steps": 10, "validate_every": s["steps"], **s} for s in stages],
        }
    )


def train_base(folder: Path, data: Path, options: TrainingOptions, steps: int) -> Path:
    """S-Net and SOL-Net; the checkpoint from which all arms start."""
    stages = [
        {"name": "snet", "steps": steps, "learning_rate": 2e-3},
        {"name": "sol", "steps": steps, "learning_rate": 2e-3},
    ]
    if not (folder / "best-sol.pt").exists():
        trainer = Trainer(configuration(0, "none", stages), read_dataset(data), folder, options, data / "cache")
        trainer.run(resume=(folder / "last.pt").exists())
    return folder / "best-sol.pt"


def with_new_sos_nets(base: Path, seed: int, path: Path) -> Path:
    """The base with SOS-Nets initialised anew, so that seeds differ in them, too."""
    state = load_checkpoint(base)
    config = configuration(seed, "none", [{"name": "snet", "steps": 1}])
    torch.manual_seed(seed)
    fresh = build_model(config, len(ORGANS), len(SMALL)).state_dict()
    model = {k: fresh[k] if k.startswith("sos.") else v for k, v in state["model"].items()}
    save_checkpoint(path, {**state, "model": model})
    return path


def arm_configuration(seed: int, arm: str, steps: int, aae_steps: int, weight: float) -> TrainingConfig:
    """SOS-Net alone, before it the autoencoder where the arm has one."""
    stages = [{"name": "sos", "steps": steps, "learning_rate": 2e-3, "adversary_learning_rate": 5e-4}]
    if arm != "none":
        stages.insert(0, {"name": "aae", "steps": aae_steps, "learning_rate": 1e-3})
    return configuration(seed, arm, stages, weight)


def train_arm(config: TrainingConfig, start: Path, folder: Path, data: Path) -> Trainer:
    """SOS-Net of one arm; the other parts stay as they are."""
    options = TrainingOptions(device="cpu", initial=start)
    trainer = Trainer(config, read_dataset(data), folder, options, data / "cache")
    trainer.run(resume=(folder / "last.pt").exists())
    return trainer


def measure(trainer: Trainer, cases: list[PreparedCase], offset: float = 0.0) -> dict[str, dict[str, list[float]]]:
    """DSC, HD95 and relative volume of each small organ on each test phantom; ``offset`` is added to the logits."""
    found: dict[str, dict[str, list[float]]] = {organ: {"dsc": [], "hd95_mm": [], "volume": []} for organ in SMALL}
    model, chunk = trainer.averaged.eval(), trainer.config.data.chunk_zyx
    moved = SimpleNamespace(
        roi_shape_zyx=model.roi_shape_zyx, refine=lambda k, features, ct: model.refine(k, features, ct) + offset
    )
    for case in cases:
        with computing(trainer.device, trainer.precision):
            probability, heatmaps, features, ct = predict_case(
                model, case, trainer.intensity, chunk, trainer.device, localise=True
            )
            assert heatmaps is not None
            assert features is not None
            small = trainer.task.small_classes
            peaks = find_agreed_peaks(heatmaps[None], probability[None, list(small)])
            probability = refine(moved, probability, peaks, features, ct, small)
        z, y, x = case.ct.shape
        labels = probability[:, :z, :y, :x].argmax(0).numpy()
        for organ in SMALL:
            value = ORGANS.index(organ) + 1
            truth, answer = np.asarray(case.labels) == value, labels == value
            found[organ]["dsc"].append(dice(truth, answer))
            found[organ]["volume"].append(float(answer.sum() / truth.sum()))
            apart = NOT_FOUND_MM
            if answer.any():
                distances = surface_distances(truth, answer, case.geometry.spacing_zyx)
                apart = hausdorff_percentile_mm(distances, "max")
            found[organ]["hd95_mm"].append(apart)
    return found


def table(results: dict[str, Any], offsets: Iterable[float]) -> str:
    """Markdown: mean over test phantoms and seeds of each arm, and the small organs' means of each seed."""
    lines = [
        "| arm | offset | seeds | "
        + " | ".join(f"{o} DSC / HD95" for o in SMALL)
        + " | small DSC / HD95 | volume | DSC of each seed |",
        "|---|---|---|" + "---|" * (len(SMALL) + 3),
    ]
    for arm, offset in itertools.product(ARMS, offsets):
        runs = [r for name, r in sorted(results.items()) if name.startswith(f"{arm}-") and name.endswith(at(offset))]
        if not runs:
            continue
        cells = [f"{_mean(runs, [o], 'dsc'):.3f} / {_mean(runs, [o], 'hd95_mm'):.2f}" for o in (*SMALL,)]
        cells.append(f"{_mean(runs, SMALL, 'dsc'):.3f} / {_mean(runs, SMALL, 'hd95_mm'):.2f}")
        cells.append(f"{_mean(runs, SMALL, 'volume'):.2f}")
        cells.append(", ".join(f"{_mean([r], SMALL, 'dsc'):.3f}" for r in runs))
        lines.append(f"| {arm} | {offset:+g} | {len(runs)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def at(offset: float) -> str:
    """End of the name of a result."""
    return f"@{offset:+g}"


def _mean(runs: list[dict[str, Any]], organs: Iterable[str], measure_name: str) -> float:
    return float(np.mean([r[o][measure_name] for r in runs for o in organs]))


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/shape-constraint"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=450, help="of SOS-Net")
    parser.add_argument("--aae-steps", type=int, default=3000, help="of the autoencoder on true masks")
    parser.add_argument("--base-steps", type=int, default=300, help="of S-Net and of SOL-Net")
    parser.add_argument("--weight", type=float, default=0.5, help="λ1 of eq 7")
    parser.add_argument("--test-seed", type=int, default=TEST_SEED, help="of the phantoms that are measured")
    parser.add_argument("--offsets", type=float, nargs="+", default=[0.0], help="added to SOS-Net's logits")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    arguments = parser.parse_args()
    out: Path = arguments.out
    data, tests = out / "phantoms", out / "test-phantoms"
    for folder, cases, seed in ((data, 15, TRAINING_SEED), (tests, 10, arguments.test_seed)):
        if not (folder / "dataset.json").exists():
            write_dataset(folder, cases, seed, PHANTOMS)
    base = train_base(out / "base", data, TrainingOptions(device="cpu"), arguments.base_steps)
    held_out = read_dataset(tests)
    cases = prepare(held_out, sorted(held_out.cases), ORGANS, PHANTOMS.spacing_xyz or (1, 1, 1), tests / "cache")
    kept = out / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for seed in range(1, arguments.seeds + 1):
        start = with_new_sos_nets(base, seed, out / f"start-{seed}.pt")
        for arm in arguments.arms:
            names = {offset: f"{arm}-{seed}{at(offset)}" for offset in arguments.offsets}
            if all(name in results for name in names.values()):
                continue
            began = time.process_time()
            config = arm_configuration(seed, arm, arguments.steps, arguments.aae_steps, arguments.weight)
            trainer = train_arm(config, start, out / f"{arm}-{seed}", data)
            for offset, name in names.items():
                results[name] = measure(trainer, cases, offset)
                dsc, hd95 = _mean([results[name]], SMALL, "dsc"), _mean([results[name]], SMALL, "hd95_mm")
                seconds = time.process_time() - began
                print(f"{name}: small DSC {dsc:.3f}, HD95 {hd95:.2f} mm, {seconds:.0f} CPU s", flush=True)
            kept.write_text(json.dumps(results, indent=1))
    print(table(results, arguments.offsets))


if __name__ == "__main__":
    main()
