"""One scan with its drawn organs, in any of a clinic's formats, as a CT and exclusive labels on its grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from focusnet.errors import FocusNetError
from focusnet.evaluation.masks import CroppedMask, OrganMasks, check_comparable, not_left_out
from focusnet.evaluation.reading import ReadSettings, read_case, read_masks
from focusnet.geometry import Box, Geometry, LabelMap, Volume
from focusnet.io.dicom import find_series, is_dicom, read_series
from focusnet.io.dicom_headers import read_tags, select_series
from focusnet.io.image import read_image
from focusnet.io.names import match_names
from focusnet.io.rtstruct import RTStructRules, parse_rtstruct, read_rtstruct
from focusnet.organs import CATALOGUE

from focusnet_training.integrity import check_pair
from focusnet_training.scans import Choice, Parts, Scan, sort_parts

KEYS = tuple(CATALOGUE)
SCORED_SHARE = 0.5


@dataclass(frozen=True)
class ScanRules:
    """How scans are read.

    Attributes:
        organs: Canonical keys to take over; None takes all.
        spellings: Own organ names, see `focusnet.io.names.read_name_table`.
        label_names: Name of each value of label maps that come without names.
        choice: Which file to take where a folder holds several.
    """

    organs: tuple[str, ...] | None = None
    spellings: Mapping[str, str] | None = None
    label_names: Mapping[int, str] | None = None
    choice: Choice = field(default_factory=Choice)


@dataclass(frozen=True, eq=False)
class DrawnScan:
    """A CT and what was drawn on it.

    Attributes:
        ct: CT in HU.
        labels: Labels on its grid; value n is the n-th organ of the catalogue.
        annotated: Organs with a voxel, in the order of the catalogue.
        scored: Those of which at least half lies on the CT.
        unmapped: Names that neither the table nor the catalogue knows.
        notes: Overlaps, resampling, what lay outside the CT, doubtful sides and volumes; one line each.
        patient_id: DICOM patient ID, to tell patients apart and for nothing else; empty where there is none.
    """

    ct: Volume
    labels: LabelMap
    annotated: tuple[str, ...]
    scored: tuple[str, ...]
    unmapped: tuple[str, ...]
    notes: tuple[str, ...]
    patient_id: str


def read_scan(scan: Scan, rules: ScanRules) -> DrawnScan:
    """Read CT and organs of a scan.

    Raises:
        FocusNetError: ``E_NO_CT``, ``E_NO_LABELS``, ``E_AMBIGUOUS_CASE``, ``E_AMBIGUOUS_ORGAN``, ``E_LABEL_NAMES``,
            ``E_FRAME_OF_REFERENCE`` and ``E_OUTSIDE_IMAGE`` for organs of another scan, and those of the readers of
            images, DICOM series and structure sets.
    """
    parts = sort_parts(scan, rules.choice, lambda name: match_names([name], rules.spellings)[0].organ is not None)
    series_uid = None if parts.image is not None else _series_of(scan.folder, parts.structure_sets)
    ct = read_series(scan.folder, series_uid=series_uid) if parts.image is None else read_image(parts.image)
    drawn, notes = _read_organs(scan, parts, ct.geometry, series_uid, rules)
    check_comparable(ct.geometry, drawn.geometry)
    wanted = {k: m for k, m in drawn.masks.items() if rules.organs is None or k in rules.organs}
    notes += [f"{key} is named, but not drawn; it counts as not annotated." for key, m in wanted.items() if m is None]
    placed, inside = place_on(OrganMasks(drawn.geometry, wanted), ct.geometry)
    notes += [f"{1 - share:.0%} of {key} lie outside the CT." for key, share in inside.items() if share < 1]
    labels, overlaps = exclusive_labels(placed)
    annotated = tuple(KEYS[int(value) - 1] for value in np.unique(labels.array) if value)
    if not annotated:
        listed = ", ".join(f"'{name}'" for name in drawn.unmapped[:5]) or "none"
        raise FocusNetError(
            "E_NO_LABELS", f"No organ that is wanted is drawn on the CT (unknown names: {listed}); see --spellings."
        )
    findings = (f"{f.message} [{f.code}]" for f in check_pair(scan.name, ct, labels, annotated))
    return DrawnScan(
        ct,
        labels,
        annotated,
        tuple(key for key in annotated if inside[key] >= SCORED_SHARE),
        drawn.unmapped,
        (*notes, *overlaps, *findings),
        _patient_id(scan),
    )


def place_on(masks: OrganMasks, geometry: Geometry) -> tuple[OrganMasks, dict[str, float]]:
    """Organs on another grid, cut at its edges, and the share of each drawn organ that lies within."""
    placed: dict[str, CroppedMask | None] = {}
    inside: dict[str, float] = {}
    whole = Box((0, 0, 0), geometry.shape_zyx)
    for key in masks.masks:
        mask = masks.mask_on(geometry, key)
        common = None if mask is None else mask.box.intersection(whole)
        placed[key] = None if mask is None or common is None else CroppedMask.of(mask.on(common), common.start_zyx)
        if mask is not None:
            kept = placed[key]
            count = 0 if kept is None else np.count_nonzero(kept.array)
            inside[key] = count / np.count_nonzero(mask.array)
    return OrganMasks(geometry, placed, masks.unmapped), inside


def exclusive_labels(masks: OrganMasks) -> tuple[LabelMap, list[str]]:
    """Labels of which none covers another: where organs overlap, the smaller one keeps the shared voxels.

    Returns:
        Labels on the grid of the masks, value n for the n-th organ of the catalogue, and a line per overlap.
    """
    value = {key: KEYS.index(key) + 1 for key in masks.masks}
    left = {key: 0 if mask is None else np.count_nonzero(mask.array) for key, mask in masks.masks.items()}
    labels = np.zeros(masks.geometry.shape_zyx, np.uint8)
    notes = []
    for key in sorted(left, key=lambda key: (-left[key], value[key])):
        mask = masks.masks[key]
        if mask is None:
            continue
        part = labels[mask.box.slices]
        covered, counts = np.unique(part[mask.array], return_counts=True)
        for other, count in ((KEYS[int(v) - 1], int(n)) for v, n in zip(covered, counts, strict=True) if v):
            left[other] -= count
            nothing = "" if left[other] else f"; nothing is left of {other}, which counts as not annotated"
            notes.append(f"{key} keeps {count} voxels that also belong to {other}{nothing}.")
        part[mask.array] = value[key]
    return LabelMap(labels, masks.geometry, {v: key for key, v in value.items()}), notes


def _read_organs(
    scan: Scan, parts: Parts, geometry: Geometry, series_uid: str | None, rules: ScanRules
) -> tuple[OrganMasks, list[str]]:
    """Organs on their own grid, and notes."""
    if parts.labels is not None:
        masks = read_case(parts.labels, ReadSettings(rules.label_names, rules.spellings))
    elif parts.masks:
        masks = read_masks(parts.masks, rules.spellings)
    else:
        return _read_structures(scan, parts.structure_sets, geometry, RTStructRules(series_uid, names=rules.spellings))
    same = masks.geometry.axis_codes == geometry.axis_codes and np.allclose(
        masks.geometry.spacing_xyz, geometry.spacing_xyz, rtol=1e-3
    )
    return masks, [] if same else ["the organs lie on another grid than the CT; each voxel takes the nearest value."]


def _read_structures(
    scan: Scan, files: tuple[Path, ...], geometry: Geometry, rules: RTStructRules
) -> tuple[OrganMasks, list[str]]:
    found = read_rtstruct(files[0] if len(files) == 1 else scan.folder, geometry, rules)
    masks = {s.organ: CroppedMask.of(s.crop, s.box.start_zyx) if s.box else None for s in found.structures if s.organ}
    notes = [*found.notes, *(f"{s.organ}: {note}." for s in found.structures if s.organ for note in s.notes)]
    return OrganMasks(geometry, masks, not_left_out(found.unmapped, rules.names)), notes


def _series_of(folder: Path, structure_sets: tuple[Path, ...]) -> str:
    """UID of the one CT series, or of the one that the structure sets refer to."""
    named = {uid for path in structure_sets for uid in parse_rtstruct(path).series_uids}
    referred = [series.uid for series in find_series(folder) if series.uid in named]
    return referred[0] if len(referred) == 1 else select_series(folder, None, None).uid


def _patient_id(scan: Scan) -> str:
    dicom = next((path for path in scan.files if is_dicom(path)), None)
    return "" if dicom is None else read_tags(dicom, ["PatientID"]).get("PatientID", "")
