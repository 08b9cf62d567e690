"""The shipped models through the whole pipeline: quality, sides and place in every orientation, repeatability."""

import hashlib
import json

import numpy as np
import pytest
from focusnet.bundle import load_bundle
from focusnet.cli import run as focusnet
from focusnet.evaluation.overlap import dice
from focusnet.geometry import Geometry, Volume, resample
from focusnet.inference import Predictor
from focusnet.io.dicom import read_series
from focusnet.model_store import find_bundle
from focusnet.organs import organ
from focusnet_training.phantom import PhantomOptions, make_phantom
from scipy.spatial.transform import Rotation

UNSEEN_SEED = 990_001
SMALL_SHIFT_MM = 1.0
WEIGHT_LIMIT = 12 * 2**20


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(UNSEEN_SEED, PhantomOptions(spacing_xyz=(1.5, 1.5, 2.5)))


@pytest.fixture(scope="module")
def predictor():
    return Predictor(load_bundle(find_bundle("phantom22")), "cpu")


@pytest.fixture(scope="module")
def straight(phantom, predictor):
    return predictor.predict(phantom.volume)


@pytest.fixture(scope="module")
def one_grid():
    return Predictor(load_bundle(find_bundle("phantom22")), "cpu", grids=1)


@pytest.fixture(scope="module")
def straight_on_one(phantom, one_grid):
    return one_grid.predict(phantom.volume)


def centroids_mm(labelmap):
    found = {}
    for key in labelmap.organs.values():
        index = np.argwhere(labelmap.mask(key))
        if len(index):
            found[key] = labelmap.geometry.index_to_world(index).mean(axis=0)
    return found


def assert_same_place(expected, got, tolerance_mm=SMALL_SHIFT_MM):
    assert expected.keys() == got.keys()
    for key, centre in expected.items():
        assert np.linalg.norm(got[key] - centre) < tolerance_mm, key


def reordered(volume, axes, signs):
    """The same voxels in another axis order, the header to match."""
    array = volume.array.transpose(axes)[tuple(slice(None, None, s) for s in signs)]
    index = np.zeros((3, 3))
    start = np.zeros(3)
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        index[old, new] = sign
        start[old] = 0 if sign > 0 else volume.array.shape[old] - 1
    affine = np.eye(4)
    affine[:3, :3] = volume.geometry.affine[:3, :3] @ index[::-1, ::-1]
    affine[:3, 3] = volume.geometry.index_to_world(start)
    return Volume(np.ascontiguousarray(array), Geometry(array.shape, affine))


@pytest.mark.parametrize("name", ["phantom22", "openkbp7"])
def test_shipped_bundles_are_sound_and_small(name, root):
    folder = root / "Models" / name
    bundle = load_bundle(folder)
    assert bundle.spec.name == name
    assert sum(p.stat().st_size for p in folder.iterdir()) < WEIGHT_LIMIT
    card = (folder / "MODEL_CARD.md").read_text()
    assert all(organ(key).tg263 in card for key in bundle.spec.organs)


def test_unseen_phantom_is_segmented_well(phantom, straight, predictor):
    scores = {k: dice(phantom.labels.mask(k), straight.labelmap.mask(k)) for k in predictor.spec.organs}
    assert np.mean(list(scores.values())) >= 0.85
    assert np.mean([scores[k] for k in predictor.spec.small_organs]) >= 0.75
    assert min(scores.values()) > 0.4


def test_left_is_the_patient_s_left(straight):
    centres = centroids_mm(straight.labelmap)
    pairs = [k for k in centres if organ(k).side == "left"]
    assert len(pairs) >= 9
    for key in pairs:
        assert centres[key][0] > centres[organ(key).partner][0]


@pytest.mark.parametrize(
    ("axes", "signs"),
    [((0, 1, 2), (1, 1, -1)), ((0, 1, 2), (-1, -1, 1)), ((2, 0, 1), (1, -1, 1)), ((1, 2, 0), (-1, -1, -1))],
)
def test_another_axis_order_gives_the_same_labels(phantom, straight_on_one, one_grid, axes, signs):
    straight = straight_on_one.labelmap
    got = one_grid.predict(reordered(phantom.volume, axes, signs)).labelmap
    back = reordered(Volume(straight.array, straight.geometry), axes, signs)
    assert (got.array != back.array).mean() < 1e-4
    assert_same_place(centroids_mm(straight), centroids_mm(got))


def test_an_oblique_copy_gives_the_organs_at_the_same_place(phantom, straight, predictor):
    rotation = Rotation.from_euler("xyz", (10, -6, 14), degrees=True).as_matrix()
    source = phantom.volume.geometry
    spacing = np.array((1.2, 1.2, 1.6))
    size_xyz = np.ceil(np.array(source.shape_zyx[::-1]) * source.spacing_xyz * 1.25 / spacing).astype(int)
    origin = source.center_mm - rotation @ ((size_xyz - 1) / 2 * spacing)
    x, y, z = (int(n) for n in size_xyz)
    grid = Geometry.from_parts((z, y, x), spacing, origin, rotation)
    oblique = predictor.predict(resample(phantom.volume, grid, fill=-1024)).labelmap
    expected, got = centroids_mm(straight.labelmap), centroids_mm(oblique)
    assert_same_place(expected, got)


def test_the_same_scan_gives_the_same_bits_twice(phantom, straight, predictor):
    again = predictor.predict(phantom.volume)
    assert hashlib.sha256(again.labelmap.array).digest() == hashlib.sha256(straight.labelmap.array).digest()


@pytest.fixture
def segment_under():
    """Segments a CT under a 4x4 LPS matrix in the scene; returns the outcome and the transform node."""
    slicer = pytest.importorskip("slicer")
    from FocusNetSegmentationLib import mrml, runtime
    from FocusNetSegmentationLib.logic import SegmentationLogic

    runtime.ensure()

    def segment(volume, matrix):
        node = mrml.volume_to_node(volume, "CT")
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        flip = np.diag([-1.0, -1, 1, 1])  # LPS to RAS
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(flip @ matrix @ flip))
        node.SetAndObserveTransformNodeID(transform.GetID())
        return SegmentationLogic().segment(node, model="phantom22", device="cpu"), transform

    yield segment
    slicer.mrmlScene.Clear(False)


def rigid(axes, angles_deg):
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler(axes, angles_deg, degrees=True).as_matrix()
    matrix[:3, 3] = (30, -70, 15)
    return matrix


def test_under_a_linear_transform_in_the_scene_the_organs_stay_in_place(phantom, straight, segment_under):
    """The CT's own grid is moved away and a parent transform brings it back: the world is the same."""
    matrix = rigid("zxy", (25, -10, 40))
    moved = Volume(phantom.volume.array, phantom.volume.geometry.transformed(np.linalg.inv(matrix)))
    outcome, transform = segment_under(moved, matrix)
    assert_same_place(centroids_mm(straight.labelmap), centroids_mm(outcome.report.labelmap))
    for key in ("parotid_l", "lens_r", "optic_chiasm"):
        assert outcome.result.nodes[key].GetTransformNodeID() == transform.GetID()


def test_a_transform_that_turns_the_ct_takes_the_organs_with_it(phantom, straight, segment_under):
    """Turned by half a turn about the long axis, the patient's left is at the right of the scene."""
    matrix = rigid("xyz", (8, -5, 180))
    labelmap = segment_under(phantom.volume, matrix)[0].report.labelmap
    assert (labelmap.array != straight.labelmap.array).mean() < 1e-5
    moved = {k: matrix[:3, :3] @ c + matrix[:3, 3] for k, c in centroids_mm(straight.labelmap).items()}
    assert_same_place(moved, centroids_mm(labelmap))


@pytest.mark.realdata
def test_planning_ct_gives_every_organ_in_its_place(shared_data, tmp_path, capsys):
    series = shared_data / "dicom" / "hn_planning_ct"
    target = tmp_path / "out.seg.nrrd"
    assert focusnet(["segment", str(series), "-o", str(target), "--json", "-q"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert target.exists()
    assert result["peak_memory_mib"] < 6 * 1024
    assert result["organs"].keys() == {
        *("brainstem", "spinal_cord", "parotid_l", "parotid_r", "mandible", "larynx", "esophagus")
    }
    for key, values in result["organs"].items():
        low, high = organ(key).volume_range_ml
        # Cord and esophagus end with the scan, the esophagus after some 20 mm; the others are whole in it.
        assert values["volume_ml"] > {"spinal_cord": 0.2, "esophagus": 0.1}.get(key, 0.8) * low, key
        assert values["volume_ml"] < 1.5 * high, key
    centres = centroids_mm(Predictor(load_bundle(find_bundle("openkbp7")), "cpu").predict(read_series(series)).labelmap)
    x, y, z = 0, 1, 2
    assert centres["parotid_l"][x] > centres["brainstem"][x] + 30
    assert centres["parotid_r"][x] < centres["brainstem"][x] - 30
    assert centres["brainstem"][z] > centres["mandible"][z] > centres["larynx"][z] > centres["esophagus"][z]
    assert centres["mandible"][y] < centres["spinal_cord"][y] - 30
    assert centres["larynx"][y] < centres["esophagus"][y] < centres["spinal_cord"][y]


@pytest.mark.realdata
def test_a_turned_copy_of_the_planning_ct_gives_the_organs_at_the_same_place(shared_data):
    ct = read_series(shared_data / "dicom" / "hn_planning_ct")
    openkbp = Predictor(load_bundle(find_bundle("openkbp7")), "cpu")
    rotation = Rotation.from_euler("xyz", (20, 0, 0), degrees=True).as_matrix()
    spacing, size = np.array((1.2, 1.2, 2.0)), np.array((520, 520, 200))
    grid = Geometry.from_parts(
        tuple(size[::-1]), spacing, ct.geometry.center_mm - rotation @ ((size - 1) / 2 * spacing), rotation
    )
    turned = openkbp.predict(resample(ct, grid, fill=-1024)).labelmap
    assert_same_place(centroids_mm(openkbp.predict(ct).labelmap), centroids_mm(turned))


@pytest.mark.realdata
def test_openkbp_validation_patients_agree_with_their_manual_contours(shared_data):
    """A sample of the validation patients; the whole table is in the model card."""
    from focusnet_training.datasets import read_case, read_dataset

    dataset = read_dataset(shared_data / "openkbp")
    openkbp = Predictor(load_bundle(find_bundle("openkbp7")), "cpu")
    scores = []
    for name in dataset.validation[::5]:
        ct, truth = read_case(dataset, name)
        labels = openkbp.predict(ct).labelmap
        scores += [dice(truth.mask(k), labels.mask(k)) for k in openkbp.spec.organs if k in dataset.cases[name].scored]
    assert np.mean(scores) > 0.65
