"""Structures on their way between masks and DICOM objects: names, colours, places on the CT's slices, and origin."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage
from scipy.optimize import brentq

from focusnet import __version__, organs
from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry, LabelMap, Volume, bounding_box, resample
from focusnet.io.contour_stack import LEVEL_RANGE
from focusnet.io.contours import signed_area
from focusnet.io.dicom import SeriesReference
from focusnet.io.segmentation import Segment, Segmentation
from focusnet.io.tracing import trace

MANUFACTURER = "SlicerFocusNet"
PATIENT_STUDY_KEYWORDS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
"""Attributes that every DICOM object of a patient has, empty where they are unknown."""
SAME_PLANE_SLICES = 0.1
SAME_GRID_MM = 0.01
UNEVEN_SLICES = 0.1
DEFAULT_COLOUR = (255, 255, 0)
MAX_NAME = 64


@dataclass(frozen=True)
class Provenance:
    """The model that made the structures.

    Attributes:
        model: Name of the model.
        version: Its version.
        weights_sha256: SHA-256 of its weights in hexadecimal digits.
    """

    model: str
    version: str
    weights_sha256: str

    @property
    def line(self) -> str:
        """All in one line of at most 64 characters, the hash abbreviated."""
        return f"{self.model[:24]} {self.version[:15]} sha256:{self.weights_sha256[:16]}"


@dataclass(frozen=True, eq=False)
class Shape:
    """One structure to be written.

    Attributes:
        name: TG-263 name where the organ is known, else the given name.
        organ: Organ of the catalogue, or None.
        colour: RGB, 0 to 255.
        mask: ``(z, y, x)``, cut to the structure; None where it is empty.
        geometry: Grid of ``mask``, or of the whole where that is None.
    """

    name: str
    organ: organs.Organ | None
    colour: tuple[int, int, int]
    mask: NDArray[np.bool_] | None
    geometry: Geometry

    @property
    def volume_ml(self) -> float:
        """Volume of the mask."""
        return 0.0 if self.mask is None else float(np.count_nonzero(self.mask)) * self.geometry.voxel_volume_ml


@dataclass(frozen=True, eq=False)
class Placed:
    """A structure on planes of the CT's slices.

    Attributes:
        membership: ``(z, y, x)`` mask or degrees of membership; the surface lies at 0.5.
        geometry: Its grid; each of its slices lies in the plane of a CT slice.
        slices: Number of the CT slice of each of its slices.
    """

    membership: NDArray[Any]
    geometry: Geometry
    slices: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Part:
    """A named mask in a box of a grid; ``box`` is None for an empty one."""

    name: str
    colour: tuple[int, int, int] | None
    box: Box | None
    crop: NDArray[np.bool_]


def shapes_of(item: LabelMap | Segmentation) -> list[Shape]:
    """All structures of a label map or segmentation, in order, under unique names."""
    shapes = list(_label_shapes(item) if isinstance(item, LabelMap) else _segment_shapes(item))
    seen: dict[str, int] = {}
    unique = []
    for shape in shapes:
        seen[shape.name] = seen.get(shape.name, 0) + 1
        again = f" ({seen[shape.name]})" if seen[shape.name] > 1 else ""
        name = shape.name[: MAX_NAME - len(again)] + again
        unique.append(Shape(name, shape.organ, shape.colour, shape.mask, shape.geometry))
    return unique


def place_on_slices(shape: Shape, reference: SeriesReference) -> Placed | None:
    """Bring a structure onto the planes of the CT's slices.

    A mask whose slices lie in the CT's own is taken as it is, wherever its pixels lie in the plane. Another one (an
    oblique or finer grid) is interpolated linearly at the CT's slices, at the level that keeps its volume.

    Args:
        shape: Structure with a mask.
        reference: The CT series.

    Returns:
        The structure on CT slices, or None when it is empty or lies wholly above or below them.
    """
    if shape.mask is None:
        return None
    native = native_geometry(reference)
    own = shape.geometry
    if not _shares_planes(own, native):
        return _resampled(shape.mask, own, native)
    first_pixels = own.index_to_world([(k, 0, 0) for k in range(own.shape_zyx[0])])
    slices = np.rint(native.world_to_index(first_pixels)[:, 0]).astype(np.intp)
    inside = np.flatnonzero((slices >= 0) & (slices < native.shape_zyx[0]))
    if not shape.mask[inside].any():
        return None
    kept = Box((int(inside[0]), 0, 0), (int(inside[-1]) + 1, *own.shape_zyx[1:]))
    return Placed(shape.mask[kept.slices], own.crop(kept), slices[inside])


def place_on_grid(shape: Shape, native: Geometry) -> tuple[Box, NDArray[np.bool_]] | None:
    """Bring a structure onto the voxels of a grid.

    A part of the same grid is taken as it is, another grid is interpolated as in :func:`place_on_slices`.

    Returns:
        Box of the grid and the mask in it, or None when the structure is empty or lies wholly outside.
    """
    if shape.mask is None:
        return None
    mask, own = shape.mask, shape.geometry
    start = np.rint(native.world_to_index(own.index_to_world((0, 0, 0)))).astype(int)
    box = Box(tuple(start.tolist()), tuple((start + own.shape_zyx).tolist()))
    if not own.is_close(native.crop(box), atol_mm=SAME_GRID_MM):
        placed = _resampled(mask, own, native)
        if placed is None:
            return None
        mask = placed.membership > 0.5
        start = np.rint(native.world_to_index(placed.geometry.index_to_world((0, 0, 0)))).astype(int)
        box = Box(tuple(start.tolist()), tuple((start + mask.shape).tolist()))
    inside = box.intersection(Box((0, 0, 0), native.shape_zyx))
    if inside is None:
        return None
    cut = tuple(slice(a - b, c - b) for a, b, c in zip(inside.start_zyx, box.start_zyx, inside.stop_zyx, strict=True))
    return (inside, mask[cut]) if mask[cut].any() else None


def share_outside(shape: Shape, reference: SeriesReference) -> float:
    """Share of a structure's voxels that lie above or below the slices of a series."""
    if shape.mask is None:
        return 0.0
    native = native_geometry(reference)

    def is_outside(index_zyx: NDArray[np.float64]) -> NDArray[np.bool_]:
        place = native.world_to_index(shape.geometry.index_to_world(index_zyx))[:, 0]
        return (place < -0.5) | (place > native.shape_zyx[0] - 0.5)

    corners = np.array(list(product(*((0.0, n - 1.0) for n in shape.geometry.shape_zyx))))
    if not is_outside(corners).any():
        return 0.0
    return float(np.mean(is_outside(np.argwhere(shape.mask).astype(np.float64))))


def pack_segments(geometry: Geometry, parts: Iterable[Part]) -> Segmentation:
    """Segmentation in little memory: structures that don't overlap share an array of labels."""
    layers: list[NDArray[np.uint8]] = []
    used: list[int] = []
    segments: list[Segment] = []
    for part in parts:
        box = part.box or Box((0, 0, 0), (1, 1, 1))
        crop = part.crop if part.box is not None else np.zeros((1, 1, 1), dtype=bool)
        fitting = (n for n, layer in enumerate(layers) if used[n] < 255 and not layer[box.slices][crop].any())
        number = next(fitting, len(layers))
        if number == len(layers):
            layers.append(np.zeros(geometry.shape_zyx, dtype=np.uint8))
            used.append(0)
        used[number] += 1
        layers[number][box.slices][crop] = used[number]
        segments.append(Segment(part.name, layers[number], part.colour, label=used[number]))
    return Segmentation(geometry, segments)


def native_geometry(reference: SeriesReference) -> Geometry:
    """Grid through the pixels of a series as they are stored; sheared for a tilted gantry.

    Raises:
        FocusNetError: ``E_FRAME_OF_REFERENCE`` when the series has no frame of reference to refer to,
            ``E_UNEVEN_SPACING`` when its slices are not evenly spaced.
    """
    if not reference.frame_of_reference:
        raise FocusNetError(
            "E_FRAME_OF_REFERENCE",
            "The CT has no frame of reference, so no DICOM object can be placed on it; write .seg.nrrd instead.",
        )
    positions = np.array([item.position_mm for item in reference.slices])
    first, last = positions[0], positions[-1]
    even = first + np.linspace(0, 1, len(positions))[:, None] * (last - first)
    step_mm = float(np.linalg.norm(last - first)) / (len(positions) - 1)
    if np.linalg.norm(positions - even, axis=1).max() > UNEVEN_SLICES * step_mm:
        raise FocusNetError(
            "E_UNEVEN_SPACING",
            "The slices of the CT are not evenly spaced or some are missing; give the whole series with one step.",
        )
    affine = np.eye(4)
    affine[:3, 0] = np.array(reference.row_direction) * reference.spacing_mm[1]
    affine[:3, 1] = np.array(reference.column_direction) * reference.spacing_mm[0]
    affine[:3, 2] = (last - first) / (len(reference.slices) - 1)
    affine[:3, 3] = first
    return Geometry((len(reference.slices), *reference.shape), affine, reference.frame_of_reference)


def check_same_frame(geometry: Geometry, reference: SeriesReference) -> None:
    """Refuse masks of another frame of reference.

    Raises:
        FocusNetError: ``E_FRAME_OF_REFERENCE``.
    """
    if geometry.frame_of_reference not in (None, reference.frame_of_reference):
        raise FocusNetError(
            "E_FRAME_OF_REFERENCE",
            "The masks have another frame of reference than the CT series; give the series they were made from.",
        )


def set_patient_and_study(dataset: Dataset, reference: SeriesReference) -> None:
    """Patient and study of the CT, as they stand there, valid or not.

    pydicom warns of invalid values and quotes them: call this, and write the dataset, with warnings switched off.
    """
    for keyword in PATIENT_STUDY_KEYWORDS:
        setattr(dataset, keyword, reference.tags.get(keyword, ""))
    if "StudyDescription" in reference.tags:
        dataset.StudyDescription = reference.tags["StudyDescription"]
    dataset.StudyInstanceUID = reference.study_uid


def software_versions() -> list[str]:
    """Software and its version for the equipment module."""
    return [f"{MANUFACTURER} {__version__}"]


def _label_shapes(labels: LabelMap) -> Iterator[Shape]:
    boxes = ndimage.find_objects(labels.array)
    for value, key in labels.organs.items():
        organ = organs.organ(key)
        found = boxes[value - 1] if value <= len(boxes) else None
        if found is None:
            yield Shape(organ.tg263, organ, organ.colour, None, labels.geometry)
            continue
        box = Box(tuple(s.start for s in found), tuple(s.stop for s in found))
        yield Shape(organ.tg263, organ, organ.colour, labels.array[found] == value, labels.geometry.crop(box))


def _segment_shapes(segmentation: Segmentation) -> Iterator[Shape]:
    for segment in segmentation.segments:
        organ = organs.find(segment.name)
        name = organ.tg263 if organ else " ".join(segment.name.replace("\\", "/").split())[:MAX_NAME] or "unnamed"
        colour = segment.colour or (organ.colour if organ else DEFAULT_COLOUR)
        mask = segment.mask
        box = bounding_box(mask)
        if box is None:
            yield Shape(name, organ, colour, None, segmentation.geometry)
        else:
            yield Shape(name, organ, colour, mask[box.slices], segmentation.geometry.crop(box))


def _shares_planes(geometry: Geometry, native: Geometry) -> bool:
    """Whether every slice of a grid lies in the plane of a slice of the series, or of one that would carry it on."""
    depth, height, width = geometry.shape_zyx
    ends = np.array([(k, y, x) for k in (0, depth) for y in (0, height) for x in (0, width)])
    place = native.world_to_index(geometry.index_to_world(ends))[:, 0].reshape(2, 4)
    rise = place.mean(axis=1)
    return bool(
        np.ptp(place, axis=1).max() <= SAME_PLANE_SLICES
        and abs(abs(rise[1] - rise[0]) - depth) <= SAME_PLANE_SLICES
        and np.abs(place - np.rint(place)).max() <= SAME_PLANE_SLICES
    )


def _resampled(mask: NDArray[np.bool_], geometry: Geometry, native: Geometry) -> Placed | None:
    ends = [(-1.0, float(n)) for n in geometry.shape_zyx]
    corners = geometry.index_to_world(np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3))
    index = native.world_to_index(corners)
    start, stop = np.floor(index.min(axis=0)).astype(int), np.ceil(index.max(axis=0)).astype(int) + 1
    is_whole = start[0] >= 0 and stop[0] <= native.shape_zyx[0]
    start[0], stop[0] = max(start[0], 0), min(stop[0], native.shape_zyx[0])
    if stop[0] <= start[0]:
        return None
    target = native.crop(Box(tuple(start.tolist()), tuple(stop.tolist())))
    source = Volume(np.pad(mask, 1).astype(np.float32), geometry.pad((1, 1, 1), (1, 1, 1)))
    share = resample(source, target, fill=0.0, antialias=False).array
    volume_ratio = geometry.voxel_volume_ml / target.voxel_volume_ml
    voxels = np.count_nonzero(mask) * volume_ratio if is_whole else float(share.sum())
    membership = share + np.float32(0.5 - _contour_level(share, voxels))
    if not (membership > 0.5).any():
        return None
    return Placed(membership, target, np.arange(start[0], stop[0]))


def _contour_level(share: NDArray[np.float32], voxels: float) -> float:
    """Level whose contours enclose the given volume; interpolated shapes cut at 0.5 would come out too small."""

    def excess(level: float) -> float:
        return sum(signed_area(polygon) for plane in share for polygon in trace(plane + (0.5 - level))) - voxels

    low, high = LEVEL_RANGE
    if excess(low) <= 0:
        return low
    return high if excess(high) >= 0 else float(brentq(excess, low, high, xtol=1e-3))
