import itertools
import tracemalloc

import numpy as np
import pytest
from focusnet import postprocessing
from focusnet.geometry import Box, Geometry, Volume, resample
from focusnet.postprocessing import RoiAnswer, fuse, keep_largest_components, native_labels
from focusnet.tiling import SparseMaps
from scipy import ndimage

SHAPE = (10, 24, 26)
WHOLE = Box((0, 0, 0), SHAPE)


def sparse(values: np.ndarray) -> SparseMaps:
    maps = SparseMaps(len(values), values.shape[1:])
    for z in range(values.shape[1]):
        maps.put(z, values[:, z].astype(np.float32))
    return maps


def dense(maps: SparseMaps, channels: int) -> np.ndarray:
    return np.stack([maps.read(c, WHOLE) for c in range(channels)])


def constant(channel: int, box: Box, probability: float) -> RoiAnswer:
    return RoiAnswer(channel, box, np.full(box.shape_zyx, probability, np.float32))


def test_inside_its_roi_a_small_organ_has_sos_net_s_probability():
    values = np.zeros((3, *SHAPE))
    values[0], values[1], values[2] = 0.3, 0.2, 0.1  # the background has 0.4
    maps = sparse(values)
    roi = Box((2, 4, 4), (6, 12, 12))
    fuse(maps, range(3), [constant(1, roi, 0.6)])
    fused = dense(maps, 3)
    inside = (slice(None), *roi.slices)
    # The 0.8 of the other classes shrink to 0.4 in their proportions.
    for channel, expected in enumerate((0.15, 0.6, 0.05)):
        np.testing.assert_allclose(fused[inside][channel], expected, atol=1e-3)
    outside = np.ones(SHAPE, bool)
    outside[roi.slices] = False
    np.testing.assert_allclose(fused[:, outside], values[:, outside], atol=1e-3)


@pytest.mark.parametrize(("probability", "wins"), [(0.51, True), (0.49, False)])
def test_one_half_decides_against_a_background_that_s_net_was_sure_of(probability, wins):
    maps = sparse(np.zeros((2, *SHAPE)))
    roi = Box((2, 4, 4), (6, 12, 12))
    fuse(maps, range(2), [constant(1, roi, probability)])
    fused = dense(maps, 2)[(slice(None), *roi.slices)]
    assert (fused[1] > 1 - fused.sum(0)).all() == wins


def test_an_organ_that_s_net_alone_saw_vanishes_where_sos_net_denies_it():
    values = np.zeros((2, *SHAPE))
    values[1] = 1.0
    maps = sparse(values)
    roi = Box((2, 4, 4), (6, 12, 12))
    fuse(maps, range(2), [constant(1, roi, 0.02)])
    fused = dense(maps, 2)
    assert fused[1][roi.slices].max() < 0.03
    assert fused[0].max() == 0


def test_where_rois_overlap_the_more_probable_organ_wins_in_any_order():
    values = np.zeros((3, *SHAPE))
    values[0] = 0.5
    one, other = Box((2, 4, 4), (6, 12, 12)), Box((4, 8, 8), (9, 20, 20))
    answers = [constant(1, one, 0.7), constant(2, other, 0.9)]
    results = []
    for order in itertools.permutations(answers):
        maps = sparse(values)
        fuse(maps, range(3), list(order))
        results.append(dense(maps, 3))
    np.testing.assert_array_equal(results[0], results[1])
    fused = results[0]
    both = (slice(None), *one.intersection(other).slices)
    assert (fused[both].argmax(0) == 2).all()
    total = fused.sum(0)
    assert total.max() <= 1 + 2e-3
    np.testing.assert_allclose(fused[1, 2, 5, 5], 0.7, atol=1e-3)
    np.testing.assert_allclose(fused[2, 8, 18, 18], 0.9, atol=1e-3)
    # Odds 7/3 and 9 against 1.
    np.testing.assert_allclose(fused[both][2], 9 / (1 + 9 + 7 / 3), atol=1e-3)


def test_certainties_of_one_do_not_break_the_odds():
    maps = sparse(np.ones((2, *SHAPE)) * [[[[0.0]]], [[[1.0]]]])
    fuse(maps, range(2), [constant(0, WHOLE, 1.0), constant(1, WHOLE, 0.0)])
    fused = dense(maps, 2)
    assert np.isfinite(fused).all()
    assert fused[0].min() > 0.99


def soft_blobs(seed: int, classes: int) -> np.ndarray:
    """Smooth probabilities of overlapping organs, background left over; the last class is cut by the volume's end."""
    rng = np.random.default_rng(seed)
    scores = [np.full(SHAPE, 2.0)]
    for c in range(classes):
        centre = [rng.uniform(2, n - 3) for n in SHAPE]
        if c == classes - 1:
            centre[0] = SHAPE[0] - 1
        grid = np.meshgrid(*[np.arange(n) - a for n, a in zip(SHAPE, centre, strict=True)], indexing="ij")
        scores.append(8 * np.exp(-sum(g**2 / r**2 for g, r in zip(grid, (3, 5, 6), strict=True))))
    shares = np.exp(scores)
    return (shares / shares.sum(0))[1:]


def all_shares(values: np.ndarray, working: Geometry, native: Geometry) -> np.ndarray:
    """Every class, the background first, interpolated on the whole native grid."""
    stored = values.astype(np.float16).astype(np.float32)
    classes = [1 - stored.sum(0), *stored]
    fills = [1.0] + [0.0] * len(stored)
    return np.stack(
        [
            resample(Volume(c.astype(np.float32), working), native, fill=f, antialias=False).array
            for c, f in zip(classes, fills, strict=True)
        ]
    )


def oracle(values: np.ndarray, working: Geometry, native: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Labels of all classes interpolated, and the winner's lead."""
    shares = all_shares(values, working, native)
    ordered = np.sort(shares, axis=0)
    return shares.argmax(0), ordered[-1] - ordered[-2]


def random_rotation(seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.diag(r))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("slab", [2**13, 2**23])
def test_native_labels_are_the_argmax_of_all_interpolated_classes(seed, slab, monkeypatch):
    monkeypatch.setattr(postprocessing, "SLAB_VOXELS", slab)
    working = Geometry.from_parts(SHAPE, (2, 2, 3), (-20, -30, 40))
    direction = np.eye(3)[:, list(itertools.permutations(range(3)))[seed]] if seed < 3 else random_rotation(seed)
    spacing = np.array([(0.9, 1.1, 2.0), (1.3, 0.7, 5.0)][seed % 2])
    shape = (31, 50, 54)
    centre = working.center_mm - direction @ (spacing * (np.array(shape[::-1]) - 1) / 2)
    native = Geometry.from_parts(shape, spacing, centre, direction)
    values = soft_blobs(seed, 4)
    labels, certainty = native_labels(
        [(sparse(values), working)], {i + 1: i for i in range(4)}, native, lambda share: None
    )
    expected, lead = oracle(values, working, native)
    clear = lead > 0.02  # what the sparse maps leave out moves a share by less
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(labels[clear], expected[clear])
    assert set(np.unique(labels)) == set(range(5))
    assert certainty[labels > 0].min() >= 255 / 5 - 2


@pytest.mark.parametrize("slab", [2**13, 2**23])
def test_the_mean_of_several_grids_decides(slab, monkeypatch):
    monkeypatch.setattr(postprocessing, "SLAB_VOXELS", slab)
    first = Geometry.from_parts(SHAPE, (2, 2, 3), (-20, -30, 40))
    second = Geometry.from_parts(SHAPE, (2, 2, 3), (-19, -29, 40))
    native = Geometry.from_parts((31, 50, 54), (0.9, 1.1, 1.0), (-19, -29, 41))
    one, other = soft_blobs(3, 3), soft_blobs(3, 3)
    other[2] = 0  # an organ that one grid alone has
    maps = [(sparse(one), first), (sparse(other), second)]
    labels, certainty = native_labels(maps, {i + 1: i for i in range(3)}, native, lambda share: None)
    shares = np.mean([all_shares(one, first, native), all_shares(other, second, native)], axis=0)
    lead = np.diff(np.sort(shares, axis=0)[-2:], axis=0)[0]
    clear = lead > 0.02
    np.testing.assert_array_equal(labels[clear], shares.argmax(0)[clear])
    np.testing.assert_allclose(certainty[clear], 255 * shares.max(0)[clear], atol=3)
    assert set(np.unique(labels[clear])) >= {0, 1, 2}


def test_an_organ_cut_by_the_end_of_the_scan_reaches_it():
    working = Geometry.from_parts(SHAPE, (2, 2, 3))
    values = np.zeros((1, *SHAPE))
    values[0, 7:, 8:16, 8:16] = 1
    native = Geometry.from_parts((SHAPE[0] * 3, 24, 26), (2, 2, 1), (0, 0, -1))  # covers exactly the same room
    labels, _ = native_labels([(sparse(values), working)], {1: 0}, native, lambda share: None)
    assert (labels[-1, 9:15, 9:15] == 1).all()
    assert labels[:19].max() == 0


def test_a_boundary_lies_half_way_not_on_a_staircase():
    working = Geometry.from_parts(SHAPE, (4, 4, 4))
    y, x = np.mgrid[:24, :26]
    inside = 1 / (1 + np.exp(-2 * (7 - np.hypot(y - 12, x - 13))))
    values = np.broadcast_to(inside, (1, *SHAPE))
    native = Geometry.from_parts((3, 96, 104), (1, 1, 4), (0, 0, 12))
    labels, _ = native_labels([(sparse(values), working)], {1: 0}, native, lambda share: None)
    edge = ndimage.binary_dilation(labels[1] == 1) ^ (labels[1] == 1)
    radius = np.hypot(*(np.argwhere(edge) - (48, 52)).T)
    assert np.abs(radius - 28).max() < 1.3


def test_an_empty_map_gives_background_with_certainty():
    native = Geometry.from_parts((4, 5, 6))
    empty = sparse(np.zeros((2, *SHAPE)))
    labels, certainty = native_labels([(empty, native)], {1: 0, 2: 1}, native, lambda share: None)
    assert not labels.any()
    assert (certainty == 255).all()


def test_the_native_grid_never_holds_a_float_map_per_class(monkeypatch):
    monkeypatch.setattr(postprocessing, "SLAB_VOXELS", 2**15)
    working = Geometry.from_parts(SHAPE, (5, 5, 5))
    native = Geometry.from_parts((60, 80, 90), (1.5, 1.5, 0.8))
    maps = sparse(soft_blobs(0, 12))
    one_map = 4 * np.prod(native.shape_zyx)
    tracemalloc.start()
    native_labels([(maps, working)] * 4, {i + 1: i for i in range(12)}, native, lambda share: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * one_map


def test_more_than_255_classes_need_wider_labels():
    native = Geometry.from_parts((2, 2, 2))
    labels, _ = native_labels([(sparse(np.zeros((1, *SHAPE))), native)], {256: 0}, native, lambda share: None)
    assert labels.dtype == np.uint16


def test_progress_is_told_slab_by_slab(monkeypatch):
    monkeypatch.setattr(postprocessing, "SLAB_VOXELS", 30)
    native = Geometry.from_parts((4, 5, 6))
    shares = []
    native_labels([(sparse(np.zeros((1, *SHAPE))), native)], {1: 0}, native, shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_only_the_largest_piece_of_a_label_is_kept():
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[1:4, 1:4, 1:4] = 3
    labels[4, 4, 4] = 3  # touches by a corner
    labels[6, 6:8, 6] = 3
    labels[7, 8, 9] = 5
    labels[0, 0, 9] = 5
    before = labels.copy()
    assert keep_largest_components(labels, [1, 3]) == {3: 2}
    before[6, 6:8, 6] = 0
    np.testing.assert_array_equal(labels, before)
    assert keep_largest_components(labels, [9]) == {}
