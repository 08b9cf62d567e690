"""Workers of a Dask cluster, each with this package, the archive and the folder of the results in reach."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

from focusnet.batch.work import Task, run_task
from focusnet.errors import FocusNetError
from focusnet.segment import CaseResult

CONNECT_SECONDS = 30
WAITING_PER_WORKER = 2
LOST = ("E_PROCESS_ENDED", "The workers of this case were lost again and again, mostly for lack of memory.")


class DaskPool:
    """Segments cases on a Dask cluster.

    A case whose worker is lost is begun again on another one, as often as the cluster allows (its setting
    ``distributed.scheduler.allowed-failures``).

    Args:
        address: Of the scheduler, for example ``tcp://node1:8786``.

    Raises:
        FocusNetError: ``E_MISSING_PACKAGE`` without Dask, ``E_SCHEDULER`` when no scheduler answers.
    """

    def __init__(self, address: str) -> None:
        try:
            import distributed
        except ImportError as error:
            raise FocusNetError(
                "E_MISSING_PACKAGE",
                "A cluster needs the package 'distributed'; install it: pip install '.[dask]' in the repository.",
            ) from error
        self._distributed = distributed
        try:
            self._client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise FocusNetError("E_SCHEDULER", "No Dask scheduler answers at that address; check it.") from error

    def run(self, tasks: Iterator[Task]) -> Generator[tuple[Task, CaseResult]]:
        """Results as they come; no more cases wait on the cluster than keep it at work.

        Raises:
            FocusNetError: ``E_SCHEDULER`` when the cluster is gone; what was done stays.
        """
        try:
            yield from self._run(tasks)
        except (OSError, self._distributed.CancelledError, self._distributed.comm.CommClosedError) as error:
            raise FocusNetError("E_SCHEDULER", "The Dask cluster is gone; start it and run again to go on.") from error
        finally:
            self._client.close(timeout=CONNECT_SECONDS)

    def _run(self, tasks: Iterator[Task]) -> Generator[tuple[Task, CaseResult]]:
        waiting: dict[Any, Task] = {}
        finished = self._distributed.as_completed(loop=self._client.loop, raise_errors=False)
        for task in islice(tasks, self._room()):
            self._submit(task, waiting, finished)
        while waiting:
            future = next(finished)
            task = waiting.pop(future)
            yield task, self._result(task, future)
            future.release()
            for new in islice(tasks, max(0, self._room() - len(waiting))):
                self._submit(new, waiting, finished)

    def _room(self) -> int:
        threads = sum(self._client.nthreads().values())
        return WAITING_PER_WORKER * max(1, threads)

    def _submit(self, task: Task, waiting: dict[Any, Task], finished: Any) -> None:
        # A name of its own for each submission: Dask would take an earlier answer of the same name.
        future = self._client.submit(run_task, task, key=f"focusnet-{task.number}-{task.input_sha256}", pure=False)
        waiting[future] = task
        finished.add(future)

    def _result(self, task: Task, future: Any) -> CaseResult:
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, self._distributed.KilledWorker):
            return CaseResult(task.case.name, "failed", 0.0, error=LOST)
        if isinstance(error, ImportError | AttributeError):
            raise FocusNetError("E_SCHEDULER", "The workers have another version of this package, or none; install it.")
        reason = ("E_INTERNAL", f"{type(error).__name__} on a worker; please report this.")
        return CaseResult(task.case.name, "failed", 0.0, error=reason)
