"""Child processes that never outlive their purpose: no blocking reads, and ending one ends its children too."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from focusnet.errors import FocusNetError

from FocusNetSegmentationLib import runtime

LIBRARY = Path(__file__).resolve().parents[1]
END_SECONDS = 5.0
NO_WINDOW: int = getattr(subprocess, "CREATE_NO_WINDOW", 0)


class Child(Protocol):
    """A running child process."""

    def poll(self) -> tuple[list[str], int | None]:
        """New lines, and the exit code once all is over."""

    def end(self) -> None:
        """End it with all its children."""


class ChildProcess:
    """A running child process, asked from time to time by the caller; Qt-free.

    Args:
        command: Program and arguments.
        environment: Its environment variables.

    Raises:
        OSError: The program can't be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            creationflags=NO_WINDOW,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._read_all = False
        threading.Thread(target=self._read, daemon=True).start()

    def poll(self) -> tuple[list[str], int | None]:
        """New lines of its output, and its exit code once it has ended and all lines were handed over; never waits."""
        lines: list[str] = []
        while not self._lines.empty():
            line = self._lines.get()
            if line is None:
                self._read_all = True
            else:
                lines.append(line)
        if self._read_all:
            return lines, self._process.poll()
        if self._process.poll() is not None:  # it was killed; what it had started keeps its output open
            end_tree(self._process.pid)
        return lines, None

    def end(self) -> None:
        """End the process and every process it has started; returns when they are gone."""
        end_tree(self._process.pid)
        self._process.wait(END_SECONDS)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._lines.put(line.rstrip("\r\n"))
        self._process.wait()
        self._lines.put(None)


def end_tree(pid: int) -> None:
    """End a process that leads a group of its own, and every process it has started; one that is gone is no error."""
    if sys.platform == "win32":
        subprocess.run(
            ["taskkill", "/PID", str(pid), "/T", "/F"], capture_output=True, check=False, creationflags=NO_WINDOW
        )
    else:
        import signal

        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def child_environment(base: Mapping[str, str], library: Path) -> dict[str, str]:
    """Environment in which a Python finds our packages and writes UTF-8 at once."""
    paths = os.pathsep.join([str(library), *filter(None, [base.get("PYTHONPATH")])])
    return {**base, "PYTHONPATH": paths, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


def is_running(pid: int) -> bool:
    """Whether a process exists; on Windows `os.kill(pid, 0)` would end it."""
    if sys.platform != "win32":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    import ctypes

    kernel = ctypes.windll.kernel32
    synchronize, still_waiting = 0x00100000, 0x102
    handle = kernel.OpenProcess(synchronize, False, pid)
    if not handle:
        return False
    try:
        return kernel.WaitForSingleObject(handle, 0) == still_waiting
    finally:
        kernel.CloseHandle(handle)


def start_python(arguments: Sequence[str]) -> ChildProcess:
    """Start our Python, which is PythonSlicer inside the application."""
    return ChildProcess(*python_command(arguments))


def python_command(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of our Python with these arguments.

    Raises:
        FocusNetError: ``E_START`` when the application's Python is not found.
    """
    if not runtime.in_application():
        return [sys.executable, *arguments], child_environment(os.environ, LIBRARY)
    import slicer.util

    executable = shutil.which("PythonSlicer")
    if executable is None:
        raise FocusNetError("E_START", "Slicer's Python (PythonSlicer) is not found; reinstall 3D Slicer.")
    return [executable, *arguments], child_environment(slicer.util.startupEnvironment(), LIBRARY)
