"""What a run is a run of: every difference has its phrase, no case name leaves in a checkpoint."""

import json
from dataclasses import replace

import numpy as np
import pytest
from focusnet.geometry import Geometry
from focusnet_training.config import TrainingConfig
from focusnet_training.datasets import PreparedCase
from focusnet_training.identity import config_difference, data_difference, data_identity

ORGANS = ("brainstem", "larynx")


def case(name, value=0):
    labels = np.full((2, 3, 4), value, np.uint8)
    yes = np.ones(2, bool)
    return PreparedCase(name, labels.astype(np.int16), labels, Geometry.from_parts(labels.shape), yes, yes)


A, B, C = case("patient_a"), case("patient_b", 1), case("patient_c", 2)
IDENTITY = data_identity([A, B], [C], ORGANS, ())
NAMES = ("patient_a", "patient_b", "patient_c", "patient_d")


def test_the_same_data_are_the_same_in_any_order_and_hold_no_names():
    assert data_difference(IDENTITY, data_identity([B, A], [C], ORGANS, ()), NAMES) == []
    assert "patient" not in json.dumps(IDENTITY)


@pytest.mark.parametrize(
    ("now", "phrases"),
    [
        (data_identity([A], [C], ORGANS, ()), ["cases missing: 1"]),
        (data_identity([A, B, case("patient_d")], [C], ORGANS, ()), ["cases added: patient_d"]),
        (data_identity([A, case("patient_b", 2)], [C], ORGANS, ()), ["cases changed: patient_b"]),
        (data_identity([A, C], [B], ORGANS, ()), ["cases changed: patient_c, patient_b"]),  # other roles
        (
            data_identity([replace(A, annotated=np.zeros(2, bool)), B], [C], ORGANS, ()),
            ["cases changed: patient_a"],
        ),
        (data_identity([A, B], [C], ("brainstem", "esophagus"), ()), ["organs: now without larynx and with esophagus"]),
        (data_identity([A, B], [C], ORGANS[::-1], ()), ["organs: now in another order"]),
        (data_identity([A, B], [C], ORGANS, ("larynx",)), ["small organs: now with larynx"]),
    ],
)
def test_each_difference_has_its_phrase(now, phrases):
    assert data_difference(IDENTITY, now, NAMES) == phrases


def test_differences_of_configurations_are_addressed():
    def config(**changes):
        stages = changes.pop("stages", [{"name": "snet", "steps": 5}])
        return TrainingConfig.model_validate({"name": "x", "stages": stages} | changes)

    assert config_difference(config(), config()) == []
    assert config_difference(config(), config(seed=3, ema_decay=0.5)) == ["seed: 0, now 3", "ema_decay: 0.0, now 0.5"]
    two = [{"name": "snet", "steps": 6}, {"name": "sol", "steps": 1}]
    assert config_difference(config(), config(stages=two)) == ["stages.snet.steps: 5, now 6", "stages.sol: added"]
    assert config_difference(config(stages=two), config(stages=two[:1])) == ["stages.sol: removed"]
