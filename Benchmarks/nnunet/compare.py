"""Our model beside nnU-Net on the validation patients: one table of both, with paired tests, time and memory.

Ours predicts here, on one thread; nnU-Net's label maps and cost come from predict.py. Both are measured by
focusnet.evaluation on the native grid, over the organs that count in each patient (`scored` in cases.json). Run with
the project's Python:

    python Benchmarks/nnunet/compare.py --data DATA --nnunet OUTPUT [--model openkbp7] [--cases N] [--json FILE]

Cells hold ours / nnU-Net's. Both HD95 are over the patients in whom both found the organ; a missed organ has DSC and
surface DSC 0. p: Wilcoxon signed-rank test over patients, Holm's correction over organs; * marks p < 0.05.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from focusnet import organs
from focusnet.bundle import load_bundle
from focusnet.devices import keep_memory
from focusnet.evaluation import CaseSettings, evaluate_case
from focusnet.evaluation.case import Row
from focusnet.evaluation.definitions import METRICS
from focusnet.evaluation.statistics import POOLED, PairedTest, compare_methods
from focusnet.geometry import LabelMap
from focusnet.inference import Predictor
from focusnet.io.image import load_sitk, read_image
from focusnet.model_store import find_bundle
from focusnet_training.datasets import Dataset, read_case, read_dataset

OURS, THEIRS = "ours", "nnU-Net"
MEASURES = ("dsc", "surface_dsc", "hd95_max_mm", "hd95_mean_mm")
COSTS = (
    ("wall_s", "seconds a patient", 2),
    ("cpu_s", "CPU seconds a patient", 2),
    ("peak_mib", "peak memory (MiB)", 0),
)
SIGNIFICANT = 0.05
Cost = dict[str, float]
Tests = dict[tuple[str, str], PairedTest]


def predict(dataset: Dataset, names: Sequence[str], model: str, grids: int | None) -> tuple[dict[str, LabelMap], Cost]:
    """Our label maps of the patients, and what they cost: from reading the CT to the labels on its grid."""
    predictor = Predictor(load_bundle(find_bundle(model)), "cpu", grids=grids)
    answers, wall, cpu, peak = {}, [], [], 0.0
    for name in names:
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        prediction = predictor.predict(read_image(dataset.cases[name].image))
        wall.append(time.perf_counter() - wall_start)
        cpu.append(time.process_time() - cpu_start)
        answers[name] = prediction.labelmap
        peak = prediction.peak_memory_mib or peak
    return answers, {"wall_s": float(np.mean(wall)), "cpu_s": float(np.mean(cpu)), "peak_mib": peak}


def read_answers(folder: Path, dataset: Dataset, names: Sequence[str]) -> tuple[dict[str, LabelMap], Cost]:
    """The same of nnU-Net, as predict.py wrote them."""
    answers = {}
    for name in names:
        labels = load_sitk(folder / f"{name}.nrrd")
        answers[name] = LabelMap(labels.array.astype(np.uint8), labels.geometry, dataset.labels)
    cost = json.loads((folder / "cost.json").read_text())
    means = {key: float(np.mean([cost["cases"][name][key] for name in names])) for key in ("wall_s", "cpu_s")}
    return answers, {**means, "peak_mib": cost["peak_mib"]}


def measure(dataset: Dataset, answers: dict[str, LabelMap], known: Sequence[str]) -> list[Row]:
    """Rows of the organs that count, of all patients."""
    rows: list[Row] = []
    for name, answer in answers.items():
        wanted = tuple(organ for organ in known if organ in dataset.cases[name].scored)
        _, truth = read_case(dataset, name)
        rows += evaluate_case(truth, answer, name, CaseSettings(organs=wanted))
    return [row for row in rows if row.state in ("ok", "missed")]


def pair(test: PairedTest, metric: str) -> str:
    """Both means, and a star for a difference."""
    digits = METRICS[metric].decimals
    star = "*" if test.p_holm < SIGNIFICANT else ""
    return f"{test.mean_first:.{digits}f} / {test.mean_second:.{digits}f}{star}"


def line(organ: str, tests: Tests, missed: dict[str, int]) -> str:
    """One organ, or each patient's mean over organs, as a line of the table."""
    dsc = tests[organ, "dsc"]
    interval = "" if dsc.interval is None else " ({:+.3f} to {:+.3f})".format(*dsc.interval)
    name = "each patient's mean" if organ == POOLED else organs.organ(organ).name
    cells = [pair(tests[organ, m], m) if (organ, m) in tests else "–" for m in MEASURES]
    difference = f"{dsc.difference:+.3f}{interval}"
    misses = " / ".join(str(missed[method]) for method in (OURS, THEIRS))
    return f"| {name} | {dsc.n} | {cells[0]} | {difference} | {dsc.p_holm:.2g} | {' | '.join(cells[1:])} | {misses} |"


def print_table(rows: dict[str, list[Row]], tests: Tests, costs: dict[str, Cost]) -> None:
    """The table in Markdown, with time and memory under it."""
    found = [organ for organ, metric in tests if metric == "dsc" and organ != POOLED]
    headings = [METRICS[m].heading for m in MEASURES[1:]]
    print(f"| organ | n | DSC | difference (95 % interval) | p | {' | '.join(headings)} | missed |")
    print("|---|---|---|---|---|---|---|---|---|")
    for organ in (*found, POOLED):
        missed = {
            method: sum(row.state == "missed" and organ in (row.organ, POOLED) for row in of_method)
            for method, of_method in rows.items()
        }
        print(line(organ, tests, missed))
    cells = []
    for metric in MEASURES:
        of_organs = [tests[organ, metric] for organ in found if (organ, metric) in tests]
        means = [np.mean([getattr(t, side) for t in of_organs]) for side in ("mean_first", "mean_second")]
        cells.append(" / ".join(f"{mean:.{METRICS[metric].decimals}f}" for mean in means))
    print(f"| **mean over organs** | | {cells[0]} | | | {' | '.join(cells[1:])} | |")
    for key, name, digits in COSTS:
        print(f"| {name} | | {costs[OURS][key]:.{digits}f} / {costs[THEIRS][key]:.{digits}f} | | | | | | |")


def main() -> None:
    """Predict, measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--nnunet", type=Path, required=True, help="folder that predict.py has written")
    parser.add_argument("--model", default="openkbp7", help="name or folder of our model")
    parser.add_argument("--grids", type=int, choices=[1, 4], help="instead of the model's own number")
    parser.add_argument("--cases", type=int, help="only the first of the validation patients")
    parser.add_argument("--json", type=Path, help="also write all tests and costs here")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_memory()
    dataset = read_dataset(given.data)
    names = dataset.validation[: given.cases]
    # Before all else, so that the peak of memory is its own.
    ours, our_cost = predict(dataset, names, given.model, given.grids)
    theirs, their_cost = read_answers(given.nnunet, dataset, names)
    known = [organ for organ in dataset.organs if organ in next(iter(ours.values())).organs.values()]
    rows = {OURS: measure(dataset, ours, known), THEIRS: measure(dataset, theirs, known)}
    tests: Tests = {}
    for metric in MEASURES:
        for test in compare_methods(rows, metric, higher_is_better=bool(METRICS[metric].higher_is_better)):
            tests[test.contest.organ, metric] = test
    costs = {OURS: our_cost, THEIRS: their_cost}
    print_table(rows, tests, costs)
    if given.json is not None:
        given.json.write_text(json.dumps({"costs": costs, "tests": [asdict(t) for t in tests.values()]}, indent=1))


if __name__ == "__main__":
    main()
