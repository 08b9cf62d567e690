"""The phantom: true to its seed, its organs, its sides, HU, and the training layout."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import SimpleITK as sitk
from focusnet.errors import FocusNetError
from focusnet.geometry import from_sitk
from focusnet.organs import CATALOGUE, PHANTOM_26
from focusnet_training.phantom import PhantomOptions, case_seed, make_labels, make_phantom, write_dataset
from focusnet_training.phantom_scanner import add_noise, add_streaks
from scipy import ndimage

COARSE = PhantomOptions(spacing_xyz=(3.0, 3.0, 4.0), noise_hu=0.0, metal=False)
# eyes, optic nerves and chiasm without the lateral parts of the head
ORBITS = PhantomOptions(spacing_xyz=(1.5, 1.5, 2.0), shape_zyx=(85, 130, 64), noise_hu=0.0, metal=False, couch=False)
TINY = PhantomOptions(spacing_xyz=(6.0, 6.0, 8.0), shape_zyx=(30, 36, 36))
PATHWAY = ("optic_chiasm", "optic_nerve_l", "optic_nerve_r")
PAIRS = sorted(key for key in PHANTOM_26 if CATALOGUE[key].side == "left")


@cache
def phantom(seed, options=COARSE):
    return make_phantom(seed, options)


@cache
def labels(seed, options=COARSE):
    return make_labels(seed, options)


def hu_of(item, key, erode=0):
    mask = item.labels.mask(key)
    return item.volume.array[ndimage.binary_erosion(mask, iterations=erode) if erode else mask].astype(float)


def test_same_seed_same_bytes():
    first, second = make_phantom(11, TINY), make_phantom(11, TINY)
    assert np.array_equal(first.volume.array, second.volume.array)
    assert np.array_equal(first.labels.array, second.labels.array)
    assert first.volume.geometry.is_close(second.volume.geometry)


def test_another_seed_another_patient():
    assert not np.array_equal(make_phantom(11, TINY).volume.array, make_phantom(12, TINY).volume.array)
    assert not np.array_equal(make_labels(11, TINY).array, make_labels(12, TINY).array)


def test_types_and_grid():
    item = phantom(0)
    assert item.volume.array.dtype == np.int16
    assert item.labels.array.dtype == np.uint8
    assert item.volume.array.shape == item.labels.array.shape == item.volume.geometry.shape_zyx
    assert item.labels.geometry is item.volume.geometry
    assert item.labels.organs == {i + 1: key for i, key in enumerate(PHANTOM_26)}
    assert item.volume.geometry.spacing_xyz == pytest.approx((3, 3, 4))
    assert item.volume.geometry.axis_codes == "LPS"


def test_labels_without_the_scan_are_the_same():
    assert np.array_equal(phantom(0).labels.array, labels(0).array)


def test_random_grids_stay_in_range():
    shapes = set()
    for seed in range(12):
        options = PhantomOptions(shape_zyx=(8, 8, 8))
        spacing = make_labels(seed, options).geometry.spacing_xyz
        assert 0.8 <= spacing[0] == spacing[1] <= 1.5
        assert 1.5 <= spacing[2] <= 3.5
        shapes.add(make_labels(seed, replace(COARSE, spacing_xyz=(10.0, 10.0, 10.0))).geometry.shape_zyx)
    assert len(shapes) > 3


@pytest.mark.parametrize("seed", range(10))
def test_every_organ_is_there_in_one_main_piece(seed):
    truth = make_labels(seed, PhantomOptions(spacing_xyz=(2.5, 2.5, 2.5)))
    for key in PHANTOM_26:
        mask = truth.mask(key)
        assert mask.any(), key
        pieces, count = ndimage.label(mask, np.ones((3, 3, 3)))
        largest = np.bincount(pieces.ravel())[1:].max()
        assert largest >= 0.85 * mask.sum(), (key, count)


def test_volumes_are_those_of_adults():
    """The catalogue's limits for each patient; the mean within 40 % of published means where an organ is whole."""
    published = {
        "eye": 8.4,
        "lens": 0.22,
        "optic_nerve": 0.73,
        "optic_chiasm": 0.45,
        "pituitary": 0.5,
        "brainstem": 28.5,
        "parotid": 27.4,
        "submandibular": 8.5,
        "temporal_lobe": 85.0,
        "tmj": 1.5,
        "middle_ear": 1.0,
        "inner_ear": 0.5,
        "mandible": 35.0,
        "larynx": 21.0,
    }
    volumes = {key: [] for key in PHANTOM_26}
    for seed in range(4):
        truth = labels(seed, PhantomOptions(spacing_xyz=(2.0, 2.0, 2.0)))
        counts = np.bincount(truth.array.ravel(), minlength=27) * truth.geometry.voxel_volume_ml
        for value, key in truth.organs.items():
            volumes[key].append(counts[value])
    for key, found in volumes.items():
        low, high = CATALOGUE[key].volume_range_ml
        assert all(low <= v <= high for v in found), (key, found)
        stem = key.removesuffix("_l").removesuffix("_r")
        if stem in published:
            assert np.mean(found) == pytest.approx(published[stem], rel=0.4), key


@pytest.mark.parametrize("seed", range(16))
def test_left_organs_lie_left(seed):
    """Patient left is +x; the line between partners stays within 25 degrees of it in any pose."""
    truth = labels(seed)
    place = {key: truth.geometry.index_to_world(np.argwhere(truth.mask(key))).mean(0) for key in PHANTOM_26}
    for key in PAIRS:
        across = place[key] - place[CATALOGUE[key].partner]
        assert across[0] > np.cos(np.radians(25)) * np.linalg.norm(across), key


def test_organs_lie_above_and_behind_each_other_as_in_people():
    for seed in range(6):
        truth = labels(seed)
        place = {key: truth.geometry.index_to_world(np.argwhere(truth.mask(key))).mean(0) for key in PHANTOM_26}
        for upper, lower in (
            ("optic_chiasm", "pituitary"),
            ("pituitary", "submandibular_l"),
            ("brainstem", "spinal_cord"),
            ("eye_l", "mandible_l"),
            ("mandible_r", "larynx"),
            ("larynx", "esophagus"),
            ("tmj_l", "parotid_l"),
        ):
            assert place[upper][2] > place[lower][2], (seed, upper, lower)
        for front, back in (
            ("lens_l", "eye_l"),
            ("eye_r", "optic_nerve_r"),
            ("optic_nerve_l", "optic_chiasm"),
            ("optic_chiasm", "brainstem"),
            ("larynx", "spinal_cord"),
            ("tmj_r", "middle_ear_r"),
        ):
            assert place[front][1] < place[back][1], (seed, front, back)


def test_a_grid_can_be_aimed_at_a_region():
    """Both eyes are whole in a small grid round the orbits, at the place where they are in a grid of the whole head."""
    aimed = make_labels(3, PhantomOptions((2.0, 2.0, 2.5), (28, 50, 56), centre_xyz_mm=(0.0, -70.0, 16.0)))
    whole = make_labels(3, PhantomOptions((2.0, 2.0, 2.5), (120, 120, 120)))
    for eye in ("eye_l", "eye_r"):
        a, b = (np.argwhere(item.mask(eye)) for item in (aimed, whole))
        assert len(a) == pytest.approx(len(b), rel=0.02)
        place_a, place_b = aimed.geometry.index_to_world(a.mean(0)), whole.geometry.index_to_world(b.mean(0))
        np.testing.assert_allclose(place_a, place_b, atol=0.3)


def test_truth_does_not_depend_on_the_grid():
    """Voxel centres that two grids share carry the same label: truth is sampled, not resampled."""
    coarse = labels(3, PhantomOptions(spacing_xyz=(4.0, 4.0, 6.0), shape_zyx=(45, 55, 55)))
    fine = labels(3, PhantomOptions(spacing_xyz=(2.0, 2.0, 2.0), shape_zyx=(133, 109, 109)))
    assert np.allclose(coarse.geometry.origin_xyz, fine.geometry.origin_xyz)
    shared = fine.array[::3, ::2, ::2]
    assert (coarse.array > 0).sum() > 1000
    assert (shared != coarse.array).mean() < 1e-5


@pytest.mark.parametrize("seed", [0, 1])
def test_hu_is_that_of_the_tissue(seed):
    item = phantom(seed)
    assert np.median(hu_of(item, "brainstem", 1)) == pytest.approx(31, abs=5)
    assert np.median(hu_of(item, "temporal_lobe_l", 2)) == pytest.approx(30, abs=6)
    assert np.median(hu_of(item, "eye_r", 1)) == pytest.approx(10, abs=12)
    assert np.median(hu_of(item, "spinal_cord", 1)) == pytest.approx(38, abs=8)
    assert -70 < np.median(hu_of(item, "parotid_l", 1)) < 30
    assert np.median(hu_of(item, "submandibular_l", 1)) == pytest.approx(42, abs=12)
    assert np.median(hu_of(item, "mandible_l")) > 500
    assert np.median(hu_of(item, "middle_ear_r")) < -300
    array = item.volume.array
    assert np.percentile(array, 99.9) > 1000
    assert (np.abs(array + 1000) < 5).mean() > 0.2
    assert ((array > -120) & (array < -80)).mean() > 0.03
    assert not ((array[:, :, 0] > 500) & (array[:, :, -1] > 500)).any()


def test_lens_stands_out_of_the_eye():
    item = phantom(4, ORBITS)
    for side in "lr":
        assert np.median(hu_of(item, f"lens_{side}")) > np.median(hu_of(item, f"eye_{side}")) + 40


def test_weak_boundaries_take_the_contrast_of_the_visual_pathway_and_nothing_else(monkeypatch):
    natural, weak = phantom(4, ORBITS), phantom(4, replace(ORBITS, weak_boundaries=True))
    assert np.array_equal(natural.labels.array, weak.labels.array)
    changed = natural.volume.array != weak.volume.array
    pathway = np.isin(natural.labels.array, [natural.labels.label_of(key) for key in PATHWAY])
    assert not (changed & ~ndimage.binary_dilation(pathway, np.ones((3, 5, 5)), iterations=2)).any()
    monkeypatch.setattr("focusnet_training.phantom.WEAK_CONTRAST", 0.0)
    bare = make_phantom(4, replace(ORBITS, weak_boundaries=True))
    for key, natural_hu in (("optic_chiasm", 15), ("optic_nerve_l", 50), ("optic_nerve_r", 50)):
        full = np.abs(hu_of(natural, key) - hu_of(bare, key)).mean()
        rest = np.abs(hu_of(weak, key) - hu_of(bare, key)).mean()
        assert full > natural_hu, key
        assert 0 < rest < 0.12 * full, key


def test_partial_volume_at_the_skin():
    """Through the skin of the vertex HU rise over about one slice, not at once and not over many."""
    item = phantom(0)
    column = item.volume.array[:, :, item.volume.array.shape[2] // 2].astype(float)
    edges = (column > -900) & (column < -150)
    assert edges.any(axis=1).sum() > 0
    assert edges.mean() < 0.15


def test_noise_has_the_asked_strength_and_grain():
    hu = np.full((12, 96, 96), 30, np.float32)
    add_noise(hu, 10.0, (3.0, 1.0, 1.0), np.random.default_rng(0))
    inner = hu[:, 20:-20, 20:-20] - 30
    assert inner.std() == pytest.approx(10, rel=0.1)
    beside = np.corrcoef(inner[:, :, :-1].ravel(), inner[:, :, 1:].ravel())[0, 1]
    across = np.corrcoef(inner[:-1].ravel(), inner[1:].ravel())[0, 1]
    assert beside > 0.3
    assert abs(across) < 0.2


def test_wide_slices_are_noisier():
    hu = np.full((2, 120, 300), -1000, np.float32)
    hu[0, :, 100:200] = hu[1, :, 10:290] = 30
    clean = hu.copy()
    add_noise(hu, 10.0, (3.0, 1.0, 1.0), np.random.default_rng(0))
    head, shoulders = (hu - clean)[:, :, 110:190].std(axis=(1, 2))
    assert shoulders > 1.3 * head


def test_no_noise_leaves_the_image():
    hu = np.full((2, 9, 9), 30, np.float32)
    add_noise(hu, 0.0, (3.0, 1.0, 1.0), np.random.default_rng(0))
    assert (hu == 30).all()


def test_streaks_run_from_the_metal_and_stay_in_its_slices():
    hu = np.zeros((5, 80, 80), np.float32)
    add_streaks(
        hu,
        [(np.array((2.0, 40.0, 25.0)), 2.5), (np.array((2.0, 40.0, 55.0)), 2.5)],
        (3.0, 1.0, 1.0),
        np.random.default_rng(0),
    )
    assert not hu[[0, 4]].any()
    rows, columns = np.mgrid[:80, :80]
    away = np.hypot(rows - 40, columns - 40)
    near, far = hu[2][(away > 18) & (away < 25)].std(), hu[2][(away > 35) & (away < 45)].std()
    assert near > 1.3 * far > 10
    between = hu[2, 38:43, 32:49].mean()
    beside = hu[2, 10:15, 32:49].mean()
    assert between < beside - 30


def test_metal_brightens_teeth_and_leaves_the_truth():
    plain, metal = phantom(1), phantom(1, replace(COARSE, metal=True))
    assert np.array_equal(plain.labels.array, metal.labels.array)
    assert metal.volume.array.max() > plain.volume.array.max() + 300
    differs = (plain.volume.array != metal.volume.array).any(axis=(1, 2))
    assert 0 < differs.sum() < 0.35 * len(differs)


def test_couch_lies_behind_the_patient():
    with_couch, without = phantom(2), phantom(2, replace(COARSE, couch=False))
    added = (with_couch.volume.array > -980) & (without.volume.array < -995)
    rows = np.flatnonzero(added.any(axis=(0, 2)))
    assert added.mean() > 0.005
    assert rows.max() > 0.9 * added.shape[1]
    assert (without.volume.array[:, -3:] < -990).mean() > 0.9


@pytest.mark.parametrize(
    "fault",
    [
        {"spacing_xyz": (0.0, 1.0, 1.0)},
        {"shape_zyx": (4, 64, 64)},
        {"metal": 1.5},
        {"noise_hu": -1.0},
    ],
)
def test_impossible_options_are_refused(fault):
    with pytest.raises(FocusNetError) as caught:
        PhantomOptions(**fault)
    assert caught.value.code == "E_USAGE"


def test_negative_seed_is_refused():
    for make in (make_phantom, make_labels):
        with pytest.raises(FocusNetError, match="E_USAGE"):
            make(-1, TINY)


def test_dataset_round_trip(tmp_path):
    folder = tmp_path / "set"
    names = write_dataset(folder, 3, 5, TINY)
    assert names == ["phantom_0001", "phantom_0002", "phantom_0003"]
    description = json.loads((folder / "dataset.json").read_text())
    assert description["labels"] == {"background": 0, **{key: i + 1 for i, key in enumerate(PHANTOM_26)}}
    assert description["channel_names"] == {"0": "CT"}
    assert description["numTraining"] == 3
    cases = json.loads((folder / "cases.json").read_text())["cases"]
    folds = json.loads((folder / "splits_final.json").read_text())
    assert folds == [{"train": names[:2], "val": names[2:]}]
    assert [cases[n]["split"] for n in names] == ["training", "training", "validation"]
    for number, name in enumerate(names, 1):
        made = make_phantom(case_seed(5, number), TINY)
        image = from_sitk(sitk.ReadImage(str(folder / "imagesTr" / f"{name}_0000.nrrd")))
        truth = from_sitk(sitk.ReadImage(str(folder / "labelsTr" / f"{name}.nrrd")))
        assert np.array_equal(image.array, made.volume.array)
        assert np.array_equal(truth.array, made.labels.array)
        assert truth.array.dtype == np.uint8
        assert image.geometry.is_close(made.volume.geometry)
        assert truth.geometry.is_close(made.volume.geometry)
        assert cases[name]["annotated"] == list(PHANTOM_26)
        assert cases[name]["scored"] == [key for key in PHANTOM_26 if made.labels.mask(key).any()]
    assert not [p for p in folder.rglob("*") if p.name.startswith(".")]


def test_longer_dataset_begins_with_the_shorter(tmp_path):
    write_dataset(tmp_path / "a", 1, 9, TINY)
    write_dataset(tmp_path / "b", 2, 9, TINY)
    file = "imagesTr/phantom_0001_0000.nrrd"
    assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert len({case_seed(s, n) for s in range(40) for n in range(40)}) == 1600


def test_dataset_refuses_a_folder_in_use_and_empty_requests(tmp_path):
    (tmp_path / "keep.txt").write_text("mine")
    for folder, cases, seed, code in (
        (tmp_path, 2, 0, "E_OUTPUT_EXISTS"),
        (tmp_path / "keep.txt", 2, 0, "E_OUTPUT_EXISTS"),
        (tmp_path / "new", 0, 0, "E_USAGE"),
        (tmp_path / "new", 1, -1, "E_USAGE"),
    ):
        with pytest.raises(FocusNetError) as caught:
            write_dataset(folder, cases, seed, TINY)
        assert caught.value.code == code
    assert [p.name for p in tmp_path.iterdir()] == ["keep.txt"]
