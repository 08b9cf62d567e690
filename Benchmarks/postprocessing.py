"""What each rule of post-processing gains and what it risks, on the validation patients.

Labels as they come from the probabilities are scored, then again after each rule alone and after those that are shipped
(`focusnet.inference`). For each rule: the change of the mean DSC of each organ, the organs of patients that it made
better and worse, and the worst single change.

    python Benchmarks/postprocessing.py --data DATA [--model openkbp7] [--cases N] [--grids N]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from focusnet.bundle import load_bundle
from focusnet.evaluation.overlap import dice
from focusnet.geometry import LabelMap
from focusnet.inference import Predictor
from focusnet.model_store import find_bundle
from focusnet.organs import organ
from focusnet.postprocessing import keep_largest_components
from focusnet_training.datasets import read_case, read_dataset
from numpy.typing import NDArray
from scipy import ndimage

Labels = NDArray[np.unsignedinteger[Any]]
Rule = Callable[[Labels, LabelMap], None]


class Untidied(Predictor):
    """Leaves the labels as the probabilities give them."""

    def _tidy(self, labels: Labels, wanted: Sequence[str], run: Any) -> None:
        del labels, wanted, run


def largest_component(labels: Labels, source: LabelMap) -> None:
    """Organs that are one piece keep their largest; the shipped rule."""
    keep_largest_components(labels, [v for v, key in source.organs.items() if organ(key).single_component])


def largest_component_of_all(labels: Labels, source: LabelMap) -> None:
    """Every organ keeps its largest piece."""
    keep_largest_components(labels, source.organs)


def own_side(labels: Labels, source: LabelMap) -> None:
    """Pieces of a paired organ that lie on its partner's side of the plane between the two go."""
    x = source.geometry.index_to_world(np.stack(np.indices(labels.shape), -1))[..., 0]
    values = {key: value for value, key in source.organs.items()}
    middles = {key: x[labels == value].mean() for key, value in values.items() if (labels == value).any()}
    for key, value in values.items():
        partner = organ(key).partner
        if partner is None or key not in middles or partner not in middles:
            continue
        plane = (middles[key] + middles[partner]) / 2
        beyond = (x < plane) if organ(key).side == "left" else (x > plane)
        pieces, count = ndimage.label(labels == value, np.ones((3, 3, 3)))
        for piece in range(1, count + 1):
            if beyond[pieces == piece].all():
                labels[pieces == piece] = 0


def filled_holes(labels: Labels, source: LabelMap) -> None:
    """Background that an organ encloses within a slice becomes the organ."""
    for value in source.organs:
        for plane in labels:
            plane[ndimage.binary_fill_holes(plane == value) & (plane == 0)] = value


def smoothed(labels: Labels, source: LabelMap) -> None:
    """Opening in plane by one voxel: thin bridges and single voxels go."""
    for value in source.organs:
        mask = labels == value
        labels[mask & ~ndimage.binary_opening(mask, ndimage.generate_binary_structure(3, 1) & _in_plane())] = 0


def _in_plane() -> NDArray[np.bool_]:
    plane = np.zeros((3, 3, 3), bool)
    plane[1] = True
    return plane


RULES: dict[str, Sequence[Rule]] = {
    "largest piece of organs that are one (shipped)": (largest_component,),
    "largest piece of every organ": (largest_component_of_all,),
    "pieces on the partner's side removed": (own_side,),
    "holes within a slice filled": (filled_holes,),
    "opened in plane by one voxel": (smoothed,),
}


def main() -> None:
    """Predict, apply the rules and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="openkbp7")
    parser.add_argument("--cases", type=int, help="only the first of the validation patients")
    parser.add_argument("--grids", type=int, choices=[1, 4], help="instead of the model's own number")
    given = parser.parse_args()
    dataset = read_dataset(given.data)
    predictor = Untidied(load_bundle(find_bundle(given.model)), "cpu", grids=given.grids)
    keys = predictor.spec.organs
    before: dict[tuple[str, str], float] = {}
    after: dict[str, dict[tuple[str, str], float]] = {rule: {} for rule in RULES}
    for name in dataset.validation[: given.cases]:
        image, truth = read_case(dataset, name)
        raw = predictor.predict(image).labelmap
        counted = [k for k in keys if k in dataset.cases[name].scored and truth.mask(k).any()]
        before |= {(name, k): dice(truth.mask(k), raw.mask(k)) for k in counted}
        for rule, steps in RULES.items():
            changed = raw.array.copy()
            for step in steps:
                step(changed, raw)
            answer = LabelMap(changed, raw.geometry, raw.organs)
            after[rule] |= {(name, k): dice(truth.mask(k), answer.mask(k)) for k in counted}
    print("| rule | " + " | ".join(organ(k).tg263 for k in keys) + " | mean | better | worse | worst change |")
    print("|---|" + "---|" * (len(keys) + 4))
    _row("none: mean DSC", [_mean(before, k) for k in keys], "{:.3f}", ["", "", ""])
    for rule, scores in after.items():
        changes = np.array([scores[place] - before[place] for place in before])
        counts = [str(int((changes > 1e-6).sum())), str(int((changes < -1e-6).sum())), f"{changes.min():+.3f}"]
        _row(rule, [_mean(scores, k) - _mean(before, k) for k in keys], "{:+.4f}", counts)


def _mean(scores: dict[tuple[str, str], float], key: str) -> float:
    return float(np.mean([score for (_, organ_key), score in scores.items() if organ_key == key]))


def _row(name: str, values: Sequence[float], form: str, rest: Sequence[str]) -> None:
    print(f"| {name} | " + " | ".join(form.format(v) for v in (*values, float(np.mean(values)))) + " | ", end="")
    print(" | ".join(rest) + " |")


if __name__ == "__main__":
    main()
