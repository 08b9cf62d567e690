"""Work for the panel in a child process: ``python -m FocusNetTrainingLib.task_worker KIND ARGUMENTS PARENT_PID``.

Tells its progress and its result in lines of :mod:`FocusNetSegmentationLib.protocol`; exit codes are those of the
command line. When its parent is gone, it ends.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from FocusNetSegmentationLib.process import is_running
from FocusNetSegmentationLib.protocol import emit
from FocusNetSegmentationLib.worker import FAILED, WATCH_SECONDS, report_errors


def main(kind: str, arguments: dict[str, Any], parent_pid: int) -> int:
    """Do the work and return the exit code."""
    threading.Thread(target=_end_with_parent, args=(parent_pid,), daemon=True).start()
    return report_errors(lambda: emit("result", content=WORK[kind](**arguments)))


def check(data: str, run: str | None) -> dict[str, Any]:
    """Look through every case of a data set; with a run folder, the run need not do it again."""
    emit("progress", stage="reading the data set", share=0.0, seconds_left=None)
    from focusnet_training.datasets import read_dataset
    from focusnet_training.integrity import check_dataset, check_once
    from focusnet_training.runs import INTEGRITY_FILE

    dataset = read_dataset(Path(data))
    start = time.monotonic()

    def progress(done: int, cases: int, case: str) -> None:
        left = (time.monotonic() - start) / done * (cases - done)
        emit("progress", stage="checking the cases", share=done / cases, seconds_left=left)

    if run is None:
        report = check_dataset(dataset, progress=progress)
    else:
        Path(run).mkdir(parents=True, exist_ok=True)
        report = check_once(dataset, Path(run) / INTEGRITY_FILE, progress=progress)
    return {
        "organs": list(dataset.organs),
        "training": len(dataset.training),
        "validation": len(dataset.validation),
        "excluded": list(report.excluded),
        "findings": [
            {"case": f.case, "severity": f.severity, "message": f.message, "code": f.code} for f in report.findings
        ],
    }


def install(run: str, overwrite: bool) -> dict[str, Any]:
    """Make a bundle of a run, measured on its validation cases, and add it to this computer's models."""
    emit("progress", stage="loading the run", share=0.0, seconds_left=None)
    from focusnet.model_store import install_bundle
    from focusnet_training.datasets import read_dataset
    from focusnet_training.runs import make_bundle, read_run

    config, facts = read_run(Path(run))
    cases = len(read_dataset(Path(facts["data"]), config.data.fold).validation)
    measured: list[str] = []
    start = time.monotonic()

    def tell(line: str) -> None:
        print(line, flush=True)
        measured.append(line)
        left = (time.monotonic() - start) / len(measured) * (cases - len(measured))
        emit("progress", stage="measuring on the validation cases", share=len(measured) / cases, seconds_left=left)

    bundle = make_bundle(Path(run), Path(run) / "bundle", overwrite=True, tell=tell)
    folder = install_bundle(Path(run) / "bundle", overwrite=overwrite)
    scores = [value for name, value in bundle.spec.metrics.items() if name.startswith("dsc_")]
    return {"name": folder.name, "mean_dsc": sum(scores) / len(scores) if scores else None}


WORK: dict[str, Callable[..., dict[str, Any]]] = {"check": check, "install": install}


def _end_with_parent(parent_pid: int) -> None:
    while is_running(parent_pid):
        time.sleep(WATCH_SECONDS)
    os._exit(FAILED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])))
