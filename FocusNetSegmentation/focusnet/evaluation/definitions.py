"""What each measure is called, its unit, direction and definition; one source for tables, report and JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One measure.

    Attributes:
        field: Field of :class:`focusnet.evaluation.case.Row` and column of ``metrics.csv``.
        name: Short name for headings.
        unit: Unit, empty for shares.
        higher_is_better: Direction, or None where neither is better.
        decimals: Digits after the point in tables.
        definition: One or two sentences.
    """

    field: str
    name: str
    unit: str
    higher_is_better: bool | None
    decimals: int
    definition: str

    @property
    def heading(self) -> str:
        """Name with unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


_SURFEL = "surface elements weighted by area"
_VOXEL = "border voxels (six neighbours), interpolated percentiles"

METRICS: dict[str, Metric] = {
    metric.field: metric
    for metric in (
        Metric(
            "dsc", "DSC", "", True, 3,
            "Dice similarity coefficient: twice the overlap over the sum of both volumes. 0 for a missed organ.",
        ),
        Metric(
            "surface_dsc", "Surface DSC", "", True, 3,
            "Share of both surfaces within the organ's tolerance τ of the other, ties included (distance ≤ τ + 1e-6 "
            f"mm); {_SURFEL}. 0 for a missed organ.",
        ),
        Metric(
            "hd95_max_mm", "HD95 max", "mm", False, 2,
            f"Greater of the two directed 95th percentiles of the surface distances; {_SURFEL}. The convention of "
            "surface-distance and MONAI.",
        ),
        Metric(
            "hd95_mean_mm", "HD95 mean", "mm", False, 2,
            f"Mean of the two directed 95th percentiles; {_SURFEL}. The convention of FocusNetv2 and Plastimatch.",
        ),
        Metric(
            "hd95_pooled_mm", "HD95 pooled", "mm", False, 2,
            f"95th percentile of the distances of both directions together; {_SURFEL}. The convention of medpy.",
        ),
        Metric(
            "hd_mm", "HD", "mm", False, 2,
            "Hausdorff distance: greatest surface distance. One stray voxel decides it, so it is never headlined.",
        ),
        Metric(
            "msd_mm", "MSD", "mm", False, 2,
            f"Mean surface distance over both surfaces (ASSD); {_SURFEL}. Lower than the voxel variant by up to half a "
            "voxel, since elements lie on voxel corners.",
        ),
        Metric("hd95_max_voxel_mm", "HD95 max, voxel", "mm", False, 2, f"As HD95 max; {_VOXEL}. Equals MONAI's."),
        Metric("hd95_mean_voxel_mm", "HD95 mean, voxel", "mm", False, 2, f"As HD95 mean; {_VOXEL}."),
        Metric("msd_voxel_mm", "MSD, voxel", "mm", False, 2, f"As MSD; {_VOXEL}. Equals MONAI's symmetric ASD."),
        Metric("volume_reference_ml", "Reference volume", "ml", None, 2, "Voxels of the reference on its own grid."),
        Metric("volume_prediction_ml", "Predicted volume", "ml", None, 2, "Voxels of the prediction on its own grid."),
        Metric(
            "centroid_shift_mm", "Centroid shift", "mm", False, 2,
            "Distance of the centroids in the patient; its parts are positive to the left, the back and the head.",
        ),
        Metric(
            "apl_mm", "APL", "mm", False, 0,
            "Added path length: contour pixels of the reference, on axial slices, without a contour pixel of the "
            "prediction in the same slice within the stated tolerance, times the pixel size.",
        ),
        Metric("apl_relative", "APL, share", "", False, 3, "Added path length over the whole reference contour."),
        Metric(
            "worst_slice_dsc", "Worst slice DSC", "", True, 3,
            "Lowest DSC of a single axial slice; among equals the slice with most differing voxels.",
        ),
    )
}  # fmt: skip

STATES = {
    "ok": "Both masks hold voxels; every measure is defined.",
    "both_empty": "Neither mask holds a voxel; left out of all means.",
    "missed": "Only the reference holds voxels: DSC and surface DSC are 0, distances are undefined; always listed.",
    "extra": "Only the prediction holds voxels; left out of all means; always listed.",
}

STATISTICS = (
    "Per organ and pooled, the patient is the unit. Two-sided Wilcoxon signed-rank test (exact, ties included), Holm "
    "correction over all organs and pairs of methods of one measure, percentile bootstrap of the mean difference "
    "(95 %, 10 000 resamples), matched-pairs rank-biserial correlation as effect size. With fewer than six patients no "
    "difference can reach p < 0.05."
)
