"""All measures of one case: one row per organ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from focusnet import organs
from focusnet.evaluation import overlap, surface
from focusnet.evaluation.localisation import centroid_shift
from focusnet.evaluation.masks import CroppedMask, OrganMasks, check_comparable, finer
from focusnet.geometry import Geometry, LabelMap
from focusnet.io.segmentation import Segmentation

State = Literal["ok", "both_empty", "missed", "extra"]
Labelled: TypeAlias = LabelMap | Segmentation | OrganMasks


@dataclass(frozen=True)
class Row:
    """Measures of one organ in one case; None where a measure is undefined.

    The fields up to ``worst_slice_dsc`` are the columns of ``metrics.csv``. ``worst_slice`` counts along the axial axis
    of the grid compared on; a negative index lies before the grid's first slice.
    """

    case: str
    organ: str
    state: State
    dsc: float | None = None
    surface_dsc: float | None = None
    tolerance_mm: float | None = None
    hd95_max_mm: float | None = None
    hd95_mean_mm: float | None = None
    hd95_pooled_mm: float | None = None
    hd_mm: float | None = None
    msd_mm: float | None = None
    hd95_max_voxel_mm: float | None = None
    hd95_mean_voxel_mm: float | None = None
    msd_voxel_mm: float | None = None
    volume_reference_ml: float | None = None
    volume_prediction_ml: float | None = None
    centroid_shift_mm: float | None = None
    apl_mm: float | None = None
    apl_relative: float | None = None
    worst_slice: int | None = None
    worst_slice_dsc: float | None = None
    shift_left_mm: float | None = None
    shift_posterior_mm: float | None = None
    shift_superior_mm: float | None = None


CSV_COLUMNS = tuple(Row.__dataclass_fields__)[: tuple(Row.__dataclass_fields__).index("worst_slice_dsc") + 1]


@dataclass(frozen=True)
class CaseSettings:
    """What is measured and how.

    Attributes:
        organs: Organ keys to compare; None for every organ that either side names.
        tolerances_mm: Surface DSC tolerance of organs for which the catalogue's is not wanted.
        apl_tolerance_mm: Tolerance of the added path length.
    """

    organs: tuple[str, ...] | None = None
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    apl_tolerance_mm: float = 0.0

    def tolerance_of(self, organ: str) -> float:
        """Surface DSC tolerance of an organ in mm."""
        return self.tolerances_mm.get(organ, organs.organ(organ).tolerance_mm)


@dataclass(frozen=True, eq=False)
class Pair:
    """Two labelled scans laid over each other.

    Attributes:
        reference: Organs on their own grid.
        prediction: Organs on their own grid.
        grid: Grid that both are compared on: the one with the smaller voxels.
        statement: That grid in words.
    """

    reference: OrganMasks
    prediction: OrganMasks
    grid: Geometry
    statement: str

    def masks(self, organ: str) -> tuple[CroppedMask | None, CroppedMask | None]:
        """Both masks of an organ on the common grid; None for an empty or absent one."""
        return self.reference.mask_on(self.grid, organ), self.prediction.mask_on(self.grid, organ)


def organ_masks(labelled: Labelled) -> OrganMasks:
    """Cropped organ masks of a label map or a segmentation."""
    if isinstance(labelled, OrganMasks):
        return labelled
    return OrganMasks.of_labelmap(labelled) if isinstance(labelled, LabelMap) else OrganMasks.of_segmentation(labelled)


def lay_over(reference: Labelled, prediction: Labelled) -> Pair:
    """Bring two labelled scans onto the finer of their grids.

    Raises:
        FocusNetError: ``E_FRAME_OF_REFERENCE``, ``E_BAD_GEOMETRY``, ``E_AMBIGUOUS_ORGAN``.
    """
    ours, theirs = organ_masks(reference), organ_masks(prediction)
    check_comparable(ours.geometry, theirs.geometry)
    grid = finer(ours.geometry, theirs.geometry)
    if ours.geometry.is_close(theirs.geometry):
        statement = f"both on {describe(grid)}"
    else:
        chosen, moved = ("reference", theirs) if grid is ours.geometry else ("prediction", ours)
        statement = f"on the {chosen}'s grid, {describe(grid)}; the other came as {describe(moved.geometry)}"
    return Pair(ours, theirs, grid, statement)


def describe(geometry: Geometry) -> str:
    """Size and spacing of a grid in words, in the order x, y, z."""
    size = " × ".join(str(n) for n in geometry.shape_zyx[::-1])
    spacing = " × ".join(f"{s:.4g}" for s in geometry.spacing_xyz)
    return f"{size} voxels of {spacing} mm"


def evaluate_case(
    reference: Labelled, prediction: Labelled, case: str, settings: CaseSettings | None = None
) -> list[Row]:
    """Measure every organ of one case.

    Args:
        reference: The contours held to be true.
        prediction: The contours to be judged; another grid is allowed, another frame of reference is not.
        case: Name of the case.
        settings: Organs and tolerances.

    Returns:
        One row per organ, in the order of the organ catalogue. An organ that only one side names is empty on the other.

    Raises:
        FocusNetError: ``E_FRAME_OF_REFERENCE``, ``E_BAD_GEOMETRY``, ``E_AMBIGUOUS_ORGAN``, ``E_UNKNOWN_ORGAN``.
    """
    return measure(lay_over(reference, prediction), case, settings)


def measure(pair: Pair, case: str, settings: CaseSettings | None = None) -> list[Row]:
    """Rows of two scans that are laid over each other (see :func:`evaluate_case`)."""
    settings = settings or CaseSettings()
    if settings.organs is None:
        wanted = {*pair.reference.masks, *pair.prediction.masks}
    else:
        wanted = {organs.organ(key).key for key in settings.organs}
    return [_row(pair, organ, case, settings) for organ in organs.CATALOGUE if organ in wanted]


def axial_axis(geometry: Geometry) -> int:
    """Array axis closest to the patient's long axis."""
    codes = geometry.axis_codes
    return 2 - next(i for i, code in enumerate(codes) if code in "SI")


def _row(pair: Pair, organ: str, case: str, settings: CaseSettings) -> Row:
    reference, prediction = pair.masks(organ)
    row = Row(
        case,
        organ,
        "ok",
        tolerance_mm=settings.tolerance_of(organ),
        volume_reference_ml=pair.reference.volume_ml(organ),
        volume_prediction_ml=pair.prediction.volume_ml(organ),
    )
    if reference is None:
        return replace(row, state="both_empty" if prediction is None else "extra")
    if prediction is None:
        slices = _slice_measures(reference, None, pair.grid, settings.apl_tolerance_mm)
        return replace(row, state="missed", dsc=0.0, surface_dsc=0.0, **slices)
    box = reference.box.union(prediction.box)
    a, b, spacing = reference.on(box), prediction.on(box), pair.grid.spacing_zyx
    elements, border = surface.surface_distances(a, b, spacing), surface.border_distances(a, b, spacing)
    shift = centroid_shift(pair.reference.centroid_mm(organ), pair.prediction.centroid_mm(organ))
    return replace(
        row,
        dsc=overlap.dice(a, b),
        surface_dsc=surface.surface_dice(elements, settings.tolerance_of(organ)),
        hd95_max_mm=surface.hausdorff_percentile_mm(elements, "max"),
        hd95_mean_mm=surface.hausdorff_percentile_mm(elements, "mean"),
        hd95_pooled_mm=surface.hausdorff_percentile_mm(elements, "pooled"),
        hd_mm=surface.hausdorff_mm(elements),
        msd_mm=surface.mean_surface_distance_mm(elements),
        hd95_max_voxel_mm=surface.hausdorff_percentile_mm(border, "max"),
        hd95_mean_voxel_mm=surface.hausdorff_percentile_mm(border, "mean"),
        msd_voxel_mm=surface.mean_surface_distance_mm(border),
        centroid_shift_mm=shift.distance_mm,
        shift_left_mm=shift.left_mm,
        shift_posterior_mm=shift.posterior_mm,
        shift_superior_mm=shift.superior_mm,
        **_slice_measures(reference, prediction, pair.grid, settings.apl_tolerance_mm),
    )


def _slice_measures(
    reference: CroppedMask, prediction: CroppedMask | None, grid: Geometry, tolerance_mm: float
) -> dict[str, Any]:
    """Added path length and worst slice, on slices across the patient's long axis."""
    box = reference.box if prediction is None else reference.box.union(prediction.box)
    axis = axial_axis(grid)
    a = np.moveaxis(reference.on(box), axis, 0)
    b = np.zeros_like(a) if prediction is None else np.moveaxis(prediction.on(box), axis, 0)
    row_mm, column_mm = (s for i, s in enumerate(grid.spacing_zyx) if i != axis)
    path = overlap.added_path_length(a, b, (row_mm, column_mm), tolerance_mm)
    worst = overlap.worst_slice(a, b)
    return {
        "apl_mm": path.added_mm,
        "apl_relative": path.relative,
        "worst_slice": worst.position + box.start_zyx[axis],
        "worst_slice_dsc": worst.dsc,
    }
