"""The organs of one labelled scan, each cropped to its own box, and how they come onto a common grid.

Cropping first is what makes the evaluation fast and small: an organ fills a thousandth of its scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from focusnet.errors import FocusNetError
from focusnet.evaluation.localisation import centroid_mm
from focusnet.geometry import Box, Geometry, LabelMap, Volume, bounding_box, resample
from focusnet.io.names import match_names
from focusnet.io.segmentation import Segment, Segmentation

BoolArray = NDArray[np.bool_]

FINER_RATIO = 0.99


@dataclass(frozen=True, eq=False)
class CroppedMask:
    """A mask that is not empty, cut out of its grid.

    Attributes:
        array: Boolean ``(z, y, x)``.
        box: Where the array lies in the grid, in voxels; after resampling it may reach beyond the grid.
    """

    array: BoolArray
    box: Box

    @classmethod
    def of(cls, mask: NDArray[np.generic], offset_zyx: tuple[int, int, int] = (0, 0, 0)) -> CroppedMask | None:
        """Crop a mask whose first voxel lies at ``offset_zyx``; None when it is empty."""
        box = bounding_box(mask)
        if box is None:
            return None
        return cls(np.ascontiguousarray(mask[box.slices], dtype=bool), _shift(box, offset_zyx))

    def on(self, box: Box) -> BoolArray:
        """The mask within a box, background where the box reaches beyond it."""
        if box == self.box:
            return self.array
        inside = np.zeros(box.shape_zyx, dtype=bool)
        common = self.box.intersection(box)
        if common is not None:
            inside[_relative(common, box).slices] = self.array[_relative(common, self.box).slices]
        return inside


@dataclass(frozen=True, eq=False)
class OrganMasks:
    """All organs of one labelled scan.

    Attributes:
        geometry: Grid of the scan.
        masks: Mask of each canonical organ key; None where the organ is named and its mask is empty. Masks may overlap.
        unmapped: Names in the source that the organ catalogue does not know.
        notes: What was left out or decided when the source was read, one line each.
    """

    geometry: Geometry
    masks: Mapping[str, CroppedMask | None]
    unmapped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of_labelmap(cls, labelmap: LabelMap) -> OrganMasks:
        """Organs of exclusive labels."""
        pieces = _pieces(labelmap.array, list(labelmap.organs))
        return cls(labelmap.geometry, {key: pieces[value] for value, key in labelmap.organs.items()})

    @classmethod
    def of_segmentation(cls, segmentation: Segmentation, spellings: Mapping[str, str] | None = None) -> OrganMasks:
        """Organs of named segments, which may overlap.

        Args:
            segmentation: Segments by name.
            spellings: Organ of names that the catalogue does not know (see :mod:`focusnet.io.names`).

        Raises:
            FocusNetError: ``E_AMBIGUOUS_ORGAN`` when two segments name one organ.
        """
        keys = keys_of_names(segmentation.names, spellings)
        layers: dict[object, list[Segment]] = {}
        for segment in segmentation.segments:
            if segment.name in keys:
                place = segment.array.__array_interface__
                layers.setdefault((place["data"], place["strides"]), []).append(segment)
        found: dict[str, CroppedMask | None] = {}
        for segments in layers.values():
            pieces = _pieces(segments[0].array, [segment.label for segment in segments])
            found |= {segment.name: pieces[segment.label] for segment in segments}
        masks = {keys[name]: found[name] for name in segmentation.names if name in keys}
        unmapped = [name for name in segmentation.names if name not in keys]
        return cls(segmentation.geometry, masks, not_left_out(unmapped, spellings))

    def to_labelmap(self) -> LabelMap:
        """Exclusive labels on the own grid; where organs overlap, the smaller one stays whole."""
        labels = np.zeros(self.geometry.shape_zyx, dtype=np.uint8)
        by_size = sorted(self.masks, key=self.volume_ml, reverse=True)
        for value, key in enumerate(by_size, start=1):
            mask = self.masks[key]
            if mask is not None:
                labels[mask.box.slices][mask.array] = value
        return LabelMap(labels, self.geometry, dict(enumerate(by_size, start=1)))

    def volume_ml(self, organ: str) -> float:
        """Volume of one organ in ml; 0 where it is empty or not named."""
        mask = self.masks.get(organ)
        return 0.0 if mask is None else int(np.count_nonzero(mask.array)) * self.geometry.voxel_volume_ml

    def centroid_mm(self, organ: str) -> NDArray[np.float64]:
        """Centroid of one organ in LPS mm, ``(3,)``."""
        mask = self.masks[organ]
        if mask is None:
            raise ValueError(f"The mask of {organ} is empty; it has no centroid.")
        return centroid_mm(mask.array, self.geometry.crop(mask.box))

    def mask_on(self, target: Geometry, organ: str) -> CroppedMask | None:
        """Mask of one organ on another grid; None where it is empty or not named.

        The same lattice costs nothing, however it is cropped. Otherwise each voxel takes the value of the nearest one,
        which keeps volumes and invents no smoothness.
        """
        mask = self.masks.get(organ)
        if mask is None:
            return None
        steps = np.linalg.inv(target.affine) @ self.geometry.affine
        x, y, z = np.rint(steps[:3, 3]).astype(int).tolist()
        if np.allclose(steps[:3, :3], np.eye(3), atol=1e-4) and np.allclose(steps[:3, 3], (x, y, z), atol=1e-2):
            return CroppedMask(mask.array, _shift(mask.box, (z, y, x)))
        return _resampled(mask, self.geometry, target)


def _pieces(labels: NDArray[Any], values: Sequence[int]) -> dict[int, CroppedMask | None]:
    """Mask of each label value, found in one pass over the array."""
    whole = labels.view(np.uint8) if labels.dtype == np.bool_ else labels
    found = ndimage.find_objects(whole, max_label=max(values)) if values else []
    pieces: dict[int, CroppedMask | None] = {}
    for value in values:
        place = found[value - 1] if value > 0 else None
        if place is None:
            pieces[value] = None
        else:
            box = Box(tuple(s.start for s in place), tuple(s.stop for s in place))  # type: ignore[arg-type]
            pieces[value] = CroppedMask(np.ascontiguousarray(whole[place] == value), box)
    return pieces


def keys_of_names(names: Iterable[str], spellings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Canonical organ key of each name that the table of own spellings or the catalogue knows.

    Raises:
        FocusNetError: ``E_AMBIGUOUS_ORGAN`` when two names mean one organ.
    """
    keys: dict[str, str] = {}
    taken: dict[str, str] = {}
    for match in match_names(names, spellings):
        if match.organ is None:
            continue
        if match.organ in taken:
            raise FocusNetError(
                "E_AMBIGUOUS_ORGAN",
                f"'{taken[match.organ]}' and '{match.name}' both mean the organ {match.organ}; rename or remove one.",
            )
        keys[match.name], taken[match.organ] = match.organ, match.name
    return keys


def not_left_out(names: Iterable[str], spellings: Mapping[str, str] | None) -> tuple[str, ...]:
    """Names without those that the table of own spellings leaves out on purpose."""
    return tuple(m.name for m in match_names(names, spellings) if not (m.source == "table" and m.organ is None))


def finer(reference: Geometry, other: Geometry) -> Geometry:
    """The grid with the smaller voxels; the reference's among equals."""
    return other if other.voxel_volume_ml < FINER_RATIO * reference.voxel_volume_ml else reference


def check_comparable(reference: Geometry, prediction: Geometry) -> None:
    """Refuse two grids that can't be laid over each other.

    Raises:
        FocusNetError: ``E_FRAME_OF_REFERENCE`` for different frames of reference, ``E_BAD_GEOMETRY`` for a sheared grid
            or grids that share no space.
    """
    frames = reference.frame_of_reference, prediction.frame_of_reference
    if None not in frames and frames[0] != frames[1]:
        raise FocusNetError(
            "E_FRAME_OF_REFERENCE",
            "Reference and prediction belong to different frames of reference, so positions can't be compared; "
            "register the scans or pick the matching file.",
        )
    if not (reference.is_orthogonal and prediction.is_orthogonal):
        raise FocusNetError("E_BAD_GEOMETRY", "Distances need right-angled voxels; resample the sheared grid first.")
    (low_a, high_a), (low_b, high_b) = reference.world_bounds(), prediction.world_bounds()
    if (np.minimum(high_a, high_b) <= np.maximum(low_a, low_b)).any():
        raise FocusNetError(
            "E_BAD_GEOMETRY",
            "Reference and prediction share no space; they belong to different scans or one has a wrong origin.",
        )


def _resampled(mask: CroppedMask, source: Geometry, target: Geometry) -> CroppedMask:
    own = source.crop(mask.box)
    ends = [(-0.5, n - 0.5) for n in own.shape_zyx]
    corners = own.index_to_world(np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3))
    index = target.world_to_index(corners)
    start, stop = np.floor(index.min(axis=0)).astype(int), np.ceil(index.max(axis=0)).astype(int) + 1
    box = Box(tuple(start.tolist()), tuple(stop.tolist()))
    moved = resample(Volume(mask.array.view(np.uint8), own), target.crop(box), fill=0, order="nearest")
    cropped = CroppedMask.of(moved.array, box.start_zyx)
    if cropped is None:
        # Thinner than the target's voxels along one axis: the voxel at its centroid stands for it.
        z, y, x = np.rint(target.world_to_index(centroid_mm(mask.array, own))).astype(int).tolist()
        cropped = CroppedMask(np.ones((1, 1, 1), dtype=bool), Box((z, y, x), (z + 1, y + 1, x + 1)))
    return cropped


def _relative(box: Box, outer: Box) -> Box:
    z, y, x = outer.start_zyx
    return _shift(box, (-z, -y, -x))


def _shift(box: Box, offset_zyx: tuple[int, int, int]) -> Box:
    start = tuple(a + d for a, d in zip(box.start_zyx, offset_zyx, strict=True))
    stop = tuple(a + d for a, d in zip(box.stop_zyx, offset_zyx, strict=True))
    return Box(start, stop)  # type: ignore[arg-type]
