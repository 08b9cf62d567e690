import math

import pytest
import torch
from focusnet.networks.roi import crop_roi, find_agreed_peaks, find_peaks, paste_roi, roi_start
from hypothesis import given, settings
from hypothesis import strategies as st


def gaussian(shape, centre, sigma=(1.67, 5.0, 5.0)):
    axes = torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij")
    return torch.exp(-sum(((a - c) / s) ** 2 for a, c, s in zip(axes, centre, sigma, strict=True)) / 2)


@st.composite
def volume_roi_position(draw):
    volume = tuple(draw(st.integers(1, 12)) for _ in range(3))
    roi = tuple(draw(st.integers(1, n)) for n in volume)
    position = tuple(draw(st.floats(-20, 40)) for _ in range(3))
    return volume, roi, position


def test_peak_of_a_gaussian_is_found_below_the_voxel():
    centres = torch.tensor([[6.3, 20.7, 15.2], [4.0, 9.4, 30.6]])
    maps = torch.stack([gaussian((14, 40, 44), c) for c in centres.tolist()])
    peaks = find_peaks(maps[None])
    assert peaks.position_zyx.shape == (1, 2, 3)
    assert peaks.value.shape == (1, 2)
    assert (peaks.position_zyx[0] - centres).abs().max() < 0.1
    assert (centres - centres.round()).abs().max() > 0.35  # the voxel alone would be this far off


def test_peaks_of_a_batch_keep_their_order():
    voxels = [[(1, 2, 3), (4, 5, 6)], [(7, 1, 0), (0, 9, 8)]]
    maps = torch.zeros(2, 2, 8, 10, 9)
    for n, row in enumerate(voxels):
        for k, voxel in enumerate(row):
            maps[(n, k, *voxel)] = 0.25 * (1 + n + 2 * k)
    peaks = find_peaks(maps)
    assert peaks.position_zyx.tolist() == [[list(map(float, v)) for v in row] for row in voxels]
    assert peaks.value.tolist() == [[0.25, 0.75], [0.5, 1.0]]


@pytest.mark.parametrize("mirrored", [False, True])
def test_of_two_peaks_the_one_that_s_net_supports_is_taken(mirrored):
    """The heat map is higher at the organ of the other side; S-Net sees a part of the true one."""
    true, false = (6.0, 20.3, 10.4), (6.0, 20.3, 33.4)
    heat = 0.6 * gaussian((14, 40, 44), true) + 0.9 * gaussian((14, 40, 44), false)
    answer = torch.zeros(14, 40, 44)
    answer[5:7, 17:20, 8:12] = 0.8
    both = torch.stack([heat, heat])[None]
    answers = torch.stack([answer, torch.zeros_like(answer)])[None]  # nothing supports the second map
    if mirrored:
        both, answers = both.flip(-1), answers.flip(-1)
        true, false = (*true[:2], 43 - true[2]), (*false[:2], 43 - false[2])
    peaks = find_agreed_peaks(both, answers)
    torch.testing.assert_close(peaks.position_zyx[0], torch.tensor([true, false]), atol=0.1, rtol=0)
    torch.testing.assert_close(peaks.value[0], torch.tensor([0.6, 0.9]), atol=0.02, rtol=0)


@pytest.mark.parametrize("corner", [(0, 0, 0), (7, 9, 8), (0, 9, 4)])
def test_peak_at_the_border_stays_there(corner):
    peaks = find_peaks(gaussian((8, 10, 9), corner)[None, None])
    torch.testing.assert_close(peaks.position_zyx[0, 0], torch.tensor(corner, dtype=torch.float32), atol=1e-4, rtol=0)


def test_constant_and_single_voxel_maps():
    assert find_peaks(torch.zeros(1, 1, 3, 3, 3)).position_zyx.tolist() == [[[0, 0, 0]]]
    assert find_peaks(torch.ones(1, 1, 1, 1, 1)).position_zyx.tolist() == [[[0, 0, 0]]]


def test_mirrored_map_has_the_mirrored_peak():
    heat = gaussian((8, 20, 30), (3.2, 8.4, 6.7))[None, None]
    here = find_peaks(heat).position_zyx[0, 0]
    there = find_peaks(heat.flip(-1)).position_zyx[0, 0]
    assert here[2] < 15 < there[2]
    torch.testing.assert_close(there, torch.stack([here[0], here[1], 29 - here[2]]), atol=1e-3, rtol=0)


def test_peaks_do_not_touch_their_input_or_its_graph():
    heat = torch.rand(1, 2, 4, 5, 6, requires_grad=True)
    before = heat.detach().clone()
    assert not find_peaks(heat).position_zyx.requires_grad
    assert torch.equal(heat, before)


def test_peaks_of_a_channels_last_map():
    heat = torch.rand(1, 3, 4, 5, 6)
    here, there = find_peaks(heat), find_peaks(heat.to(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(there.position_zyx, here.position_zyx)
    assert torch.equal(there.value, here.value)


def test_start_by_hand():
    # a ROI of 4 centred at 5.5 covers 4, 5, 6, 7; one of 3 centred at 5 covers 4, 5, 6
    assert roi_start((5.5, 5.0, 5.2), (4, 3, 3), (20, 20, 20)) == (4, 4, 4)


def test_start_accepts_a_tensor():
    assert roi_start(torch.tensor([5.5, 5.0, 5.2]), (4, 3, 3), (20, 20, 20)) == (4, 4, 4)


def test_start_is_clamped_at_both_ends():
    assert roi_start((0, 19, -7.5), (8, 8, 8), (20, 20, 20)) == (0, 12, 0)
    assert roi_start((99, 99, 99), (8, 8, 8), (8, 9, 10)) == (0, 1, 2)


def test_volume_smaller_than_the_roi_is_refused():
    with pytest.raises(ValueError, match="pad"):
        roi_start((1, 1, 1), (8, 4, 4), (7, 4, 4))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_position_is_refused(value):
    with pytest.raises(ValueError, match="finite"):
        roi_start((1, value, 1), (2, 2, 2), (4, 4, 4))


@given(volume_roi_position())
def test_roi_is_always_inside(case):
    volume, roi, position = case
    start = roi_start(position, roi, volume)
    assert all(s >= 0 and s + r <= v for s, r, v in zip(start, roi, volume, strict=True))


@given(volume_roi_position())
def test_roi_contains_a_position_that_is_in_the_volume(case):
    volume, roi, position = case
    position = tuple(min(max(p, 0), v - 1) for p, v in zip(position, volume, strict=True))
    start = roi_start(position, roi, volume)
    assert all(s - 0.5 <= p <= s + r - 0.5 for s, p, r in zip(start, position, roi, strict=True))


@given(volume_roi_position())
def test_start_of_the_mirrored_position_is_the_mirrored_start(case):
    volume, roi, position = case
    # away from exact ties, which round up on either side
    position = tuple(math.floor(p) + 0.3 for p in position)
    start = roi_start(position, roi, volume)
    mirrored = roi_start([v - 1 - p for v, p in zip(volume, position, strict=True)], roi, volume)
    assert mirrored == tuple(v - r - s for v, r, s in zip(volume, roi, start, strict=True))


@settings(max_examples=50)
@given(volume_roi_position())
def test_crop_and_paste_are_inverse(case):
    volume_shape, roi_shape, position = case
    start = roi_start(position, roi_shape, volume_shape)
    volume = torch.arange(2 * math.prod(volume_shape)).view(1, 2, *volume_shape)
    crop = crop_roi(volume, start, roi_shape)
    assert crop.shape == (1, 2, *roi_shape)
    assert torch.equal(paste_roi(volume, crop, start), volume)
    other = -1 - crop
    pasted = paste_roi(volume, other, start)
    assert torch.equal(crop_roi(pasted, start, roi_shape), other)
    assert (pasted != volume).sum() == other.numel()


def test_paste_leaves_its_input_alone():
    volume = torch.zeros(1, 4, 4, 4)
    pasted = paste_roi(volume, torch.ones(1, 2, 2, 2), (1, 1, 1))
    assert volume.sum() == 0
    assert pasted.sum() == 8


@pytest.mark.parametrize("start", [(-1, 0, 0), (0, 0, 3), (5, 0, 0)])
def test_crop_and_paste_outside_are_refused(start):
    with pytest.raises(ValueError, match="leaves the volume"):
        crop_roi(torch.zeros(4, 4, 4), start, (2, 2, 2))
    with pytest.raises(ValueError, match="leaves the volume"):
        paste_roi(torch.zeros(4, 4, 4), torch.ones(2, 2, 2), start)


def test_left_stays_left_from_peak_to_paste():
    # world is LPS: the patient's left is at high x
    volume = torch.zeros(1, 1, 8, 16, 32)
    volume[..., 4, 8, 26] = 1
    position = find_peaks(volume).position_zyx[0, 0]
    start = roi_start(position, (4, 8, 8), volume.shape[2:])
    crop = crop_roi(volume, start, (4, 8, 8))
    assert crop.sum() == 1
    pasted = paste_roi(torch.zeros_like(volume), crop, start)
    assert pasted.nonzero()[0].tolist() == [0, 0, 4, 8, 26]


def test_gradient_flows_through_crop_and_paste():
    volume = torch.zeros(1, 1, 3, 3, 3, requires_grad=True)
    roi = torch.ones(1, 1, 1, 2, 2, requires_grad=True)
    paste_roi(volume, roi, (1, 0, 1)).sum().backward()
    assert roi.grad.sum() == 4
    assert volume.grad.sum() == 27 - 4
