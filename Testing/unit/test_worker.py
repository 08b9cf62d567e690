import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from focusnet.geometry import Geometry, Volume
from focusnet.inference import Predictor
from focusnet.outputs import OutputOptions
from focusnet.segment import SegmentOptions
from focusnet.uncertainty import uncertainty_percent
from FocusNetSegmentationLib import worker
from FocusNetSegmentationLib.exchange import read_report, write_request
from FocusNetSegmentationLib.process import child_environment
from FocusNetSegmentationLib.protocol import parse


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "Auftrag é"
    folder.mkdir()
    return folder


def messages(text):
    return [m for m in map(parse, text.splitlines()) if m is not None]


def test_segments_in_the_folder_and_tells_its_progress(folder, ct, tiny_model, capsys):
    write_request(folder, ct, SegmentOptions(tiny_model, device="cpu"))
    assert worker.main(folder, os.getpid()) == 0
    told = messages(capsys.readouterr().out)
    shares = [m["share"] for m in told if m["kind"] == "progress"]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    report = read_report(folder)
    assert report.labelmap.geometry.is_close(ct.geometry)
    assert report.labelmap.array.any()
    assert report.stamp["model"] == "tiny"
    assert set(report.organs) == set(report.labelmap.organs.values())
    assert report.uncertainty is None


def test_uncertainty_comes_back_as_the_library_gives_it(folder, ct, tiny_model, tiny_bundle):
    options = SegmentOptions(tiny_model, device="cpu", output=OutputOptions(uncertainty=True))
    write_request(folder, ct, options)
    assert worker.main(folder, os.getpid()) == 0
    returned = read_report(folder).uncertainty
    expected = uncertainty_percent(Predictor(tiny_bundle, "cpu").predict(ct).certainty)
    assert expected.array.any()
    np.testing.assert_array_equal(returned.array, expected.array)
    assert returned.array.dtype == np.uint8
    assert returned.geometry.is_close(ct.geometry)


def test_sheared_grid_is_segmented_where_it_lies(folder, ct, tiny_model):
    shear = np.eye(4)
    shear[1, 2] = 0.15
    volume = Volume(ct.array, ct.geometry.transformed(shear))
    write_request(folder, volume, SegmentOptions(tiny_model, device="cpu"))
    assert worker.main(folder, os.getpid()) == 0
    np.testing.assert_array_equal(read_report(folder).labelmap.geometry.affine, volume.geometry.affine)


@pytest.mark.parametrize(
    ("volume", "options", "code"),
    [
        (None, SegmentOptions("no-such-model"), "E_UNKNOWN_MODEL"),
        (None, SegmentOptions("tiny", ("tail",)), "E_UNKNOWN_ORGAN"),
        (None, SegmentOptions("tiny", device="abacus"), "E_DEVICE"),
        (np.zeros((5, 30, 30), np.int16), SegmentOptions("tiny"), "E_EMPTY_IMAGE"),
    ],
)
def test_refusals_name_their_reason(folder, ct, tiny_model, volume, options, code, capsys):
    given = ct if volume is None else Volume(volume, Geometry.from_parts(volume.shape, (4.0, 4.0, 5.0)))
    write_request(folder, given, options)
    assert worker.main(folder, os.getpid()) == 2
    error = messages(capsys.readouterr().out)[-1]
    assert (error["kind"], error["code"]) == ("error", code)
    assert not (folder / "report.json").exists()


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (MemoryError(), "E_OUT_OF_MEMORY"),
        (ImportError("No module named 'torch'"), "E_PACKAGE"),
        (OSError(28, "No space left on device"), "E_DISK"),
        (ZeroDivisionError("x"), "E_INTERNAL"),
    ],
)
def test_failures_name_their_reason(folder, monkeypatch, capsys, raised, code):
    def fail(_):
        raise raised

    monkeypatch.setattr(worker, "_segment", fail)
    assert worker.main(folder, os.getpid()) == 1
    assert messages(capsys.readouterr().out)[-1]["code"] == code


def test_ends_with_its_parent_and_clears_the_ct_away(root, folder, ct):
    (folder / "ct.npy").write_bytes(b"patient")
    (folder / "request.json").write_text(json.dumps({}))
    code = (
        "import sys, time; from pathlib import Path\n"
        "from FocusNetSegmentationLib import worker\n"
        "worker.WATCH_SECONDS = 0.05\n"
        "worker._segment = lambda folder: time.sleep(600)\n"
        "sys.exit(worker.main(Path(sys.argv[1]), int(sys.argv[2])))"
    )
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    environment = child_environment(os.environ, root / "FocusNetSegmentation")
    child = subprocess.Popen([sys.executable, "-c", code, str(folder), str(parent.pid)], env=environment)
    try:
        time.sleep(0.5)
        assert child.poll() is None
        parent.kill()
        parent.wait()
        assert child.wait(120) == 1
        assert not folder.exists()
    finally:
        child.kill()
