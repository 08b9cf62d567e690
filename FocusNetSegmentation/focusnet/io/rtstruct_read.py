"""RT structure sets to masks on an image grid."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from focusnet.errors import FocusNetError
from focusnet.geometry import Box, Geometry
from focusnet.io.contour_stack import Spacing, common_gap_mm, fill_contours
from focusnet.io.names import match_names
from focusnet.io.rtstruct_parse import RawStructureSet, Roi, find_structure_sets, parse_rtstruct
from focusnet.io.segmentation import Segmentation
from focusnet.io.shapes import Part, pack_segments

FEW_CONTOURS = 4
NO_CONTOURS = "no contours"
VOLUME_NOTE_SHARE = 0.15


@dataclass(frozen=True)
class RTStructRules:
    """How a structure set is read.

    Attributes:
        series_uid: Series that the structure set should refer to.
        names: Own spellings, see :func:`focusnet.io.names.read_name_table`.
        only: Organ keys or ROI names to fill; the others are listed with empty masks. None fills all.
        bridge_mm: Contour planes up to this distance apart are joined over the slices between them; 0 joins planes up
            to 1.5 contour spacings apart only.
        any_frame: Read structures of another frame of reference, whose places the caller has checked.
    """

    series_uid: str | None = None
    names: Mapping[str, str] | None = None
    only: Collection[str] | None = None
    bridge_mm: float = 0.0
    any_frame: bool = False


@dataclass(frozen=True, eq=False)
class Structure:
    """One region of interest.

    Attributes:
        number: ROI number of the file.
        name: Name as it stands in the file; ``ROI n`` where it has none.
        organ: Canonical organ key, or None where the name is unknown or not certain.
        colour: RGB, 0 to 255, or None.
        geometry: Grid of the whole image.
        box: Part of the grid that ``crop`` covers; None for an empty structure.
        crop: ``(z, y, x)`` mask of the box's shape.
        contour_volume_ml: Volume of the contours themselves inside the image.
        notes: What was left out or had to be decided, one line each.
    """

    number: int
    name: str
    organ: str | None
    colour: tuple[int, int, int] | None
    geometry: Geometry
    box: Box | None
    crop: NDArray[np.bool_]
    contour_volume_ml: float
    notes: tuple[str, ...] = ()

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Mask on the whole grid, ``(z, y, x)``."""
        mask = np.zeros(self.geometry.shape_zyx, dtype=bool)
        if self.box is not None:
            mask[self.box.slices] = self.crop
        return mask

    @property
    def volume_ml(self) -> float:
        """Volume of the mask."""
        return float(np.count_nonzero(self.crop)) * self.geometry.voxel_volume_ml


@dataclass(frozen=True, eq=False)
class StructureSet:
    """The structures of one RTSTRUCT on an image grid.

    Attributes:
        label: Structure set label of the file.
        geometry: Grid of the masks.
        structures: In the order of the file; none is left out.
        frame_of_reference: UID that the structures refer to, where stated.
        series_uids: Image series that the file refers to.
        notes: What concerns the whole file, one line each.
    """

    label: str
    geometry: Geometry
    structures: tuple[Structure, ...]
    frame_of_reference: str | None
    series_uids: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def unmapped(self) -> tuple[str, ...]:
        """Names without an organ of the catalogue."""
        return tuple(structure.name for structure in self.structures if structure.organ is None)

    def to_segmentation(self) -> Segmentation:
        """All structures as segments under their own names; those that don't overlap share an array of labels."""
        return pack_segments(self.geometry, (Part(s.name, s.colour, s.box, s.crop) for s in self.structures))

    def find(self, organ: str) -> Structure:
        """The structure of an organ key.

        Raises:
            FocusNetError: ``E_UNKNOWN_ORGAN`` when the set has none.
        """
        for structure in self.structures:
            if structure.organ == organ:
                return structure
        names = ", ".join(f"'{structure.name}'" for structure in self.structures)
        raise FocusNetError("E_UNKNOWN_ORGAN", f"The structure set has no '{organ}'; it has {names}.")


def read_rtstruct(path: str | Path, geometry: Geometry, rules: RTStructRules | None = None) -> StructureSet:
    """Read a structure set onto the grid of an image.

    Closed plane contours are filled by the even-odd rule, see ``contours`` and ``contour_stack`` for the accuracy and
    for contours between or across slices. Whatever is not filled (points, open contours, contours of one or two points
    or without plane) is counted in the notes of its structure.

    Args:
        path: RTSTRUCT file, or a folder with one that fits the image.
        geometry: Grid of the masks, with its frame of reference where known.
        rules: Options.

    Returns:
        All structures, those that can't be filled with empty masks and the reason.

    Raises:
        FocusNetError: ``E_UNREADABLE``, ``E_NOT_RTSTRUCT``, ``E_NO_STRUCTURES``, ``E_NO_CONTOURS``,
            ``E_FRAME_OF_REFERENCE``, ``E_OTHER_SERIES``, ``E_OUTSIDE_IMAGE``, ``E_MULTIPLE_STRUCTURE_SETS``.
    """
    rules = rules or RTStructRules()
    raw = _choose(Path(path), geometry, rules)
    notes = _check_series(raw, geometry, rules)
    if not any(roi.contours for roi in raw.rois):
        reasons = sum((roi.left_out for roi in raw.rois), Counter())
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "all are empty"
        raise FocusNetError(
            "E_NO_CONTOURS", f"None of the {len(raw.rois)} structures has a closed contour ({why}); export it again."
        )
    if not rules.any_frame:
        notes += _check_frames(raw.rois, geometry)
    organs = _certain_organs(raw.rois, rules.names)
    wanted = [_is_wanted(roi.name, organ, rules.only) for roi, organ in zip(raw.rois, organs, strict=True)]
    usual_mm = common_gap_mm([points for roi in raw.rois for points in roi.contours], geometry)
    structures = []
    for roi, organ, is_wanted in zip(raw.rois, organs, wanted, strict=True):
        if not is_wanted:
            roi.contours.clear()
            roi.notes.append("not asked for; not filled")
        structures.append(_fill(roi, organ, geometry, usual_mm, rules.bridge_mm))
    if any(roi.contours for roi in raw.rois) and not any(structure.contour_volume_ml for structure in structures):
        raise FocusNetError(
            "E_OUTSIDE_IMAGE",
            "No contour lies on the image: the structure set belongs to another scan, or one of the two was moved.",
        )
    stated = [roi.frame for roi in raw.rois if roi.frame]
    return StructureSet(
        label=raw.label,
        geometry=geometry,
        structures=tuple(structures),
        frame_of_reference=stated[0] if stated else None,
        series_uids=raw.series_uids,
        notes=tuple(notes),
    )


def _choose(path: Path, geometry: Geometry, rules: RTStructRules) -> RawStructureSet:
    if not path.is_dir():
        return parse_rtstruct(path)
    found = [parse_rtstruct(file) for file in find_structure_sets(path)]
    if not found:
        raise FocusNetError("E_NO_STRUCTURES", "The folder holds no RT structure set; give the file.")
    fitting = [raw for raw in found if _fits(raw, geometry, rules)] if len(found) > 1 else found
    if len(fitting) != 1:
        raise FocusNetError(
            "E_MULTIPLE_STRUCTURE_SETS",
            f"The folder holds {len(found)} structure sets, of which {len(fitting)} fit the image; give one file.",
        )
    return fitting[0]


def _fits(raw: RawStructureSet, geometry: Geometry, rules: RTStructRules) -> bool:
    if rules.series_uid is not None:
        return rules.series_uid in raw.series_uids
    return geometry.frame_of_reference in raw.frames


def _check_series(raw: RawStructureSet, geometry: Geometry, rules: RTStructRules) -> list[str]:
    if rules.series_uid is None or rules.series_uid in raw.series_uids:
        return []
    if not raw.series_uids:
        return ["the structure set names no image series; which image it was drawn on is not checked"]
    if rules.any_frame or (geometry.frame_of_reference is not None and geometry.frame_of_reference in raw.frames):
        return ["the structure set was drawn on another series of the same frame of reference"]
    raise FocusNetError(
        "E_OTHER_SERIES", "The structure set was drawn on another image series; give the image it refers to."
    )


def _check_frames(rois: Sequence[Roi], geometry: Geometry) -> list[str]:
    """Empty the structures of other frames of reference; refuse when that leaves none."""
    if geometry.frame_of_reference is None:
        return ["the image has no frame of reference; whether the structures belong to it is not checked"]
    foreign = [roi for roi in rois if roi.frame is not None and roi.frame != geometry.frame_of_reference]
    drawn = [roi for roi in rois if roi.contours]
    if all(roi in foreign for roi in drawn):
        raise FocusNetError(
            "E_FRAME_OF_REFERENCE",
            "The structure set has another frame of reference than the image, so its contours belong to another scan; "
            "give the image it was drawn on.",
        )
    for roi in foreign:
        roi.notes.append("other frame of reference than the image; left out")
        roi.contours.clear()
    if any(roi.frame is None for roi in drawn):
        return ["the structure set states no frame of reference; whether it belongs to the image is not checked"]
    return []


def _fill(roi: Roi, organ: str | None, geometry: Geometry, usual_mm: float | None, bridge_mm: float) -> Structure:
    notes = [*roi.notes, *(f"{count} {reason} left out" for reason, count in roi.left_out.items())]
    empty = np.zeros((0, 0, 0), dtype=bool)
    if not roi.contours:
        notes = notes or [NO_CONTOURS]
        return Structure(roi.number, roi.name, organ, roi.colour, geometry, None, empty, 0.0, tuple(notes))
    # A stack of few planes can't tell its own spacing; the whole set can.
    planes_mm = roi.spacing_mm or (usual_mm if len(roi.contours) < FEW_CONTOURS else None)
    filled = fill_contours(roi.contours, geometry, Spacing(planes_mm, bridge_mm))
    notes += filled.notes
    if filled.not_planar:
        notes.append(f"{len(filled.not_planar)} contour(s) that lie in no plane left out")
    if filled.outside:
        notes.append(f"{len(filled.outside)} of {len(roi.contours)} contour(s) lie outside the image")
    crop = empty if filled.box is None else filled.mask
    volume_ml = float(np.count_nonzero(crop)) * geometry.voxel_volume_ml
    if abs(volume_ml - filled.contour_volume_ml) > VOLUME_NOTE_SHARE * filled.contour_volume_ml:
        notes.append(
            f"the contours enclose {filled.contour_volume_ml:.3g} ml, the mask {volume_ml:.3g} ml: "
            "the structure is small for the image's voxels"
        )
    return Structure(
        roi.number, roi.name, organ, roi.colour, geometry, filled.box, crop, filled.contour_volume_ml, tuple(notes)
    )


def _is_wanted(name: str, organ: str | None, only: Collection[str] | None) -> bool:
    return only is None or name in only or (organ is not None and organ in only)


def _certain_organs(rois: Sequence[Roi], table: Mapping[str, str] | None) -> list[str | None]:
    """Organ of each ROI. Where several ROIs mean one organ, the drawn one or the one of the right name keeps it."""
    matches = match_names([roi.name for roi in rois], table)
    claims: dict[str, list[int]] = defaultdict(list)
    for place, match in enumerate(matches):
        if match.organ is not None:
            claims[match.organ].append(place)
    organs: list[str | None] = [match.organ for match in matches]
    for organ, places in claims.items():
        if len(places) == 1:
            continue
        exact = [p for p in places if matches[p].source == "table" or matches[p].name == matches[p].tg263]
        drawn = [p for p in places if rois[p].contours]
        kept = next((group for group in (drawn, exact) if len(group) == 1), [])
        names = ", ".join(f"'{rois[p].name}'" for p in places)
        for place in places:
            if place not in kept:
                organs[place] = None
                rois[place].notes.append(f"{names} all mean {organ}; tell them apart with a name table")
    return organs
