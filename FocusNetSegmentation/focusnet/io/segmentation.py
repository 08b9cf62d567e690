"""Segmentations on disk: 3D Slicer's ``.seg.nrrd`` with overlapping segments, and plain label maps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, LabelMap, Volume, bounding_box, to_sitk
from focusnet.io.atomic import atomic_path
from focusnet.io.image import ONE_AT_A_TIME, image_suffix, load_sitk, path_for_itk, write_with_itk
from focusnet.io.segmentation_header import SegmentEntry, parse_segments, write_seg_nrrd
from focusnet.organs import Organ, find, organ
from focusnet.terminology import terminology_string

Colour = tuple[int, int, int]

SEGMENTATION_SUFFIX = ".seg.nrrd"
LABELMAP_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
UNKNOWN_COLOUR = (128, 174, 128)


@dataclass(frozen=True, eq=False)
class Segment:
    """One named structure.

    Attributes:
        name: As the file or the user names it.
        array: ``(z, y, x)`` mask, or labels that several segments share.
        colour: RGB, 0 to 255, or None.
        terminology: 3D Slicer's terminology entry, or empty.
        label: Value of this segment in ``array``; 1 for a mask.
    """

    name: str
    array: NDArray[Any]
    colour: Colour | None = None
    terminology: str = ""
    label: int = 1

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Boolean ``(z, y, x)`` mask, made anew at each call."""
        return self.array == self.label


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Structures on one grid; they may overlap.

    Raises:
        FocusNetError: ``E_BAD_GEOMETRY`` when a segment has another shape than the grid.
    """

    geometry: Geometry
    segments: Sequence[Segment]

    def __post_init__(self) -> None:
        for segment in self.segments:
            if segment.array.shape != self.geometry.shape_zyx:
                raise FocusNetError(
                    "E_BAD_GEOMETRY",
                    f"Segment '{segment.name}' of shape {segment.array.shape} on a grid of {self.geometry.shape_zyx}.",
                )

    @property
    def names(self) -> list[str]:
        """Names in order."""
        return [segment.name for segment in self.segments]

    def __getitem__(self, name: str) -> Segment:
        """First segment of a name.

        Raises:
            KeyError: When there is none.
        """
        for segment in self.segments:
            if segment.name == name:
                return segment
        raise KeyError(f"No segment '{name}'; there are {', '.join(self.names)}.")


def read_segmentation(path: str | Path, names: Mapping[int, str] | None = None) -> Segmentation:
    """Read a ``.seg.nrrd`` of 3D Slicer, or a plain label map.

    Args:
        path: Segmentation with any number of layers, or a 3-D label map in any image format.
        names: Name of each label value of a plain label map; by default those in ``NAME.labels.json`` beside it. A
            named value that does not occur gives an empty segment, an unnamed one the name ``label N``.

    Raises:
        FocusNetError: ``E_UNREADABLE``, ``E_NOT_3D``, ``E_BAD_GEOMETRY``.
    """
    path = Path(path)
    loaded = load_sitk(path)
    entries = parse_segments(loaded.metadata)
    if entries:
        # One contiguous array per layer: comparing strided ones costs several times as much.
        is_layered = loaded.array.ndim == 4
        layers = np.ascontiguousarray(np.moveaxis(loaded.array, -1, 0)) if is_layered else loaded.array[None]
        return Segmentation(loaded.geometry, [_stored_segment(layers, entry) for entry in entries])
    if loaded.array.ndim != 3:
        raise FocusNetError("E_NOT_3D", f"'{path.name}' has several values per voxel and names no segments.")
    labels = _whole_numbers(loaded.array, path)
    named = dict(_names_beside(path) if names is None else names)
    present = [value for value, place in enumerate(ndimage.find_objects(labels), start=1) if place is not None]
    named |= {value: f"label {value}" for value in present if value not in named}
    return Segmentation(loaded.geometry, [_named_segment(name, labels, value) for value, name in named.items()])


def write_segmentation(
    item: LabelMap | Segmentation,
    path: str | Path,
    *,
    overwrite: bool = False,
    stamp: Mapping[str, str] | None = None,
) -> None:
    """Write organs under their TG-263 names with the colours and terminology of the organ catalogue.

    ``.seg.nrrd`` holds everything. A plain label map (``.nii.gz``, ``.nii``, ``.nrrd``, ``.mha``) comes with
    ``NAME.labels.json``, which names its values.

    Args:
        item: Exclusive labels, or segments that may overlap (these need ``.seg.nrrd``).
        path: Target; its ending decides on the format.
        overwrite: Replace an existing file.
        stamp: What made an automatic result (version, model, weights, settings). It is kept in the file together with
            the mark ``UNREVIEWED``.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS``, ``E_OUTPUT_FORMAT``, ``E_OUTPUT_WRITE``, ``E_UNKNOWN_ORGAN``,
            ``E_BAD_GEOMETRY`` for a sheared grid, ``E_LABELS`` for label values without an organ.
    """
    path = Path(path)
    if not item.geometry.is_orthogonal:
        raise FocusNetError("E_BAD_GEOMETRY", "The grid is sheared, which image files can't store; resample it first.")
    if isinstance(item, LabelMap):
        _check_labels(item)
    if path.name.lower().endswith(SEGMENTATION_SUFFIX):
        layers, entries = _labelmap_layer(item) if isinstance(item, LabelMap) else _pack_layers(item)
        with atomic_path(path, overwrite=overwrite) as temporary:
            write_seg_nrrd(temporary, layers, item.geometry, entries, stamp)
    elif image_suffix(path) in LABELMAP_SUFFIXES:
        _write_labelmap(item if isinstance(item, LabelMap) else _exclusive(item), path, overwrite, stamp)
    else:
        raise FocusNetError(
            "E_OUTPUT_FORMAT", f"'{path.name}' names no known format; end it in .seg.nrrd, .nii.gz, .nrrd or .mha."
        )


def labels_path(path: str | Path) -> Path:
    """File beside a label map that names its values: ``NAME.labels.json``."""
    path = Path(path)
    suffix = image_suffix(path) or path.suffix
    return path.with_name(f"{path.name[: len(path.name) - len(suffix)]}.labels.json")


def is_own_labelmap(path: Path) -> bool:
    """Whether a file is a plain label map of ours: labels, with the table of their names beside it.

    The table alone does not tell: a CT of the same name may lie there too.
    """
    if not labels_path(path).is_file():
        return False
    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(path_for_itk(path))
        with ONE_AT_A_TIME:
            reader.ReadImageInformation()
    except (RuntimeError, FocusNetError):  # a case, which will tell what is wrong with it
        return False
    return reader.GetPixelID() in (sitk.sitkUInt8, sitk.sitkUInt16)


def _stored_segment(layers: NDArray[Any], entry: SegmentEntry) -> Segment:
    if not 0 <= entry.layer < len(layers):
        raise FocusNetError(
            "E_UNREADABLE", f"Segment '{entry.name}' is said to lie in layer {entry.layer} of {len(layers)}."
        )
    return Segment(entry.name, layers[entry.layer], entry.colour, entry.terminology, entry.label)


def _named_segment(name: str, labels: NDArray[Any], value: int) -> Segment:
    known = find(name)
    if known is None:
        return Segment(name, labels, label=value)
    return Segment(name, labels, known.colour, terminology_string(known), value)


def _whole_numbers(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """Labels as uint8 or uint16."""
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high < 2**16 and (np.issubdtype(array.dtype, np.integer) or (array == np.rint(array)).all())):
        raise FocusNetError("E_UNREADABLE", f"'{path.name}' is no label map: its values are no whole numbers.")
    return array.astype(np.uint8 if high < 2**8 else np.uint16, copy=False)


def _names_beside(path: Path) -> dict[int, str]:
    beside = labels_path(path)
    if not beside.is_file():
        return {}
    try:
        table = json.loads(beside.read_text(encoding="utf-8"))["labels"]
        return {int(value): str(name) for value, name in table.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FocusNetError("E_UNREADABLE", f"'{beside.name}' holds no table of label values and names.") from error


def _check_labels(labelmap: LabelMap) -> None:
    """Voxels whose label has no organ would be lost without a word."""
    known = np.zeros(np.iinfo(np.uint16).max + 1, bool)
    known[[0, *labelmap.organs]] = True
    strays = sum(int(np.count_nonzero(~known[plane])) for plane in labelmap.array)
    if strays:
        raise FocusNetError("E_LABELS", f"{strays} voxels carry label values that have no organ; name or clear them.")


def _entry(name: str, known: Organ | None, label: int, layer: int = 0) -> SegmentEntry:
    if known is None:
        return SegmentEntry(name, label, layer, UNKNOWN_COLOUR, "")
    return SegmentEntry(name, label, layer, known.colour, terminology_string(known))


def _labelmap_layer(labelmap: LabelMap) -> tuple[NDArray[Any], list[SegmentEntry]]:
    organs = {value: organ(key) for value, key in sorted(labelmap.organs.items())}
    return labelmap.array[..., None], [_entry(o.tg263, o, value) for value, o in organs.items()]


def _pack_layers(segmentation: Segmentation) -> tuple[NDArray[Any], list[SegmentEntry]]:
    """Segments in as few layers as their order allows, each in the first one where it covers no other."""
    dtype = np.uint8 if len(segmentation.segments) < 2**8 else np.uint16
    layers = [np.zeros(segmentation.geometry.shape_zyx, dtype)]
    entries = []
    for label, segment in enumerate(segmentation.segments, start=1):
        mask, index = segment.mask, 0
        box = bounding_box(mask)
        if box is not None:
            mask = mask[box.slices]
            free = (n for n, layer in enumerate(layers) if not layer[box.slices][mask].any())
            index = next(free, len(layers))
            if index == len(layers):
                layers.append(np.zeros_like(layers[0]))
            layers[index][box.slices][mask] = label
        known = find(segment.name)
        plain = _entry(segment.name, known, label, index)
        colour, terminology = segment.colour or plain.colour, segment.terminology or plain.terminology
        entries.append(SegmentEntry(segment.name, label, index, colour, terminology))
    return np.stack(layers, axis=-1) if len(layers) > 1 else layers[0][..., None], entries


def _exclusive(segmentation: Segmentation) -> LabelMap:
    """The segments as a label map, which only organs of the catalogue that don't overlap can be."""
    layers, entries = _pack_layers(segmentation)
    if layers.shape[3] > 1:
        raise FocusNetError("E_OUTPUT_FORMAT", "The segments overlap, which a label map can't hold; write .seg.nrrd.")
    organs = {}
    for entry in entries:
        known = find(entry.name)
        if known is None:
            raise FocusNetError(
                "E_UNKNOWN_ORGAN", f"'{entry.name}' is not in the organ catalogue; rename it or write .seg.nrrd."
            )
        organs[entry.label] = known.key
    return LabelMap(layers[..., 0], segmentation.geometry, organs)


def _write_labelmap(labelmap: LabelMap, path: Path, overwrite: bool, stamp: Mapping[str, str] | None) -> None:
    content: dict[str, Any] = {"labels": {str(v): organ(key).tg263 for v, key in sorted(labelmap.organs.items())}}
    if stamp is not None:
        content |= {"status": "UNREVIEWED", "made_by": dict(stamp)}
    image = to_sitk(Volume(labelmap.array, labelmap.geometry))
    with (
        atomic_path(path, overwrite=overwrite) as temporary,
        atomic_path(labels_path(path), overwrite=overwrite) as names,
    ):
        names.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        write_with_itk(image, temporary, path)
