"""What a model card says of the confidence."""

import numpy as np
import pytest
from focusnet_training.model_card import Measured, reliability


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
