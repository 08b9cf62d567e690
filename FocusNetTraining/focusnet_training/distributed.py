"""Several processes train one model: each computes its share of every global batch, all take the same step.

The global batch is a value of the configuration (``accumulate`` chunks a step). One process computes its chunks one
after the other, N processes a share each; gradients are summed, so the number of processes does not change what is
learned. `torchrun` starts the processes and tells them of each other by environment variables.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from focusnet.errors import FocusNetError
from numpy.typing import NDArray
from torch import Tensor, nn

TIMEOUT = timedelta(hours=2)  # the first use of a large data set is prepared between two meetings of the processes
T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of one run; by default this one alone.

    Attributes:
        rank: Number of this process. Process 0 writes the run folder and speaks to the user.
        count: How many there are.
        local_rank: Number of this process on its computer, which is also the number of its GPU.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def share(self, n: int) -> range:
        """This process's share of ``n`` pieces of work."""
        return range(self.rank, n, self.count)

    def device(self, name: str) -> str:
        """The device of this process where the user asked for ``name``: with CUDA, a GPU each.

        Raises:
            FocusNetError: ``E_DEVICE`` when there are more processes than GPUs.
        """
        if self.count == 1 or name not in ("auto", "cuda") or not torch.cuda.is_available():
            return name
        if self.local_rank >= torch.cuda.device_count():
            raise FocusNetError(
                "E_DEVICE",
                f"{self.local_rank + 1} processes but {torch.cuda.device_count()} GPUs on one computer; "
                "start as many processes as there are GPUs (torchrun --nproc-per-node).",
            )
        return f"cuda:{self.local_rank}"

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum of an array over the processes, the same in all of them."""
        if self.count == 1:
            return values
        total = torch.from_numpy(np.array(values, np.float64))
        dist.all_reduce(total)
        return total.numpy()

    def sum_terms(self, terms: dict[str, float]) -> dict[str, float]:
        """Sum of named numbers over the processes; a process need not have all of them."""
        if self.count == 1:
            return terms
        gathered: list[dict[str, float]] = [{}] * self.count
        dist.all_gather_object(gathered, terms)
        names = {name: None for mine in gathered for name in mine}
        return {name: sum(mine.get(name, 0.0) for mine in gathered) for name in names}

    def any(self, flag: bool) -> bool:
        """Whether any process says yes."""
        return bool(self.sum(np.array([float(flag)]))[0] > 0)

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.sum(np.zeros(1))

    def from_first(self, make: Callable[[], T]) -> T:
        """What process 0 makes or reads, handed to all: no other process needs to see its files."""
        if self.count == 1:
            return make()
        box = [make() if self.is_first else None]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]  # type: ignore[return-value]

    def sum_gradients(self, parameters: Iterable[nn.Parameter | Tensor]) -> None:
        """Sum the gradients over the processes, in one message.

        A parameter that got no gradient in any process keeps none, as in one process: the optimiser leaves it alone.
        """
        if self.count == 1:
            return
        parameters = list(parameters)
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
        there = parts[0].new_tensor([0.0 if p.grad is None else 1.0 for p in parameters])
        message = torch.cat([*parts, there])  # (all values + parameters,)
        dist.all_reduce(message)
        there = message[-len(parameters) :].cpu()
        start = 0
        for parameter, count in zip(parameters, there, strict=True):
            total = message[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()
            if parameter.grad is not None:
                parameter.grad.copy_(total)
            elif count > 0:
                parameter.grad = total.clone()

    def average_statistics(self, module: nn.Module) -> None:
        """Average the running statistics of batch normalisation, which each process gathers on its own chunks."""
        if self.count == 1:
            return
        for buffer in module.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.count


@contextmanager
def connected() -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started with this one; without it, one process alone.

    Raises:
        FocusNetError: ``E_DISTRIBUTED`` when this torch can't or the others don't answer.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    if not dist.is_available():
        raise FocusNetError("E_DISTRIBUTED", "This PyTorch has no torch.distributed; train with one process.")
    try:
        # Numbers and files' contents go through the processor's memory, gradients from GPU to GPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FocusNetError(
            "E_DISTRIBUTED", f"The processes don't find each other ({reason}); see torchrun."
        ) from error
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
