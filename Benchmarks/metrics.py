"""Speed and memory of all metrics of 22 organs at 200 x 512 x 512, beside surface-distance, MONAI and SimpleITK.

Every library measures the same ellipsoids of organ size on one thread, in one run: ours from the two label maps, the
others from a boolean mask per organ, which is what they take, each in a process of its own. On a busy machine only the
CPU seconds mean something. Libraries that are not installed are left out; ``--fast`` leaves out those that take
minutes. Needs Linux with glibc, for the peak of memory.

    python Benchmarks/metrics.py [--fast] [--organs N]
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from focusnet import organs
from focusnet.evaluation import evaluate_case
from focusnet.evaluation.case import Row
from focusnet.geometry import Box, Geometry, LabelMap
from numpy.typing import NDArray

SHAPE = (200, 512, 512)
SPACING_ZYX = (2.5, 0.98, 0.98)
Masks = dict[str, NDArray[np.bool_]]
Found = dict[str, tuple[float, ...]]


def organ_labels(count: int, seed: int) -> LabelMap:
    """Ellipsoids with the middle volume of each organ's plausible range, on a grid of places; the seed moves them."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, dtype=np.uint8)
    keys = organs.PAPER_22[:count]
    for value, key in enumerate(keys, start=1):
        low, high = organs.organ(key).volume_range_ml
        radius_mm = (3 * 1000 * np.sqrt(low * high) / (4 * np.pi)) ** (1 / 3)
        radii = radius_mm * rng.uniform(0.85, 1.2, size=3) / SPACING_ZYX
        column, row = (value - 1) % 5, (value - 1) // 5
        centre = np.array([100, 51 + 102 * row, 51 + 102 * column]) + rng.uniform(-1, 1, size=3)
        start = np.maximum(np.floor(centre - radii).astype(int), 0)
        stop = np.minimum(np.ceil(centre + radii).astype(int) + 1, SHAPE)
        z, y, x = np.ogrid[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        inside = sum(((i - c) / r) ** 2 for i, c, r in zip((z, y, x), centre, radii, strict=True)) <= 1
        labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))][inside] = value
    return LabelMap(labels, Geometry.from_parts(SHAPE, SPACING_ZYX[::-1]), dict(enumerate(keys, start=1)))


def ours(reference: LabelMap, prediction: LabelMap) -> list[Row]:
    """Every measure of ``metrics.csv``."""
    return evaluate_case(reference, prediction, "benchmark")


def with_surface_distance(reference: Masks, prediction: Masks) -> Found:
    """DSC, surface DSC and HD95 (max)."""
    from surface_distance import metrics

    found: Found = {}
    for key, a in reference.items():
        b = prediction[key]
        distances = metrics.compute_surface_distances(a, b, SPACING_ZYX)
        found[key] = (
            metrics.compute_dice_coefficient(a, b),
            metrics.compute_robust_hausdorff(distances, 95),
            metrics.compute_surface_dice_at_tolerance(distances, organs.organ(key).tolerance_mm + 1e-6),
        )
    return found


def with_monai(reference: Masks, prediction: Masks) -> Found:
    """DSC, HD95 (max) and average surface distance on border voxels."""
    import torch
    from monai import metrics

    torch.set_num_threads(1)
    found: Found = {}
    for key, mask in reference.items():
        a, b = (torch.from_numpy(m)[None, None] for m in (mask, prediction[key]))
        settings: dict[str, Any] = {"include_background": True, "spacing": SPACING_ZYX}
        found[key] = (
            metrics.compute_dice(b, a).item(),
            metrics.compute_hausdorff_distance(b, a, percentile=95, **settings).item(),
            metrics.compute_average_surface_distance(b, a, symmetric=True, **settings).item(),
        )
    return found


def with_simpleitk(reference: Masks, prediction: Masks) -> Found:
    """DSC and (average) Hausdorff distance of its own filters, over the whole volume."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    found: Found = {}
    for key, mask in reference.items():
        images = []
        for array in (mask, prediction[key]):
            image = sitk.GetImageFromArray(array.view(np.uint8))
            image.SetSpacing(SPACING_ZYX[::-1])
            images.append(image)
        overlap, distance = sitk.LabelOverlapMeasuresImageFilter(), sitk.HausdorffDistanceImageFilter()
        overlap.Execute(*images)
        distance.Execute(*images)
        found[key] = (overlap.GetDiceCoefficient(), distance.GetHausdorffDistance())
    return found


LIBRARIES: dict[str, tuple[str, bool, Callable[[Masks, Masks], Found]]] = {
    "surface_distance": ("surface-distance: DSC, SDSC, HD95", False, with_surface_distance),
    "monai": ("MONAI: DSC, HD95, ASD (voxels)", False, with_monai),
    "SimpleITK": ("SimpleITK: DSC, HD", True, with_simpleitk),
}


class Measured(NamedTuple):
    """What one library took, on one thread.

    Attributes:
        cpu_s: CPU seconds.
        wall_s: Wall seconds.
        memory_mib: Growth of the process's peak memory beyond masks and imports.
        dsc: DSC by organ.
    """

    cpu_s: float
    wall_s: float
    memory_mib: float
    dsc: dict[str, float]


def measured(library: str, count: int) -> Measured:
    """Measure one library; run in a process of its own, so that its peak memory is its own."""
    warnings.simplefilter("ignore")
    reference, prediction = organ_labels(count, 1), organ_labels(count, 2)
    if library == "focusnet":
        small = [labels.crop(Box((90, 0, 0), (110, *SHAPE[1:]))) for labels in (reference, prediction)]
        run: Callable[[], Any] = partial(ours, reference, prediction)
        ours(*small)  # imports, and the table of areas that is made once
    else:
        importlib.import_module(library)
        keys = list(reference.organs.values())
        masks = [{key: labels.mask(key) for key in keys} for labels in (reference, prediction)]
        run = partial(LIBRARIES[library][2], *masks)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before = peak_mib()
    cpu, wall = time.process_time(), time.perf_counter()
    found = run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    dsc = {row.organ: row.dsc or 0.0 for row in found} if library == "focusnet" else {k: v[0] for k, v in found.items()}
    return Measured(cpu, wall, peak_mib() - before, dsc)


def peak_mib() -> float:
    """Peak resident memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def main() -> int:
    """Run all and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="leave out what takes minutes")
    parser.add_argument("--organs", type=int, default=22, help="number of organs, 22 at most")
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"

    def alone(library: str) -> Measured:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measured, library, arguments.organs).result()

    print(f"{arguments.organs} organs at {SHAPE[0]} x {SHAPE[1]} x {SHAPE[2]}, one thread\n")
    print("| library | CPU s | times ours | wall s | memory MiB | DSC differs by at most |")
    print("|---|---:|---:|---:|---:|---:|")
    own = alone("focusnet")
    print(
        f"| focusnet: all of metrics.csv | {own.cpu_s:.2f} | 1 | {own.wall_s:.2f} | {own.memory_mib:.0f} | |",
        flush=True,
    )
    for library, (label, slow, _) in LIBRARIES.items():
        if importlib.util.find_spec(library) is None or (slow and arguments.fast):
            print(f"| {label} | left out | | | | |")
            continue
        its = alone(library)
        gap = max(abs(its.dsc[key] - dsc) for key, dsc in own.dsc.items())
        times = f"{its.cpu_s:.2f} | {its.cpu_s / own.cpu_s:.0f} | {its.wall_s:.2f}"
        print(f"| {label} | {times} | {its.memory_mib:.0f} | {gap:.0e} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
