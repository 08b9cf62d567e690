"""Outputs are complete or absent."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from focusnet.errors import FocusNetError
from focusnet.io.atomic import atomic_path, check_folder_writable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_only_when_complete(tmp_path):
    target = tmp_path / "new folder" / "Fälle 頭" / "out.seg.nrrd"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.endswith(".seg.nrrd")
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(target.parent) == ["out.seg.nrrd"]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "out.json"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert names(tmp_path) == ["out.json"]
    assert target.read_text() == "old"


def test_existing_file_is_kept_unless_overwriting_is_allowed(tmp_path):
    target = tmp_path / "out.json"
    target.write_text("old")
    with pytest.raises(FocusNetError) as caught, atomic_path(target, overwrite=False):
        pytest.fail("the body must not run")
    assert caught.value.code == "E_OUTPUT_EXISTS"
    with atomic_path(target, overwrite=True) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_file_made_by_another_run_meanwhile_is_kept(tmp_path):
    target = tmp_path / "out.json"

    def race() -> None:
        with atomic_path(target, overwrite=False) as temporary:
            temporary.write_text("mine")
            target.write_text("theirs")

    with pytest.raises(FocusNetError) as caught:
        race()
    assert caught.value.code == "E_OUTPUT_EXISTS"
    assert target.read_text() == "theirs"
    assert names(tmp_path) == ["out.json"]


def test_folder_is_no_file(tmp_path):
    with pytest.raises(FocusNetError) as caught, atomic_path(tmp_path):
        pytest.fail("the body must not run")
    assert caught.value.code == "E_OUTPUT_EXISTS"


def test_full_disk_is_told_in_one_line(tmp_path):
    def fill_disk() -> None:
        with atomic_path(tmp_path / "out.json") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(FocusNetError) as caught:
        fill_disk()
    assert caught.value.code == "E_OUTPUT_WRITE"
    assert "disk is full" in caught.value.message
    assert names(tmp_path) == []


def test_parent_that_is_a_file_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FocusNetError) as caught, atomic_path(tmp_path / "file" / "out.json"):
        pytest.fail("the body must not run")
    assert caught.value.code == "E_OUTPUT_WRITE"


def test_names_as_long_as_the_file_system_allows(tmp_path):
    target = tmp_path / ("x" * 246 + ".seg.nrrd")
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
    assert target.read_text() == "whole"


def test_a_name_that_is_too_long_is_told_in_one_line(tmp_path):
    with pytest.raises(FocusNetError) as caught, atomic_path(tmp_path / ("x" * 300)):
        pytest.fail("the body must not run")
    assert caught.value.code == "E_OUTPUT_WRITE"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_tried_without_a_trace(tmp_path, monkeypatch):
    check_folder_writable(tmp_path / "new" / "folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(FocusNetError, match="E_OUTPUT_WRITE"):
        check_folder_writable(tmp_path / "file" / "folder")
    assert names(tmp_path) == ["file"]

    def denied(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    with pytest.raises(FocusNetError, match=r"E_OUTPUT_WRITE.*Permission denied"):
        check_folder_writable(tmp_path)


def test_permissions_are_those_of_a_usual_file(tmp_path):
    with atomic_path(tmp_path / "out.json") as temporary:
        temporary.write_text("")
    (tmp_path / "usual").write_text("")
    assert (tmp_path / "out.json").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_writer_leaves_the_old_file(tmp_path):
    target = tmp_path / "out.json"
    target.write_text("old")
    script = f"""
        import time
        from focusnet.io.atomic import atomic_path
        with atomic_path({str(target)!r}) as temporary:
            temporary.write_text("half")
            time.sleep(60)
    """
    source = Path(sys.modules["focusnet"].__file__).parents[1]
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], env={"PYTHONPATH": str(source)})
    try:
        deadline = time.monotonic() + 50
        while len(names(tmp_path)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(names(tmp_path)) == 2
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert target.read_text() == "old"
