"""A lock by an open file; the system frees it however the process ends."""

from __future__ import annotations

import errno
import sys
from typing import IO, Any

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[Any]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[Any]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def try_lock(file: IO[Any]) -> bool:
    """Take the exclusive lock of an open file, held until it is closed.

    Returns:
        Whether it was free.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        _lock(file)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True
