"""Round trips of all organs drawn by two annotators and of a phantom's: small, thin, hollow and overlapping ones."""

import numpy as np
import pytest
from focusnet.geometry import Geometry
from focusnet.io.rtstruct import read_rtstruct, write_rtstruct
from focusnet.io.segmentation import Segmentation, read_segmentation
from focusnet.organs import find
from focusnet_training.phantom import PhantomOptions, make_labels

QUICK = ("0522c0014",)
OTHERS = ("0522c0519", "0522c0576", "0522c0727a", "0522c0727b", "TCGA-CV-5977", "TCGA-CV-5978")
PHANTOM_SPACING_XYZ = (1.2, 1.2, 2.5)


def rotation(axis, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(4)
    first, second = [(1, 2), (2, 0), (0, 1)][axis]
    matrix[[first, first, second, second], [first, second, first, second]] = c, -s, s, c
    return matrix


TURNS = {"straight": np.eye(4), "oblique": rotation(0, 14) @ rotation(2, 9)}


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def check_round_trip(rt, path, masks, keys):
    """Write on a CT that is larger than the masks, read back, compare organ by organ."""
    ct = masks.geometry.pad((2, 9, 7), (3, 8, 5))
    summary = write_rtstruct(masks, rt.reference_of(ct), path)
    found = read_rtstruct(path, masks.geometry)
    assert found.unmapped == summary.left_out == summary.cut == ()
    assert len(found.structures) == len(keys)
    for key, mask in keys.items():
        structure = found.find(key)
        assert dice(structure.mask, mask) >= (0.995 if structure.volume_ml >= 1 else 0.97), key
        assert structure.crop.sum() == pytest.approx(mask.sum(), rel=0.01), key
        place, true = (masks.geometry.index_to_world(np.argwhere(m)).mean(axis=0) for m in (structure.mask, mask))
        np.testing.assert_allclose(place, true, atol=0.1, err_msg=key)


@pytest.mark.realdata
@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("annotator", ["oncologist", "radiographer"])
@pytest.mark.parametrize("scan", [*QUICK, *(pytest.param(scan, marks=pytest.mark.slow) for scan in OTHERS)])
def test_every_organ_comes_back(shared_data, rt, tmp_path, scan, annotator, turn):
    folder = shared_data / "contours"
    drawn = read_segmentation(folder / scan / f"{annotator}.seg.nrrd")
    geometry = Geometry(drawn.geometry.shape_zyx, TURNS[turn] @ drawn.geometry.affine, rt.FRAME)
    masks = Segmentation(geometry, drawn.segments)
    keys = {find(segment.name).key: segment.mask for segment in drawn.segments}
    assert len(keys) == len(drawn.segments) >= 19
    check_round_trip(rt, tmp_path / "rs.dcm", masks, keys)


@pytest.mark.slow
@pytest.mark.parametrize("turn", TURNS)
def test_every_organ_of_a_phantom_comes_back(rt, tmp_path, turn):
    drawn = make_labels(5, PhantomOptions(spacing_xyz=PHANTOM_SPACING_XYZ))
    geometry = Geometry(drawn.geometry.shape_zyx, TURNS[turn] @ drawn.geometry.affine, rt.FRAME)
    labels = type(drawn)(drawn.array, geometry, drawn.organs)
    keys = {key: labels.mask(key) for key in labels.organs.values()}
    assert len(keys) == 26
    assert all(mask.any() for mask in keys.values())
    check_round_trip(rt, tmp_path / "rs.dcm", labels, keys)
