"""Is a data set fit to learn from? Checked before training and by ``focusnet check``.

An error takes its case out of the training; a warning is for a person to look at. Whether a patient is in two parts of
a split is refused earlier, where the data set is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from focusnet.errors import FocusNetError
from focusnet.geometry import LabelMap, Volume
from focusnet.io.atomic import atomic_path
from focusnet.io.image import read_image
from focusnet.organs import CATALOGUE
from focusnet.quality import check_output

from focusnet_training.datasets import Case, Dataset, read_case
from focusnet_training.parallel import in_turn

Severity = Literal["error", "warning"]
Progress = Callable[[int, int, str], None]

REPORT_VERSION = 1
LISTED_CASES = 5
QUALITY_CODES: dict[str, Severity] = {
    "sides_swapped": "error",
    "outside_body": "warning",
    "volume_out_of_range": "warning",
}


@dataclass(frozen=True)
class Finding:
    """Something wrong with a case.

    Attributes:
        case: Name of the case.
        code: ``sides_swapped``, ``no_labels``, ``duplicate_image``, or the reason code with which reading refused the
            case (``E_BAD_GEOMETRY``, ``E_LABELS``, ``E_NON_FINITE``, ``E_NOT_CT``, ...), all errors; ``empty_organ``,
            ``unlisted_organ``, ``outside_body``, ``volume_out_of_range``, warnings.
        organ: Canonical key, or None when the finding is about the whole case.
        severity: ``error``: the case is not trained on; ``warning``.
        message: One line for a person.
    """

    case: str
    code: str
    organ: str | None
    severity: Severity
    message: str


@dataclass(frozen=True)
class IntegrityReport:
    """What was found in a data set.

    Attributes:
        dataset: Its name.
        cases: Number of cases that were checked.
        findings: In the order of the cases, test cases first; errors of a case first.
    """

    dataset: str
    cases: int
    findings: tuple[Finding, ...]

    @property
    def excluded(self) -> dict[str, str]:
        """What is wrong with each case that is not trained on, by case."""
        reasons: dict[str, list[str]] = {}
        for finding in self.findings:
            if finding.severity == "error":
                reasons.setdefault(finding.case, []).append(f"{finding.message} [{finding.code}]")
        return {case: " ".join(lines) for case, lines in reasons.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the list of excluded cases."""
        return {**asdict(self), "excluded": list(self.excluded)}

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def to_text(self) -> str:
        """Lines for a person: each error, each warning with its cases, then the count."""
        lines = [f"{f.case}: error: {f.message} [{f.code}]" for f in self.findings if f.severity == "error"]
        alike: dict[tuple[str, str], list[Finding]] = {}
        for finding in self.findings:
            if finding.severity == "warning":
                alike.setdefault((finding.code, finding.message), []).append(finding)
        for (code, message), same in alike.items():
            more = f" and {len(same) - LISTED_CASES} more" if len(same) > LISTED_CASES else ""
            listed = ", ".join(f.case for f in same[:LISTED_CASES]) + more
            lines.append(f"{listed}: warning: {message} [{code}]")
        bad = self.excluded
        warned = {f.case for f in self.findings} - set(bad)
        verdict = f"{len(bad)} are excluded from training" if bad else "none is excluded from training"
        return "\n".join([*lines, f"{self.dataset}: {self.cases} cases, {verdict}, {len(warned)} with warnings only."])


def check_dataset(
    dataset: Dataset, names: Sequence[str] | None = None, *, progress: Progress | None = None, jobs: int = 2
) -> IntegrityReport:
    """Read every case once and look for what would spoil the training.

    Of two cases with one image the first is kept; a test case is before all others.

    Args:
        dataset: Description of the data.
        names: Cases to check; all by default. Of test cases that are not among them only the images are read.
        progress: Told the number of finished cases, of all cases, and the name of the case; what it raises stops the
            check.
        jobs: Cases at the same time.
    """
    names = [*dataset.test, *(n for n in dataset.cases if n not in dataset.test)] if names is None else list(names)
    findings: list[list[Finding]] = []
    tested = [name for name in dataset.test if name not in names]
    digests = in_turn(lambda name: _image_digest(dataset.cases[name]), tested, jobs)
    owner = {digest: dataset.cases[name] for name, digest in zip(tested, digests, strict=True)}
    checked = in_turn(lambda name: _check(dataset, name), names, jobs)
    for name, (found, digest) in zip(names, checked, strict=True):
        case = dataset.cases[name]
        other = owner.setdefault(digest, case) if digest else case
        if other.patient != case.patient:
            message = f"has the same image as {other.name}, which counts as another patient."
            found = [Finding(name, "duplicate_image", None, "error", message), *found]
        findings.append(sorted(found, key=lambda f: f.severity))
        if progress is not None:
            progress(len(findings), len(names), name)
    return IntegrityReport(dataset.name, len(names), tuple(f for found in findings for f in found))


def check_pair(case: str, ct: Volume, labels: LabelMap, annotated: Iterable[str]) -> list[Finding]:
    """Findings about one CT (HU) and its labels, which share a grid.

    Args:
        case: Name for the findings.
        ct: CT in HU.
        labels: Labels by organ.
        annotated: Organs said to be drawn.
    """
    listed = set(annotated)
    present = {labels.organs[value] for value in np.unique(labels.array).tolist() if value}
    if not present:
        return [Finding(case, "no_labels", None, "error", "no voxel is labelled.")]
    found = []
    for key in sorted(listed - present):
        message = (
            f"{CATALOGUE[key].name}: said to be annotated, but has no voxel; if it was not drawn, say so in cases.json."
        )
        found.append(Finding(case, "empty_organ", key, "warning", message))
    for key in sorted(present - listed):
        message = f"{CATALOGUE[key].name}: labelled, but not listed as annotated; it is not learned from this case."
        found.append(Finding(case, "unlisted_organ", key, "warning", message))
    for flag in check_output(labels, ct, ()):
        if flag.code in QUALITY_CODES:
            found.append(Finding(case, flag.code, flag.organ, QUALITY_CODES[flag.code], flag.message))
    return found


def check_once(dataset: Dataset, record: Path, *, progress: Progress | None = None, jobs: int = 2) -> IntegrityReport:
    """Check the training and validation cases, also against the images of the test cases.

    What an earlier check of the same files found is read from its record.

    Args:
        dataset: Description of the data.
        record: JSON file that keeps the report.
        progress: As for `check_dataset`.
        jobs: Cases at the same time.

    Raises:
        FocusNetError: ``E_OUTPUT_WRITE``.
    """
    key = _key(dataset)
    report = _recorded(record, key)
    if report is None:
        report = check_dataset(dataset, (*dataset.training, *dataset.validation), progress=progress, jobs=jobs)
        with atomic_path(record) as partial:
            partial.write_text(json.dumps({"key": key, **report.to_dict()}, indent=1), encoding="utf-8")
    return report


def _check(dataset: Dataset, name: str) -> tuple[list[Finding], str]:
    """Findings about a case, and the hash of its voxels (empty where it can't be read)."""
    try:
        ct, labels = read_case(dataset, name)
        return check_pair(name, ct, labels, dataset.cases[name].annotated), _digest(ct)
    except FocusNetError as error:
        return [Finding(name, error.code, None, "error", error.message)], ""
    except MemoryError:
        message = "memory does not suffice to read it; crop the scan."
        return [Finding(name, "E_OUT_OF_MEMORY", None, "error", message)], ""


def _image_digest(case: Case) -> str:
    """Hash of the voxels of a case whose labels don't matter; the name of one that can't be read."""
    try:
        return _digest(read_image(case.image))
    except (FocusNetError, MemoryError):
        return case.name


def _digest(ct: Volume) -> str:
    return hashlib.sha256(repr(ct.array.shape).encode() + np.rint(ct.array).astype(np.int16).tobytes()).hexdigest()


def _key(dataset: Dataset) -> str:
    """Changes with every file, label and list of organs that the check depends on."""
    cases = [
        (name, case.patient, sorted(case.annotated), [(p.stat().st_size, p.stat().st_mtime_ns) for p in files])
        for name in (*dataset.training, *dataset.validation, *dataset.test)
        for case in (dataset.cases[name],)
        for files in ((case.image, case.label),)
    ]
    content = repr((REPORT_VERSION, sorted(dataset.labels.items()), sorted(cases), dataset.test))
    return hashlib.sha256(content.encode()).hexdigest()


def _recorded(record: Path, key: str) -> IntegrityReport | None:
    try:
        content = json.loads(record.read_text("utf-8"))
        if content["key"] != key:
            return None
        return IntegrityReport(
            content["dataset"], content["cases"], tuple(Finding(**finding) for finding in content["findings"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
