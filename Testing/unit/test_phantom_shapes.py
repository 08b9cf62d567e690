"""Signed distances with known answers, and the search for the part of a grid that a body touches."""

import numpy as np
import pytest
from focusnet.geometry import Geometry
from focusnet_training.phantom_anatomy import build_anatomy
from focusnet_training.phantom_pose import Block, Pose, SmoothField, sample_axes
from focusnet_training.phantom_shapes import (
    Column,
    Common,
    Ellipsoid,
    Grown,
    HalfSpace,
    Kept,
    Points,
    Tube,
    Union,
    Without,
    shell,
)

BALL = Ellipsoid((1.0, 2.0, 3.0), (5.0, 5.0, 5.0))


def points(*xyz):
    x, y, z = np.array(xyz, np.float32).T
    return Points((x[None, None], y[None, None], z[None, None]))


def distances(body, *xyz):
    return body.distance(points(*xyz)).ravel().tolist()


def test_ball_is_exact():
    assert distances(BALL, (1, 2, 8), (1, 2, 10), (4, 2, 3)) == pytest.approx([0, 2, -2], abs=1e-4)


def test_ellipsoid_is_first_order_exact_at_its_surface():
    body = Ellipsoid((0, 0, 0), (10, 4, 2))
    assert distances(body, (10.1, 0, 0), (0, 4.1, 0), (0, 0, 2.1), (0, 0, 1.9)) == pytest.approx(
        [0.1, 0.1, 0.1, -0.1], abs=0.01
    )


def test_turned_ellipsoid_points_where_it_is_turned_to():
    body = Ellipsoid((0, 0, 0), (10, 2, 2), yaw_deg=30)
    along = (9.5 * np.cos(np.radians(30)), 9.5 * np.sin(np.radians(30)), 0)
    against = (along[0], -along[1], 0)
    inside, outside = distances(body, along, against)
    assert inside < 0 < outside


def test_tube_has_round_cones_between_its_nodes():
    body = Tube(((0, 0, 0), (10, 0, 0), (10, 10, 0)), (1, 2, 3))
    assert distances(body, (5, 0, 4), (10, 5, 0), (-3, 0, 0)) == pytest.approx([2.5, -2.5, 2], abs=1e-4)


def test_column_follows_its_profile_and_has_flat_ends():
    body = Column(((0, 0, 0, 4, 4), (10, 2, 0, 8, 8)))
    assert distances(body, (1, 0, 5), (9, 0, 5), (2, 0, 13), (0, 0, -2)) == pytest.approx([-5, 2, 3, 2], abs=0.1)


def test_boxy_column_fills_its_corners():
    rows = ((0, 0, 0, 5, 5), (10, 0, 0, 5, 5))
    corner = (4.1, 4.1, 5)
    assert distances(Column(rows), corner)[0] > 0 > distances(Column(rows, boxiness=1.0), corner)[0]


def test_set_operations():
    left = HalfSpace((1, 0, 0), 0)
    at = ((1, 2, 8.5), (-1, 2, 3), (2, 2, 3))
    outside, inner, right = distances(BALL, *at)
    assert distances(Common((BALL, left)), *at) == pytest.approx([max(outside, 1), max(inner, -1), 2])
    assert distances(Without(BALL, left), *at) == pytest.approx([max(outside, -1), 1, max(right, -2)])
    assert distances(Union((BALL, left)), *at) == pytest.approx([min(outside, 1), min(inner, -1), right])
    assert distances(Grown(BALL, 1.5), *at) == pytest.approx([outside - 1.5, inner - 1.5, right - 1.5])
    assert distances(Kept(BALL), *at) == pytest.approx([outside, inner, right])


def test_shell_is_the_layer_between_two_depths():
    layer = shell(BALL, 2.0, 1.0)
    assert [d < 0 for d in distances(layer, (1, 2, 8.5), (1, 2, 9.4), (1, 2, 10.5), (1, 2, 3))] == [
        False,
        True,
        False,
        False,
    ]


def test_blended_union_only_adds():
    other = Ellipsoid((9, 2, 3), (5, 5, 5))
    cleft = (5, 6, 3)
    assert distances(Union((BALL, other), blend_mm=4), cleft)[0] < distances(Union((BALL, other)), cleft)[0]


def test_kept_distance_is_the_same_in_a_window_of_the_block():
    grid = np.meshgrid(*(np.arange(12, dtype=np.float32),) * 3, indexing="ij")
    block = Points((grid[2], grid[1], grid[0]))
    window = (slice(2, 7), slice(0, 5), slice(4, 12))
    kept = Kept(BALL)
    assert np.array_equal(kept.distance(block[window]), BALL.distance(block)[window])
    assert kept.distance(block) is kept.distance(block)


def test_every_body_lies_within_its_bounds_and_window():
    """All tissues of a patient: what is inside on the whole grid is inside the window found by sparse search."""
    anatomy = build_anatomy(np.random.default_rng(5))
    geometry = Geometry.from_parts((60, 44, 44), spacing_xyz=(6, 6, 5.5), origin_xyz=(-129, -125, -185))
    block = Block(Pose(np.random.default_rng(6)).points(sample_axes(geometry, 1)))
    bodies = [*anatomy.organs.values(), *(tissue.body for tissue in anatomy.tissues)]
    for body in bodies:
        inside = body.distance(block.points) < 1.0
        window = block.window(body, 1.0)
        if window is None:
            assert not inside.any()
        else:
            found = np.zeros_like(inside)
            found[window] = True
            assert not (inside & ~found).any()


def test_block_without_the_body_has_no_window():
    geometry = Geometry.from_parts((8, 8, 8), origin_xyz=(500, 0, 0))
    assert Block(Pose(np.random.default_rng(0)).points(sample_axes(geometry, 1))).window(BALL, 0.0) is None


def test_sub_slices_share_the_slice_evenly():
    geometry = Geometry.from_parts((3, 2, 2), spacing_xyz=(1, 1, 3), origin_xyz=(0, 0, 10))
    assert sample_axes(geometry, 3)[0].tolist() == pytest.approx([9, 10, 11, 12, 13, 14, 15, 16, 17])
    assert sample_axes(geometry, 1)[0].tolist() == pytest.approx([10, 13, 16])


def test_blocks_give_the_whole_grid_in_order():
    geometry = Geometry.from_parts((9, 300, 300), spacing_xyz=(0.8, 0.8, 3))
    pose = Pose(np.random.default_rng(2))
    whole = pose.points(sample_axes(geometry, 1)).xyz
    seen = []
    for slices, _, block in pose.blocks(geometry):
        seen.append(slices)
        for part, full in zip(block.points.xyz, whole, strict=True):
            assert np.allclose(part, full[slices], atol=1e-3)
    assert len(seen) > 1
    assert [i for s in seen for i in range(s.start, s.stop)] == list(range(9))


def test_locating_a_point_inverts_the_pose():
    pose = Pose(np.random.default_rng(3))
    for target in ((30.0, -70.0, 15.0), (-20.0, 10.0, -150.0)):
        x, y, z = pose.locate(target)
        found = pose.points((np.array([z]), np.array([y]), np.array([x]))).xyz
        assert [c.item() for c in found] == pytest.approx(target, abs=1e-2)


def test_pose_keeps_left_right_and_does_not_fold():
    """The map has a positive Jacobian everywhere and never turns the left-right axis by more than 25 degrees."""
    geometry = Geometry.from_parts((40, 30, 30), spacing_xyz=(9, 9, 8), origin_xyz=(-130, -130, -180))
    for seed in range(8):
        points_ = Pose(np.random.default_rng(seed)).points(sample_axes(geometry, 1))
        jacobian = np.stack(
            [np.stack([g / s for g, s in zip(np.gradient(c), (8, 9, 9), strict=True)][::-1], -1) for c in points_.xyz],
            -2,
        )
        assert np.linalg.det(jacobian).min() > 0.4
        left = jacobian[..., 0, :]
        assert (left[..., 0] / np.linalg.norm(left, axis=-1)).min() > np.cos(np.radians(25))


def test_smooth_field_has_unit_variance_and_is_the_same_in_parts():
    axes = tuple(np.arange(60.0) for _ in range(3))
    field = SmoothField.covering(np.random.default_rng(0), axes, 2.0)
    whole = field.on(axes)
    assert abs(whole.mean()) < 0.05
    assert whole.std() == pytest.approx(1, abs=0.05)
    assert np.allclose(field.on((axes[0][20:30], axes[1], axes[2])), whole[20:30], atol=1e-4)
