import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from focusnet import DISCLAIMER, __version__, cli
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry, Volume
from focusnet.io.image import write_image
from focusnet.io.segmentation import read_segmentation

ORGANS = {"brainstem", "parotid_l", "parotid_r", "lens_l", "optic_chiasm"}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **more}


def test_help_and_listing_start_without_the_heavy_libraries():
    script = (
        "import sys; from focusnet import cli; cli.run(['--help']); cli.run(['segment', '--help']); "
        "cli.run(['models', 'list']); "
        "heavy = {'torch', 'SimpleITK', 'scipy', 'matplotlib', 'pydicom'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert "segment" in done.stdout


def test_every_subcommand_has_help_quiet_and_verbose(focusnet):
    for words in (
        ["segment"],
        ["models", "list"],
        ["models", "show"],
        ["models", "verify"],
        ["models", "install"],
        ["phantom"],
        ["import"],
        ["check"],
        ["fingerprint"],
        ["split"],
        ["evaluate"],
        ["train"],
        ["bundle"],
        ["demo"],
    ):
        code, out, _ = focusnet(*words, "--help")
        assert code == 0
        text = "\n".join(out)
        for option in ("--quiet", "--verbose", "--json"):
            assert option in text, words


def test_version(focusnet):
    assert focusnet("--version") == (0, [f"focusnet {__version__}"], [])


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["segment"],
        ["segment", "x.nrrd"],
        ["segment", "x.nrrd", "-o", "y.seg.nrrd", "--jobs", "0"],
        ["segment", "x.nrrd", "-o", "y.seg.nrrd", "--organs", " ,"],
        ["bundle", "run", "-o", "bundle", "--notes", "absent.md"],
        ["segment", "x.nrrd", "-o", "y.seg.nrrd", "--nonsense"],
        ["models"],
        ["models", "show"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(focusnet, arguments):
    code, out, err = focusnet(*arguments)
    assert code == 2
    assert out == []
    assert len(err) == 1
    assert err[0].startswith("E_USAGE: ")


def test_segmenting_one_ct(focusnet, ct_file, tiny_model, tmp_path, ct):
    code, out, err = focusnet(
        "segment", ct_file, "-o", tmp_path / "x.seg.nrrd", "--model", tiny_model, "--device", "cpu"
    )
    assert code == 0
    assert out[-1] == f"pt_1: written {tmp_path / 'x.seg.nrrd'}"
    assert any("[truncated]" in line for line in out[:-2])
    assert err[-1] == DISCLAIMER
    assert any(line.startswith("pt_1: segmenting, ") for line in err)
    assert read_segmentation(tmp_path / "x.seg.nrrd").geometry.is_close(ct.geometry)


def test_json_is_one_object_per_case_on_stdout(focusnet, ct_file, tiny_model, tmp_path, ct):
    write_image(ct, ct_file.with_name("pt_2.nrrd"))
    code, out, _ = focusnet("segment", ct_file.parent, "-o", tmp_path / "out", "--model", tiny_model, "--json", "-q")
    assert code == 0
    rows = [json.loads(line) for line in out]
    assert [row["case"] for row in rows] == ["pt_1", "pt_2"]
    for row in rows:
        assert {"case", "status", "seconds", "peak_memory_mib", "organs"} <= set(row)
        assert set(row["organs"]) == ORGANS
        for organ in row["organs"].values():
            assert set(organ) == {"volume_ml", "confidence", "flags"}


def test_quiet_is_quiet_and_verbose_lists_the_organs(focusnet, ct_file, tiny_model, tmp_path):
    assert focusnet("segment", ct_file, "-o", tmp_path / "q", "--model", tiny_model, "-q") == (0, [], [])
    code, out, _ = focusnet("segment", ct_file, "-o", tmp_path / "v", "--model", tiny_model, "-v")
    assert code == 0
    assert {line.split()[0] for line in out if " ml   confidence " in line} == ORGANS


def test_chosen_organs_in_any_spelling(focusnet, ct_file, tiny_model, tmp_path):
    out = tmp_path / "x.seg.nrrd"
    code, _, _ = focusnet("segment", ct_file, "-o", out, "--model", tiny_model, "--organs", "Parotid_R, brain stem")
    assert code == 0
    assert sorted(read_segmentation(out).names) == ["Brainstem", "Parotid_R"]


def test_a_failed_case_among_others_is_listed_and_gives_1(focusnet, ct_file, tiny_model, tmp_path):
    ct_file.with_name("bad.nrrd").write_bytes(b"NRRD0004\nnonsense")
    code, out, err = focusnet("segment", ct_file.parent, "-o", tmp_path / "out", "--model", tiny_model, "--json")
    assert code == 1
    bad, good = (json.loads(line) for line in out)
    assert (bad["case"], bad["status"], bad["error"]["code"]) == ("bad", "failed", "E_UNREADABLE")
    assert good["status"] == "done"
    assert any(line.startswith("bad: E_UNREADABLE: ") for line in err)
    assert err[-1] == "1 of 2 cases are done; failed: bad."
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pt_1.seg.nrrd"]


def changed(change):
    def make(ct: Volume) -> Volume:
        array = change(ct.array)
        return Volume(array, Geometry(array.shape, ct.geometry.affine))

    return make


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (changed(lambda a: a[:2]), "E_TOO_FEW_SLICES"),
        (changed(lambda a: np.where(a > 300, np.nan, a.astype(np.float32))), "E_NON_FINITE"),
        (changed(lambda a: np.zeros_like(a)), "E_EMPTY_IMAGE"),
        (changed(lambda a: (np.clip(a, -100, None) + 100) * 2), "E_NOT_CT"),
        (changed(lambda a: ((a + 1100) / 1800).astype(np.float32)), "E_NOT_HU"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(focusnet, ct, tiny_model, tmp_path, make, code):
    write_image(make(ct), tmp_path / "bad.nrrd")
    out = tmp_path / "out"
    status, answer, err = focusnet("segment", tmp_path / "bad.nrrd", "-o", out, "--model", tiny_model, "-q")
    assert (status, answer) == (2, [])
    assert len(err) == 1
    assert err[0].startswith(f"{code}: ")
    assert not out.exists()


def test_every_other_refusal_is_one_line_and_exit_code_2(focusnet, ct_file, tiny_bundle, tiny_model, tmp_path):
    broken = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "broken"))
    (broken / "weights.safetensors").write_bytes(b"\x80\x02pickle")
    (tmp_path / "there.seg.nrrd").touch()
    pickled = tmp_path / "model.pt"
    pickled.write_bytes(b"\x80\x02.")
    good = ["--model", tiny_model]
    for arguments, code in (
        (["segment", ct_file, "-o", tmp_path / "o", "--model", "nothing"], "E_UNKNOWN_MODEL"),
        (["segment", ct_file, "-o", tmp_path / "o", "--model", broken], "E_BUNDLE_HASH"),
        (["segment", ct_file, "-o", tmp_path / "o", "--model", pickled], "E_BUNDLE_FORMAT"),
        (["segment", ct_file, "-o", tmp_path / "o", "--organs", "nose", *good], "E_UNKNOWN_ORGAN"),
        (["segment", ct_file, "-o", tmp_path / "o", "--organs", "mandible", *good], "E_UNKNOWN_ORGAN"),
        (["segment", ct_file, "-o", tmp_path / "o", "--device", "tpu", *good], "E_DEVICE"),
        (["segment", ct_file, "-o", tmp_path / "o", "--precision", "int8", *good], "E_PRECISION"),
        (["segment", ct_file, "-o", tmp_path / "o", "--format", "stl", *good], "E_OUTPUT_FORMAT"),
        (["segment", ct_file, "-o", tmp_path / "o.dcm", *good], "E_OUTPUT_FORMAT"),
        (["segment", ct_file, "-o", tmp_path / "there.seg.nrrd", "-q", *good], "E_OUTPUT_EXISTS"),
        (["segment", ct_file, "-o", tmp_path / ("n" * 300), *good], "E_OUTPUT_WRITE"),
        (["segment", tmp_path / ("n" * 300), "-o", tmp_path / "o", *good], "E_UNREADABLE"),
        (["segment", tmp_path / "absent", "-o", tmp_path / "o", *good], "E_UNREADABLE"),
        (["models", "show", "nothing"], "E_UNKNOWN_MODEL"),
        (["models", "verify", broken], "E_BUNDLE_HASH"),
        (["models", "install", pickled], "E_BUNDLE_FORMAT"),
    ):
        status, out, err = focusnet(*arguments)
        assert (status, out) == (2, []), arguments
        assert len(err) == 1, err
        assert err[0].startswith(f"{code}: "), err
        assert not (tmp_path / "o").exists()


def test_overwriting_must_be_asked_for(focusnet, ct_file, tiny_model, tmp_path):
    out = tmp_path / "x.seg.nrrd"
    out.write_text("old")
    assert focusnet("segment", ct_file, "-o", out, "--model", tiny_model, "-q", "--overwrite") == (0, [], [])
    assert set(read_segmentation(out).names) == {"Brainstem", "Parotid_L", "Parotid_R", "Lens_L", "OpticChiasm"}


def test_an_unexpected_error_is_one_line_with_its_trace_on_demand(monkeypatch, capsys):
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ratio\nof nothing")

    monkeypatch.setattr("focusnet.model_store.list_bundles", broken)
    assert cli.run(["models", "list"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("E_INTERNAL: ZeroDivisionError: ratio of nothing;")
    assert cli.run(["models", "list", "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (FocusNetError("E_X", "why"), 2)])
def test_interruption_and_refusal_have_their_exit_codes(monkeypatch, focusnet, error, code):
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("focusnet.model_store.list_bundles", stop)
    status, out, err = focusnet("models", "list")
    assert (status, out) == (code, [])
    assert len(err) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 3), (signal.SIGINT, 130)])
def test_a_signal_while_segmenting_stops_at_once_and_leaves_nothing(tiny_bundle, ct, tmp_path, sent, code):
    """A slow network stands in for a long computation."""
    write_image(ct, tmp_path / "ct.nrrd")
    script = tmp_path / "slow.py"
    script.write_text(
        "import signal, sys, time\n"
        "from focusnet import cli\n"
        "from focusnet.computation import Computation\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs start with it ignored
        "def run(*_):\n"
        "    print('computing', flush=True)\n"
        "    time.sleep(60)\n"
        "Computation.run = run\n"
        "cli.main()\n"
    )
    command = [sys.executable, script, "segment", tmp_path / "ct.nrrd", "-o", tmp_path / "out"]
    process = subprocess.Popen(
        [*map(str, command), "--model", str(tiny_bundle.folder), "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "computing\n"
    start = time.monotonic()
    process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - start < 20
    assert process.returncode == code
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("command", ["names", "segment", "watch", "batch"])
def test_a_signal_while_dicom_is_read_is_not_taken_for_damage(
    focusnet, dicom_folder, tiny_model, tmp_path, monkeypatch, command
):
    """Readers that pass over damaged files must let the end through."""

    def ended(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr("pydicom.dcmread", ended)
    out = ["-o", tmp_path / "out", "--model", tiny_model]
    arguments = {
        "names": [dicom_folder / "0.dcm"],
        "segment": [dicom_folder, *out],
        "batch": [dicom_folder, *out],
        "watch": [dicom_folder, tmp_path / "out", "--model", tiny_model, "--once"],
    }
    before = signal.signal(signal.SIGTERM, cli._cancelled)
    try:
        code, _, err = focusnet(command, *arguments[command])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 3
    assert err[-1].startswith("E_CANCELLED")


def test_models_are_listed_shown_verified_and_installed(focusnet, tiny_bundle, tiny_model, tmp_path):
    code, out, _ = focusnet("models", "list")
    assert code == 0
    assert any(line.startswith("tiny ") and "5 organs" in line for line in out)
    code, out, _ = focusnet("models", "list", "--json")
    assert "tiny" in {row["name"] for row in json.loads(out[0])}
    code, out, _ = focusnet("models", "show", "tiny", "--json")
    assert json.loads(out[0])["weights"]["sha256"] == tiny_bundle.spec.weights.sha256
    code, out, _ = focusnet("models", "show", "tiny", "-v")
    assert "# tiny" in out
    assert "Training data: None: random weights." in out
    assert focusnet("models", "verify", "tiny")[0] == 0
    archive = tmp_path / "tiny.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in tiny_bundle.folder.iterdir():
            file.write(path, f"tiny/{path.name}")
    code, out, _ = focusnet("models", "install", archive, "--json")
    assert code == 0
    assert json.loads(out[0]) == {"name": "tiny", "folder": str(tmp_path / "data" / "focusnet" / "models" / "tiny")}
    assert focusnet("models", "install", archive)[0] == 2


def test_python_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "focusnet", "--version"], capture_output=True, text=True, env=environment()
    )
    assert (done.returncode, done.stdout) == (0, f"focusnet {__version__}\n")


def test_evaluating_writes_tables_and_a_report(focusnet, ct_file, tiny_model, tmp_path):
    for name in ("one", "two"):
        assert focusnet("segment", ct_file, "-o", tmp_path / name, "--model", tiny_model, "-q")[0] == 0
    arguments = ["evaluate", "--reference", tmp_path / "one", "--prediction", tmp_path / "two", "-o", tmp_path / "eval"]
    code, out, _ = focusnet(*arguments, "--jobs", 1)
    assert code == 0
    assert any(line.startswith("prediction: mean over") and line.endswith(" 1.000") for line in out)
    assert {"metrics.csv", "metrics.json", "report.html"} <= {path.name for path in (tmp_path / "eval").iterdir()}
    code, _, err = focusnet(*arguments, "-q")
    assert code == 2
    assert err[0].startswith("E_OUTPUT_EXISTS: ")
    options = ("--overwrite", "--json", "-q", "--jobs", 1, "--organs", "brain stem", "--table", "latex")
    code, out, _ = focusnet(*arguments, *options)
    assert code == 0
    assert "Brainstem & 1 & 100.0 & 0.00" in (tmp_path / "eval" / "tables.tex").read_text(encoding="utf-8")
    assert json.loads(out[0])["mean_dsc"] == {"prediction": 1.0}


@pytest.mark.parametrize("arguments", [["segment", "ct.nrrd", "-o", ""], ["segment", "", "-o", "out.nrrd"]])
def test_an_empty_argument_is_no_place(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(arguments) == 2
    assert "E_USAGE: An argument is empty" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
