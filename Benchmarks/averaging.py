"""What the mean answer of several S-Nets is worth: how much of the error is the luck of one training.

All models have the same organs and working grid and no small organs. Measured like a bundle: DSC on the validation
patients' own grids, over the organs that count.

    python Benchmarks/averaging.py --data DATA [--grids N] MODEL MODEL [MODEL ...]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from focusnet.bundle import Bundle, load_bundle
from focusnet.model_store import find_bundle
from focusnet.networks.focusnet import FocusNetV2
from focusnet.networks.snet import SNetOutput
from focusnet.organs import organ
from focusnet_training.datasets import read_dataset
from focusnet_training.runs import score
from torch import Tensor, nn


class MeanSNet(nn.Module):
    """Several S-Nets as one, by the mean of their probabilities."""

    def __init__(self, members: list[nn.Module]) -> None:
        """Take the S-Nets."""
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, ct: Tensor) -> SNetOutput:
        """Logits whose softmax is the mean of the members' (N, classes, D, H, W); features of the first."""
        outputs = [member(ct) for member in self.members]
        mean = torch.stack([output.logits.float().softmax(1) for output in outputs]).mean(0)
        return SNetOutput(mean.clamp_min(1e-12).log(), outputs[0].features)


def averaged(bundles: list[Bundle]) -> Bundle:
    """A model of the mean answer, fed as the first."""
    keys = {(b.spec.organs, b.spec.spacing_mm_xyz, b.spec.window_hu, b.spec.chunk_shape_zyx) for b in bundles}
    if len(keys) > 1 or bundles[0].spec.small_organs:
        raise SystemExit("The models differ in organs, grid, window or chunk, or have small organs.")
    networks = [bundle.network for bundle in bundles]
    assert all(isinstance(network, FocusNetV2) for network in networks)
    whole = networks[0]
    whole.snet = MeanSNet([network.snet for network in networks])
    return replace(bundles[0], network=whole.eval())


def main() -> None:
    """Print a line per organ and the mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set in nnU-Net v2 raw layout")
    parser.add_argument("models", nargs="+", help="names or folders of models")
    parser.add_argument("--grids", type=int, choices=[1, 4], help="instead of the model's own number")
    given = parser.parse_args()
    model = averaged([load_bundle(find_bundle(name)) for name in given.models])
    if given.grids is not None:
        model = replace(model, spec=model.spec.model_copy(update={"grids": given.grids}))
    measured = score(model, read_dataset(given.data), "cpu", lambda line: None)
    means = {key: float(np.mean(values.dsc)) for key, values in measured.items()}
    for key, mean in means.items():
        print(f"{organ(key).tg263}: {mean:.3f}")
    print(f"mean: {np.mean(list(means.values())):.4f}")


if __name__ == "__main__":
    main()
