"""A lock that a process holds on a run folder; the system frees it however the process ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO

from focusnet.io.lock import try_lock

RETRY_SECONDS = 0.05


class RunLock:
    """Exclusive lock by a file.

    Args:
        path: The lock file; made where it is missing, and left there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self, wait_seconds: float = 0.0) -> bool:
        """Take the lock, trying for some time; whether it was free.

        Raises:
            OSError: The file can't be made, or the file system has no locks.
        """
        end = time.monotonic() + wait_seconds
        file = self._path.open("ab")
        while not try_lock(file):
            if time.monotonic() >= end:
                file.close()
                return False
            time.sleep(RETRY_SECONDS)
        self._file = file
        return True

    def release(self) -> None:
        """Free the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock; False where nobody may look."""
    for mode in ("r+b", "rb"):  # over NFS only who may write can lock; what a colleague owns can be read only
        try:
            with path.open(mode) as file:
                return not try_lock(file)
        except OSError:
            continue
    return False
