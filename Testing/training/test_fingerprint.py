"""Fingerprint: measures and proposals against hand-worked data sets, and the cost of a step."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from focusnet import cli
from focusnet.errors import FocusNetError
from focusnet_training.config import NetworkConfig, load_config
from focusnet_training.cost import BYTES_PER_PARAMETER, _Saved, step_cost
from focusnet_training.datasets import is_small, prepare, read_dataset, small_organs
from focusnet_training.fingerprint import Spread, fingerprint


def write_boxes(folder, cases):
    """A data set of boxes: per case the spacing (x, y, z) and organs as {label: shape (z, y, x) in voxels}."""
    labels = {"background": 0, "eye_l": 1, "optic_nerve_l": 2, "brainstem": 3, "pituitary": 4}
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, (spacing, organs) in enumerate(cases):
        array = np.zeros((40, 80, 80), np.uint8)
        for value, (d, h, w) in organs.items():
            array[:d, 18 * value - 18 : 18 * value - 18 + h, :w] = value
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing)
        for name in (f"imagesTr/c{number}_0000.nrrd", f"labelsTr/c{number}.nrrd"):
            sitk.WriteImage(image, str(folder / name), True)
    (folder / "dataset.json").write_text(json.dumps({"name": "boxes", "labels": labels, "file_ending": ".nrrd"}))
    return folder


def test_measures_by_hand(tmp_path):
    organs = {1: (4, 10, 10), 2: (2, 4, 30), 3: (20, 18, 40)}
    folder = write_boxes(
        tmp_path, [((1.0, 1.0, 3.0), organs), ((1.2, 1.2, 3.0), organs), ((0.98, 0.98, 2.0), {1: (4, 10, 10)})]
    )
    found = fingerprint(read_dataset(folder, None))
    assert (found.cases, found.patients, found.unreadable) == (3, 3, ())
    assert found.spacing_xyz_mm[0] == Spread(0.98, 1.0, 1.2)
    assert found.spacing_xyz_mm[2] == Spread(2.0, 3.0, 3.0)
    assert found.size_xyz_mm[2] == Spread(80.0, 120.0, 120.0)
    assert found.proposal.spacing_xyz == (1.0, 1.0, 3.0)
    assert found.proposal.roi_shape_zyx == (8, 64, 64)  # the paper's own ROI at the paper's spacing
    assert found.proposal.chunk_zyx == (40, 80, 80)
    eye, nerve, stem, pituitary = found.organs
    assert (eye.annotated, eye.present) == (3, 3)
    assert eye.volume_ml == Spread(round(400 * 0.98**2 * 2 / 1000, 4), 1.2, round(400 * 1.44 * 3 / 1000, 4))
    assert eye.mean_voxels == pytest.approx(400 * (1 + 1.44 + 0.98**2 * 2 / 3) / 3, abs=0.1)
    assert (nerve.annotated, nerve.present) == (3, 2)
    assert nerve.extent_xyz_mm == (pytest.approx(35.7), pytest.approx(4.8, abs=0.1), 6.0)
    assert (pituitary.present, pituitary.volume_ml, pituitary.small) == (0, None, False)
    assert not stem.small  # 14,400 voxels
    assert found.proposal.small_organs == ("eye_l", "optic_nerve_l")
    assert found.prepared_gib == pytest.approx(3 * (40 * 80 * 80) * (1 + 1.44 + 0.98**2 * 2 / 3) / 2**30, rel=1e-6)


def test_a_thin_but_long_organ_is_not_small(tmp_path):
    folder = write_boxes(tmp_path, [((1.0, 1.0, 3.0), {2: (20, 3, 3)})])
    assert fingerprint(read_dataset(folder, None)).proposal.small_organs == ()


def test_a_chunk_holds_the_roi_even_where_the_scans_are_thin(tmp_path):
    folder = write_boxes(tmp_path, [((2.0, 2.0, 3.0), {1: (2, 4, 4)})])
    for name in ("imagesTr/c0_0000.nrrd", "labelsTr/c0.nrrd"):
        image = sitk.ReadImage(str(folder / name))
        sitk.WriteImage(image[:, :, :6], str(folder / name), True)
    proposal = fingerprint(read_dataset(folder, None)).proposal
    assert (proposal.chunk_zyx, proposal.roi_shape_zyx) == ((8, 80, 80), (8, 32, 32))
    stages = "name = 'thin'\nstages = [{ name = 'snet', steps = 1 }, { name = 'sol', steps = 1 }]\n"
    (tmp_path / "thin.toml").write_text(stages + proposal.to_toml())
    assert load_config(tmp_path / "thin.toml").data.chunk_zyx == (8, 80, 80)


def test_spacing_is_that_of_the_patients_axes_and_not_finer_than_the_papers(tmp_path):
    folder = write_boxes(tmp_path, [((0.5, 0.5, 0.6), {1: (4, 4, 4)})])
    for part in ("imagesTr/c0_0000.nrrd", "labelsTr/c0.nrrd"):
        image = sitk.PermuteAxes(sitk.ReadImage(str(folder / part)), (2, 0, 1))
        sitk.WriteImage(image, str(folder / part))
    found = fingerprint(read_dataset(folder, None))
    assert [spread.median for spread in found.spacing_xyz_mm] == [0.5, 0.5, 0.6]
    assert found.proposal.spacing_xyz == (1.0, 1.0, 2.5)
    assert found.proposal.roi_shape_zyx == (16, 64, 64)  # 24 mm are 9.6 slices of 2.5 mm


def test_the_volume_rule_is_that_of_the_training(blobs, tmp_path):
    dataset = read_dataset(blobs, None)
    found = fingerprint(dataset, small_voxels=60.0)
    spacing, roi = found.proposal.spacing_xyz, found.proposal.roi_shape_zyx
    cases = prepare(dataset, list(dataset.cases), dataset.organs, spacing, tmp_path)
    assert found.proposal.small_organs == tuple(small_organs(cases, dataset.organs, 60.0, roi)) == ("lens_l", "lens_r")
    assert is_small([999, 1000], [[8, 64, 64]] * 2, 1000, (8, 64, 64))
    assert not is_small([1000, 1000], [[8, 64, 64]] * 2, 1000, (8, 64, 64))
    assert not is_small([10, 10], [[9, 64, 64]] * 2, 1000, (8, 64, 64))


def test_organs_that_were_not_drawn_do_not_count(make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "partial", annotated={"blob_0": ["Brainstem"], "blob_1": ["Brainstem"]})
    organs = {o.organ: (o.annotated, o.present) for o in fingerprint(read_dataset(folder)).organs}
    assert organs == {"brainstem": (6, 6), "parotid_l": (4, 4), "lens_l": (4, 4), "lens_r": (4, 4)}


def test_unreadable_label_maps_are_named(make_blobs, tmp_path):
    folder = make_blobs(tmp_path / "damaged")
    (folder / "labelsTr/blob_2.nrrd").write_bytes(b"NRRD0005\n")
    found = fingerprint(read_dataset(folder))
    assert (found.cases, found.unreadable) == (5, ("blob_2",))
    assert "not readable: blob_2" in found.to_text()
    for path in (folder / "labelsTr").iterdir():
        path.write_bytes(b"NRRD0005\n")
    with pytest.raises(FocusNetError, match="No label map"):
        fingerprint(read_dataset(folder))


def test_kept_memory_is_counted_once():
    saved = _Saved()
    x = torch.ones(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda t: t):
        y = x.exp()  # keeps its result
        (y * y).sum()  # keeps the same result twice
    assert saved.bytes == 4000


def test_memory_of_a_step_grows_with_the_chunk():
    network = NetworkConfig(widths=(4, 4, 4), growth=4, dilations=(2,), roi_shape_zyx=(8, 8, 8))
    part, whole = (step_cost(network, (z, 96, 96), 2, 1, "cpu", "fp32") for z in (16, 32))
    assert part.is_measured
    assert not whole.is_measured
    assert part.seconds > 0
    assert part.memory_gib * 2**30 > BYTES_PER_PARAMETER * 1000
    # The stem and last decoder stage alone keep more than ten maps of four channels.
    assert part.memory_gib * 2**30 > 10 * 4 * 4 * 16 * 96 * 96
    assert whole.memory_gib == pytest.approx(2 * part.memory_gib, rel=0.02)


def test_command_line(blobs, capsys):
    assert cli.run(["fingerprint", str(blobs), "--no-cost", "-q"]) == 0
    text = capsys.readouterr().out
    assert "blobs: 6 cases of 6 patients" in text
    assert "spacing_xyz = [4.0, 4.0, 4.0]" in text
    assert cli.run(["fingerprint", str(blobs), "--json", "-q", "--preset", "phantom22", "--device", "cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["proposal"]["spacing_xyz"] == [4.0, 4.0, 4.0]
    assert answer["step"]["memory_gib"] > 0
    assert cli.run(["fingerprint", str(blobs), "--preset", "x", "--config", "y"]) == 2


@pytest.mark.realdata
def test_openkbp(shared_data):
    found = fingerprint(read_dataset(shared_data / "openkbp", None))
    assert found.cases == 196
    assert {o.organ: o.annotated for o in found.organs}["esophagus"] == 64
    assert found.proposal.spacing_xyz == (4.0, 4.0, 2.5)
    assert found.proposal.small_organs == ()  # none is below the volume rule and fits the ROI
