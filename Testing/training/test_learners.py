"""Learning rate over a stage."""

import pytest
from focusnet_training.config import StageConfig
from focusnet_training.learners import schedule


def test_learning_rate_warms_up_and_falls_along_a_half_cosine_to_zero():
    stage = StageConfig(name="snet", steps=12, warmup_steps=4)
    assert [schedule(step, stage) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    # Progress 0, 1/4, 1/2, 3/4, 1 of the eight steps after the warm-up.
    falling = [schedule(step, stage) for step in (4, 6, 8, 10, 12)]
    assert falling == pytest.approx([1.0, 0.853553, 0.5, 0.146447, 0.0], abs=1e-6)
    assert schedule(0, StageConfig(name="snet", steps=1, warmup_steps=0)) == 1.0
