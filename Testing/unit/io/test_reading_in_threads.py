"""Damaged files read by several threads: each refused with its code, and the process lives."""

import subprocess
import sys

READ = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from focusnet.errors import FocusNetError
from focusnet.io.image import load_sitk

folder = Path(sys.argv[1])
sitk.WriteImage(sitk.GetImageFromArray(np.zeros((12, 20, 20), np.int16)), str(folder / "whole.nrrd"))
whole = (folder / "whole.nrrd").read_bytes()
(folder / "cut.nrrd").write_bytes(whole[: len(whole) // 2])
(folder / "field.nrrd").write_bytes(b"NRRD0005\\nnonsense: 1\\n\\n")
(folder / "junk.nrrd").write_bytes(b"junk")


def code(name):
    try:
        load_sitk(folder / f"{name}.nrrd")
    except FocusNetError as error:
        return error.code
    return "read"


names = ["whole", "cut", "field", "junk"] * 500
with ThreadPoolExecutor(8) as threads:
    codes = list(threads.map(code, names))
assert all((answer == "read") == (name == "whole") for name, answer in zip(names, codes, strict=True))
"""


def test_damaged_files_read_by_several_threads_are_refused_one_by_one(tmp_path):
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
