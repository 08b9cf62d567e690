"""Correct segmentations to inject errors into, in two parts that share no patient."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from focusnet.geometry import Box, LabelMap, Volume
from focusnet.io.image import read_image
from focusnet.io.segmentation import read_segmentation
from focusnet.organs import find
from focusnet_training.phantom import PhantomOptions, make_phantom
from numpy.typing import NDArray
from scipy import ndimage

Part = Literal["calibration", "report"]
CALIBRATION_SEED = 1000


@dataclass(frozen=True, eq=False)
class Case:
    """A correct segmentation, with its CT where there is one."""

    source: str
    name: str
    labels: LabelMap
    volume: Volume | None

    def with_labels(self, array: NDArray[np.uint8]) -> Case:
        """The same case with other labels."""
        return replace(self, labels=LabelMap(array, self.labels.geometry, self.labels.organs))

    @cached_property
    def boxes(self) -> dict[str, Box]:
        """Box of each organ that is there."""
        places = ndimage.find_objects(self.labels.array)
        found = {key: places[value - 1] for value, key in self.labels.organs.items() if value <= len(places)}
        ends = {key: [(s.start, s.stop) for s in place] for key, place in found.items() if place is not None}
        return {key: Box(*zip(*pairs, strict=True)) for key, pairs in ends.items()}  # type: ignore[arg-type]

    @property
    def organs(self) -> list[str]:
        """Keys of the organs that are there."""
        return list(self.boxes)

    def is_cut(self, key: str) -> bool:
        """Whether an organ reaches the edge of the grid."""
        box = self.boxes[key]
        return 0 in box.start_zyx or any(np.equal(box.stop_zyx, self.labels.array.shape))

    def around(self, key: str, margin_mm: float) -> tuple[slice, slice, slice]:
        """Slices of an organ's surroundings, one voxel off the edge of the grid."""
        z, y, x = (int(margin_mm / s) + 1 for s in self.labels.geometry.spacing_zyx)
        shape = self.labels.array.shape
        inner = Box((1, 1, 1), (shape[0] - 1, shape[1] - 1, shape[2] - 1))
        region = self.boxes[key].expand((z, y, x), shape).intersection(inner)
        assert region is not None
        return region.slices


def contour_cases(folder: Path, part: Part) -> Iterator[Case]:
    """Expert contours, made exclusive by painting small organs over large ones, on a grid with a free margin.

    The first three scans are for calibration, the other four, of three more patients, for the report.
    """
    index = json.loads((folder / "contours.json").read_text())["cases"]
    names = sorted(index)[:3] if part == "calibration" else sorted(index)[3:]
    for scan in names:
        entry = index[scan]
        first, last = entry["box_offset"][2], entry["box_offset"][2] + entry["box_size"][2]
        margin = ((int(first > 0), int(last < entry["size"][2])), (1, 1), (1, 1))
        for annotator in entry["annotators"]:
            segmentation = read_segmentation(folder / scan / f"{annotator}.seg.nrrd")
            masks = {organ.key: s.mask for s in segmentation.segments if (organ := find(s.name))}
            organs = dict(enumerate(masks, 1))
            array = np.zeros(segmentation.geometry.shape_zyx, np.uint8)
            for value, key in sorted(organs.items(), key=lambda item: -int(masks[item[1]].sum())):
                array[masks[key]] = value
            before, after = zip(*margin, strict=True)
            geometry = segmentation.geometry.pad(before, after)  # type: ignore[arg-type]
            yield Case("contours", f"{scan}/{annotator}", LabelMap(np.pad(array, margin), geometry, organs), None)


def planning_cases(folder: Path, part: Part) -> Iterator[Case]:
    """OpenKBP: every fourth training patient for calibration, all validation patients for the report."""
    names = {v: find(k) for k, v in json.loads((folder / "dataset.json").read_text())["labels"].items()}
    organs = {value: organ.key for value, organ in names.items() if organ}
    split = json.loads((folder / "splits_final.json").read_text())[0]
    for case in split["train"][::4] if part == "calibration" else split["val"]:
        volume = read_image(folder / "imagesTr" / f"{case}_0000.nrrd")
        labels = read_image(folder / "labelsTr" / f"{case}.nrrd", hounsfield=False).array.astype(np.uint8)
        yield Case("planning CTs", case, LabelMap(labels, volume.geometry, organs), volume)


def phantom_cases(count: int, seed: int, part: Part) -> Iterator[Case]:
    """Phantoms at a planning CT's resolution; those for calibration start at a seed that is 1000 higher."""
    first = seed + CALIBRATION_SEED if part == "calibration" else seed
    for number in range(first, first + count):
        phantom = make_phantom(number, PhantomOptions(spacing_xyz=(1.4, 1.4, 2.5)))
        yield Case("phantoms", f"seed {number}", phantom.labels, phantom.volume)
