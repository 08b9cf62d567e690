"""The whole evaluation runs where torch can't be imported."""

import subprocess
import sys

import numpy as np
from focusnet.io.segmentation import write_segmentation

BLOCKED = ("torch", "matplotlib", "slicer", "vtk", "qt")
SCRIPT = """
import sys
from pathlib import Path

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
from focusnet.evaluation import EvaluationOptions, evaluate
folder = Path(sys.argv[1])
options = EvaluationOptions(jobs=1, others={{"other": folder / "ref"}}, tables=("markdown", "latex"))
result = evaluate(folder / "ref", folder / "new", folder / "out", options)
from focusnet.cli import run
places = ["--reference", str(folder / "ref"), "--prediction", str(folder / "new"), "-o", str(folder / "cli")]
assert run(["evaluate", *places, "--jobs", "1", "-q", "--organs", "Parotid_L"]) == 0
assert not {blocked} & {{name.partition(".")[0] for name in sys.modules}}
print(len(result.rows["prediction"]), *sorted(p.name for p in (folder / "out").iterdir()))
"""


def test_evaluation_with_torch_blocked(tmp_path, root, blocks):
    labels = blocks({"parotid_l": np.s_[2:6, 3:7, 8:12], "lens_l": np.s_[8, 3, 4]})
    for folder in ("ref", "new"):
        write_segmentation(labels, tmp_path / folder / "p1.seg.nrrd")
    script = SCRIPT.format(blocked=set(BLOCKED))
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(root / "FocusNetSegmentation"), "PATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    files = "comparison.csv metrics.csv metrics.json metrics_other.csv report.html tables.md tables.tex"
    assert done.stdout.split() == ["2", *files.split()]
