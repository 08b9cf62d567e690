"""Heat-map targets: place, width in mm, absence."""

import math

import pytest
import torch
from focusnet_training.heatmaps import centroids, gaussian_heatmaps, whole


def test_centroids_by_hand():
    labels = torch.zeros(5, 6, 7, dtype=torch.int64)
    labels[1, 2, 3] = labels[1, 2, 4] = labels[3, 2, 3] = labels[3, 2, 4] = 5
    position, count = centroids(labels, (5, 6))
    assert position[0].tolist() == [2, 2, 3.5]
    assert torch.isnan(position[1]).all()
    assert count.tolist() == [4, 0]


def test_gaussian_has_its_width_in_mm_on_an_anisotropic_grid():
    maps = gaussian_heatmaps(torch.tensor([[4.0, 10.0, 10.0]]), (9, 21, 21), (3.0, 1.0, 1.0), sigma_mm=5.0)
    assert maps.shape == (1, 9, 21, 21)
    assert float(maps[0, 4, 10, 10]) == 1
    assert float(maps[0, 4, 10, 15]) == pytest.approx(math.exp(-0.5))
    assert float(maps[0, 6, 10, 10]) == pytest.approx(math.exp(-0.5 * (6 / 5) ** 2))


def test_absent_organ_gives_an_empty_map():
    maps = gaussian_heatmaps(torch.tensor([[float("nan")] * 3, [1.0, 1.0, 1.0]]), (3, 3, 3), (1, 1, 1), 5.0)
    assert float(maps[0].abs().sum()) == 0
    assert float(maps[1].max()) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_an_organ_that_the_border_cuts_is_not_whole(axis, end):
    labels = torch.zeros(8, 10, 12, dtype=torch.int64)
    labels[3:5, 4:6, 5:7] = 1
    labels.select(axis, end)[3, 4] = 2
    assert whole(labels, (1, 2, 3)).tolist() == [True, False, True]  # 3 is absent
