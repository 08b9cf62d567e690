"""One run per folder, and its end on request: a signal or a file named ``stop``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from focusnet.errors import Cancelled, FocusNetError
from focusnet.io.lock import try_lock

STOP_FILE, LOCK_FILE = "stop", "lock"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """Notes requests to stop while a run trains, for the trainer to ask for after each step.

    SIGTERM and SIGINT (Ctrl-C) ask, a second one of the same kind acts at once; so does a file named ``stop`` in the
    run folder, which any program can make. One that lies there from before is removed, unless it is for another process
    that trains there.

    Args:
        folder: Run folder.
        first: This process, of those that train together, is the one that writes.

    Raises:
        FocusNetError: ``E_RUN_BUSY`` and ``E_OUTPUT_WRITE`` of `only_run`, on entering.
    """

    def __init__(self, folder: Path, *, first: bool = True) -> None:
        self._file, self._first = folder / STOP_FILE, first
        self._signal: int | None = None
        self._by_file = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if self._first and self._file.exists():
            with only_run(self._file.parent), suppress(OSError):
                self._file.unlink()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether a stop was asked for."""
        self._by_file = self._by_file or self._file.exists()
        return self._by_file or self._signal is not None

    def answer(self) -> None:
        """End as asked, once the run has stopped cleanly.

        Raises:
            KeyboardInterrupt: After SIGINT.
            Cancelled: After SIGTERM or the file.
        """
        if self._by_file:
            with suppress(OSError):
                self._file.unlink()
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self._by_file or self._signal is not None:
            raise Cancelled("Stopped on request; the checkpoint is whole, --resume goes on.")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        signal.signal(number, self._before[number])


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a run folder; the system lets go of it when the process ends, however it ends.

    Raises:
        FocusNetError: ``E_RUN_BUSY`` when another process trains in it, ``E_OUTPUT_WRITE`` when it can't be written.
    """
    try:
        file = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise FocusNetError(
            "E_OUTPUT_WRITE", f"The run folder can't be written ({error.strerror}); check it and its permissions."
        ) from error
    with file:
        with suppress(OSError):  # a file system without locks: the run goes on unguarded
            if not try_lock(file):
                raise FocusNetError(
                    "E_RUN_BUSY", f"Another process trains in {folder.name}; wait for it or give a new folder."
                )
        yield
