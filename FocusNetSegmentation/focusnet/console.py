"""What the command line tells: progress and messages on stderr, answers on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CaseProgress = Callable[[str, str, float, float | None], None]

LINE_STEP = 0.1


def say(text: str) -> None:
    """One line of an answer."""
    print(text, flush=True)


def tell(text: str) -> None:
    """One line to a person, beside the answer."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def shown_progress(*, quiet: bool) -> Iterator[CaseProgress | None]:
    """A bar on a terminal, plain lines otherwise, nothing when quiet.

    Yields:
        Function to be told the case, the stage, the finished share and the estimated seconds left.
    """
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as progress:
            yield progress
    else:
        yield _Lines()


class _Lines:
    """A line at each new stage and at every tenth of the work."""

    def __init__(self) -> None:
        self._last: tuple[str, str, float] = ("", "", -1.0)

    def __call__(self, case: str, stage: str, share: float, seconds: float | None) -> None:
        last_case, last_stage, last_share = self._last
        if case == last_case and stage == last_stage and share < last_share + LINE_STEP:
            return
        self._last = (case, stage, share)
        left = "" if seconds is None else f", about {duration(seconds)} left"
        tell(f"{case}: {stage}, {share:.0%} done{left}")


@contextmanager
def _bar() -> Iterator[CaseProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[left]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(case: str, stage: str, share: float, seconds: float | None) -> None:
            if case not in tasks:
                for done in tasks.values():
                    bar.update(done, visible=False)
                tasks[case] = bar.add_task(case, total=1.0, left="")
            left = "" if seconds is None else f"about {duration(seconds)} left"
            bar.update(tasks[case], completed=share, description=f"{case}: {stage}", left=left)

        yield show


def duration(seconds: float) -> str:
    """Seconds for people."""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60}:{whole % 60:02d} min"
