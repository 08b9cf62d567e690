"""The validation between steps: fused as the shipped pipeline does, and organs that are not there."""

import numpy as np
import pytest
import torch
from focusnet.geometry import Geometry
from focusnet.networks.roi import Peaks, roi_start
from focusnet.preprocessing import Intensity
from focusnet_training import validation
from focusnet_training.datasets import PreparedCase
from focusnet_training.validation import refine, validate

SHAPE, ROI = (12, 96, 96), (8, 32, 32)


class Says:
    """A network of which only SOS-Net's answer matters."""

    roi_shape_zyx = ROI

    def __init__(self, probability):
        self.logits = torch.from_numpy(np.log(probability / (1 - probability))).float()[None, None]

    def refine(self, k, features, ct):
        return self.logits


def labels_of(snet, sos, height, peak=(5.5, 44.5, 44.5)):
    peaks = Peaks(torch.tensor([[peak]]), torch.tensor([[height]]))
    ct = torch.zeros(1, 1, *SHAPE)
    return refine(Says(sos), torch.from_numpy(snet), peaks, ct[0], ct, (1,)).argmax(0).numpy()


def crop(mask):
    return mask[tuple(slice(a, a + n) for a, n in zip(roi_start((5.5, 44.5, 44.5), ROI, SHAPE), ROI, strict=True))]


@pytest.fixture
def long():
    """An organ that reaches out of its ROI, as S-Net sees it."""
    mask = np.zeros(SHAPE, bool)
    mask[4:8, 20:70, 40:50] = True
    snet = np.zeros((3, *SHAPE), np.float32)
    snet[0], snet[1] = np.where(mask, 0.05, 1), np.where(mask, 0.95, 0)
    return mask, snet


def test_outside_the_roi_s_net_s_answer_stays(long):
    mask, snet = long
    assert crop(mask).sum() < mask.sum()
    np.testing.assert_array_equal(labels_of(snet, np.where(crop(mask), 0.95, 0.01), 0.9) == 1, mask)


def test_inside_the_roi_sos_net_alone_decides(long):
    mask, snet = long
    found = labels_of(snet, np.full(ROI, 0.01), 0.9) == 1
    assert not crop(found).any()
    assert found.sum() == mask.sum() - crop(mask).sum()


def test_a_peak_too_low_to_count_keeps_s_net_s_answer(long):
    mask, snet = long
    np.testing.assert_array_equal(labels_of(snet, np.full(ROI, 0.01), 0.01) == 1, mask)


def test_sos_net_wins_from_one_half_on_against_a_neighbour(long):
    mask, snet = long
    snet[2], snet[1], snet[0] = np.where(mask, 0.6, 0), np.where(mask, 0.2, 0), np.where(mask, 0.2, 1)
    found = labels_of(snet, np.where(crop(mask), 0.55, 0.01), 0.9)
    assert (crop(found)[crop(mask)] == 1).all()


@pytest.mark.parametrize("stray", [False, True])
def test_an_organ_that_is_not_there_has_no_dsc(monkeypatch, stray):
    geometry = Geometry.from_parts((8, 32, 32), (1, 1, 3))
    cases = []
    for shown in (True, False):
        labels = np.zeros(geometry.shape_zyx, np.uint8)
        labels[2:6, 4:12, 4:12] = 1
        labels[2:6, 20:28, 20:28] = 2 * shown
        both = np.array([True, True])
        cases.append(PreparedCase(str(shown), np.zeros(geometry.shape_zyx, np.int16), labels, geometry, both, both))

    def predict(model, case, *rest):
        labels = np.asarray(case.labels).copy()
        labels[3, 25, 25] = 2 if stray else labels[3, 25, 25]
        classes = torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 3)
        return classes.permute(3, 0, 1, 2).float(), None, None, torch.zeros(1, 1, *labels.shape)

    monkeypatch.setattr(validation, "predict_case", predict)
    result = validate(
        torch.nn.Identity(),
        cases,
        ("parotid_l", "parotid_r"),
        (),
        stage="snet",
        intensity=Intensity(),
        chunk_zyx=(8, 32, 32),
        device=torch.device("cpu"),
        precision="fp32",
    )
    assert result.dsc == {"parotid_l": 1.0, "parotid_r": 1.0}
