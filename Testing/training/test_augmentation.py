"""Augmentation: exact identity, rotation in millimetres, sides kept, labels and image moved alike."""

import numpy as np
import pytest
import torch
from focusnet_training.augmentation import augment_intensity, cut_field_of_view, extract_chunk, random_affine
from focusnet_training.config import AugmentationConfig

QUIET = AugmentationConfig(rotation_axial_deg=0, rotation_tilt_deg=0, scale=(1, 1), probability=0)


def test_identity_copies_the_voxels_and_pads_with_air_and_background():
    rng = np.random.default_rng(0)
    ct = torch.from_numpy(rng.integers(-1000, 1000, (6, 8, 10)).astype(np.int16))
    labels = torch.from_numpy(rng.integers(0, 5, (6, 8, 10)).astype(np.uint8))
    image, classes = extract_chunk(ct, labels, np.array([2.5, 3.5, 4.5]), np.eye(3), (3.0, 1.0, 1.0), (6, 8, 10))
    np.testing.assert_allclose(image[0, 0], ct.float(), atol=0.1)
    np.testing.assert_array_equal(classes[0], labels.long())
    image, classes = extract_chunk(ct, labels, np.array([2.5, 3.5, 4.5]), np.eye(3), (3.0, 1.0, 1.0), (6, 8, 14))
    np.testing.assert_allclose(image[0, 0, :, :, 2:-2], ct.float(), atol=0.1)
    assert (image[0, 0, :, :, 0] == -1024).all()
    assert (classes[0, :, :, 0] == 0).all()


def test_rotation_is_rigid_in_mm_on_an_anisotropic_grid():
    labels = torch.zeros(20, 60, 60, dtype=torch.uint8)
    labels[10, 30, 50] = 1  # 20 mm to the left of the centre voxel
    quarter = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # chunk z shows volume x
    _, classes = extract_chunk(
        labels.to(torch.int16), labels, np.array([10.0, 30, 30]), quarter, (2.0, 1.0, 1.0), (41, 5, 5)
    )
    # 20 mm are 20 voxels in plane and 10 slices along z.
    found = torch.nonzero(classes[0]).float().mean(0)
    assert torch.allclose((found - torch.tensor([20.0, 2, 2])).abs(), torch.tensor([10.0, 0, 0]), atol=0.6)


@pytest.mark.parametrize("seed", range(20))
def test_no_draw_mirrors(seed):
    matrix = random_affine(AugmentationConfig(), np.random.default_rng(seed))
    assert 0.7**3 <= 1 / np.linalg.det(matrix) <= 1.3**3
    rotation = matrix * np.cbrt(1 / np.linalg.det(matrix))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_left_stays_left_through_every_change(seed):
    rng = np.random.default_rng(seed)
    labels = torch.zeros(24, 48, 48, dtype=torch.uint8)
    labels[10:14, 20:28, 32:38] = 1  # the patient's left
    labels[10:14, 20:28, 10:16] = 2
    config = AugmentationConfig(field_of_view_cut=0)
    image, classes = extract_chunk(
        labels.to(torch.int16) * 100,
        labels,
        np.array([12.0, 24, 24]),
        random_affine(config, rng),
        (3, 1, 1),
        (24, 48, 48),
    )
    left, right = (torch.nonzero(classes[0] == v).float().mean(0) for v in (1, 2))
    assert left[2] > right[2]
    inside = classes[0] == 1
    assert float(image[0, 0][inside].mean()) == pytest.approx(100, abs=45)


def test_scale_above_one_enlarges():
    labels = torch.zeros(20, 40, 40, dtype=torch.uint8)
    labels[6:14, 12:28, 12:28] = 1
    config = AugmentationConfig(rotation_axial_deg=0, rotation_tilt_deg=0, scale=(1.25, 1.25))
    matrix = random_affine(config, np.random.default_rng(0))
    _, classes = extract_chunk(labels.short(), labels, np.array([9.5, 19.5, 19.5]), matrix, (1, 1, 1), (20, 40, 40))
    assert int(classes.sum()) == pytest.approx(1.25**3 * int(labels.sum()), rel=0.1)


def test_intensity_changes_are_repeatable_bounded_and_optional():
    ct = torch.linspace(-1000, 1000, 8 * 12 * 12).view(1, 1, 8, 12, 12)
    always = AugmentationConfig(probability=1.0)
    one, two = (augment_intensity(ct, (3, 1, 1), always, np.random.default_rng(7)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, ct)
    assert torch.isfinite(one).all()
    assert torch.equal(augment_intensity(ct, (3, 1, 1), QUIET, np.random.default_rng(7)), ct)


def test_what_is_cut_from_the_image_is_cut_from_the_labels():
    ct, labels = torch.zeros(1, 1, 10, 10, 10), torch.ones(1, 10, 10, 10, dtype=torch.int64)
    config = AugmentationConfig(probability=1.0, field_of_view_cut=0.4)
    seen = 0
    for seed in range(12):
        cut, kept, _ = cut_field_of_view(ct, labels, config, np.random.default_rng(seed))
        assert torch.equal(cut[0, 0] == -1024, kept[0] == 0)
        seen += int((kept == 0).any())
    assert seen >= 8
    assert float(ct.sum()) == 0


def test_organs_that_the_end_of_the_scan_cuts_are_told():
    ct, labels = torch.zeros(1, 1, 12, 24, 24), torch.zeros(1, 12, 24, 24, dtype=torch.int64)
    labels[0, :, 8:16, 8:16] = 5  # from end to end
    labels[0, 4:7, 2:5, 2:5] = 2
    labels[0, 4:7, 18:22, 18:22] = 3
    config = AugmentationConfig(probability=1.0, field_of_view_cut=0.3)
    seen = set()
    for seed in range(200):
        _, kept, parts = cut_field_of_view(ct, labels, config, np.random.default_rng(seed))
        counts = {k: (int((labels == k).sum()), int((kept == k).sum())) for k in (2, 3, 5)}
        assert parts.tolist() == [k for k, (before, after) in counts.items() if 0 < after < before]
        seen.add(tuple(parts.tolist()))
    assert {(), (2,), (3,), (5,)} <= seen
    never = AugmentationConfig(probability=0.0)
    assert cut_field_of_view(ct, labels, never, np.random.default_rng(0))[2].tolist() == []
