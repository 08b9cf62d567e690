"""Chunks: repeatable, inside the body, rare organs seen often, small organs held whole."""

import numpy as np
import pytest
from focusnet.geometry import Geometry
from focusnet_training.datasets import PreparedCase
from focusnet_training.sampling import ChunkSampler, step_generator


def case(name, boxes, shape=(60, 80, 80)):
    labels = np.zeros(shape, np.uint8)
    for value, (start, stop) in boxes.items():
        labels[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = value
    geometry = Geometry.from_parts(shape, (1, 1, 3))
    return PreparedCase(name, np.zeros(shape, np.int16), labels, geometry, np.ones(2, bool), np.ones(2, bool))


@pytest.fixture
def cases():
    common = {1: ((10, 20, 20), (30, 60, 60))}
    rare = {**common, 2: ((40, 30, 30), (44, 34, 34))}
    return [case("a", common), case("b", common), case("c", common), case("d", rare)]


def test_a_step_always_draws_the_same(cases):
    sampler = ChunkSampler(cases, "organs", (), (20, 32, 32), 0.7)
    draws = [sampler.draw(step_generator(3, "snet", 11)) for _ in range(2)]
    assert draws[0][0] is draws[1][0]
    np.testing.assert_array_equal(draws[0][1], draws[1][1])
    other = sampler.draw(step_generator(3, "snet", 12))[1]
    assert not np.array_equal(other, draws[0][1])


def test_chunks_stay_in_the_volume_and_show_the_rare_organ(cases):
    sampler = ChunkSampler(cases, "organs", (), (20, 32, 32), 1.0)
    rare = 0
    for step in range(200):
        drawn, centre = sampler.draw(step_generator(0, "snet", step))
        low = centre - (np.array((20, 32, 32)) - 1) / 2
        assert (low >= -1e-9).all()
        assert (np.add(low, (20, 32, 32)) <= np.array(drawn.ct.shape) + 1e-9).all()
        rare += drawn.name == "d"
    assert rare > 80  # a quarter of the cases, more than 40 % of the chunks


def test_small_chunks_hold_every_small_organ_whole(cases):
    both = case("e", {1: ((22, 20, 20), (25, 26, 26)), 2: ((30, 40, 40), (34, 44, 44))})
    sampler = ChunkSampler([*cases[:1], both], "small", (1, 2), (40, 48, 48), 0.0)
    for step in range(100):
        drawn, centre = sampler.draw(step_generator(0, "sos", step))
        if drawn is not both:
            continue
        low = centre - (np.array((40, 48, 48)) - 1) / 2
        assert (low <= (22, 20, 20)).all()
        assert (np.add(low, (40, 48, 48)) >= (34, 44, 44)).all()


def test_mixed_chunks_show_the_small_organ_and_places_without_it(cases):
    sampler = ChunkSampler(cases, "mixed", (2,), (10, 16, 16), 0.7)
    seen = 0
    for step in range(200):
        drawn, centre = sampler.draw(step_generator(0, "sol", step))
        low = centre - (np.array((10, 16, 16)) - 1) / 2
        start, stop = (40, 30, 30), (44, 34, 34)
        seen += bool((low <= start).all() and (np.add(low, (10, 16, 16)) >= stop).all())
        assert drawn.name == "d"
    assert 120 < seen < 160  # the share asked for is 140


@pytest.mark.parametrize("focus", ["small", "mixed"])
def test_no_small_organ_anywhere_is_an_error(cases, focus):
    with pytest.raises(ValueError, match="small organ"):
        ChunkSampler(cases[:2], focus, (2,), (20, 32, 32), 0.7)


def test_volume_smaller_than_the_chunk_is_centred():
    tiny = case("t", {1: ((1, 1, 1), (3, 3, 3))}, shape=(6, 10, 10))
    _, centre = ChunkSampler([tiny], "organs", (), (40, 32, 32), 1.0).draw(step_generator(0, "snet", 0))
    np.testing.assert_allclose(centre, (2.5, 4.5, 4.5))
