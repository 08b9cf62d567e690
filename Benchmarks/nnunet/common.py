"""What the scripts of this folder share: nnU-Net's folders, one thread, kept memory, its network on a processor."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

DATASET_ID = 1
DATASET = f"Dataset{DATASET_ID:03d}_OpenKBP"
CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans"
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h

# nnU-Net reads this once, when it is imported: processes, and threads when it resamples its answer.
os.environ.update(nnUNet_def_n_proc="1")


def use_folders(work: Path, augmenting: int = 0) -> None:
    """Tell nnU-Net its folders, by its environment variables; before any of its modules is imported.

    Args:
        work: Folder for all its files.
        augmenting: Processes for augmentation beside the training; with 0 the training augments by itself, so that
            its CPU seconds hold everything. The planner takes this for its number of threads and stands no 0.
    """
    for name in ("raw", "preprocessed", "results"):
        folder = work / name
        folder.mkdir(parents=True, exist_ok=True)
        os.environ[f"nnUNet_{name}"] = str(folder.resolve())
    os.environ.update(nnUNet_n_proc_DA=str(augmenting))


def one_thread(keep_memory: bool = True) -> None:
    """Compute on one thread and let glibc keep freed memory in the process, as our own training and inference do."""
    torch.set_num_threads(1)
    if keep_memory:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def peak_mib() -> float:
    """Greatest resident memory of this process so far in MiB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class SampleNorm(nn.InstanceNorm3d):
    """Instance normalisation that keeps the channels-last layout: batch normalisation of one sample at a time.

    The same numbers and parameters as `torch.nn.InstanceNorm3d`, which copies into the plain layout and back.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, D, H, W)."""
        parts = [
            torch.batch_norm(s, self.weight, self.bias, None, None, True, 0.0, self.eps, False) for s in x.split(1)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def for_processor(network: nn.Module) -> nn.Module:
    """nnU-Net's network in channels-last layout; parameters keep their names."""
    for module in network.modules():
        if type(module) is nn.InstanceNorm3d:
            module.__class__ = SampleNorm
    arguments: dict[str, Any] = {"memory_format": torch.channels_last_3d}
    return network.to(**arguments)
