"""Round trip of all organs drawn by two annotators: small, thin, hollow and overlapping ones."""

import numpy as np
import pytest
from focusnet.geometry import Geometry
from focusnet.io.rtstruct import read_rtstruct, write_rtstruct
from focusnet.io.segmentation import Segmentation, read_segmentation
from focusnet.organs import find

pytestmark = pytest.mark.realdata

QUICK = ("0522c0014",)
OTHERS = ("0522c0519", "0522c0576", "0522c0727a", "0522c0727b", "TCGA-CV-5977", "TCGA-CV-5978")


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.mark.parametrize("annotator", ["oncologist", "radiographer"])
@pytest.mark.parametrize("scan", [*QUICK, *(pytest.param(scan, marks=pytest.mark.slow) for scan in OTHERS)])
def test_every_organ_comes_back(shared_data, rt, tmp_path, scan, annotator):
    folder = shared_data / "contours"
    drawn = read_segmentation(folder / scan / f"{annotator}.seg.nrrd")
    masks = Segmentation(Geometry(drawn.geometry.shape_zyx, drawn.geometry.affine, rt.FRAME), drawn.segments)
    ct = masks.geometry.pad((2, 9, 7), (3, 8, 5))
    summary = write_rtstruct(masks, rt.reference_of(ct), tmp_path / "rs.dcm")
    found = read_rtstruct(tmp_path / "rs.dcm", masks.geometry)
    assert len(found.structures) == len(drawn.segments) >= 19
    assert found.unmapped == summary.left_out == summary.cut == ()
    for segment in drawn.segments:
        organ, mask = find(segment.name), segment.mask
        structure = found.find(organ.key)
        assert dice(structure.mask, mask) >= (0.995 if structure.volume_ml >= 1 else 0.97)
        assert structure.crop.sum() == pytest.approx(mask.sum(), rel=0.01)
        side = masks.geometry.index_to_world(np.argwhere(structure.mask)).mean(axis=0)[0]
        assert side == pytest.approx(masks.geometry.index_to_world(np.argwhere(mask)).mean(axis=0)[0], abs=0.1)
