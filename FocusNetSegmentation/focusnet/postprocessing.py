"""From blended probabilities on the working grid to exclusive labels on the native grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from focusnet.geometry import Box, Geometry, Shape, Volume, covering, resample
from focusnet.tiling import SparseMaps

SLAB_VOXELS = 2**23
CERTAIN = 1.0 - 1e-4


@dataclass(frozen=True, eq=False)
class RoiAnswer:
    """What SOS-Net says about one small organ.

    Attributes:
        channel: Map of the organ.
        box: Its ROI on the working grid.
        probability: float32 of the ROI's shape.
    """

    channel: int
    box: Box
    probability: NDArray[np.float32]


def fuse(maps: SparseMaps, channels: Sequence[int], answers: Sequence[RoiAnswer]) -> None:
    """Put the answers of SOS-Net in the place of S-Net's inside the ROIs; changes ``maps``.

    Inside its ROI a small organ's probability is SOS-Net's alone, so it wins against the background from one half on.
    Where several ROIs overlap the organs share by their odds, the more probable one wins. What is left goes to the
    other classes in S-Net's proportions. The result does not depend on the order of the answers.

    Args:
        maps: Probabilities of all organs; the background is what is missing to 1.
        channels: The organs' maps among them.
        answers: At most one per organ.
    """
    if not answers:
        return
    region = answers[0].box
    for answer in answers[1:]:
        region = region.union(answer.box)
    covered = {answer.channel: _within(answer.box, region) for answer in answers}
    odds_sum = np.zeros(region.shape_zyx, np.float32)
    removed = np.zeros(region.shape_zyx, np.float32)
    for answer in answers:
        inside = covered[answer.channel]
        odds_sum[inside] += _odds(answer.probability)
        removed[inside] += maps.read(answer.channel, answer.box)
    none = 1.0 / (1.0 + odds_sum)
    keep = none / np.maximum(1.0 - removed, 1.0 - CERTAIN)
    for channel in channels:
        values = maps.read(channel, region)
        fused = np.minimum(values * keep, none)
        for answer in answers:
            if answer.channel == channel:
                fused[covered[channel]] = _odds(answer.probability) * none[covered[channel]]
        maps.write(channel, region, fused)


def _odds(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    limited = np.minimum(probability, CERTAIN)
    return (limited / (1.0 - limited)).astype(np.float32)


def _within(box: Box, region: Box) -> tuple[slice, slice, slice]:
    """Slices of ``box`` in the array of ``region``, which holds it whole."""
    z, y, x = (slice(a - r, b - r) for a, b, r in zip(box.start_zyx, box.stop_zyx, region.start_zyx, strict=True))
    return z, y, x


def native_labels(
    grids: Sequence[tuple[SparseMaps, Geometry]],
    channels: Mapping[int, int],
    native: Geometry,
    step: Callable[[float], None],
) -> tuple[NDArray[np.unsignedinteger], NDArray[np.uint8]]:
    """Most probable organ of every native voxel, by linear interpolation of the probabilities.

    Organ by organ within its own box and slab by slab: beside the result only a few maps of one slab are held.

    Args:
        grids: Probabilities of the organs and the working grid that they lie on; of several the mean counts. The
            background is what is missing to 1.
        channels: Map of each label value.
        native: Grid of the result; any orientation.
        step: Called with the finished share after each slab.

    Returns:
        Labels of ``native``'s shape, 0 background, and the probability of each voxel's label in 255ths.
    """
    labels = np.zeros(native.shape_zyx, np.uint8 if max(channels) < 256 else np.uint16)
    certainty = np.full(native.shape_zyx, 255, np.uint8)
    for slab in _slabs(native.shape_zyx):
        total = np.zeros(slab.shape_zyx, np.float32)
        best = np.zeros(slab.shape_zyx, np.float32)
        label = labels[slab.slices]
        for value, channel in channels.items():
            mean = _mean_share(grids, channel, native, slab)
            if mean is None:
                continue
            target, share = mean
            inside = _within(target, slab)
            total[inside] += share
            wins = share > best[inside]
            np.copyto(best[inside], share, where=wins)
            np.copyto(label[inside], label.dtype.type(value), where=wins)
        background = 1.0 - total
        outside = background >= best
        label[outside] = 0
        np.copyto(best, background, where=outside)
        certainty[slab.slices] = np.rint(255.0 * np.clip(best, 0.0, 1.0))
        step(slab.stop_zyx[0] / native.shape_zyx[0])
    return labels, certainty


def _mean_share(
    grids: Sequence[tuple[SparseMaps, Geometry]], channel: int, native: Geometry, slab: Box
) -> tuple[Box, NDArray[np.float32]] | None:
    """Mean of one map of each grid on the native voxels of a slab that any of them reaches; None where none does."""
    reached = []
    for maps, working in grids:
        organ_box = maps.box(channel)
        if organ_box is None:
            continue
        # One more voxel all round: there the map falls to zero, unless the scan itself ends.
        box = organ_box.expand((1, 1, 1), working.shape_zyx)
        target = covering(native, working.crop(box), slab)
        source = target and covering(working, native.crop(target), box)
        if target is not None and source is not None:
            reached.append((target, source, maps, working))
    if not reached:
        return None
    region = reduce(Box.union, (target for target, *_ in reached))
    total = np.zeros(region.shape_zyx, np.float32)
    for target, source, maps, working in reached:
        block = Volume(maps.read(channel, source), working.crop(source))
        total[_within(target, region)] += resample(block, native.crop(target), fill=0.0, antialias=False).array
    return region, total / np.float32(len(grids))


def _slabs(shape_zyx: Shape) -> Iterator[Box]:
    thickness = max(1, SLAB_VOXELS // (shape_zyx[1] * shape_zyx[2]))
    for start in range(0, shape_zyx[0], thickness):
        yield Box((start, 0, 0), (min(start + thickness, shape_zyx[0]), *shape_zyx[1:]))


def keep_largest_components(labels: NDArray[np.unsignedinteger], values: Iterable[int]) -> dict[int, int]:
    """Clear all but the largest connected piece (faces, edges and corners) of some labels; changes ``labels``.

    Returns:
        Number of voxels cleared, of each label where there were any.
    """
    cleared = {}
    boxes = ndimage.find_objects(labels)
    for value in values:
        box = boxes[value - 1] if value <= len(boxes) else None
        if box is None:
            continue
        pieces, count = ndimage.label(labels[box] == value, np.ones((3, 3, 3), bool))
        if count > 1:
            sizes = np.bincount(pieces.ravel())[1:]
            stray = (pieces > 0) & (pieces != int(np.argmax(sizes)) + 1)
            labels[box][stray] = 0
            cleared[value] = int(sizes.sum() - sizes.max())
    return cleared
