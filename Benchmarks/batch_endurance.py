"""A batch of phantoms with poisoned cases among them, killed again and again: is all done once, and the memory flat?

    python Benchmarks/batch_endurance.py --cases 300 --kills 3

Makes small phantom CTs, damages 5 % of them in turn in several ways, and runs ``focusnet batch`` in a process that is
ended by SIGKILL after some cases, until a run comes to its end. Prints what the manifest holds, and how the memory of
the process of the last run has grown.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "FocusNetSegmentation"), str(ROOT / "FocusNetTraining")]

from focusnet.geometry import Volume  # noqa: E402
from focusnet.io.image import read_image, write_image  # noqa: E402

EVERY = 20  # one case in twenty is poisoned
WARM_UP = 20
MODEL_SPACING_XYZ = (12.0, 12.0, 12.0)
DIFFERENT_PHANTOMS = 4
SPACING_XYZ = (8.0, 8.0, 8.0)
LITTLE_MODEL = {
    "num_classes": 8,
    "num_small": 1,
    "widths": (4, 6, 8),
    "growth": 4,
    "dilations": (1, 2),
    "roi_shape_zyx": (4, 16, 16),
}
LITTLE_ORGANS = ("brain", "brainstem", "spinal_cord", "mandible", "parotid_l", "parotid_r", "optic_chiasm")


@dataclass(frozen=True)
class Outcome:
    """What one run said: rows in the order of their end, and the greatest memory so far at each."""

    numbers: list[int]
    peak_mib: list[float]
    was_killed: bool


@dataclass(frozen=True)
class Result:
    """What a batch came to: case numbers, reason codes, files, kills, and the greatest memory of the last run."""

    rows: int
    done: list[int]
    failed: dict[int, str]
    poisoned: dict[int, str]
    with_files: list[int]
    other_files: list[str]
    kills: int
    reported_twice: int
    peak_mib: list[float]
    growth_percent_per_100: float | None


def main() -> None:
    """Run it and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--model", help="name or folder of a bundle; by default a little one with random weights")
    arguments = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="focusnet-endurance-") as folder:
        result = endure(Path(folder), arguments.cases, arguments.kills, arguments.jobs, arguments.model)
    say(result, time.monotonic() - start)


def endure(scratch: Path, cases: int, kills: int, jobs: int = 1, model: str | None = None) -> Result:
    """Make an archive, kill its batch again and again, and judge what comes out."""
    poisoned = make_archive(scratch / "archive", cases)
    model = model or str(make_model(scratch / "little"))
    outcomes = run_until_done(scratch, model, jobs, kills, cases)
    return judge(scratch / "out", outcomes, poisoned)


def make_archive(folder: Path, count: int) -> dict[int, str]:
    """Write the cases; numbers of the poisoned ones and how."""
    from focusnet_training.phantom import PhantomOptions, make_phantom

    rng = np.random.default_rng(1)
    phantoms = [
        make_phantom(seed, PhantomOptions(spacing_xyz=SPACING_XYZ)).volume for seed in range(DIFFERENT_PHANTOMS)
    ]
    poisoned = {}
    for number in range(1, count + 1):
        phantom = phantoms[number % DIFFERENT_PHANTOMS]
        # Noise of its own makes each case another one.
        array = phantom.array + rng.normal(0, 5, phantom.array.shape)
        path = folder / f"{number:04d}.nrrd"
        write_image(phantom.with_array(array.astype(np.int16)), path)
        if number % EVERY == EVERY // 2:
            poisoned[number] = poison(path, number // EVERY)
    return poisoned


def poison(path: Path, way: int) -> str:
    """Damage a case in one of several ways."""
    volume = read_image(path)
    ways = ("truncated", "no numbers", "normalised", "empty", "two slices")
    name = ways[way % len(ways)]
    path_array = volume.array.astype(np.float32)
    if name == "truncated":
        path.write_bytes(path.read_bytes()[: 2000 + way])
        return name
    if name == "no numbers":
        path_array[0, 0, way] = np.nan
    elif name == "normalised":
        path_array = (path_array + 1024 + way) / 4096
    elif name == "empty":
        path_array[:] = -1000 - way
    else:
        path_array = path_array[way : way + 2]
    write_image(
        Volume(path_array, volume.geometry) if name != "two slices" else cut(volume, path_array), path, overwrite=True
    )
    return name


def cut(volume: Volume, array: np.ndarray) -> Volume:
    """Two slices on the volume's grid."""
    from focusnet.geometry import Box

    return Volume(array, volume.geometry.crop(Box((0, 0, 0), array.shape)))


def make_model(folder: Path) -> Path:
    """A bundle with random weights: small, but the whole chain of networks."""
    import torch
    from focusnet.bundle import Architecture, ModelSpec, save_bundle
    from focusnet.networks import builders

    torch.manual_seed(1)
    spec = ModelSpec(
        name="little",
        description="Random weights for the endurance of batches.",
        architecture=Architecture(name="focusnetv2", arguments=LITTLE_MODEL),
        organs=LITTLE_ORGANS,
        small_organs=("optic_chiasm",),
        spacing_mm_xyz=MODEL_SPACING_XYZ,
        chunk_shape_zyx=(32, 32, 32),
        overlap_zyx=(4, 8, 8),
        roi_shape_zyx=(4, 16, 16),
        peak_threshold=0.01,
        training_data="None: random weights.",
    )
    save_bundle(folder, spec, builders.build("focusnetv2", **LITTLE_MODEL), "# little\n\nRandom weights.")
    return folder


def run_until_done(scratch: Path, model: str, jobs: int, kills: int, cases: int) -> list[Outcome]:
    """Runs of the batch, of which the first ``kills`` are killed after some cases."""
    outcomes = []
    for number in range(kills + 1):
        limit = cases // 20 + 2 * number if number < kills else None
        outcomes.append(run(scratch, model, jobs, limit))
        print(f"run {number + 1}: {len(outcomes[-1].numbers)} cases, killed: {outcomes[-1].was_killed}", flush=True)
    return outcomes


def run(scratch: Path, model: str, jobs: int, limit: int | None) -> Outcome:
    """One run, killed without warning after ``limit`` cases, at any point of the next one."""
    command = [sys.executable, "-m", "focusnet", "batch", str(scratch / "archive"), "-o", str(scratch / "out")]
    command += ["--model", model, "--device", "cpu", "--precision", "fp32", "--json", "-q", "--jobs", str(jobs)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[:2])}
    numbers, peak_mib = [], []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            row = json.loads(line)
            numbers.append(row["number"])
            if row["peak_memory_mib"]:
                peak_mib.append(row["peak_memory_mib"])
            if limit is not None and len(numbers) >= limit:
                time.sleep(0.05 * len(numbers) % 0.7)
                process.send_signal(signal.SIGKILL)
                break
    return Outcome(numbers, peak_mib, process.returncode == -signal.SIGKILL)


def judge(out: Path, outcomes: list[Outcome], poisoned: dict[int, str]) -> Result:
    """What there is against what there should be."""
    with (out / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    failed = {int(row["number"]): row["reason_code"] for row in rows if row["status"] != "done"}
    done = [int(row["number"]) for row in rows if row["status"] == "done"]
    told = Counter(number for outcome in outcomes for number in outcome.numbers)
    last = outcomes[-1].peak_mib
    growth = None
    if len(last) > WARM_UP + 1:
        growth = 100 * (last[-1] / last[WARM_UP - 1] - 1) / (len(last) - WARM_UP) * 100
    return Result(
        rows=len(rows),
        done=done,
        failed=failed,
        poisoned=poisoned,
        with_files=sorted(int(path.name[5:9]) for path in out.glob("case_*.seg.nrrd")),
        other_files=sorted(path.name for path in out.iterdir() if not path.name.startswith("case_")),
        kills=sum(outcome.was_killed for outcome in outcomes),
        reported_twice=sum(count > 1 for count in told.values()),
        peak_mib=last,
        growth_percent_per_100=growth,
    )


def say(result: Result, seconds: float) -> None:
    """Print a result."""
    print(
        f"{result.rows} rows in {seconds:.0f} s; killed {result.kills} times; reported twice: {result.reported_twice}"
    )
    print(f"done: {len(result.done)}, all with their files and no others: {sorted(result.done) == result.with_files}")
    print(f"failed: {len(result.failed)}, of {len(result.poisoned)} poisoned")
    for name, code in sorted({(name, result.failed.get(number, "")) for number, name in result.poisoned.items()}):
        print(f"  {name}: {code}")
    print(f"other files: {', '.join(result.other_files)}")
    if result.growth_percent_per_100 is not None:
        print(
            f"greatest memory: {result.peak_mib[WARM_UP - 1]:.0f} MiB after {WARM_UP} cases, {result.peak_mib[-1]:.0f} "
            f"MiB after {len(result.peak_mib)}: {result.growth_percent_per_100:+.2f} % per 100 cases"
        )


if __name__ == "__main__":
    main()
