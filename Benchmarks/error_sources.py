"""Where a model's DSC is lost: at the ends of organs, by their size, or between.

For each organ of a model on the validation patients, or on every fourth patient that it was trained on (what it gets
wrong there is not for want of patients), means of: DSC, DSC within the slices in which the organ was drawn, distance
of the first and last slice from the drawn one, and precision and recall of voxels; and the median volume relative to
the drawn one.

    python Benchmarks/error_sources.py --data DATA [--model openkbp7] [--cases N] [--training] [--grids N]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from focusnet.bundle import load_bundle
from focusnet.evaluation.overlap import dice
from focusnet.inference import Predictor
from focusnet.model_store import find_bundle
from focusnet_training.datasets import read_case, read_dataset
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def ends(mask: Mask) -> tuple[int, int]:
    """First and last slice of a mask (z, y, x) that is not empty."""
    shown = np.flatnonzero(mask.any(axis=(1, 2)))
    return int(shown[0]), int(shown[-1])


def compare(truth: Mask, answer: Mask) -> tuple[float, ...]:
    """The numbers of one organ of one patient, in the order of the table."""
    low, high = ends(truth)
    drawn = slice(low, high + 1)
    both = np.count_nonzero(truth & answer)
    found = [abs(a - b) for a, b in zip(ends(answer), (low, high), strict=True)] if answer.any() else [np.nan, np.nan]
    size, true_size = np.count_nonzero(answer), np.count_nonzero(truth)
    inside = dice(truth[drawn], answer[drawn])
    return dice(truth, answer), inside, *found, size / true_size, both / max(size, 1), both / true_size


def main() -> None:
    """Predict and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="openkbp7")
    parser.add_argument("--cases", type=int, help="only the first of these patients")
    parser.add_argument("--training", action="store_true", help="every fourth training patient instead")
    parser.add_argument("--grids", type=int, choices=[1, 4], help="instead of the model's own number")
    given = parser.parse_args()
    dataset = read_dataset(given.data)
    predictor = Predictor(load_bundle(find_bundle(given.model)), grids=given.grids)
    patients = dataset.training[::4] if given.training else dataset.validation
    rows: dict[str, list[tuple[float, ...]]] = {organ: [] for organ in predictor.spec.organs}
    for name in patients[: given.cases]:
        image, labels = read_case(dataset, name)
        answer = predictor.predict(image).labelmap
        for organ in dataset.cases[name].scored:
            if organ in rows and labels.mask(organ).any():
                rows[organ].append(compare(labels.mask(organ), answer.mask(organ)))
    print("| organ | n | DSC | in drawn slices | first slice off | last slice off | volume | precision | recall |")
    print("|---|---|---|---|---|---|---|---|---|")
    means = {organ: np.nanmean(values, axis=0) for organ, values in rows.items() if values}
    for organ, values in means.items():
        values[4] = np.median([case[4] for case in rows[organ]])
    for organ, (whole, inside, low, high, volume, precision, recall) in means.items():
        print(
            f"| {organ} | {len(rows[organ])} | {whole:.3f} | {inside:.3f} | {low:.1f} | {high:.1f} | {volume:.2f} | "
            f"{precision:.3f} | {recall:.3f} |"
        )
    whole, inside, *_ = np.mean(list(means.values()), axis=0)
    print(f"| mean | | {whole:.3f} | {inside:.3f} | | | | | |")


if __name__ == "__main__":
    main()
