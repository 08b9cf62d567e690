import os
import subprocess
import sys
import types

import pytest
from focusnet.errors import FocusNetError

PREPARE = """
import sys
sys.path[:0] = [{library!r}]
"""


def run(root, code):
    text = PREPARE.format(library=str(root / "FocusNetSegmentation")) + code
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)


def test_starts_quietly_and_only_once(root):
    done = run(
        root,
        "from FocusNetSegmentationLib import runtime\n"
        "first = runtime.ensure()\n"
        "import slicer\n"
        "logic = slicer.modules.segmentations.logic()\n"
        "assert runtime.ensure() is first is slicer.mrmlScene\n"
        "assert slicer.modules.segmentations.logic() is logic\n"
        "assert not runtime.in_application()\n",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_leaves_no_folder_behind(root, tmp_path):
    code = "from FocusNetSegmentationLib import runtime; runtime.ensure()"
    text = PREPARE.format(library=str(root / "FocusNetSegmentation")) + code
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TEMP": str(tmp_path), "TMP": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", text], env=environment, check=False).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_importing_the_library_boots_nothing(root):
    done = run(
        root,
        "import FocusNetSegmentationLib.mrml, FocusNetSegmentationLib.storage, slicer\n"
        "assert getattr(slicer, 'mrmlScene', None) is None\n",
    )
    assert done.returncode == 0, done.stderr


def test_says_what_is_missing(monkeypatch):
    from FocusNetSegmentationLib import runtime

    monkeypatch.setitem(sys.modules, "slicer", None)
    with pytest.raises(FocusNetError, match=r"E_NO_MRML.*pip install \"\.\[mrml\]\""):
        runtime.ensure()


def test_the_application_keeps_its_own_scene(monkeypatch):
    from FocusNetSegmentationLib import runtime

    loaded = []
    logic = types.SimpleNamespace(
        IsTerminologyContextLoaded=lambda name: bool(loaded), LoadContextFromFile=loaded.append
    )
    application = types.ModuleType("slicer")
    application.mrmlScene = object()
    application.app = object()
    application.modules = types.SimpleNamespace(terminologies=types.SimpleNamespace(logic=lambda: logic))
    monkeypatch.setitem(sys.modules, "slicer", application)
    assert runtime.ensure() is application.mrmlScene
    assert runtime.ensure() is application.mrmlScene
    assert runtime.in_application()
    assert [name.rsplit("/", 1)[-1] for name in loaded] == ["FocusNet.term.json"]
