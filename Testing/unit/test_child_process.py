import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from FocusNetSegmentationLib.process import ChildProcess, child_environment, is_running
from FocusNetSegmentationLib.protocol import MARK, emit, parse


def start(code):
    return ChildProcess([sys.executable, "-c", code], child_environment(os.environ, "."))


def wait(child, seconds=60.0):
    """All lines and the exit code."""
    lines, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        new, code = child.poll()
        lines += new
        if code is not None:
            return lines, code
        time.sleep(0.01)
    raise TimeoutError(lines)


def gone(pid, seconds=30.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def test_lines_and_exit_code_arrive_without_waiting():
    child = start(
        "import sys, time; print('erste Zeile é'); time.sleep(1); print('zweite', file=sys.stderr); sys.exit(7)"
    )
    assert child.poll() == ([], None)
    assert wait(child) == (["erste Zeile é", "zweite"], 7)


def test_no_line_is_lost_at_the_end():
    lines, code = wait(start("for n in range(20000): print(n)"))
    assert code == 0
    assert lines == [str(n) for n in range(20000)]


def test_broken_utf8_is_shown_not_fatal():
    lines, _ = wait(start(r"import sys; sys.stdout.buffer.write(b'caf\xe9\n')"))
    assert lines == ["caf\ufffd"]


def test_missing_program_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        ChildProcess([str(tmp_path / "no-such-program")], os.environ)


@pytest.mark.skipif(sys.platform == "win32", reason="looks at /proc")
def test_ending_takes_grandchildren_along():
    child = start(
        "import subprocess, sys, time\n"
        "grand = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(grand.pid, flush=True)\n"
        "time.sleep(600)"
    )
    lines = []
    while not lines:
        lines, _ = child.poll()
        time.sleep(0.05)
    child.end()
    assert gone(int(lines[0]))
    assert wait(child)[1] != 0
    child.end()  # once more does no harm


def test_environment_finds_the_library_first(tmp_path):
    made = child_environment({"PYTHONPATH": "other", "HOME": "h"}, tmp_path)
    assert made["PYTHONPATH"] == os.pathsep.join([str(tmp_path), "other"])
    assert made["PYTHONUTF8"] == "1"
    assert child_environment({}, tmp_path)["PYTHONPATH"] == str(tmp_path)


def test_is_running():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert is_running(process.pid)
    process.kill()
    process.wait()
    assert not is_running(process.pid)
    assert is_running(os.getpid())


def test_messages_round_trip(capsys):
    print("half a line", end="")
    emit("progress", stage="größer", share=0.5, seconds_left=None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "half a line"
    assert parse(lines[1]) == {"kind": "progress", "stage": "größer", "share": 0.5, "seconds_left": None}


@pytest.mark.parametrize("line", ["plain log", MARK + "{broken", MARK + "[1]", MARK + "{}", MARK + '{"kind": 3}', ""])
def test_other_lines_are_no_messages(line):
    assert parse(line) is None
