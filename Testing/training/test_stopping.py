"""Stops on request and one run per folder."""

import os
import signal
import subprocess
import sys

import pytest
from focusnet.errors import Cancelled, FocusNetError
from focusnet_training.stopping import StopRequests, only_run


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Cancelled), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_asks_and_is_answered_after_the_stop(tmp_path, number, error):
    before = signal.getsignal(number)
    with StopRequests(tmp_path) as stop:
        assert not stop.asked()
        stop.answer()  # nobody asked: nothing happens
        os.kill(os.getpid(), number)
        assert stop.asked()
        assert signal.getsignal(number) == before  # a second one acts at once
        with pytest.raises(error):
            stop.answer()
    assert signal.getsignal(number) == before


def test_a_file_asks_and_is_taken_away(tmp_path):
    (tmp_path / "stop").touch()  # left from before
    with StopRequests(tmp_path) as stop:
        assert not stop.asked()
        (tmp_path / "stop").touch()
        assert stop.asked()
        with pytest.raises(Cancelled):
            stop.answer()
        assert not (tmp_path / "stop").exists()


def test_a_folder_is_held_by_one_process_and_free_after_its_death(tmp_path, root):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom focusnet_training.stopping import only_run\n"
        "with only_run(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    path = os.pathsep.join(str(root / part) for part in ("FocusNetSegmentation", "FocusNetTraining"))
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(FocusNetError, match="Another process") as caught, only_run(tmp_path):
            pytest.fail("held twice")
        assert caught.value.code == "E_RUN_BUSY"
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with only_run(tmp_path):
        assert (tmp_path / "lock").exists()


def test_an_unwritable_folder_is_refused(tmp_path):
    with pytest.raises(FocusNetError) as caught, only_run(tmp_path / "missing"):
        pytest.fail("held what is not there")
    assert caught.value.code == "E_OUTPUT_WRITE"


def test_a_stop_for_another_process_s_run_stays(tmp_path):
    (tmp_path / "stop").touch()
    with only_run(tmp_path), pytest.raises(FocusNetError) as caught, StopRequests(tmp_path):
        pytest.fail("entered")
    assert caught.value.code == "E_RUN_BUSY"
    assert (tmp_path / "stop").exists()
