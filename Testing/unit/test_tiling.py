import numpy as np
import pytest
from focusnet.geometry import Box
from focusnet.tiling import (
    FLOOR,
    Blender,
    SparseMaps,
    piece_shape,
    piece_starts,
    piece_weights,
    smaller_pieces,
    triple,
)
from hypothesis import given
from hypothesis import strategies as st


def test_a_piece_is_the_whole_volume_where_it_fits():
    assert piece_shape((31, 101, 300), (40, 240, 240), (2, 4, 4), (1, 1, 1)) == (32, 104, 240)
    assert piece_shape((3, 10, 10), (40, 240, 240), (2, 4, 4), (8, 64, 64)) == (8, 64, 64)


@given(st.integers(1, 300), st.integers(1, 20).map(lambda n: 4 * n), st.integers(0, 40))
def test_pieces_cover_everything_with_the_overlap_and_stay_inside(extent, size, overlap):
    overlap = min(overlap, size // 2)
    starts = piece_starts(extent, size, overlap)
    assert starts[0] == 0
    if extent <= size:
        assert starts == [0]
        return
    assert starts[-1] + size == extent
    gaps = np.diff(starts)
    assert (gaps > 0).all()
    assert (size - gaps >= overlap).all()


def test_the_paper_s_stride_puts_pieces_side_by_side():
    assert piece_starts(120, 40, 0) == [0, 40, 80]
    assert (piece_weights(40, 0) == 1).all()


def test_weights_are_a_symmetric_ramp_and_add_up_in_the_overlap():
    weights = piece_weights(10, 4)
    np.testing.assert_allclose(weights, [0.125, 0.375, 0.625, 0.875, 1, 1, 0.875, 0.625, 0.375, 0.125])
    np.testing.assert_allclose(weights[-4:] + weights[:4], 1)


def test_smaller_pieces_end_at_the_smallest_and_stay_multiples():
    shapes = list(smaller_pieces((40, 240, 240), (2, 4, 4), (8, 64, 64)))
    assert shapes[-1] == (8, 64, 64)
    sizes = [np.prod(shape) for shape in [(40, 240, 240), *shapes]]
    assert (np.diff(sizes) < 0).all()
    assert all(z % 2 == 0 and y % 4 == 0 and x % 4 == 0 for z, y, x in shapes)
    assert list(smaller_pieces((8, 64, 64), (2, 4, 4), (8, 64, 64))) == []
    assert list(smaller_pieces((4, 16, 16), (2, 4, 4), (8, 64, 64))) == []


def filled(values: np.ndarray) -> SparseMaps:
    maps = SparseMaps(len(values), values.shape[1:])
    for z in range(values.shape[1]):
        maps.put(z, values[:, z].astype(np.float32))
    return maps


def blobs(seed: int, shape=(3, 9, 20, 22)) -> np.ndarray:
    """Maps with a box of random values each, zero elsewhere, exact in half precision."""
    rng = np.random.default_rng(seed)
    values = np.zeros(shape, np.float32)
    for channel in values:
        low = [rng.integers(0, n - 3) for n in shape[1:]]
        high = [rng.integers(a + 1, n + 1) for a, n in zip(low, shape[1:], strict=True)]
        region = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        channel[region] = rng.integers(1, 64, channel[region].shape) / 64
    return values


@pytest.mark.parametrize("seed", range(5))
def test_sparse_maps_give_back_what_was_put(seed):
    values = blobs(seed)
    maps = filled(values)
    for channel, expected in enumerate(values):
        np.testing.assert_array_equal(maps.read(channel, Box((0, 0, 0), (9, 20, 22))), expected)
        box = Box((2, 5, 3), (8, 17, 20))
        np.testing.assert_array_equal(maps.read(channel, box), expected[box.slices])
        where = np.argwhere(expected > 0)
        assert maps.box(channel) == Box(triple(where.min(0)), triple(where.max(0) + 1))
        assert maps.peak_heights[channel] == expected.max()
        assert expected[tuple(maps.peak_zyx[channel])] == expected.max()


@pytest.mark.parametrize("seed", range(5))
def test_writing_a_box_replaces_that_box_only(seed):
    values = blobs(seed)
    maps = filled(values)
    box = Box((1, 4, 6), (7, 16, 13))
    new = np.random.default_rng(seed).integers(0, 2, box.shape_zyx).astype(np.float32)
    maps.write(1, box, new)
    expected = values[1].copy()
    expected[box.slices] = new
    np.testing.assert_array_equal(maps.read(1, Box((0, 0, 0), (9, 20, 22))), expected)
    np.testing.assert_array_equal(maps.read(0, Box((0, 0, 0), (9, 20, 22))), values[0])


def test_what_is_below_the_floor_takes_no_memory():
    maps = filled(np.full((1, 4, 5, 6), FLOOR / 2))
    assert maps.box(0) is None
    assert not maps.read(0, Box((0, 0, 0), (4, 5, 6))).any()
    assert maps.peak_heights[0] == pytest.approx(FLOOR / 2)
    maps.write(0, Box((0, 0, 0), (4, 5, 6)), np.ones((4, 5, 6), np.float32))
    maps.write(0, Box((0, 0, 0), (4, 5, 6)), np.zeros((4, 5, 6), np.float32))
    assert maps.box(0) is None


@given(st.integers(6, 40), st.integers(0, 3), st.integers(8, 30), st.integers(0, 1000))
def test_blending_pieces_of_one_answer_gives_that_answer(depth, overlap, width, seed):
    truth = np.random.default_rng(seed).random((2, depth, 8, width)).astype(np.float32)
    maps = SparseMaps(2, (depth, 8, width))
    blender = Blender(maps)
    z_starts, x_starts = piece_starts(depth, 6, overlap), piece_starts(width, 8, overlap)
    weights = piece_weights(8, 0)[:, None] * piece_weights(8, overlap)
    for number, z in enumerate(z_starts):
        for x in x_starts:
            for i, weight in enumerate(piece_weights(6, overlap)):
                blender.add((z + i, 0, x), truth[:, z + i, :, x : x + 8], weight * weights)
        blender.finish(z_starts[number + 1] if number + 1 < len(z_starts) else depth)
    for channel in range(2):
        blended = maps.read(channel, Box((0, 0, 0), (depth, 8, width)))
        np.testing.assert_allclose(blended, truth[channel], atol=2e-3)


def test_two_answers_are_weighted_by_distance_from_the_border():
    maps = SparseMaps(1, (6, 1, 1))
    blender = Blender(maps)
    one, other = np.zeros((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32)
    weights = piece_weights(4, 2)
    for start, value in ((0, one), (2, other)):
        for i, weight in enumerate(weights):
            blender.add((start + i, 0, 0), value, np.full((1, 1), weight, np.float32))
    blender.finish(6)
    np.testing.assert_allclose(maps.read(0, Box((0, 0, 0), (6, 1, 1))).ravel(), [0, 0, 0.25, 0.75, 1, 1])


@pytest.mark.parametrize("corner", [(0, 0), (0, 9), (9, 0), (9, 9), (0, 5), (5, 0)])
def test_a_box_beside_what_is_kept_reads_as_zero(corner):
    maps = SparseMaps(1, (1, 12, 12))
    plane = np.zeros((1, 12, 12), np.float32)
    plane[0, 5:7, 5:7] = 0.5
    maps.put(0, plane)
    y, x = corner
    box = Box((0, y, x), (1, y + 3, x + 3))
    np.testing.assert_array_equal(maps.read(0, box), plane[:, y : y + 3, x : x + 3])
