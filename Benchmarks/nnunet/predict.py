"""Label maps of the validation patients by a network of trainer.py, with nnU-Net's own predictor.

Sliding window with half overlap and Gaussian weights, no mirroring, on one thread; arithmetic and layout as in
training. Writes CASE.nrrd and cost.json: seconds of each case from reading the CT to the written labels, and the
greatest memory of the process. Run with nnU-Net's Python (see README.md):

    python Benchmarks/nnunet/predict.py --data DATA --work WORK --output OUTPUT [--loss marginal] [--cases N]
        [--as-installed plain|mirrored]

With ``--as-installed`` network and memory stay as nnU-Net has them on a processor (float32); ``mirrored`` adds the
eight-fold mirroring that ``nnUNetv2_predict`` does unless told ``--disable_tta``: for the seconds alone, since these
networks never saw a mirror image.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from common import CONFIGURATION, DATASET, PLANS, for_processor, one_thread, peak_mib, use_folders
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn
from trainer import TRAINERS


class OnProcessor(nn.Module):
    """nnU-Net's network in bf16 and channels-last layout, with answers in float32."""

    def __init__(self, network: nn.Module) -> None:
        """Take nnU-Net's network as it builds it."""
        super().__init__()
        self.network = for_processor(network)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, classes, D, H, W) of patches (N, 1, D, H, W)."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(x.contiguous(memory_format=torch.channels_last_3d)).float()


def load_predictor(
    model: Path, checkpoint_name: str, trainer_name: str, as_installed: str | None
) -> tuple[nnUNetPredictor, dict[str, float]]:
    """nnU-Net's predictor of one checkpoint, and the budget that it has used."""
    description = json.loads((model / "dataset.json").read_text())
    plans = PlansManager(json.loads((model / "plans.json").read_text()))
    configuration = plans.get_configuration(CONFIGURATION)
    checkpoint = torch.load(model / "fold_0" / checkpoint_name, map_location="cpu", weights_only=False)
    channels = determine_num_input_channels(plans, configuration, description)
    heads = plans.get_label_manager(description).num_segmentation_heads
    trainer = next(t for t in TRAINERS.values() if t.__name__ == trainer_name)
    network = trainer.build_network_architecture(plans, configuration, channels, heads, enable_deep_supervision=False)
    weights = checkpoint["network_weights"]
    if as_installed is None:
        network, weights = OnProcessor(network), {f"network.{name}": value for name, value in weights.items()}
    mirrored = as_installed == "mirrored"
    predictor = nnUNetPredictor(use_mirroring=mirrored, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        network, plans, configuration, [weights], description, trainer_name, (0, 1, 2) if mirrored else None
    )
    return predictor, {key: checkpoint[key] for key in ("steps", "used_s", "budget_s")}


def main() -> None:
    """Predict one case after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--loss", choices=TRAINERS, default="marginal")
    parser.add_argument("--plans", default=PLANS, help="name of the plan, as prepare.py prints it")
    parser.add_argument("--checkpoint", default="checkpoint_final.pth")
    parser.add_argument("--as-installed", choices=("plain", "mirrored"), help="nothing of ours; mirrored: its default")
    parser.add_argument("--cases", type=int, help="only the first of the validation patients")
    given = parser.parse_args()
    use_folders(given.work)
    one_thread(keep_memory=given.as_installed is None)
    trainer_name = TRAINERS[given.loss].__name__
    model = given.work / "results" / DATASET / f"{trainer_name}__{given.plans}__{CONFIGURATION}"
    predictor, training = load_predictor(model, given.checkpoint, trainer_name, given.as_installed)
    given.output.mkdir(parents=True, exist_ok=True)
    names = json.loads((given.data / "splits_final.json").read_text())[0]["val"][: given.cases]
    seconds: dict[str, dict[str, float]] = {}
    for name in names:
        wall, cpu = time.perf_counter(), time.process_time()
        image = given.data / "imagesTr" / f"{name}_0000.nrrd"
        predictor.predict_from_files_sequential([[str(image)]], [str(given.output / name)])
        seconds[name] = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        print(name, {k: round(v, 2) for k, v in seconds[name].items()}, flush=True)
    cost = {"training": training, "peak_mib": peak_mib(), "cases": seconds}
    (given.output / "cost.json").write_text(json.dumps(cost, indent=1))


if __name__ == "__main__":
    main()
