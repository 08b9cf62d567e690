"""What a training step costs on this computer: measured on a part of a chunk and scaled, or whole on a GPU."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from focusnet.devices import DTYPES, keep_memory, resolve_device, resolve_precision
from focusnet.networks.builders import build
from focusnet.networks.focusnet import FocusNetV2
from torch import Tensor

from focusnet_training.config import NetworkConfig

PROBE_ZYX = (16, 96, 96)
BYTES_PER_PARAMETER = 16  # weight, gradient and Adam's two moments in float32
WORKSPACE = 1.2  # gradients and copies that live beside the activations of a step


@dataclass(frozen=True)
class StepCost:
    """Cost of a step that trains S-Net and SOL-Net together, the dearest of the stages but for its small regions.

    Attributes:
        device: ``cpu``, ``cuda``, ...
        precision: ``fp32``, ``bf16`` or ``fp16``.
        chunk_zyx: Voxels of the chunk.
        memory_gib: Memory for weights, optimiser and activations.
        seconds: Time of a step, without loading.
        is_measured: Whether the whole chunk was run; otherwise a part of it was scaled.
    """

    device: str
    precision: str
    chunk_zyx: tuple[int, int, int]
    memory_gib: float
    seconds: float
    is_measured: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """One line for a person."""
        z, y, x = self.chunk_zyx
        how = "measured" if self.is_measured else "estimated"
        return (
            f"A step on {z} x {y} x {x} voxels: {self.memory_gib:.1f} GiB, {self.seconds:.2f} s on {self.device} "
            f"({self.precision}), {self.seconds / 3.6:.1f} h for 1000 steps; {how}"
        )


def step_cost(
    network: NetworkConfig,
    chunk_zyx: tuple[int, int, int],
    organs: int,
    small: int,
    device: str = "auto",
    precision: str = "auto",
) -> StepCost:
    """Run one step with random weights after a warm-up.

    Args:
        network: Network of the configuration.
        chunk_zyx: Voxels of a chunk.
        organs: Number of organs.
        small: Number of small organs.
        device: ``auto``, ``cpu``, ``cuda[:n]`` or ``mps``.
        precision: ``auto``, ``fp32`` or ``bf16``.

    Raises:
        FocusNetError: ``E_DEVICE``, ``E_PRECISION``.
    """
    where = resolve_device(device)
    chosen = resolve_precision(precision, where)
    if where.type == "cpu":
        keep_memory()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build("focusnetv2", **{"num_classes": organs + 1, "num_small": small, **network.model_dump()})
    assert isinstance(model, FocusNetV2)
    model.to(where)
    probe: tuple[int, ...] = chunk_zyx
    if where.type != "cuda":
        probe = tuple(min(a, b) for a, b in zip(PROBE_ZYX, chunk_zyx, strict=True))
    ct = torch.zeros((1, 1, *probe), device=where)
    if where.type == "cpu":
        model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        ct = ct.contiguous(memory_format=torch.channels_last_3d)
    saved = _Saved()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        _step(model, ct, chosen)
    start = time.perf_counter()
    _step(model, ct, chosen)
    seconds = time.perf_counter() - start
    scale = float(np.prod(chunk_zyx) / np.prod(probe))
    parameters = sum(p.numel() for p in model.parameters()) * BYTES_PER_PARAMETER
    memory = parameters + saved.bytes * scale * WORKSPACE
    return StepCost(str(where), chosen, chunk_zyx, memory / 2**30, seconds * scale, is_measured=scale == 1.0)


class _Saved:
    """Adds up the memory that a forward pass keeps for the way back; tensors that share it count once."""

    def __init__(self) -> None:
        self.bytes = 0
        self._seen: set[int] = set()

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and storage.data_ptr() not in self._seen:
            self._seen.add(storage.data_ptr())
            self.bytes += storage.nbytes()
        return tensor


def _step(model: FocusNetV2, ct: Tensor, precision: str) -> None:
    with torch.autocast(ct.device.type, DTYPES[precision], enabled=precision != "fp32"):
        output = model.snet(ct)
        total = output.logits.float().logsumexp(1).mean()
        if model.sol is not None:
            total = total + model.sol(output.features).heatmaps.float().mean()
    total.backward()
    if ct.device.type == "cuda":
        torch.cuda.synchronize(ct.device)
