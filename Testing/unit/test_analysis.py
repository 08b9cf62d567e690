from types import SimpleNamespace

import numpy as np
import pytest
from focusnet.analysis import Analysis, analyse
from focusnet.computation import Peak
from focusnet.geometry import LabelMap, Volume
from focusnet.inference import OrganResult, Prediction


@pytest.fixture
def prediction(ct) -> Prediction:
    """A brain stem in the middle, a lens that was not localised, and an empty chiasm."""
    labels = np.zeros(ct.array.shape, np.uint8)
    labels[4:9, 16:24, 18:26] = 1
    labels[6, 10, 30] = 2
    organs = {
        "brainstem": OrganResult(25.6001, 0.85, 0.91239),
        "lens_l": OrganResult(0.08, 0.6, 0.4, Peak((0.0, 0.0, 0.0), 0.124, found=False)),
        "optic_chiasm": OrganResult(0.0, 0.0, 0.0, Peak((0.0, 0.0, 0.0), 0.9, found=True)),
    }
    return Prediction(
        LabelMap(labels, ct.geometry, {1: "brainstem", 2: "lens_l", 3: "optic_chiasm"}),
        organs,
        Volume(np.full(ct.array.shape, 255, np.uint8), ct.geometry),
        ("a note",),
        {"model": "tiny", "piece_zyx": [16, 48, 48]},
        {"segmenting": 1.0},
        100.0,
    )


def analysed(ct, prediction) -> Analysis:
    return analyse(ct, SimpleNamespace(predict=lambda *_: prediction))


def test_the_table_has_volume_confidence_and_flags_of_each_organ(ct, prediction):
    table = analysed(ct, prediction).organs
    assert table["brainstem"]["volume_ml"] == 25.6
    assert table["brainstem"]["confidence"] == 0.912
    assert "missing" in table["optic_chiasm"]["flags"]


def test_a_small_organ_that_was_not_localised_is_flagged(ct, prediction):
    analysis = analysed(ct, prediction)
    assert "not_localised" in analysis.organs["lens_l"]["flags"]
    assert "not_localised" not in analysis.organs["optic_chiasm"]["flags"]
    (flag,) = [flag for flag in analysis.flags if flag["code"] == "not_localised"]
    assert (flag["organ"], flag["severity"]) == ("lens_l", "warning")
    assert "0.12" in flag["message"]


def test_an_organ_that_is_hardly_believed_is_flagged_and_an_empty_one_is_not(ct, prediction):
    flags = {flag["organ"]: flag for flag in analysed(ct, prediction).flags if flag["code"] == "low_confidence"}
    assert flags.keys() == {"lens_l"}
    assert "0.40" in flags["lens_l"]["message"]


def test_findings_on_the_scan_come_with_those_on_the_organs(ct, prediction):
    codes = {flag["code"]: flag["organ"] for flag in analysed(ct, prediction).flags}
    assert codes["truncated"] == ""
    assert codes["missing"] == "optic_chiasm"


def test_the_stamp_is_text_and_says_what_it_is_not_for(ct, prediction):
    analysis = analysed(ct, prediction)
    assert analysis.labelmap is prediction.labelmap
    assert analysis.stamp["piece_zyx"] == "[16, 48, 48]"
    assert "Not a medical device" in analysis.stamp["disclaimer"]
