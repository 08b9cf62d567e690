"""A folder that a DICOM receiver fills: which series have arrived completely."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from focusnet.errors import FocusNetError
from focusnet.io.dicom_headers import ct_series_uid
from focusnet.segment import Case


@dataclass(frozen=True)
class WatchOptions:
    """When a series counts as complete.

    Attributes:
        settle_s: Seconds without a new or changed file of the series.
        poll_s: Seconds between two looks at the folder.
        once: End when every series that is there has settled.
    """

    settle_s: float = 30.0
    poll_s: float = 2.0
    once: bool = False


@dataclass
class _File:
    """A file as last seen: size and time of change, and since when it has been so."""

    state: tuple[int, int]
    since: float
    series: str | None


def arrivals(
    folder: Path,
    options: WatchOptions,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Case]:
    """The CT series of a folder, each as soon as it has arrived completely; again when its files change later.

    Files may come in any order, in one folder or many, several series mixed. The clock of this machine alone counts,
    not the times of the files.

    Args:
        folder: Searched with its subfolders.
        options: When a series is complete.
        clock: Seconds that only rise.
        sleep: Waits between two looks.

    Yields:
        Each series with its files.

    Raises:
        FocusNetError: ``E_UNREADABLE`` when the folder is not there.
    """
    files: dict[Path, _File] = {}
    given: dict[str, frozenset[tuple[Path, tuple[int, int]]]] = {}
    while True:
        _look(folder, files, clock())
        series: dict[str, list[Path]] = defaultdict(list)
        for path, file in files.items():
            if file.series is not None:
                series[file.series].append(path)
        waiting = {uid: max(files[path].since for path in paths) for uid, paths in series.items()}
        states = {uid: frozenset((path, files[path].state) for path in paths) for uid, paths in series.items()}
        waiting = {uid: since for uid, since in waiting.items() if given.get(uid) != states[uid]}
        if not waiting and options.once:
            return
        uid, since = min(waiting.items(), key=lambda item: item[1], default=("", clock()))
        if waiting and clock() - since >= options.settle_s:
            given[uid] = states[uid]
            yield Case("series", series[uid][0].parent, tuple(sorted(series[uid])))
        else:
            sleep(options.poll_s)


def check_watched(folder: Path) -> None:
    """Refuse a folder that is not there, before anything is made.

    Raises:
        FocusNetError: ``E_UNREADABLE``.
    """
    if not folder.is_dir():
        raise FocusNetError("E_UNREADABLE", "The folder to watch is not there; check the path.")


def _look(folder: Path, files: dict[Path, _File], now: float) -> None:
    """Bring the list of files up to date."""
    check_watched(folder)
    found: set[Path] = set()
    # os.walk passes over folders that go away meanwhile.
    for path in (Path(place, name) for place, _, names in os.walk(folder) for name in names):
        try:
            if path.name.startswith(".") or not path.is_file():
                continue
            stat = path.stat()
        except OSError:  # renamed or removed while we look, as receivers do
            continue
        found.add(path)
        state = (stat.st_size, stat.st_mtime_ns)
        known = files.get(path)
        if known is None or known.state != state:
            files[path] = _File(state, now, ct_series_uid(path))
    for path in files.keys() - found:
        del files[path]
