"""Data sets: layout, splits, annotated organs, preparation on the working grid, the volume rule."""

import json
import os
import shutil
import threading

import numpy as np
import pytest
import SimpleITK as sitk
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, LabelMap, Volume
from focusnet_training.datasets import PreparedCase, prepare, prepare_pair, read_dataset, small_organs

ORGANS = ("brainstem", "parotid_l", "lens_l", "lens_r")


def test_layout_is_read_with_catalogue_keys(blobs):
    dataset = read_dataset(blobs)
    assert dataset.organs == ORGANS
    assert dataset.training == ("blob_0", "blob_1", "blob_2", "blob_3")
    assert dataset.validation == ("blob_4", "blob_5")
    assert dataset.cases["blob_0"].annotated == set(ORGANS)


def test_prepared_case_keeps_place_and_side(blobs, tmp_path):
    dataset = read_dataset(blobs)
    (case,) = prepare(dataset, ["blob_0"], ORGANS, (3.0, 3.0, 3.0), tmp_path)
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(blobs / "labelsTr/blob_0.nrrd")))
    for value in range(1, 5):
        index = np.stack(np.unravel_index(case.voxels[value], case.ct.shape), -1)
        world = case.geometry.index_to_world(index).mean(0)
        np.testing.assert_allclose(world, np.argwhere(truth == value).mean(0)[::-1] * 4.0, atol=1.0)
        assert case.voxels[value].size * 27 == pytest.approx((truth == value).sum() * 64, rel=0.35)
    left, right = (np.unravel_index(case.voxels[v], case.ct.shape)[2].mean() for v in (3, 4))
    assert left > right
    again = prepare(dataset, ["blob_0"], ORGANS, (3.0, 3.0, 3.0), tmp_path)[0]
    assert isinstance(again.ct, np.memmap)
    np.testing.assert_array_equal(again.labels, case.labels)


def test_prepared_files_are_opened_in_the_calling_thread(blobs, tmp_path, monkeypatch):
    """Python 3.11's parser, which numpy uses on the head of a file, fails now and then in threads."""
    threads = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda *a, **k: threads.append(threading.current_thread()) or load(*a, **k))
    prepare(read_dataset(blobs), ["blob_0", "blob_1"], ORGANS, (3.0, 3.0, 3.0), tmp_path)
    assert threads == [threading.current_thread()] * 4


def test_a_flipped_file_gives_the_same_prepared_case(blobs):
    image, label = (sitk.ReadImage(str(blobs / p)) for p in ("imagesTr/blob_1_0000.nrrd", "labelsTr/blob_1.nrrd"))
    values = read_dataset(blobs).labels
    pairs = []
    for flip in (False, True):
        parts = []
        for item in (image, label):
            array = sitk.GetArrayFromImage(item)
            geometry = Geometry.from_parts(array.shape, item.GetSpacing())
            if flip:
                affine = geometry.affine @ np.diag([-1.0, 1, 1, 1])
                affine[0, 3] += (array.shape[2] - 1) * item.GetSpacing()[0]
                array, geometry = array[:, :, ::-1].copy(), Geometry(array.shape, affine)
            parts.append(Volume(array, geometry))
        ct, drawn = parts
        pairs.append(prepare_pair(ct, LabelMap(drawn.array, drawn.geometry, values), ORGANS, (3.0, 3.0, 3.0)))
    (ct, labels), (other_ct, other_labels) = pairs
    assert ct.geometry.is_close(other_ct.geometry)
    np.testing.assert_allclose(ct.array, other_ct.array, atol=1)
    assert (labels.array != other_labels.array).mean() < 1e-4


def test_fewer_organs_and_another_order_can_be_chosen(blobs, tmp_path):
    dataset = read_dataset(blobs)
    (case,) = prepare(dataset, ["blob_0"], ("lens_r", "brainstem"), (4.0, 4.0, 4.0), tmp_path)
    assert set(case.voxels) == {1, 2}
    assert case.voxels[2].size > 10 * case.voxels[1].size


def test_annotated_organs_per_case(make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "partial", annotated={"blob_0": ["Brainstem", "Lens_L"]})
    dataset = read_dataset(folder)
    cases = prepare(dataset, ["blob_0", "blob_1"], ORGANS, (4.0, 4.0, 4.0), tmp_path / "cache")
    assert cases[0].annotated.tolist() == [True, False, True, False]
    assert cases[1].annotated.all()


def _copy(blobs, tmp_path):
    return shutil.copytree(blobs, tmp_path / "copy")


@pytest.mark.parametrize(
    ("fault", "code", "part"),
    [
        ("no_description", "E_DATASET", "dataset.json"),
        ("unknown_organ", "E_UNKNOWN_ORGAN", "Spleenish"),
        ("no_image", "E_DATASET", "blob_2"),
        ("leak", "E_SPLIT_LEAK", "blob_0"),
        ("ghost", "E_DATASET", "ghost"),
        ("no_cases", "E_DATASET", "labelsTr"),
        ("fold", "E_DATASET", "Fold 3"),
    ],
)
def test_contradictions_are_refused(blobs, tmp_path, fault, code, part):
    folder, fold = _copy(blobs, tmp_path), 0
    names = [f"blob_{n}" for n in range(6)]
    if fault == "no_description":
        (folder / "dataset.json").unlink()
    elif fault == "unknown_organ":
        (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "Spleenish": 1}}))
    elif fault == "no_image":
        (folder / "imagesTr/blob_2_0000.nrrd").unlink()
    elif fault == "leak":
        (folder / "splits_final.json").write_text(json.dumps([{"train": names, "val": ["blob_0"]}]))
    elif fault == "ghost":
        (folder / "splits_final.json").write_text(json.dumps([{"train": names[:4], "val": ["ghost"]}]))
    elif fault == "no_cases":
        shutil.rmtree(folder / "labelsTr")
    elif fault == "fold":
        fold = 3
        (folder / "splits_final.json").write_text(json.dumps([{"train": names[:4], "val": names[4:]}]))
    with pytest.raises(FocusNetError, match=part) as caught:
        read_dataset(folder, fold)
    assert caught.value.code == code


def test_label_outside_the_description_and_foreign_grid_are_refused(blobs, tmp_path):
    folder = _copy(blobs, tmp_path)
    path = str(folder / "labelsTr/blob_0.nrrd")
    image = sitk.ReadImage(path)
    array = sitk.GetArrayFromImage(image)
    array[0, 0, 0] = 9
    strange = sitk.GetImageFromArray(array)
    strange.CopyInformation(image)
    sitk.WriteImage(strange, path)
    with pytest.raises(FocusNetError, match="values 9 of blob_0"):
        prepare(read_dataset(folder), ["blob_0"], ORGANS, (4.0, 4.0, 4.0), tmp_path / "cache")
    image.SetOrigin((5, 0, 0))
    sitk.WriteImage(image, path)
    with pytest.raises(FocusNetError, match="different grids"):
        prepare(read_dataset(folder), ["blob_0"], ORGANS, (4.0, 4.0, 4.0), tmp_path / "cache")


def test_default_split_is_stable_and_by_case(blobs, tmp_path):
    folder = _copy(blobs, tmp_path)
    (folder / "cases.json").unlink()
    folds = [read_dataset(folder, fold) for fold in range(5)]
    assert sorted(n for d in folds for n in d.validation) == sorted(folds[0].cases)
    assert all(not set(d.training) & set(d.validation) for d in folds)


def test_volume_rule_by_hand():
    def case(boxes):
        labels = np.zeros((40, 60, 60), np.uint8)
        for value, shape in boxes.items():
            labels[tuple(slice(0, n) for n in np.add(shape, 0))] = value
            labels = labels[::-1, ::-1, ::-1].copy() if value == 1 else labels
        geometry = Geometry.from_parts(labels.shape)
        return PreparedCase("c", labels.astype(np.int16), labels, geometry, np.ones(3, bool), np.ones(3, bool))

    # 125 voxels: small; 1000: not below the limit; a rod of 30 voxels: small but too long for the ROI.
    assert small_organs([case({1: (5, 5, 5)})], ("a", "b", "c"), 1000, (8, 16, 16)) == ["a"]
    assert small_organs([case({1: (10, 10, 10)})], ("a", "b", "c"), 1000, (16, 16, 16)) == []
    assert small_organs([case({1: (30, 1, 1)})], ("a", "b", "c"), 1000, (8, 16, 16)) == []


def test_case_names_may_hold_points(blobs, tmp_path):
    """HN.001 and HN.002 are two patients."""
    folder = _copy(blobs, tmp_path)
    (folder / "cases.json").unlink()
    for part, channel in (("imagesTr", "_0000"), ("labelsTr", "")):
        for number in range(6):
            (folder / part / f"blob_{number}{channel}.nrrd").rename(folder / part / f"HN.00{number}{channel}.nrrd")
    dataset = read_dataset(folder, None)
    names = [f"HN.00{n}" for n in range(6)]
    assert list(dataset.cases) == names
    prepared = prepare(dataset, names, ORGANS, (4.0, 4.0, 4.0), tmp_path / "cache")
    originals = prepare(
        read_dataset(blobs), [f"blob_{n}" for n in range(6)], ORGANS, (4.0, 4.0, 4.0), tmp_path / "other"
    )
    for case, original in zip(prepared, originals, strict=True):
        np.testing.assert_array_equal(case.ct, original.ct)
        np.testing.assert_array_equal(case.labels, original.labels)
    assert len({np.asarray(case.ct).tobytes() for case in prepared}) == 6


def test_a_corrected_label_table_is_noticed_by_the_cache(blobs, tmp_path):
    folder, cache = _copy(blobs, tmp_path), tmp_path / "cache"
    (before,) = prepare(read_dataset(folder), ["blob_0"], ORGANS, (4.0, 4.0, 4.0), cache)
    table = json.loads((folder / "dataset.json").read_text())
    table["labels"] |= {"Lens_L": 4, "Lens_R": 3}
    (folder / "dataset.json").write_text(json.dumps(table))
    (after,) = prepare(read_dataset(folder), ["blob_0"], ORGANS, (4.0, 4.0, 4.0), cache)
    assert before.voxels[3].tolist() == after.voxels[4].tolist() != before.voxels[4].tolist()
    assert before.voxels[4].tolist() == after.voxels[3].tolist()


def test_corrected_files_are_noticed_by_the_cache(blobs, tmp_path):
    """The list of organs, and a label file of the same size."""
    folder, cache = _copy(blobs, tmp_path), tmp_path / "cache"
    path = folder / "labelsTr" / "blob_0.nrrd"
    original = sitk.ReadImage(str(path))

    def write(array):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(original.GetSpacing())
        sitk.WriteImage(image, str(path), useCompression=False)

    array = sitk.GetArrayFromImage(original)
    write(array)
    (first,) = prepare(read_dataset(folder), ["blob_0"], ORGANS, (4.0, 4.0, 4.0), cache)
    size, stat = path.stat().st_size, path.stat()
    write(np.where(array == 3, 0, array).astype(array.dtype))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    assert path.stat().st_size == size
    (second,) = prepare(read_dataset(folder), ["blob_0"], ORGANS, (4.0, 4.0, 4.0), cache)
    assert set(first.voxels) - set(second.voxels) == {3}
    content = json.loads((folder / "cases.json").read_text())
    content["cases"]["blob_0"]["annotated"].remove("Lens_R")
    (folder / "cases.json").write_text(json.dumps(content))
    (third,) = prepare(read_dataset(folder), ["blob_0"], ORGANS, (4.0, 4.0, 4.0), cache)
    assert set(second.voxels) - set(third.voxels) == {4}


def test_organs_that_do_not_count_are_drawn_all_the_same(blobs, tmp_path):
    """Cut by the image's edge: learned, not scored."""
    folder = _copy(blobs, tmp_path)
    content = json.loads((folder / "cases.json").read_text())
    content["cases"]["blob_0"]["scored"] = ["Brainstem"]
    (folder / "cases.json").write_text(json.dumps(content))
    (case,) = prepare(read_dataset(folder), ["blob_0"], ORGANS, (4.0, 4.0, 4.0), tmp_path / "cache")
    assert case.annotated.tolist() == [True] * 4
    assert case.scored.tolist() == [True, False, False, False]


@pytest.mark.parametrize("array", ["ct", "labels"])
def test_a_run_that_prepares_a_case_again_never_touches_arrays_that_another_has_open(
    blobs, tmp_path, monkeypatch, array
):
    """Both began on an empty cache; the second dies amid writing."""
    cache, save, calls = tmp_path / "cache", np.save, iter(["ct", "labels"])
    (first,) = prepare(read_dataset(blobs), ["blob_0"], ORGANS, (4.0, 4.0, 4.0), cache)
    before = {path.name: path.read_bytes() for path in cache.iterdir()}
    (described,) = cache.glob("*.json")
    described.unlink()  # the first has not come so far yet

    def dying(target, values):
        if next(calls) != array:
            return save(target, values)
        (target.write if hasattr(target, "write") else target.write_bytes)(b"torn")
        raise OSError("killed")

    monkeypatch.setattr("focusnet_training.datasets.np.save", dying)
    with pytest.raises((OSError, FocusNetError)):
        prepare(read_dataset(blobs), ["blob_0"], ORGANS, (4.0, 4.0, 4.0), cache)
    before.pop(described.name)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == before
    assert first.voxels.keys() == {1, 2, 3, 4}


def test_labels_of_organs_off_the_list_are_not_learned(blobs, tmp_path):
    """A half-drawn lens that its author took off the list of annotated organs."""
    folder = _copy(blobs, tmp_path)
    content = json.loads((folder / "cases.json").read_text())
    content["cases"]["blob_0"]["annotated"].remove("Lens_L")
    (folder / "cases.json").write_text(json.dumps(content))
    first, second = prepare(read_dataset(folder), ["blob_0", "blob_1"], ORGANS, (4.0, 4.0, 4.0), tmp_path / "cache")
    assert set(first.voxels) == {1, 2, 4}
    assert set(second.voxels) == {1, 2, 3, 4}
