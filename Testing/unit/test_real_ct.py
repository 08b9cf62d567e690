"""The shipped model on a real planning CT: right places, right sides, whatever way the array runs."""

import numpy as np
import pytest
from focusnet.bundle import load_bundle
from focusnet.geometry import Geometry, LabelMap, Volume
from focusnet.inference import Predictor
from focusnet.io import read_volume
from focusnet.model_store import find_bundle

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


@pytest.fixture(scope="module")
def ct(shared_data) -> Volume:
    return read_volume(shared_data / "dicom" / "hn_planning_ct")


@pytest.fixture(scope="module")
def predictor(root) -> Predictor:
    return Predictor(load_bundle(find_bundle(root / "Models" / "openkbp7")), "cpu")


@pytest.fixture(scope="module")
def reference(ct, predictor) -> LabelMap:
    return predictor.predict(ct).labelmap


def centroids_mm(labelmap: LabelMap) -> dict[str, np.ndarray]:
    index = {key: np.argwhere(labelmap.mask(key)) for key in labelmap.organs.values()}
    assert all(len(voxels) for voxels in index.values())
    return {key: labelmap.geometry.index_to_world(voxels.mean(0)) for key, voxels in index.items()}


def test_the_seven_organs_lie_where_anatomy_has_them(reference):
    at = centroids_mm(reference)
    x, y, z = range(3)
    assert at["parotid_l"][x] - at["parotid_r"][x] > 60
    assert at["parotid_r"][x] < at["brainstem"][x] < at["parotid_l"][x]
    assert at["brainstem"][z] > at["parotid_l"][z] > at["larynx"][z] > at["esophagus"][z]
    assert at["mandible"][y] < at["parotid_r"][y] < at["brainstem"][y] < at["spinal_cord"][y] + 30
    assert at["larynx"][y] < at["esophagus"][y] < at["spinal_cord"][y]


def test_twice_the_same_bit_by_bit(ct, predictor, reference):
    np.testing.assert_array_equal(predictor.predict(ct).labelmap.array, reference.array)


@pytest.mark.parametrize(("permutation", "flips"), [((0, 1, 2), (1, 0, 1)), ((2, 0, 1), (0, 1, 1))])
def test_another_axis_order_gives_the_same_organs(ct, predictor, reference, permutation, flips):
    array = ct.array.transpose(permutation)
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for new, (old, flip) in enumerate(zip(permutation, flips, strict=True)):
        matrix[2 - old, 2 - new] = -1 if flip else 1
        matrix[2 - old, 3] = array.shape[new] - 1 if flip else 0
    turned = array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    volume = Volume(np.ascontiguousarray(turned), Geometry(turned.shape, ct.geometry.affine @ matrix))
    found, expected = centroids_mm(predictor.predict(volume).labelmap), centroids_mm(reference)
    for key in expected:
        assert np.linalg.norm(found[key] - expected[key]) < 1.0, key


def test_a_moved_and_tilted_patient_gives_the_same_organs(ct, predictor, reference):
    """As under a linear MRML transform: 10 degrees about a tilted axis and a shift."""
    angle, axis = np.deg2rad(10.0), np.array([0.2, 0.1, 1.0])
    axis /= np.linalg.norm(axis)
    cross = np.cross(np.eye(3), axis)
    matrix = np.eye(4)
    matrix[:3, :3] = np.cos(angle) * np.eye(3) - np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
    middle = ct.geometry.center_mm
    matrix[:3, 3] = middle - matrix[:3, :3] @ middle + (30.0, -20.0, 55.0)
    volume = Volume(ct.array, ct.geometry.transformed(matrix))
    found, expected = centroids_mm(predictor.predict(volume).labelmap), centroids_mm(reference)
    for key in expected:
        there = matrix[:3, :3] @ expected[key] + matrix[:3, 3]
        assert np.linalg.norm(found[key] - there) < 5.0, key
