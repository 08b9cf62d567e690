"""What a model card says of the scores, of the confidence, and of the course of the training."""

import math

import numpy as np
import pytest
from focusnet.bundle import Architecture, ModelSpec
from focusnet.uncertainty import fit_expectation
from focusnet_training.config import load_preset
from focusnet_training.datasets import Case, Dataset
from focusnet_training.model_card import (
    BOOTSTRAP_DRAWS,
    BOOTSTRAP_SEED,
    Measured,
    ModelCard,
    OrganScore,
    _course,
    reliability,
    write_card,
)


def one_scan_each(dsc, certainty):
    return Measured(list(dsc), list(certainty), [f"p{n}" for n in range(len(dsc))])


def test_interval_of_a_constant_is_a_point():
    score = OrganScore.of([0.8, 0.8, 0.8], ["a", "b", "c"])
    assert (score.n, score.low, score.high, score.least) == (3, pytest.approx(0.8), pytest.approx(0.8), 0.8)
    assert OrganScore.of([], []).n == 0


def test_scans_of_one_patient_are_no_patients():
    values = list(np.random.default_rng(3).uniform(0.4, 0.9, 7))
    alone = OrganScore.of(values, list("abcdefg"))
    drawn = np.random.default_rng(BOOTSTRAP_SEED).choice(values, (BOOTSTRAP_DRAWS, 7)).mean(axis=1)
    assert (alone.low, alone.high) == tuple(np.percentile(drawn, (2.5, 97.5)))
    # Every scan four times is no news: the patients are the same, and so are mean and interval.
    repeated = OrganScore.of(values * 4, list("abcdefg") * 4)
    assert (repeated.n, repeated.scans) == (7, 28)
    assert (repeated.mean, repeated.low, repeated.high) == pytest.approx((alone.mean, alone.low, alone.high))
    single = OrganScore.of(values, ["a"] * 7)
    assert (single.n, single.scans, math.isnan(single.low), math.isnan(single.high)) == (1, 7, True, True)


def test_the_confidence_is_calibrated_and_tested_on_patients():
    rng = np.random.default_rng(5)
    certainty = list(rng.uniform(0.6, 0.9, 12))
    dsc = list(rng.uniform(0.5, 0.9, 12))
    alone = one_scan_each(dsc, certainty)
    assert alone.line() == fit_expectation(certainty, dsc)
    few = Measured(dsc, certainty, [f"p{n % 6}" for n in range(12)])
    assert few.line() is None
    assert reliability([few]) is None
    twice = Measured(dsc * 2, certainty * 2, alone.patients * 2)
    others = fit_expectation(certainty[1:] * 2, dsc[1:] * 2)
    assert twice.expected_without_own()[0] == twice.expected_without_own()[12] == others[0] + others[1] * certainty[0]


def test_a_patient_is_not_judged_by_their_own_score():
    expected = one_scan_each([0.9] * 9 + [0.1], [0.8] * 10).expected_without_own()
    assert expected[-1] == pytest.approx(0.9)
    assert expected[0] == pytest.approx((8 * 0.9 + 0.1) / 9, abs=1e-4)


def card(patients, score, config):
    cases = {name: Case(name, None, None, frozenset(), frozenset(), patient) for name, patient in patients.items()}
    names = tuple(cases)
    spec = ModelSpec(
        name="blobs",
        description="test",
        architecture=Architecture(name="focusnetv2", arguments={"num_classes": 2, "num_small": 0}),
        organs=("brainstem",),
        small_organs=(),
        spacing_mm_xyz=(1.0, 1.0, 3.0),
        window_hu=(-200.0, 800.0),
        chunk_shape_zyx=(16, 24, 24),
        overlap_zyx=(4, 6, 6),
        roi_shape_zyx=(8, 16, 16),
        training_data="phantoms",
    )
    facts = {"device": "cpu", "precision": "fp32", "torch": "2", "command": ""}
    log = [{"stage": "snet", "step": 1, "score": 0.5, "dsc_brainstem": 0.5}]
    dataset = Dataset("blobs", {1: "brainstem"}, cases, names[:4], names[4:])
    return write_card(ModelCard(spec, config, dataset, facts, {"brainstem": score}, None, log, ""))


def test_a_card_counts_patients_and_names_the_stages_that_ran():
    config = load_preset("phantom-tiny", ["shape.constraint=none", "validation_cases=2"])
    names = [f"scan_{n}" for n in range(7)]
    text = card(dict(zip(names, names, strict=True)), OrganScore.of([0.8, 0.7, 0.6], names[4:]), config)
    assert "\n4 training and 3 validation patients, split by patient." in text
    assert "| Brainstem | 3 | 0.700 | 0." in text
    assert "on the working grid of 2 validation scans" in text
    stages = text.split("- Stages: ")[1].splitlines()[0]
    assert [stage.split()[0] for stage in stages.split("; ")[:4]] == ["snet", "sol", "sos", "joint"]
    patients = dict(zip(names, ["a", "a", "a", "b", "c", "c", "c"], strict=True))
    text = card(
        patients, OrganScore.of([0.8, 0.7, 0.6], ["c"] * 3), config.model_copy(update={"validation_cases": None})
    )
    assert "\n2 training and 1 validation patients (4 and 3 scans), split by patient." in text
    assert "| Brainstem | 1 (3 scans) | 0.700 | – | 0.600 |" in text
    assert "on the working grid of 3 validation scans" in text


def test_a_certainty_that_tells_nothing_has_an_error_but_no_merit():
    rng = np.random.default_rng(0)
    organs = [one_scan_each(rng.uniform(0.5, 0.9, 40), [0.8] * 40) for _ in range(2)]
    found = reliability(organs)
    assert found.cases == 80
    assert found.error == pytest.approx(0.1, abs=0.02)
    assert not found.correlation > 0.1


def test_a_certainty_that_tells_the_dsc_is_reliable_in_every_bin():
    certainty = list(np.linspace(0.6, 0.95, 400))
    found = reliability([one_scan_each(np.array(certainty) * 1.2 - 0.3, certainty)])
    assert found.correlation > 0.99
    assert found.error < 0.02
    for low, high, n, mean in found.bins:
        assert n > 0
        assert low - 0.02 < mean < high + 0.02
    assert sum(n for *_, n, _ in found.bins) == 400


def test_organs_with_few_patients_do_not_count():
    few = one_scan_each([0.8] * 8, [0.9] * 8)
    assert reliability([few]) is None
    assert reliability([few, one_scan_each([0.8, 0.7] * 5, [0.9, 0.8] * 5)]).cases == 10


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
    table = [line for line in _course(log, ["pituitary"], 3) if line.startswith("|")][2:]
    assert table == [
        "| snet | 10 | 0.750 | 0.500 | 0.400 | – |",
        "| snet | 20 | 0.375 | 0.800 | 0.700 | – |",
        "| snet | 40 | 0.125 | 0.700 | 0.600 | – |",
        "| sol | 5 | 1.500 | – | – | 2.0 |",
        "| aae | 5 | 0.300 | – | 0.900 | – |",
    ]
    assert _course([], ["pituitary"], 3) == []
