"""The work on one case, self-contained so that it can run in a process of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from focusnet.errors import FocusNetError
from focusnet.evaluation.case import CaseSettings, Row, lay_over, measure
from focusnet.evaluation.reading import ReadSettings, label_files, read_case
from focusnet.io import read_volume
from focusnet.quality import Flag, check_input, check_output

REFERENCE = "reference"
OBSERVER = "second observer"


@dataclass(frozen=True)
class CaseJob:
    """One case to be evaluated.

    Attributes:
        case: Name of the case.
        reference: Place of the reference.
        predictions: Place of each method's contours, by name of the method; the first one is checked for flags.
        settings: What is measured.
        reading: How labelled scans are read, with the CT of this case.
        patient: Whose scan it is; paired tests count each patient once.
    """

    case: str
    reference: Path
    predictions: Mapping[str, Path]
    settings: CaseSettings
    reading: ReadSettings
    patient: str


@dataclass(frozen=True)
class CaseOutcome:
    """What came of one case.

    Attributes:
        case: Name of the case.
        error: Why it failed; None when it is done.
        rows: Rows by method.
        grids: Grid compared on, in words, by method.
        named: Organs that each source names; a source is a method or ``reference``.
        unmapped: Names that the organ catalogue does not know, by source.
        notes: What was left out or decided when a source was read, by source.
        sha256: Hash of each source's files.
        flags: Quality flags of the CT and of the first method.
    """

    case: str
    error: FocusNetError | None = None
    rows: Mapping[str, list[Row]] = field(default_factory=dict)
    grids: Mapping[str, str] = field(default_factory=dict)
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unmapped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[Flag, ...] = ()


def run_case(job: CaseJob) -> CaseOutcome:
    """Read and measure one case; a refusal becomes part of the outcome."""
    try:
        places = {REFERENCE: job.reference, **job.predictions}
        by_hand = replace(job.reading, drawn_only=True)
        sources = {
            name: read_case(place, by_hand if name in (REFERENCE, OBSERVER) else job.reading)
            for name, place in places.items()
        }
        pairs = {name: lay_over(sources[REFERENCE], sources[name]) for name in job.predictions}
        checked = sources[next(iter(job.predictions))].to_labelmap()
        ct = None if job.reading.ct is None else read_volume(job.reading.ct)
        return CaseOutcome(
            job.case,
            rows={name: measure(pair, job.case, job.settings) for name, pair in pairs.items()},
            grids={name: pair.statement for name, pair in pairs.items()},
            named={name: tuple(source.masks) for name, source in sources.items()},
            unmapped={name: source.unmapped for name, source in sources.items() if source.unmapped},
            notes={name: source.notes for name, source in sources.items() if source.notes},
            sha256={name: _sha256(place) for name, place in places.items()},
            flags=(*(() if ct is None else check_input(ct)), *check_output(checked, ct, ())),
        )
    except FocusNetError as error:
        return CaseOutcome(job.case, error)
    except MemoryError:
        message = "Memory does not suffice for this case; run with one job or crop the scans."
        return CaseOutcome(job.case, FocusNetError("E_OUT_OF_MEMORY", message))


def _sha256(place: Path) -> str:
    """Hash over the labelled files of a case, in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(label_files(place)):
        digest.update(file.read_bytes())
    return digest.hexdigest()
