"""Workers as processes of this machine. One that dies or hangs takes its own case with it and no other."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from focusnet.batch.work import Task, predictor_of, run_task
from focusnet.errors import FocusNetError
from focusnet.segment import CaseResult, SegmentOptions

ATTEMPTS = 2
START_SECONDS = 600.0
LOST = ("E_PROCESS_ENDED", "The system ended the process of this case twice, mostly for lack of memory.")


class _Worker:
    """A process, the pipe to it, and the case it is at."""

    def __init__(self, options: SegmentOptions, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, options, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Task | None = None
        self.since = time.monotonic()
        self.is_ready = False

    def begin(self, task: Task) -> None:
        self.task, self.since = task, time.monotonic()
        with suppress(OSError):  # a worker that has died meanwhile is found by its closed pipe
            self.pipe.send(task)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class ProcessPool:
    """Segments cases in processes of this machine.

    Args:
        options: How to segment.
        jobs: Number of processes.
        timeout_s: Longest time for a case, None for any.
    """

    def __init__(self, options: SegmentOptions, jobs: int, timeout_s: float | None) -> None:
        self._options = options
        self._jobs = jobs
        self._timeout_s = timeout_s
        self._workers: list[_Worker] = []

    def run(self, tasks: Iterator[Task]) -> Generator[tuple[Task, CaseResult]]:
        """Results as they come; ``tasks`` is asked for the next one only when a worker is free.

        Raises:
            FocusNetError: A worker can't load the model.
        """
        again: list[Task] = []
        attempts: dict[int, int] = {}
        try:
            while True:
                if not self._give(again, tasks):
                    return
                for worker in self._wait():
                    task = worker.task
                    answer = self._answer(worker)
                    if answer is None or task is None:
                        continue
                    if answer is not LOST:
                        attempts.pop(task.number, None)
                        yield task, answer if isinstance(answer, CaseResult) else _failed(task, answer)
                        continue
                    attempts[task.number] = attempts.get(task.number, 0) + 1
                    if attempts[task.number] < ATTEMPTS:
                        again.append(task)
                    else:
                        yield task, _failed(task, LOST)
        finally:
            for worker in self._workers:
                worker.end()
            self._workers.clear()

    def _give(self, again: list[Task], tasks: Iterator[Task]) -> bool:
        """Give each free worker a case; whether any is at work."""
        threads = max(1, _cores() // self._jobs)
        for place in range(self._jobs):
            if place < len(self._workers) and self._workers[place].task is not None:
                continue
            task = again.pop() if again else next(tasks, None)
            if task is None:
                break
            if place == len(self._workers):
                self._workers.append(_Worker(self._options, threads))
            self._workers[place].begin(task)
        return any(worker.task is not None for worker in self._workers)

    def _wait(self) -> list[_Worker]:
        """Workers that have said something, died, or taken too long."""
        busy = {worker.pipe: worker for worker in self._workers if worker.task is not None}
        now = time.monotonic()
        left = min(self._deadline(worker) for worker in busy.values()) - now
        ready = wait(list(busy), None if left == float("inf") else max(left, 0.0))
        late = [worker for worker in busy.values() if self._deadline(worker) <= time.monotonic()]
        return [worker for worker in busy.values() if worker.pipe in ready] or late

    def _deadline(self, worker: _Worker) -> float:
        if not worker.is_ready:
            return worker.since + START_SECONDS
        return float("inf") if self._timeout_s is None else worker.since + self._timeout_s

    def _answer(self, worker: _Worker) -> CaseResult | tuple[str, str] | None:
        """Result of a worker's case, or why there is none; None while it is still at it."""
        try:
            if worker.pipe.poll():
                message = worker.pipe.recv()
                if isinstance(message, FocusNetError):
                    raise message
                if isinstance(message, CaseResult):
                    worker.task = None
                    return message
                worker.is_ready, worker.since = True, time.monotonic()
                return None
            why = ("E_TIMEOUT", f"The case took longer than {self._timeout_s or START_SECONDS:g} s.")
        except (EOFError, OSError) as error:
            if not worker.is_ready:
                raise FocusNetError(
                    "E_PROCESS_ENDED", "A process ended while it loaded the model, mostly for lack of memory."
                ) from error
            why = LOST
        worker.end()
        self._workers.remove(worker)
        return why


def _cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _failed(task: Task, reason: tuple[str, str]) -> CaseResult:
    return CaseResult(task.case.name, "failed", 0.0, error=reason)


def _serve(pipe: Connection, options: SegmentOptions, threads: int) -> None:
    """Load the model, then segment what comes until the pipe is closed. The parent decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        import torch

        from focusnet.devices import keep_memory

        keep_memory()
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)
        predictor_of(options.model, options.device, options.precision, options.fast)
    except FocusNetError as error:
        pipe.send(error)
        sys.exit(1)
    pipe.send("ready")
    with suppress(EOFError, OSError):
        while True:
            pipe.send(run_task(pipe.recv()))


def _end_with_parent() -> None:
    """A parent that was killed must not leave workers that write on."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
