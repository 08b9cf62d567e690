"""Pictures for the card of a model of real patients: all organs on a scan, and where it fails on validation patients.

The failures are the organs of patients with the lowest DSC, one of each organ at most; every picture shows one organ,
the manual contour dashed. Patients are told apart by a letter alone.

    python Benchmarks/model_pictures.py --data DATA --ct SERIES -o Docs/pictures [--model openkbp7] [--failures 3]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from string import ascii_uppercase

import numpy as np
from focusnet.bundle import load_bundle
from focusnet.evaluation.overlap import dice
from focusnet.geometry import LabelMap
from focusnet.inference import Predictor
from focusnet.io import read_volume
from focusnet.model_store import find_bundle
from focusnet.organs import organ
from focusnet.pictures import contour_views
from focusnet_training.datasets import Dataset, read_case, read_dataset


def only(labels: LabelMap, key: str) -> LabelMap:
    """One organ of a label map."""
    return LabelMap(labels.mask(key).astype(np.uint8), labels.geometry, {1: key})


def scores(predictor: Predictor, dataset: Dataset) -> list[tuple[float, str, str]]:
    """DSC, patient and organ, over the organs that count, the worst first; an organ that was missed has no picture."""
    found = []
    for name in dataset.validation:
        image, truth = read_case(dataset, name)
        answer = predictor.predict(image).labelmap
        for key in predictor.spec.organs:
            if key in dataset.cases[name].scored and truth.mask(key).any() and answer.mask(key).any():
                found.append((dice(truth.mask(key), answer.mask(key)), name, key))
    return sorted(found)


def main() -> None:
    """Segment and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ct", type=Path, required=True, help="a scan, for the picture of all organs")
    parser.add_argument("--model", default="openkbp7")
    parser.add_argument("--failures", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--grids", type=int, choices=[1, 4], help="instead of the model's own number")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    dataset = read_dataset(given.data)
    predictor = Predictor(load_bundle(find_bundle(given.model)), "cpu", grids=given.grids)
    volume = read_volume(given.ct)
    picture = given.out / f"{given.model}-scan.png"
    contour_views(volume, predictor.predict(volume).labelmap, picture, title=f"{predictor.spec.name} on a planning CT")
    shown: set[str] = set()
    for score, name, key in scores(predictor, dataset):
        if key in shown:
            continue
        letter = ascii_uppercase[len(shown)]
        shown.add(key)
        image, truth = read_case(dataset, name)
        answer = predictor.predict(image).labelmap
        contour_views(
            image,
            only(answer, key),
            given.out / f"{given.model}-failure-{letter.lower()}.png",
            truth=only(truth, key),
            title=f"Patient {letter}: {organ(key).name}, DSC {score:.2f} (dashed: manual contour)",
        )
        print(f"{letter}: {organ(key).name}, DSC {score:.3f}")
        if len(shown) == given.failures:
            break


if __name__ == "__main__":
    main()
