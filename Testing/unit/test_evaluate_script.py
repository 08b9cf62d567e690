import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from focusnet.geometry import Geometry
from focusnet.io.segmentation import Segment, Segmentation, write_segmentation

BLOCKED = ("torch", "pydantic", "typer", "rich", "safetensors", "jinja2", "matplotlib", "highdicom", "slicer")


@pytest.fixture
def script(root):
    return root / "FocusNetSegmentation" / "Scripts" / "evaluate.py"


@pytest.fixture
def module(script, load_script):
    return load_script(script)


@pytest.fixture
def folders(tmp_path):
    """Reference and prediction of two cases; the prediction is one voxel row short."""
    grid = Geometry.from_parts((8, 12, 14), (2, 2, 3))
    for folder, first in (("Ärztin", 3), ("Modell", 4)):
        (tmp_path / folder).mkdir()
        for case in ("pt_1", "pt_2"):
            mask = np.zeros(grid.shape_zyx, np.uint8)
            mask[2:6, first:9, 4:9] = 1
            write_segmentation(Segmentation(grid, [Segment("Parotid_L", mask)]), tmp_path / folder / f"{case}.seg.nrrd")
    return tmp_path / "Ärztin", tmp_path / "Modell"


def arguments(folders, out, *more):
    return ["--reference", str(folders[0]), "--prediction", str(folders[1]), "--output", str(out), *more]


def test_tables_and_report(script, folders, tmp_path):
    command = [sys.executable, str(script), "--", *arguments(folders, tmp_path / "Ergebnis", "--json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["mean_dsc"]["prediction"] == pytest.approx(2 * 5 / 11)
    assert answer["failed"] == {}
    with (tmp_path / "Ergebnis" / "metrics.csv").open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["pt_1", "pt_2"]
    assert "Left parotid gland" in (tmp_path / "Ergebnis" / "report.html").read_text(encoding="utf-8")


def test_nothing_needs_to_be_installed(script, folders, tmp_path):
    """3D Slicer brings numpy, scipy, SimpleITK and pydicom, and none of these; the report alone needs one."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, importlib.util\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {BLOCKED!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, package=None: None if name in {BLOCKED!r} else find(name, package)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), "--", *arguments(folders, tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "prediction: mean DSC over 1 organs 0.909\n"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["metrics.csv", "metrics.json"]


def test_organs_observer_and_tables(module, folders, tmp_path, capsys):
    out = tmp_path / "out"
    more = ["--organs", "Lt Parotid, left parotid gland", "--observer", str(folders[0])]
    tables = ["--table", "markdown", "--table", "latex"]
    assert module.main(arguments(folders, out, *more, *tables)) == 0
    names = {path.name for path in out.iterdir()}
    assert {"metrics.csv", "metrics_observer.csv", "tables.md", "tables.tex"} <= names
    with (out / "metrics.csv").open() as file:
        assert {row["organ"] for row in csv.DictReader(file)} == {"parotid_l"}
    assert module.main(arguments(folders, tmp_path / "x", "--organs", "paroti_l")) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_failed_case_is_exit_1_and_the_others_are_done(module, folders, tmp_path, capsys):
    (folders[1] / "pt_2.seg.nrrd").write_text("damaged")
    assert module.main(arguments(folders, tmp_path / "out")) == 1
    assert "pt_2: E_UNREADABLE" in capsys.readouterr().err
    assert "pt_1" in (tmp_path / "out" / "metrics.csv").read_text()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda a: a[:-2], "E_USAGE"),
        (lambda a: [*a, "--what"], "E_USAGE"),
        (lambda a: [*a, "--organs", "tail"], "E_UNKNOWN_ORGAN"),
        (lambda a: [*a, "--organs", "Parotid_L,,tail"], "E_UNKNOWN_ORGAN"),
        (lambda a: [*a, "--organs", " , "], "E_USAGE"),
        (lambda a: [*a, "--table", "word"], "E_USAGE"),
        (lambda a: ["--reference", "missing", *a[2:]], "E_NO_CASES"),
    ],
)
def test_refusals_are_one_line_and_exit_2(module, folders, tmp_path, capsys, change, code):
    assert module.main(change(arguments(folders, tmp_path / "out"))) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"{code}: ")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_earlier_evaluation_is_kept_unless_asked(module, folders, tmp_path, capsys):
    assert module.main(arguments(folders, tmp_path / "out", "--quiet")) == 0
    assert module.main(arguments(folders, tmp_path / "out", "--quiet")) == 2
    assert capsys.readouterr().err.startswith("E_OUTPUT_EXISTS")
    assert module.main(arguments(folders, tmp_path / "out", "--quiet", "--overwrite")) == 0


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (ZeroDivisionError("by zero"), 1, "E_INTERNAL: ZeroDivisionError: by zero; please report this."),
    ],
)
def test_no_exception_leaves(module, folders, tmp_path, capsys, monkeypatch, raised, code, line):
    import focusnet.evaluation

    def fail(*_):
        raise raised

    monkeypatch.setattr(focusnet.evaluation, "evaluate", fail)
    assert module.main(arguments(folders, tmp_path / "out")) == code
    assert capsys.readouterr().err == f"{line}\n"


def test_a_package_that_is_missing_is_named(module, folders, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "focusnet.evaluation", None)
    assert module.main(arguments(folders, tmp_path / "out")) == 1  # ours: a fault, not a package
    assert capsys.readouterr().err.startswith("E_INTERNAL: ModuleNotFoundError")

    import FocusNetSegmentationLib.headless as headless

    def fail(name):
        def work():
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

        return work

    monkeypatch.setattr(headless, "missing_packages", lambda: ["torch>=2.4", "typer>=0.12"])
    assert headless.guarded(fail("typer.core")) == 2
    told = 'E_PACKAGE: Missing: torch>=2.4, typer>=0.12; install by: {} -m pip install "torch>=2.4" "typer>=0.12"\n'
    assert capsys.readouterr().err == told.format("python")
    monkeypatch.setattr(headless, "in_application", lambda: True)
    assert headless.guarded(fail("torch")) == 2
    assert capsys.readouterr().err == told.format("PythonSlicer")
    assert headless.guarded(fail("pydicom")) == 2
    assert capsys.readouterr().err.endswith('PythonSlicer -m pip install "pydicom"\n')


def test_help_is_exit_0(module, capsys):
    assert module.main(["--help"]) == 0
    assert "--reference" in capsys.readouterr().out
