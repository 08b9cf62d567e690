"""What a working grid costs by itself: contours brought onto it and back, against what they were.

No network can do better than this on the native grid, whatever it learns. One line per spacing: the mean number of
voxels of the body's box, and DSC per organ over the validation patients.

    python Benchmarks/working_grid.py --data DATA --cases 12
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from focusnet.evaluation.overlap import dice
from focusnet.organs import organ
from focusnet.preprocessing import labels_to_grid
from focusnet_training.datasets import Dataset, prepare_pair, read_case, read_dataset

SPACINGS_XYZ = ((2.0, 2.0, 2.5), (2.5, 2.5, 2.5), (3.0, 3.0, 3.0), (3.9, 3.9, 2.5), (4.0, 4.0, 4.0))


def measure(
    dataset: Dataset, names: tuple[str, ...], spacing_xyz: tuple[float, float, float]
) -> tuple[float, dict[str, float]]:
    """Mean voxels of a case, and mean DSC of each organ after the way there and back."""
    voxels, scores = [], defaultdict(list)
    for name in names:
        image, truth = read_case(dataset, name)
        _, labels = prepare_pair(image, truth, dataset.organs, spacing_xyz)
        voxels.append(labels.array.size)
        back = labels_to_grid(labels, image.geometry)
        for key in sorted(dataset.cases[name].scored):
            scores[key].append(dice(truth.mask(key), back.mask(key)))
    return float(np.mean(voxels)), {key: float(np.mean(values)) for key, values in scores.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set in nnU-Net v2 raw layout")
    parser.add_argument("--cases", type=int, default=12, help="validation patients, the first of the list")
    args = parser.parse_args()
    dataset = read_dataset(args.data)
    names = [organ(key).tg263 for key in dataset.organs]
    print(f"| grid (mm) | voxels | mean | {' | '.join(names)} |\n|---|---|---|{'---|' * len(names)}")
    for spacing in SPACINGS_XYZ:
        voxels, scores = measure(dataset, dataset.validation[: args.cases], spacing)
        cells = " | ".join(f"{scores[key]:.3f}" if key in scores else "" for key in dataset.organs)
        grid = " × ".join(f"{s:g}" for s in spacing)
        print(f"| {grid} | {voxels / 1e6:.2f} M | {np.mean(list(scores.values())):.3f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
