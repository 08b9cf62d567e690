"""Archives of small CTs, each with another content."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from focusnet.batch import BatchOptions
from focusnet.batch import run as batch_run
from focusnet.batch.work import Task, run_task
from focusnet.geometry import Volume
from focusnet.io.image import write_image
from focusnet.outputs import OutputOptions
from focusnet.segment import CaseResult, SegmentOptions


@pytest.fixture
def archive(ct: Volume, tmp_path: Path) -> Callable[..., Path]:
    """``archive(4, bad=(1,))``: a folder of four CTs, of which number 1 is damaged."""

    def make(count: int, bad: tuple[int, ...] = (), folder: str = "archive") -> Path:
        for number in range(count):
            path = tmp_path / folder / f"patient {number:03d}.nrrd"
            array = ct.array.copy()
            array[5, 20, 22] += np.int16(number)
            write_image(ct.with_array(array), path)
            if number in bad:
                path.write_bytes(path.read_bytes()[:900] + bytes([number]))
        return tmp_path / folder

    return make


@pytest.fixture
def options(tiny_model: str) -> Callable[..., BatchOptions]:
    """Batch options with the small model."""

    def make(formats: tuple[str, ...] = (), **more: object) -> BatchOptions:
        segment = SegmentOptions(tiny_model, device="cpu", precision="fp32", output=OutputOptions(formats))
        return BatchOptions(segment, **more)

    return make


class InlinePool:
    """Computes in this process, which starts at once."""

    def run(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, CaseResult]]:
        for task in tasks:
            yield task, run_task(task)


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches compute in this process."""
    monkeypatch.setattr(batch_run, "_pool", lambda options: InlinePool())


@pytest.fixture
def environment(tiny_bundle, tmp_path: Path) -> dict[str, str]:
    """Environment of another process that is to find the package and the small model."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "FOCUSNET_MODELS": str(tiny_bundle.folder.parent),
        "TMPDIR": str(tmp_path),
    }
