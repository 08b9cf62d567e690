"""Device, precision and memory of a computation: detected, never guessed."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from focusnet.errors import FocusNetError, lacks_memory

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_INFO = Path("/proc/cpuinfo")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def resolve_device(name: str = "auto") -> torch.device:
    """The device to compute on: ``auto`` takes CUDA, then Apple's GPU, then the CPU.

    Raises:
        FocusNetError: ``E_DEVICE`` for a name that is unknown or a device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in {"cpu", "cuda", "mps"} or (index and not (kind == "cuda" and index.isdecimal())):
        raise FocusNetError("E_DEVICE", f"'{name}' is no device; give auto, cpu, cuda, cuda:N or mps.")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(index or 0) >= there:
        raise FocusNetError("E_DEVICE", f"Device '{name}' is not available to torch; give auto or cpu.")
    return torch.device(kind) if kind != "cuda" else torch.device("cuda", int(index or 0))


def resolve_precision(name: str, device: torch.device) -> Precision:
    """The arithmetic of the convolutions: ``auto`` takes half precision where the device is faster in it.

    Raises:
        FocusNetError: ``E_PRECISION`` for a name that is unknown or that the device can't compute in.
    """
    if name == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
        return "bf16" if device.type == "cpu" and cpu_has_bf16() else "fp32"
    if name not in DTYPES:
        raise FocusNetError("E_PRECISION", f"'{name}' is no precision; give auto, fp32, bf16 or fp16.")
    if (device.type == "cpu" and name == "fp16") or (device.type == "mps" and name != "fp32"):
        raise FocusNetError("E_PRECISION", f"Precision {name} is not supported on '{device.type}'; give auto or fp32.")
    return name  # type: ignore[return-value]


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself; without that bf16 is many times slower than fp32."""
    wanted = ("avx512_bf16", "amx_bf16")
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        found = capabilities()
        return any(found.get(flag, False) for flag in wanted)
    if not CPU_INFO.is_file():
        return False
    words = set(CPU_INFO.read_text(encoding="utf-8", errors="replace").split())
    return any(flag in words for flag in wanted)


@contextmanager
def computing(device: torch.device, precision: Precision) -> Iterator[None]:
    """Inference without gradients, in ``precision``, with repeatable results."""
    benchmark, deterministic = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    try:
        with torch.inference_mode(), torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
            yield
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    return isinstance(error, torch.cuda.OutOfMemoryError) or lacks_memory(error)


def release_memory(device: torch.device) -> None:
    """Give cached memory of a GPU back after running out of it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def keep_memory() -> bool:
    """Let glibc keep freed memory in this process, which halves the time on a CPU; for processes of our own only.

    Returns:
        Whether it took effect (Linux with glibc).
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def peak_memory_mib() -> float | None:
    """Greatest resident memory of this process so far, in MiB; None where the system does not tell (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
