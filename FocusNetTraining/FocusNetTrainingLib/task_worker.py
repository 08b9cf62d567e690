"""Work for the panel in a child process: ``python -m FocusNetTrainingLib.task_worker FOLDER PARENT_PID``.

Takes what to do from the folder, tells its progress in lines of :mod:`FocusNetSegmentationLib.protocol` and puts the
result into the folder. Exit codes are those of the command line. When its parent is gone, it ends and takes the folder
with it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from FocusNetSegmentationLib.protocol import emit
from FocusNetSegmentationLib.worker import end_with_parent, report_errors

from FocusNetTrainingLib.scene_cases import write_scans
from FocusNetTrainingLib.tasks import REQUEST_FILE, RESULT_FILE

SCANS = "scans"


def main(folder: Path, parent_pid: int) -> int:
    """Do the work and return the exit code."""
    end_with_parent(folder, parent_pid)
    return report_errors(lambda: _work(folder))


def _work(folder: Path) -> None:
    request = json.loads((folder / REQUEST_FILE).read_text("utf-8"))
    result = WORK[request["kind"]](folder, **request["arguments"])
    (folder / RESULT_FILE).write_text(json.dumps(result, ensure_ascii=False), "utf-8")


def check(folder: Path, data: str, run: str | None) -> dict[str, Any]:
    """Look through every case of a data set and measure it; with a run folder, the run need not check it again."""
    emit("progress", stage="reading the data set", share=0.0, seconds_left=None)
    from focusnet_training.datasets import read_dataset
    from focusnet_training.fingerprint import fingerprint as measure
    from focusnet_training.integrity import check_dataset, check_once
    from focusnet_training.runs import INTEGRITY_FILE

    dataset = read_dataset(Path(data))
    if run is None:
        report = check_dataset(dataset, progress=_told("checking the cases"))
    else:
        Path(run).mkdir(parents=True, exist_ok=True)
        report = check_once(dataset, Path(run) / INTEGRITY_FILE, progress=_told("checking the cases"))
    fingerprint = measure(dataset, progress=_told("measuring the cases"))
    return {
        "organs": list(dataset.organs),
        "training": len(dataset.training),
        "validation": len(dataset.validation),
        "excluded": list(report.excluded),
        "findings": [
            {"case": f.case, "severity": f.severity, "message": f.message, "code": f.code} for f in report.findings
        ],
        "spacing_xyz": [spread.median for spread in fingerprint.spacing_xyz_mm],
        "drawn": {organ.organ: organ.annotated for organ in fingerprint.organs},
        "cases": fingerprint.cases,
        "proposed_spacing_xyz": list(fingerprint.proposal.spacing_xyz),
        "proposed_small": list(fingerprint.proposal.small_organs),
    }


def _told(stage: str) -> Callable[[int, int, str], None]:
    """Progress over the cases of a data set, with the time left."""
    start = time.monotonic()

    def tell(done: int, cases: int, case: str) -> None:
        left = (time.monotonic() - start) / done * (cases - done)
        emit("progress", stage=stage, share=done / cases, seconds_left=left)

    return tell


def make_dataset(folder: Path, source: str | None, out: str, name: str) -> dict[str, Any]:
    """Make a data set of the scans below ``source``, or of those from the scene where it is None."""
    emit("progress", stage="looking for scans", share=0.0, seconds_left=None)
    if source is None:
        write_scans(folder, folder / SCANS)
    from focusnet_training.importing import ImportOptions, import_scans

    report = import_scans(
        Path(source or folder / SCANS), Path(out), ImportOptions(name, jobs=1), _told("taking over the scans")
    )
    findings = [
        {"case": scan.source, "severity": "error", "message": scan.error[1], "code": scan.error[0]}
        for scan in report.failed
        if scan.error is not None
    ]
    findings += [
        {"case": scan.source, "severity": "warning", "message": note, "code": "note"}
        for scan in report.scans
        for note in scan.notes
    ]
    findings += [
        {"case": f"{count} scans", "severity": "warning", "message": f"'{unknown}' is no known organ.", "code": "name"}
        for unknown, count in report.unmapped.items()
    ]
    return {
        "folder": out,
        "scans": len(report.scans) - len(report.failed),
        "patients": report.patients,
        "organs": list(report.annotated),
        "findings": findings,
    }


def install(folder: Path, run: str, overwrite: bool) -> dict[str, Any]:
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
    installed = install_bundle(Path(run) / "bundle", overwrite=overwrite)
    scores = [value for name, value in bundle.spec.metrics.items() if name.startswith("dsc_")]
    return {"name": installed.name, "mean_dsc": sum(scores) / len(scores) if scores else None}


WORK: dict[str, Callable[..., dict[str, Any]]] = {"check": check, "import": make_dataset, "install": install}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
