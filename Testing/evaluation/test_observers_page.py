"""The page of the two observers shows what the evaluation computes."""

import pytest
from focusnet.evaluation import EvaluationOptions, compare
from focusnet.evaluation.tables import markdown, measures_table

pytestmark = pytest.mark.realdata


def test_table_of_the_two_observers(shared_data, root):
    contours = shared_data / "contours"
    options = EvaluationOptions(name="radiographer", jobs=1)
    result = compare(contours / "*/oncologist.seg.nrrd", contours / "*/radiographer.seg.nrrd", options)
    assert not result.failed
    assert len(result.rows["radiographer"]) == 5 * 21 + 21 + 19
    page = (root / "Docs" / "observers.md").read_text(encoding="utf-8")
    assert markdown(measures_table(result.rows["radiographer"])) in page
