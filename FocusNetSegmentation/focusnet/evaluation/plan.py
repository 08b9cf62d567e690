"""What is to be evaluated: cases matched by name over all sources, and the organs to be compared in each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from focusnet import organs
from focusnet.errors import FocusNetError
from focusnet.evaluation.case import CaseSettings
from focusnet.evaluation.job import OBSERVER, REFERENCE, CaseJob
from focusnet.evaluation.reading import ReadSettings, find_cases, find_images, read_label_names
from focusnet.io.names import match_names, read_name_table

TABLE_FORMS = ("markdown", "latex")


@dataclass(frozen=True)
class EvaluationOptions:
    """What is compared, how, and what is written.

    Attributes:
        name: Name of the method that made the prediction.
        others: Places of further methods, by name; each is compared with the same reference.
        observer: Place of a second observer's contours, the human yardstick beside the methods.
        ct: CT of each case, for overlays and quality flags, and the grid of RTSTRUCT files.
        organs: Only these organ keys; those that the prediction does not hold then count as missed.
        label_names: JSON file with the names of label values; None to look beside the files.
        spellings: Table of own organ names, see :func:`focusnet.io.names.read_name_table`.
        cases: JSON file that lists the annotated organs of each case, and its patient where one has several scans
            (``{"cases": {case: {"scored": [...], "patient": "..."}}}``); None to look for ``cases.json`` beside the
            reference. Other organs of such a case are not compared.
        patients: Patient of each case; None to take them from ``cases``.
        tolerances_mm: Surface DSC tolerance by organ key, in place of the catalogue's.
        apl_tolerance_mm: Tolerance of the added path length.
        tables: Further tables to write: ``markdown``, ``latex``.
        jobs: Number of processes.
        seed: Seed of the bootstrap.
        overwrite: Replace an earlier evaluation in the output folder.
    """

    name: str = "prediction"
    others: Mapping[str, Path] = field(default_factory=dict)
    observer: Path | None = None
    ct: Path | None = None
    organs: tuple[str, ...] | None = None
    label_names: Path | None = None
    spellings: Path | None = None
    cases: Path | None = None
    patients: Mapping[str, str] | None = None
    tolerances_mm: Mapping[str, float] = field(default_factory=dict)
    apl_tolerance_mm: float = 0.0
    tables: tuple[str, ...] = ()
    jobs: int = 2
    seed: int = 0
    overwrite: bool = False


@dataclass(frozen=True)
class Unscored:
    """What was found and not compared, so that nothing is dropped in silence.

    Attributes:
        reference_only: Cases without a prediction.
        prediction_only: Cases without a reference.
        not_predicted: Organs of the reference that no prediction names, by method.
        no_reference: Organs that some prediction and no reference names.
        unmapped: Names unknown to the organ catalogue, with the sources that hold them.
        absent: Cases that a further method or the observer does not hold, by method.
        no_image: Cases without a CT where CTs are given.
    """

    reference_only: tuple[str, ...]
    prediction_only: tuple[str, ...]
    not_predicted: Mapping[str, tuple[str, ...]]
    no_reference: tuple[str, ...]
    unmapped: Mapping[str, tuple[str, ...]]
    absent: Mapping[str, tuple[str, ...]]
    no_image: tuple[str, ...]


def plan(reference: Path, prediction: Path, options: EvaluationOptions) -> tuple[tuple[CaseJob, ...], Unscored]:
    """One job per case that is on both sides, and what is on one side only.

    Raises:
        FocusNetError: ``E_NO_CASES``, ``E_USAGE``, ``E_UNKNOWN_ORGAN``, ``E_LABEL_NAMES``, ``E_NAME_TABLE``,
            ``E_CASES``.
    """
    reference, names = Path(reference), [options.name, *options.others]
    if len({REFERENCE, OBSERVER, *(name.casefold() for name in names)}) < len(names) + 2:
        raise FocusNetError("E_USAGE", f"Each method needs a name of its own; got {', '.join(names)}.")
    if unknown := set(options.tables) - set(TABLE_FORMS):
        raise FocusNetError("E_USAGE", f"No table form {', '.join(unknown)}; there are {', '.join(TABLE_FORMS)}.")
    references, places = find_cases(reference), {options.name: find_cases(prediction)}
    places |= {name: find_cases(place) for name, place in options.others.items()}
    if options.observer is not None:
        places[OBSERVER] = find_cases(options.observer)
    if _is_one(reference, references):
        (only,) = references
        asked = {options.name: prediction, **options.others, OBSERVER: options.observer}
        places = {n: _called(only, found) if _is_one(asked[n], found) else found for n, found in places.items()}
    predicted = places[options.name]
    cases = [case for case in references if case in predicted]
    if not cases:
        raise FocusNetError(
            "E_NO_CASES",
            f"No case is on both sides: the reference has {_few(references)}, the prediction {_few(predicted)}; "
            "cases are matched by name.",
        )
    for name, found in places.items():
        _check_common(name, found, cases)
    listed = options.cases or next((p for p in _beside(reference) if p.is_file()), None)
    settings = _settings(cases, {} if listed is None else read_annotations(listed), options)
    patients = options.patients
    if patients is None:
        patients = {} if listed is None else read_patients(listed)
    reading = ReadSettings(
        label_names=None if options.label_names is None else read_label_names(options.label_names),
        spellings=None if options.spellings is None else read_name_table(options.spellings),
    )
    images = {} if options.ct is None else find_images(options.ct)
    if len(cases) == 1 and _is_one(options.ct, images):
        images = _called(cases[0], images)
    if options.ct is not None:
        _check_common("the folder of CTs", images, cases)
    jobs = tuple(
        CaseJob(
            case,
            references[case],
            {name: found[case] for name, found in places.items() if case in found},
            settings[case],
            replace(reading, ct=images.get(case)),
            patients.get(case, case),
        )
        for case in cases
    )
    absent = {name: tuple(c for c in cases if c not in found) for name, found in places.items()}
    unscored = Unscored(
        reference_only=tuple(case for case in references if case not in predicted),
        prediction_only=tuple(case for case in predicted if case not in references),
        not_predicted={},
        no_reference=(),
        unmapped={},
        absent={name: cases_without for name, cases_without in absent.items() if cases_without},
        no_image=tuple(case for case in cases if options.ct is not None and case not in images),
    )
    return jobs, unscored


def _is_one(place: Path | None, found: Mapping[str, Path]) -> bool:
    """Whether a place is a case by itself, whatever its name, and not a folder of cases that happens to hold one."""
    return place is not None and list(found.values()) == [Path(place)]


def _called(case: str, found: Mapping[str, Path]) -> dict[str, Path]:
    return {case: next(iter(found.values()))}


def _check_common(name: str, found: Mapping[str, Path], cases: Sequence[str]) -> None:
    if not any(case in found for case in cases):
        raise FocusNetError(
            "E_NO_CASES",
            f"No case of {name} ({_few(found)}) is one of those compared ({_few(cases)}); cases are matched by name.",
        )


def read_annotations(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Organ keys to be scored in each case, from ``{"cases": {case: {"scored": [...] or "annotated": [...]}}}``.

    Cases that list neither are left out: all their organs count.

    Raises:
        FocusNetError: ``E_CASES`` when the file has another form, ``E_UNKNOWN_ORGAN`` for a name that the catalogue
            does not know.
    """
    path = Path(path)
    with _list_of_cases(path) as cases:
        entries = {case: entry.get("scored", entry.get("annotated")) for case, entry in cases.items()}
        listed = {case: names for case, names in entries.items() if names is not None}
        matches = {case: match_names(names) for case, names in listed.items()}
    unknown = sorted({match.name for found in matches.values() for match in found if match.organ is None})
    if unknown:
        raise FocusNetError("E_UNKNOWN_ORGAN", f"'{path.name}' lists organs unknown here: {', '.join(unknown)}.")
    return {case: tuple(match.organ for match in found if match.organ) for case, found in matches.items()}


def read_patients(path: str | Path) -> dict[str, str]:
    """Patient of each case, from ``{"cases": {case: {"patient": ...}}}``; cases that name none are left out.

    Raises:
        FocusNetError: ``E_CASES`` when the file has another form.
    """
    with _list_of_cases(Path(path)) as cases:
        return {case: str(entry["patient"]) for case, entry in cases.items() if entry.get("patient") is not None}


@contextmanager
def _list_of_cases(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield json.loads(path.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FocusNetError(
            "E_CASES",
            f"'{path.name}' does not list the organs of each case; write "
            '{"cases": {"CASE": {"scored": ["Brainstem"]}}}.',
        ) from error


def _settings(
    cases: Sequence[str], annotated: Mapping[str, tuple[str, ...]], options: EvaluationOptions
) -> dict[str, CaseSettings]:
    wanted = None if options.organs is None else tuple(organs.organ(key).key for key in options.organs)
    tolerances = {organs.organ(key).key: value for key, value in options.tolerances_mm.items()}
    settings = {}
    for case in cases:
        chosen = annotated.get(case, wanted)
        if wanted is not None and chosen is not None:
            chosen = tuple(key for key in chosen if key in wanted)
        settings[case] = CaseSettings(chosen, tolerances, options.apl_tolerance_mm)
    return settings


def _beside(reference: Path) -> Iterable[Path]:
    folder = reference if reference.is_dir() else reference.parent
    return (folder / "cases.json", folder.parent / "cases.json")


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
