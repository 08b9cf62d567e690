"""What the networks say about a CT on the working grid: S-Net and SOL-Net piece by piece, SOS-Net in the ROIs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from focusnet.bundle import ModelSpec
from focusnet.devices import Precision, computing
from focusnet.geometry import Box, Shape, Volume
from focusnet.networks.roi import AGREEMENT, PEAK_MARGIN_ZYX, crop_roi, find_peaks, roi_start
from focusnet.postprocessing import RoiAnswer
from focusnet.preprocessing import AIR_HU, Intensity
from focusnet.tiling import Blender, SparseMaps, piece_starts, piece_weights, triple

Step = Callable[[float], None]
"""Called with the finished share of a stage; may raise to stop."""


@dataclass(frozen=True)
class Peak:
    """Where SOL-Net sees a small organ.

    Attributes:
        position_mm_xyz: LPS position, refined below the voxel.
        height: Value of the heat map, in [0, 1].
        found: Whether it reaches the model's threshold; if not, S-Net's own answer is kept.
    """

    position_mm_xyz: tuple[float, float, float]
    height: float
    found: bool


@dataclass(frozen=True, eq=False)
class Answers:
    """What the networks say about one CT.

    Attributes:
        maps: Probability of each organ by S-Net, then the heat map of each small organ, then the products of heat map
            and S-Net's probability of each small organ.
        peaks: Peak of each small organ.
        rois: SOS-Net's probability of each small organ that was found.
    """

    maps: SparseMaps
    peaks: dict[str, Peak]
    rois: list[RoiAnswer]


@dataclass(frozen=True, eq=False)
class Computation:
    """One model on one device.

    Attributes:
        spec: Description of the model.
        network: Its network.
        device: Where to compute.
        precision: Arithmetic of the convolutions.
        overlap_zyx: Least overlap of neighbouring pieces, in voxels.
    """

    spec: ModelSpec
    network: nn.Module
    device: torch.device
    precision: Precision
    overlap_zyx: Shape

    def run(self, ct: Volume, piece: Shape, stage: Callable[[str], AbstractContextManager[Step]]) -> Answers:
        """Ask all networks.

        Args:
            ct: CT in HU on the working grid.
            piece: Shape of the pieces (z, y, x); the CT is padded with air where it is smaller.
            stage: Opens a named stage of the work.

        Raises:
            RuntimeError: Memory runs out (see `focusnet.devices.is_out_of_memory`).
        """
        spec = self.spec
        # nn.Module.to takes both; the type stubs of torch know only one at a time.
        self.network.to(device=self.device, memory_format=self._layout)  # type: ignore[call-overload]
        padding = [(0, max(0, p - n)) for p, n in zip(piece, ct.array.shape, strict=True)]
        array = np.pad(ct.array, padding, constant_values=AIR_HU) if np.any(padding) else ct.array
        maps = SparseMaps(len(spec.organs) + 2 * len(spec.small_organs), triple(array.shape))
        with computing(self.device, self.precision):
            with stage("segmenting") as step:
                self._sweep(array, piece, maps, step)
            peaks, starts = {}, {}
            for k, key in enumerate(spec.small_organs):
                position, height = _refined_peak(
                    maps, len(spec.organs) + k, len(spec.organs) + len(spec.small_organs) + k
                )
                x, y, z = (float(v) for v in ct.geometry.index_to_world(position))
                peaks[key] = Peak((x, y, z), height, found=height >= spec.peak_threshold)
                if peaks[key].found:
                    starts[k] = roi_start(position, spec.roi_shape_zyx, array.shape)
            with stage("small organs") as step:
                rois = self._refine(array, piece, starts, step)
        return Answers(maps, peaks, rois)

    def _sweep(self, array: NDArray[np.float32], piece: Shape, maps: SparseMaps, step: Step) -> None:
        """S-Net and SOL-Net over the whole volume, blended."""
        overlap = triple(min(o, p // 2) for o, p in zip(self.overlap_zyx, piece, strict=True))
        z_starts, y_starts, x_starts = (
            piece_starts(n, p, o) for n, p, o in zip(array.shape, piece, overlap, strict=True)
        )
        z_weights, y_weights, x_weights = (piece_weights(p, o) for p, o in zip(piece, overlap, strict=True))
        plane_weights = y_weights[:, None] * x_weights
        plane_starts = [(y, x) for y in y_starts for x in x_starts]
        blender = Blender(maps)
        small = [self.spec.organs.index(key) for key in self.spec.small_organs]
        for number, z in enumerate(z_starts):
            for tile, (y, x) in enumerate(plane_starts):
                output = self.network(self._tensor(array, _box((z, y, x), piece)))
                for depth in range(piece[0]):
                    blender.add((z + depth, y, x), _plane(output, small, depth), z_weights[depth] * plane_weights)
                step((number + (tile + 1) / len(plane_starts)) / len(z_starts))
            blender.finish(z_starts[number + 1] if number + 1 < len(z_starts) else array.shape[0])

    def _refine(
        self, array: NDArray[np.float32], piece: Shape, starts: Mapping[int, Shape], step: Step
    ) -> list[RoiAnswer]:
        """SOS-Net in every ROI, on features computed again for a piece with the ROIs well inside.

        Keeping the features of the whole volume would take more memory than all the rest.
        """
        roi_shape = self.spec.roi_shape_zyx
        rois = []
        for window, members in _windows(starts, roi_shape, piece, triple(array.shape)):
            ct = self._tensor(array, window)
            features = self.network.snet(ct).features  # type: ignore[union-attr, operator]
            for k in members:
                inside = triple(a - b for a, b in zip(starts[k], window.start_zyx, strict=True))
                crops = [crop_roi(t, inside, roi_shape).contiguous(memory_format=self._layout) for t in (features, ct)]
                logits = self.network.refine(k, *crops)  # type: ignore[operator]  # (1, 1, d, h, w)
                probability = torch.sigmoid(logits[0, 0].float()).cpu().numpy()
                channel = self.spec.organs.index(self.spec.small_organs[k])
                rois.append(RoiAnswer(channel, _box(starts[k], roi_shape), probability))
                step(len(rois) / len(starts))
        return rois

    @property
    def _layout(self) -> torch.memory_format:
        return torch.contiguous_format if self.device.type == "mps" else torch.channels_last_3d

    def _tensor(self, array: NDArray[np.float32], box: Box) -> Tensor:
        hu = torch.from_numpy(Intensity(self.spec.window_hu)(array[box.slices]))
        return hu[None, None].to(self.device).contiguous(memory_format=self._layout)  # (1, 1, D, H, W)


def _box(start: Shape, shape: Shape) -> Box:
    return Box(start, triple(a + n for a, n in zip(start, shape, strict=True)))


def _plane(output: Any, small: Sequence[int], depth: int) -> NDArray[np.float32]:
    """One slice of a network's output as the maps of `Answers`, (channels, y, x)."""
    planes = [torch.softmax(output.logits[0, :, depth].float(), 0)[1:]]
    if small:
        heatmaps = output.heatmaps[0, :, depth].float()
        planes += [heatmaps, heatmaps * planes[0][small]]
    return torch.cat(planes).cpu().numpy()


def _refined_peak(maps: SparseMaps, heatmap: int, agreement: int) -> tuple[list[float], float]:
    """Position in working voxels and height of a peak, as by `focusnet.networks.roi.find_agreed_peaks`.

    Args:
        maps: Of the whole volume.
        heatmap: Channel of the heat map.
        agreement: Channel of its product with S-Net's probability.
    """
    chosen = agreement if maps.peak_heights[agreement] >= AGREEMENT else heatmap
    box = _box(triple(maps.peak_zyx[chosen]), (1, 1, 1)).expand(PEAK_MARGIN_ZYX, maps.shape_zyx)
    peak = find_peaks(torch.from_numpy(maps.read(heatmap, box))[None, None])
    inside = peak.position_zyx[0, 0].tolist()
    return [a + b for a, b in zip(inside, box.start_zyx, strict=True)], float(peak.value)


def _windows(
    starts: Mapping[int, Shape], roi_shape: Shape, piece: Shape, extent: Shape
) -> Iterator[tuple[Box, list[int]]]:
    """Pieces that hold the ROIs whole, neighbours together in one, with the ROIs inside each."""
    boxes = {k: _box(start, roi_shape) for k, start in starts.items()}
    groups: list[tuple[Box, list[int]]] = []
    for k in sorted(boxes, key=lambda k: (boxes[k].start_zyx, k)):
        for number, (union, members) in enumerate(groups):
            joined = union.union(boxes[k])
            if all(n <= p for n, p in zip(joined.shape_zyx, piece, strict=True)):
                groups[number] = (joined, [*members, k])
                break
        else:
            groups.append((boxes[k], [k]))
    for union, members in groups:
        start = triple(
            min(max((a + b - p) // 2, 0), n - p)
            for a, b, p, n in zip(union.start_zyx, union.stop_zyx, piece, extent, strict=True)
        )
        yield _box(start, piece), members
