"""``Scripts/train.py``: training without a window, by its arguments and exit codes."""

import json
import subprocess
import sys

import pytest
from focusnet.model_store import find_bundle

CONFIG = """
name = "tiny-by-script"
[network]
widths = [4, 4, 4]
growth = 2
dilations = [2, 3]
roi_shape_zyx = [8, 8, 8]
[data]
spacing_xyz = [4.0, 4.0, 4.0]
chunk_zyx = [16, 24, 24]
[augmentation]
field_of_view_cut = 0.0
[[stages]]
name = "snet"
steps = 3
validate_every = 2
"""


@pytest.fixture
def script(root):
    return root / "FocusNetTraining" / "Scripts" / "train.py"


@pytest.fixture
def module(script, load_script):
    return load_script(script)


def test_train_pause_go_on_and_install(module, small_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FOCUSNET_MODELS", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    config, run = tmp_path / "Größe 1.toml", tmp_path / "run 1"
    config.write_text(CONFIG)
    command = ["--config", str(config), "--data", str(small_dataset), "--output", str(run), "--device", "cpu", "-q"]
    assert module.main([*command, "--install", "--max-hours", "0"]) == 0
    assert "nothing is installed" in capsys.readouterr().err
    assert not (run / "bundle").exists()
    assert module.main([*command, "--install"]) == 0  # from the checkpoint
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert find_bundle("tiny-by-script").parent == tmp_path / "home" / "focusnet" / "models"
    assert module.main([*command, "--install"]) == 2
    assert "E_OUTPUT_EXISTS" in capsys.readouterr().err
    assert module.main([*command, "--install", "--overwrite"]) == 0


def test_the_model_of_a_stage_is_installed_when_that_stage_is_what_was_asked_for(
    module, small_dataset, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("FOCUSNET_MODELS", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    config, run = tmp_path / "config.toml", tmp_path / "run"
    sol = '[[stages]]\nname = "sol"\nsteps = 2\nvalidate_every = 2\n'
    config.write_text(CONFIG.replace("[augmentation]", 'small_organs = ["lens_l", "lens_r"]\n[augmentation]') + sol)
    command = ["--config", str(config), "--data", str(small_dataset), "--output", str(run), "--device", "cpu", "-q"]
    assert module.main([*command, "--stage", "snet", "--install"]) == 0
    assert "nothing is installed" not in capsys.readouterr().err
    assert find_bundle("tiny-by-script").parent == tmp_path / "home" / "focusnet" / "models"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "E_USAGE"),
        (["--data", "missing", "--output", "run"], "E_USAGE"),
        (["--data", "missing", "--output", "run", "--preset", "phantom22"], "E_DATASET"),
        (["--data", "missing", "--output", "run", "--preset", "phantom22", "--what"], "E_USAGE"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(module, arguments, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert module.main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(code)
    assert "\n" not in error


def test_arguments_follow_the_two_dashes(module, script, tmp_path):
    assert module.own_arguments(["x", "--", "--data", "d"]) == ["--data", "d"]
    assert module.own_arguments(["--data", "d"]) == ["--data", "d"]
    done = subprocess.run([sys.executable, script, "--"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("E_USAGE: the following arguments are required: --data, --output")


def test_slicer_is_left_with_the_exit_code(script, tmp_path):
    """Stand-in for the application: it stays open unless told to exit."""
    code = (
        "import runpy, sys, types\n"
        "util = types.ModuleType('slicer.util'); util.exit = lambda code: print('exit', code)\n"
        "slicer = types.ModuleType('slicer'); slicer.app = object(); slicer.util = util\n"
        "sys.modules.update({'slicer': slicer, 'slicer.util': util})\n"
        f"sys.argv = ['train.py', '--']\nrunpy.run_path({str(script)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "exit 2", done.stderr
