import json

import numpy as np
import pytest
from focusnet import cli
from focusnet.geometry import LabelMap
from focusnet.io.segmentation import read_segmentation
from focusnet.segment import SegmentOptions
from focusnet_training import demo
from focusnet_training.phantom import Phantom
from matplotlib.image import imread


@pytest.fixture
def small_phantom(ct, monkeypatch) -> Phantom:
    """A coarse phantom of three organs in place of the slow real one."""
    labels = np.zeros(ct.array.shape, np.uint8)
    labels[4:9, 16:24, 18:26] = 1
    labels[4:9, 18:24, 8:12] = 2
    labels[4:9, 18:24, 32:36] = 3
    phantom = Phantom(ct, LabelMap(labels, ct.geometry, {1: "brainstem", 2: "parotid_r", 3: "mandible"}))
    monkeypatch.setattr(demo, "make_phantom", lambda seed: phantom)
    return phantom


def test_a_demonstration_measures_and_writes_everything(small_phantom, tiny_model, tiny_bundle, tmp_path):
    for _ in range(2):  # the second time in the place of the first
        result = demo.run_demo(tmp_path / "out", SegmentOptions(tiny_model, device="cpu"))
    assert all(path.is_file() and path.stat().st_size > 0 for path in result.files)
    names = {path.name for path in result.files}
    images = {"phantom_7_ct.nrrd", "phantom_7_truth.seg.nrrd", "phantom_7.seg.nrrd", "phantom_7.mrb", "phantom_7.png"}
    assert images <= names
    assert {"metrics.csv", "report.html"} <= names
    assert {row.organ for row in result.rows} == set(tiny_bundle.spec.organs)
    truth = small_phantom.labels.mask("brainstem")
    answer = read_segmentation(tmp_path / "out" / "phantom_7.seg.nrrd")["Brainstem"].mask
    (row,) = [row for row in result.rows if row.organ == "brainstem"]
    assert row.dsc == pytest.approx(2 * (truth & answer).sum() / (truth.sum() + answer.sum()))
    values = [row.dsc for row in result.rows if row.dsc is not None]
    assert result.mean_dsc == pytest.approx(np.mean(values))
    assert imread(tmp_path / "out" / "phantom_7.png").std() > 0.05


def test_the_command_prints_the_dsc_of_each_organ(small_phantom, tiny_model, tmp_path, capsys):
    command = ["demo", "-o", str(tmp_path / "out"), "--model", tiny_model, "--device", "cpu"]
    assert cli.run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("brainstem") and "DSC" in line for line in lines)
    assert any(line.startswith("mean over all organs") for line in lines)
    assert cli.run([*command, "--json", "-q"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["dsc"]) >= {"brainstem", "parotid_r"}
    assert 0 <= answer["mean_dsc"] <= 1
