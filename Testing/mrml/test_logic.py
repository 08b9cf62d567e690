from types import SimpleNamespace

import numpy as np
import pytest
from focusnet.errors import Cancelled, FocusNetError
from focusnet.geometry import LabelMap, Volume
from focusnet.inference import OrganResult
from focusnet.outputs import OutputOptions
from focusnet.segment import SegmentOptions
from focusnet.uncertainty import uncertainty_percent

LPS_GRID = np.array([[-2.0, 0, 0, 39], [0, -2.2, 0, 38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
SHAPE = (30, 36, 40)
KEYS = {1: "parotid_l", 2: "parotid_r", 3: "brainstem", 4: "lens_l"}


class Model:
    """Knows the organs from the HU that `ct_node` gives them."""

    def __init__(self, options):
        self.options = options
        self.calls = []

    def predict(self, volume, organs, progress, cancel):
        self.calls.append(organs)
        if cancel is not None and cancel():
            raise Cancelled
        if progress is not None:
            progress("segmenting", 0.5, 1.0)
        array = (volume.array // 100).astype(np.uint8)
        keys = {v: k for v, k in KEYS.items() if organs is None or k in organs}
        array[~np.isin(array, list(keys))] = 0
        results = {key: OrganResult(1.23456, 0.98765, 0.98765) for key in keys.values()}
        settings = {"model": self.options.model or "default", "piece_zyx": [1, 2, 3]}
        return SimpleNamespace(
            labelmap=LabelMap(array, volume.geometry, keys),
            organs=results,
            certainty=certainty_of(volume),
            notes=("a note",),
            settings=settings,
        )


def certainty_of(volume):
    """Another one for each organ."""
    return Volume((255 - volume.array // 4).astype(np.uint8), volume.geometry)


@pytest.fixture
def logic(scene):
    """Logic with that model; ``loaded`` lists the models it made."""
    from FocusNetSegmentationLib.logic import SegmentationLogic

    loaded = []
    logic = SegmentationLogic(lambda options: loaded.append(Model(options)) or loaded[-1])
    logic.loaded = loaded
    return logic


def test_segment_puts_a_folder_of_organs_beside_the_ct(logic, ct_node):
    ct = ct_node(LPS_GRID, SHAPE)
    told = []
    outcome = logic.segment(ct, model="m", progress=lambda *step: told.append(step))
    assert set(outcome.result.nodes) == set(KEYS.values())
    assert outcome.result.folder is not None
    assert told == [("segmenting", 0.5, 1.0)]
    node = outcome.result.nodes["brainstem"]
    assert node.GetAttribute("FocusNet.model") == "m"
    assert node.GetAttribute("FocusNet.piece_zyx") == "[1, 2, 3]"
    assert outcome.report.organs["lens_l"]["volume_ml"] == 1.235
    assert outcome.report.notes == ("a note",)


def test_flags_are_about_what_the_user_sees(logic, ct_node):
    outcome = logic.segment(ct_node(LPS_GRID, SHAPE))
    codes = {(flag["organ"], flag["code"]) for flag in outcome.report.flags}
    assert ("", "not_hu") in codes or ("", "not_head_and_neck") in codes
    for key, values in outcome.report.organs.items():
        assert set(values["flags"]) == {code for organ, code in codes if organ == key}


def test_organs_in_any_spelling_and_one_node(logic, ct_node):
    ct = ct_node(LPS_GRID, SHAPE)
    outcome = logic.segment(ct, organs=["Parotid_L", "brain stem"], perOrganNodes=False)
    assert logic.loaded[0].calls == [("parotid_l", "brainstem")]
    assert len(outcome.result.unique_nodes) == 1
    assert outcome.result.unique_nodes[0].GetSegmentation().GetNumberOfSegments() == 2
    with pytest.raises(FocusNetError, match="E_UNKNOWN_ORGAN"):
        logic.segment(ct, organs=["tail"])


def test_uncertainty_is_a_volume_with_the_librarys_values(logic, ct_node, scene):
    import slicer
    from FocusNetSegmentationLib.mrml import volume_from_node

    ct = ct_node(LPS_GRID, SHAPE)
    assert logic.segment(ct).result.uncertainty is None
    outcome = logic.segment(ct, uncertainty=True)
    expected = uncertainty_percent(certainty_of(volume_from_node(ct))).array
    assert set(np.unique(expected)) == {0, 10, 20, 29, 39}
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(outcome.result.uncertainty), expected)
    np.testing.assert_array_equal(outcome.report.uncertainty.array, expected)
    assert len(logic.loaded) == 1  # it is no other model


def test_the_model_stays_loaded_until_another_is_asked_for(logic, ct_node):
    ct = ct_node(LPS_GRID, SHAPE)
    logic.segment(ct)
    logic.segment(ct, organs=["brainstem"])
    assert len(logic.loaded) == 1
    logic.segment(ct, model="other")
    assert [m.options.model for m in logic.loaded] == [None, "other"]


def test_cancelling_changes_nothing(logic, ct_node, scene):
    from FocusNetSegmentationLib.mrml import ResultOptions

    ct = ct_node(LPS_GRID, SHAPE)
    before = scene.GetNumberOfNodes()
    wanted = SegmentOptions(output=OutputOptions(uncertainty=True))
    with pytest.raises(Cancelled):
        logic.run(ct, wanted, ResultOptions(), cancel=lambda: True)
    assert scene.GetNumberOfNodes() == before


def test_report_survives_the_way_through_a_folder(logic, ct_node, tmp_path):
    from FocusNetSegmentationLib.exchange import read_report, write_report

    report = logic.segment(ct_node(LPS_GRID, SHAPE), uncertainty=True).report
    write_report(tmp_path, report)
    back = read_report(tmp_path)
    np.testing.assert_array_equal(back.uncertainty.array, report.uncertainty.array)
    np.testing.assert_array_equal(back.uncertainty.geometry.affine, report.uncertainty.geometry.affine)
    np.testing.assert_array_equal(back.labelmap.array, report.labelmap.array)
    np.testing.assert_array_equal(back.labelmap.geometry.affine, report.labelmap.geometry.affine)
    assert back.labelmap.organs == report.labelmap.organs
    assert (back.organs, back.flags, back.notes) == (dict(report.organs), report.flags, report.notes)
    assert (back.stamp, back.seconds) == (report.stamp, report.seconds)


def test_request_survives_the_way_through_a_folder(ct_node, transform_node, tmp_path):
    from FocusNetSegmentationLib.exchange import read_request, write_request
    from FocusNetSegmentationLib.mrml import volume_from_node

    shear = np.eye(4)
    shear[1, 2] = 0.2
    volume = volume_from_node(ct_node(LPS_GRID, SHAPE, transform_node(shear), shear))
    options = SegmentOptions("m", ("lens_l",), "cpu", "fp32", fast=True, output=OutputOptions(uncertainty=True))
    write_request(tmp_path, volume, options)
    back, again = read_request(tmp_path)
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_array_equal(back.geometry.affine, volume.geometry.affine)
    assert again == options
