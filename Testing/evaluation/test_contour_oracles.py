"""Equality with independent implementations on the real contours of two observers.

``surface-distance`` compares distances with ``d <= tolerance``; here a tie within 1e-6 mm counts as within, so the
oracle is given the tolerance plus 1e-6. Its percentile of 95 % is the first element at which the running sum of areas
reaches 0.95 of the whole, as here.
"""

import numpy as np
import pytest
from focusnet import organs
from focusnet.evaluation.case import CaseSettings, evaluate_case
from focusnet.evaluation.masks import OrganMasks
from focusnet.evaluation.surface import surface_element_areas
from focusnet.io.segmentation import read_segmentation

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:surface_distance"),
]
CASES = ("0522c0014", "0522c0519", "0522c0576", "0522c0727a", "0522c0727b", "TCGA-CV-5977", "TCGA-CV-5978")


def observers(shared_data, case):
    folder = shared_data / "contours" / case
    return [
        OrganMasks.of_segmentation(read_segmentation(folder / f"{who}.seg.nrrd"))
        for who in ("oncologist", "radiographer")
    ]


def both_masks(reference, prediction, organ):
    """Masks of one organ on their common box, one voxel wider on all sides."""
    a, b = reference.masks[organ], prediction.masks[organ]
    box = a.box.union(b.box)
    return np.pad(a.on(box), 1), np.pad(b.on(box), 1)


def test_table_of_areas_equals_surface_distance():
    tables = pytest.importorskip("surface_distance.lookup_tables")
    weights = 1 << np.arange(8).reshape(2, 2, 2)
    for spacing in ((1.0, 1.0, 1.0), (2.5, 0.98, 0.98), (0.1, 7.0, 3.0)):
        ours = surface_element_areas(spacing)
        theirs = tables.create_table_neighbour_code_to_surface_area(spacing)
        for code in range(256):
            other_code = int(tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL[(code & weights) > 0].sum())
            assert theirs[other_code] == pytest.approx(ours[code], rel=1e-12), code


@pytest.mark.parametrize("case", CASES)
def test_equality_with_surface_distance(shared_data, case):
    oracle = pytest.importorskip("surface_distance.metrics")
    reference, prediction = observers(shared_data, case)
    spacing = reference.geometry.spacing_zyx
    rows = evaluate_case(reference, prediction, case)
    assert len(rows) == (19 if case == "TCGA-CV-5977" else 21)
    for row in rows:
        a, b = both_masks(reference, prediction, row.organ)
        distances = oracle.compute_surface_distances(a, b, spacing)
        tolerance = organs.organ(row.organ).tolerance_mm + 1e-6
        there, back = oracle.compute_average_surface_distance(distances)
        areas = distances["surfel_areas_gt"].sum(), distances["surfel_areas_pred"].sum()
        assert row.dsc == oracle.compute_dice_coefficient(a, b), row.organ
        expected = {
            "hd95_max_mm": oracle.compute_robust_hausdorff(distances, 95),
            "hd_mm": oracle.compute_robust_hausdorff(distances, 100),
            "surface_dsc": oracle.compute_surface_dice_at_tolerance(distances, tolerance),
            "msd_mm": (there * areas[0] + back * areas[1]) / sum(areas),
        }
        for name, value in expected.items():
            assert getattr(row, name) == pytest.approx(value, abs=1e-6), (row.organ, name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_equality_with_monai(shared_data, case):
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    reference, prediction = observers(shared_data, case)
    spacing = reference.geometry.spacing_zyx
    for row in evaluate_case(reference, prediction, case):
        a, b = (torch.from_numpy(mask)[None, None] for mask in both_masks(reference, prediction, row.organ))
        settings = {"include_background": True, "spacing": spacing}
        hd95 = metrics.compute_hausdorff_distance(b, a, percentile=95, **settings).item()
        msd = metrics.compute_average_surface_distance(b, a, symmetric=True, **settings).item()
        there, back = (
            metrics.compute_hausdorff_distance(one, other, percentile=95, directed=True, **settings).item()
            for one, other in ((a, b), (b, a))
        )
        assert row.hd95_max_voxel_mm == pytest.approx(hd95, abs=1e-4), row.organ
        assert row.hd95_mean_voxel_mm == pytest.approx((there + back) / 2, abs=1e-4), row.organ
        assert row.msd_voxel_mm == pytest.approx(msd, abs=1e-4), row.organ


@pytest.mark.parametrize("organ", ["cochlea_l", "lens_r", "optic_nerve_l", "parotid_r", "mandible"])
def test_volume_and_added_path_equal_simpleitk(shared_data, organ):
    sitk = pytest.importorskip("SimpleITK")
    reference, prediction = observers(shared_data, "0522c0576")
    (row,) = evaluate_case(reference, prediction, "case", CaseSettings(organs=(organ,)))
    a, b = both_masks(reference, prediction, organ)
    spacing = reference.geometry.spacing_xyz
    wanted = added = 0
    for one, other in zip(a, b, strict=True):
        first, second = (
            sitk.GetArrayFromImage(sitk.LabelContour(sitk.GetImageFromArray(plane.astype(np.uint8))))
            for plane in (one, other)
        )
        wanted += np.count_nonzero(first)
        added += np.count_nonzero(first & (1 - second))
    assert row.apl_mm == pytest.approx(added * np.sqrt(spacing[0] * spacing[1]))
    assert row.apl_relative == pytest.approx(added / wanted)
    image = sitk.GetImageFromArray(b.astype(np.uint8))
    image.SetSpacing(spacing)
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(image)
    assert row.volume_prediction_ml == pytest.approx(shape.GetPhysicalSize(1) / 1000)


def test_order_of_the_two_observers_does_not_matter(shared_data):
    reference, prediction = observers(shared_data, "TCGA-CV-5978")
    symmetric = (
        "dsc",
        "surface_dsc",
        "hd95_max_mm",
        "hd95_mean_mm",
        "hd95_pooled_mm",
        "hd_mm",
        "msd_mm",
        "worst_slice",
    )
    there, back = evaluate_case(reference, prediction, "case"), evaluate_case(prediction, reference, "case")
    for one, other in zip(there, back, strict=True):
        assert [getattr(one, name) for name in symmetric] == pytest.approx([getattr(other, name) for name in symmetric])
        assert one.shift_left_mm == pytest.approx(-other.shift_left_mm)
