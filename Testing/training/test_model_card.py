"""What a model card says of the confidence, and of the course of the training."""

import numpy as np
import pytest
from focusnet_training.model_card import Measured, _course, reliability


def test_a_certainty_that_tells_nothing_has_an_error_but_no_merit():
    rng = np.random.default_rng(0)
    organs = [Measured(list(rng.uniform(0.5, 0.9, 40)), [0.8] * 40) for _ in range(2)]
    found = reliability(organs)
    assert found.cases == 80
    assert found.error == pytest.approx(0.1, abs=0.02)
    assert not found.correlation > 0.1


def test_a_certainty_that_tells_the_dsc_is_reliable_in_every_bin():
    certainty = list(np.linspace(0.6, 0.95, 400))
    found = reliability([Measured(list(np.array(certainty) * 1.2 - 0.3), certainty)])
    assert found.correlation > 0.99
    assert found.error < 0.02
    for low, high, n, mean in found.bins:
        assert n > 0
        assert low - 0.02 < mean < high + 0.02
    assert sum(n for *_, n, _ in found.bins) == 400


def test_organs_with_few_patients_do_not_count():
    few = Measured([0.8] * 8, [0.9] * 8)
    assert reliability([few]) is None
    assert reliability([few, Measured([0.8, 0.7] * 5, [0.9, 0.8] * 5)]).cases == 10


def test_the_course_shows_first_best_and_last_of_each_stage():
    def row(stage, step, score, **values):
        return {"stage": stage, "step": step, "score": score, **values}

    log = [
        row("snet", 10, 0.5, loss_dice=0.5, loss_focal=0.25, dsc_parotid_l=0.6, dsc_pituitary=0.4),
        row("snet", 20, 0.8, loss_dice=0.25, loss_focal=0.125, dsc_parotid_l=0.9, dsc_pituitary=0.7),
        row("snet", 30, 0.7, loss_dice=0.125, dsc_parotid_l=0.8, dsc_pituitary=0.6),
        row("snet", 40, 0.7, loss_dice=0.125, dsc_parotid_l=0.8, dsc_pituitary=0.6),
        row("sol", 5, -0.02, loss_heatmap=1.5, error_mm_pituitary=2.04),
        row("aae", 5, 0.9, loss_aae_reconstruction=0.3, dsc_pituitary=0.9),
        {"stage": "sos", "step": 5, "note": "undone"},
    ]
    table = [line for line in _course(log, ["pituitary"]) if line.startswith("|")][2:]
    assert table == [
        "| snet | 10 | 0.750 | 0.500 | 0.400 | – |",
        "| snet | 20 | 0.375 | 0.800 | 0.700 | – |",
        "| snet | 40 | 0.125 | 0.700 | 0.600 | – |",
        "| sol | 5 | 1.500 | – | – | 2.0 |",
        "| aae | 5 | 0.300 | – | 0.900 | – |",
    ]
    assert _course([], ["pituitary"]) == []
