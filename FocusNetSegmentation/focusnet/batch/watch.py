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


State = tuple[int, int]
"""Size and time of change of a file."""


class _Look:
    """The CT files below a folder as last seen, and when each series last changed."""

    def __init__(self, folder: Path) -> None:
        self.changed: dict[str, float] = {}
        self._folder = folder
        self._files: dict[Path, tuple[State, str | None]] = {}

    def again(self, now: float) -> dict[str, frozenset[tuple[Path, State]]]:
        """Look at the folder: the files of each series with their states."""
        check_watched(self._folder)
        found = dict(_states(self._folder))
        for path in self._files.keys() - found.keys():
            self._note(self._files.pop(path)[1], now)
        for path, state in found.items():
            before, series = self._files.get(path, (None, None))
            if before != state:
                self._note(series, now)
                self._files[path] = (state, ct_series_uid(path))
                self._note(self._files[path][1], now)
        together: dict[str, set[tuple[Path, State]]] = defaultdict(set)
        for path, (state, series) in self._files.items():
            if series is not None:
                together[series].add((path, state))
        return {series: frozenset(files) for series, files in together.items()}

    def _note(self, series: str | None, now: float) -> None:
        if series is not None:
            self.changed[series] = now


def arrivals(
    folder: Path,
    options: WatchOptions,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Case]:
    """The CT series of a folder, each as soon as it has arrived completely; again when files are added or changed.

    Files may come in any order, in one folder or many, several series mixed. The clock of this machine alone counts,
    not the times of the files. A file that goes is no arrival: of a series that was given before and is being cleared
    away, nothing is given again.

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
    look = _Look(folder)
    given: dict[str, frozenset[tuple[Path, State]]] = defaultdict(frozenset)
    while True:
        series = look.again(clock())
        waiting = {uid: look.changed[uid] for uid, files in series.items() if not files <= given[uid]}
        if not waiting and options.once:
            return
        uid, since = min(waiting.items(), key=lambda item: item[1], default=("", clock()))
        if waiting and clock() - since >= options.settle_s:
            given[uid] = series[uid]
            paths = sorted(path for path, _ in series[uid])
            yield Case("series", paths[0].parent, tuple(paths))
        else:
            sleep(options.poll_s)


def check_watched(folder: Path) -> None:
    """Refuse a folder that is not there, before anything is made.

    Raises:
        FocusNetError: ``E_UNREADABLE``.
    """
    if not folder.is_dir():
        raise FocusNetError("E_UNREADABLE", "The folder to watch is not there; check the path.")


def _states(folder: Path) -> Iterator[tuple[Path, State]]:
    # os.walk passes over folders that go away meanwhile.
    for path in (Path(place, name) for place, _, names in os.walk(folder) for name in names):
        try:
            if path.name.startswith(".") or not path.is_file():
                continue
            stat = path.stat()
        except OSError:  # renamed or removed while we look, as receivers do
            continue
        yield path, (stat.st_size, stat.st_mtime_ns)
