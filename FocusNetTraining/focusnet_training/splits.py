"""Splits by patient: k folds that share out every organ, as nnU-Net's ``splits_final.json``.

All images of a patient stay together. Folds are stratified as in Sechidis et al. (2011): the organ with the fewest
patients left is shared out first, each patient to the fold that lacks it most.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from focusnet.errors import FocusNetError
from focusnet.io.atomic import atomic_path

from focusnet_training.layouts import read_json

SPLITS_FILE = "splits_final.json"
DEFAULT_FOLDS = 5
DEFAULT_SEED = 12345


@dataclass(frozen=True)
class Fold:
    """Names of the cases to learn from and of those to choose and measure with."""

    training: tuple[str, ...]
    validation: tuple[str, ...]


def make_folds(
    organs: Mapping[str, Collection[str]],
    patients: Mapping[str, str],
    count: int = DEFAULT_FOLDS,
    seed: int = DEFAULT_SEED,
) -> list[Fold]:
    """Share the cases out to ``count`` validation sets; a fold trains on all others.

    Args:
        organs: Annotated organs of each case.
        patients: Patient of each case.
        count: Number of folds.
        seed: Decides between equally good folds.

    Raises:
        FocusNetError: ``E_SPLIT`` with fewer than two folds or fewer patients than folds.
    """
    cases: dict[str, list[str]] = defaultdict(list)
    for name in sorted(organs):
        cases[patients[name]].append(name)
    if not 2 <= count <= len(cases):
        raise FocusNetError(
            "E_SPLIT", f"{count} folds of {len(cases)} patients; give from 2 folds up to one a patient."
        )
    order = [str(patient) for patient in np.random.default_rng(seed).permutation(sorted(cases))]
    drawn = {patient: set().union(*(organs[name] for name in cases[patient])) for patient in order}
    place = _stratify(drawn, {patient: len(cases[patient]) for patient in order}, count)
    validation = [sorted(n for p in order if place[p] == fold for n in cases[p]) for fold in range(count)]
    return [Fold(tuple(sorted(set(organs) - set(names))), tuple(names)) for names in validation]


def _stratify(organs: Mapping[str, set[str]], sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """Fold of each patient."""
    left = dict.fromkeys(organs)  # keeps the order
    every = sorted(set().union(*organs.values()))
    wanted = {organ: np.full(count, sum(organ in o for o in organs.values()) / count) for organ in every}
    room = np.full(count, sum(sizes.values()) / count)
    place: dict[str, int] = {}

    def put(patient: str, wish: np.ndarray) -> None:
        best = np.flatnonzero(wish >= wish.max() - 1e-9)
        fold = int(best[np.argmax(room[best])])
        place[patient] = fold
        room[fold] -= sizes[patient]
        for organ in organs[patient]:
            wanted[organ][fold] -= 1
        del left[patient]

    while left:
        holders = {organ: [p for p in left if organ in organs[p]] for organ in every}
        holders = {organ: patients for organ, patients in holders.items() if patients}
        if not holders:
            for patient in list(left):
                put(patient, room.copy())
            break
        rarest = min(holders, key=lambda organ: (len(holders[organ]), organ))
        for patient in holders[rarest]:
            put(patient, wanted[rarest])
    return place


def held_out(test: Collection[str], patients: Mapping[str, str]) -> list[str]:
    """Cases to keep out of all folds: the test cases, and whatever else there is of their patients.

    Args:
        test: Test cases.
        patients: Patient of each case.
    """
    tested = {patients[name] for name in test}
    return [name for name, patient in patients.items() if patient in tested]


def missing_organs(folds: Sequence[Fold], organs: Mapping[str, Collection[str]]) -> list[str]:
    """A line for each organ that a part of a fold lacks, because too few patients have it."""
    every = sorted(set().union(*organs.values()))
    lines = []
    for number, fold in enumerate(folds):
        for part, names in (("training", fold.training), ("validation", fold.validation)):
            present = set().union(*(organs[name] for name in names))
            if lacking := [organ for organ in every if organ not in present]:
                lines.append(f"Fold {number}: {part} has no {', '.join(lacking)}.")
    return lines


def read_folds(path: Path) -> list[Fold]:
    """Folds of a ``splits_final.json``.

    Raises:
        FocusNetError: ``E_DATASET`` when it is missing or no list of ``train`` and ``val``.
    """
    try:
        return [Fold(tuple(fold["train"]), tuple(fold["val"])) for fold in read_json(path)]
    except (TypeError, KeyError):
        raise FocusNetError("E_DATASET", f"{path.name} is no list of folds with 'train' and 'val'.") from None


def write_folds(folds: Iterable[Fold], path: Path, *, overwrite: bool = False) -> None:
    """Write ``splits_final.json`` in nnU-Net's form.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS``, ``E_OUTPUT_WRITE``.
    """
    content = [{"train": fold.training, "val": fold.validation} for fold in folds]
    with atomic_path(path, overwrite=overwrite) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check_disjoint(parts: Mapping[str, Collection[str]], patients: Mapping[str, str]) -> None:
    """Refuse a patient whose images are in two parts of a split.

    Args:
        parts: Cases by name of the part: training, validation, test.
        patients: Patient of each case.

    Raises:
        FocusNetError: ``E_SPLIT_LEAK``.
    """
    seen: dict[str, str] = {}
    for part, names in parts.items():
        for name in names:
            other = seen.setdefault(patients[name], part)
            if other != part:
                raise FocusNetError(
                    "E_SPLIT_LEAK",
                    f"The patient of case {name} is in {other} and {part} at once; keep all images of a patient in one "
                    "part, for example with 'focusnet split'.",
                )
