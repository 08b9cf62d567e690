"""How far the organs of a turned and interpolated copy of a scan lie from those of the scan.

Unseen phantoms, or one CT, are segmented as they are and in copies that are turned by 10 to 20 degrees and have other
voxels. The distance is between the centroids of an organ's labels in the world. What the voxels alone do to it is
measured too: the same distance for the true labels (of a CT, for the labels found), carried onto the grid of the copy.

    python Benchmarks/turned_copies.py [--seeds 990001 990002] [--spacing 1 1 2] [--model phantom22] [--grids N]
    python Benchmarks/turned_copies.py --ct SERIES --model openkbp7
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from focusnet.bundle import load_bundle
from focusnet.geometry import Geometry, LabelMap, Volume, resample
from focusnet.inference import Predictor
from focusnet.io import read_volume
from focusnet.io.dicom import read_series
from focusnet.model_store import find_bundle
from focusnet.preprocessing import labels_to_grid
from focusnet_training.phantom import PhantomOptions, make_phantom
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

COPIES = (
    ((10, -6, 14), (1.2, 1.2, 1.6)),
    ((5, -14, 9), (1.0, 1.0, 2.0)),
    ((-12, 3, 18), (1.2, 1.2, 1.6)),
    ((20, 0, 0), (1.2, 1.2, 1.25)),
)
ROOM = 1.25


def copy(volume: Volume, angles_deg: Sequence[float], spacing_xyz: Sequence[float]) -> Volume:
    """The scan interpolated on a turned grid round its middle."""
    rotation = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    source, spacing = volume.geometry, np.asarray(spacing_xyz)
    x, y, z = (int(n) for n in np.ceil(np.array(source.shape_zyx[::-1]) * source.spacing_xyz * ROOM / spacing))
    origin = source.center_mm - rotation @ ((np.array((x, y, z)) - 1) / 2 * spacing)
    return resample(volume, Geometry.from_parts((z, y, x), spacing, origin, rotation), fill=-1024)


def centroids_mm(labels: LabelMap) -> dict[str, NDArray[np.float64]]:
    """Middle of each organ that has a voxel."""
    found = {key: np.argwhere(labels.mask(key)) for key in labels.organs.values()}
    return {key: labels.geometry.index_to_world(index).mean(axis=0) for key, index in found.items() if len(index)}


def distances_mm(found: dict[str, NDArray[np.float64]], places: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """Of the organs in both."""
    return {key: float(np.linalg.norm(found[key] - places[key])) for key in places.keys() & found.keys()}


def scans(given: argparse.Namespace) -> Iterator[tuple[str, Volume, LabelMap | None]]:
    """Name, CT and true labels."""
    if given.ct is not None:
        yield given.ct.name, read_series(given.ct) if given.ct.is_dir() else read_volume(given.ct), None
        return
    for seed in given.seeds:
        phantom = make_phantom(seed, PhantomOptions(spacing_xyz=tuple(given.spacing)))
        yield str(seed), phantom.volume, phantom.labels


def main() -> None:
    """Print a row per phantom, copy and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[990_001, 990_002])
    parser.add_argument("--spacing", type=float, nargs=3, default=[1.0, 1.0, 2.0], help="voxels of the scan, mm")
    parser.add_argument("--model", default="phantom22")
    parser.add_argument("--grids", type=int, choices=[1, 4], help="instead of the model's own number")
    parser.add_argument("--ct", type=Path, help="DICOM series or file, in place of phantoms")
    given = parser.parse_args()
    predictor = Predictor(load_bundle(find_bundle(given.model)), "cpu", grids=given.grids)
    small = predictor.spec.small_organs or predictor.spec.organs
    print("| scan | turn (degrees) | small organs: mean, most (mm) | all: mean, most (mm) | below 1 mm | truth: most |")
    print("|---|---|---|---|---|---|")
    for name, volume, truth in scans(given):
        found = predictor.predict(volume).labelmap
        places, labels = centroids_mm(found), found if truth is None else truth
        for angles, spacing in COPIES:
            turned = copy(volume, angles, spacing)
            shift = distances_mm(centroids_mm(predictor.predict(turned).labelmap), places)
            true_shift = distances_mm(centroids_mm(labels_to_grid(labels, turned.geometry)), centroids_mm(labels))
            of_small = [shift[key] for key in small if key in shift]
            worst, worst_true = (max(values, key=values.__getitem__) for values in (shift, true_shift))
            near = sum(distance < 1.0 for distance in shift.values())
            print(
                f"| {name} | {angles} | {np.mean(of_small):.2f}, {max(of_small):.2f} | "
                f"{np.mean(list(shift.values())):.2f}, {shift[worst]:.2f} ({worst}) | {near} of {len(places)} | "
                f"{true_shift[worst_true]:.2f} ({worst_true}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
