"""A training folder (nnU-Net v2 raw) of scans with drawn organs, in the formats of a clinic.

Organs are mapped through the catalogue and the user's own table. Where organs overlap, the smaller one keeps the shared
voxels (the lens in the eye, the cord in the canal). Nothing that identifies a patient goes into the folder: cases and
patients are numbers, image headers hold the grid alone. A scan that can't be used does not stop the others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from focusnet.errors import FocusNetError
from focusnet.geometry import Volume
from focusnet.io.atomic import atomic_path, new_folder
from focusnet.io.image import load_sitk, write_image
from focusnet.organs import suggest

from focusnet_training.parallel import in_turn
from focusnet_training.scan_reading import KEYS, DrawnScan, ScanRules, read_scan
from focusnet_training.scans import Scan, find_scans

ENDING = ".nrrd"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ImportOptions:
    """What is taken over, and how.

    Attributes:
        name: Name of the data set.
        description: One sentence on what the data are, kept in ``dataset.json`` and in model cards.
        rules: Organs, names and files.
        mapping: JSON file outside the data set for the folder of each case; None keeps no record.
        overwrite: Replace a data set that is there.
        jobs: Scans at the same time.
    """

    name: str = "Imported data"
    description: str = ""
    rules: ScanRules = field(default_factory=ScanRules)
    mapping: Path | None = None
    overwrite: bool = False
    jobs: int = 2


def _holds_dataset(folder: Path) -> bool:
    return (folder / "dataset.json").is_file()


@dataclass(frozen=True)
class ImportedScan:
    """What became of one scan.

    Attributes:
        case: ``case_0001``; the number is used up also where the import failed.
        source: Folder below the source, for the user's eyes only.
        organs: Annotated organs.
        unmapped: Names that neither the table nor the catalogue knows.
        notes: Overlaps, resampling, what lay outside the CT, doubtful sides and volumes; one line each.
        error: Reason code and message where the scan could not be used.
    """

    case: str
    source: str
    organs: tuple[str, ...] = ()
    unmapped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: tuple[str, str] | None = None


@dataclass(frozen=True)
class ImportReport:
    """What became of all scans, in order; ``patients`` counts those with a usable scan."""

    scans: tuple[ImportedScan, ...]
    patients: int

    @property
    def failed(self) -> tuple[ImportedScan, ...]:
        """Scans that could not be used."""
        return tuple(scan for scan in self.scans if scan.error is not None)

    @property
    def unmapped(self) -> dict[str, int]:
        """Number of scans with each unknown name, the most frequent first."""
        return dict(Counter(name for scan in self.scans for name in scan.unmapped).most_common())

    @property
    def annotated(self) -> dict[str, int]:
        """Number of cases with each organ, in the order of the catalogue."""
        counts = Counter(organ for scan in self.scans for organ in scan.organs)
        return {key: counts[key] for key in KEYS if counts[key]}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        unknown = [{"name": n, "scans": c, "suggestions": suggest(n)} for n, c in self.unmapped.items()]
        return {"patients": self.patients, "annotated": self.annotated, "unmapped": unknown} | {
            "scans": [asdict(scan) for scan in self.scans]
        }

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def to_text(self) -> str:
        """Lines for a person: notes by case, organs, unknown names, the count."""
        lines = [f"{scan.case} ({scan.source}): {note}" for scan in self.scans for note in scan.notes]
        lines += [f"{key}: drawn in {count} cases" for key, count in self.annotated.items()]
        for name, count in self.unmapped.items():
            close = ", ".join(suggest(name))
            lines.append(f"not mapped: '{name}' in {count} scans" + (f"; close: {close}" if close else ""))
        done = len(self.scans) - len(self.failed)
        return "\n".join([*lines, f"{done} of {len(self.scans)} scans of {self.patients} patients imported."])


@dataclass(eq=False)
class _Accepted:
    """What the description of the data set needs of the scans that were written."""

    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    patient_ids: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)


def import_scans(
    source: Path, out: Path, options: ImportOptions = ImportOptions(), progress: Progress | None = None
) -> ImportReport:
    """Make a training folder of the scans below ``source``.

    The folder appears complete or not at all. Scans are of one patient when they lie in one patient's folder, or when
    their DICOM files have one patient ID (which is compared and forgotten).

    Args:
        source: See `focusnet_training.scans`.
        out: New folder: imagesTr, labelsTr, dataset.json, cases.json.
        options: What is taken over.
        progress: Told the number of finished scans, of all scans, and the case; what it raises stops the import.

    Raises:
        FocusNetError: ``E_NO_CASES`` when there is no scan or none that can be used, ``E_OUTPUT_EXISTS``,
            ``E_OUTPUT_WRITE``, ``E_USAGE`` when the mapping would lie inside the data set, or the source.
    """
    if options.mapping is not None and options.mapping.resolve().is_relative_to(out.resolve()):
        raise FocusNetError("E_USAGE", "Keep the mapping of cases to patients outside the data set.")
    if source.resolve().is_relative_to(out.resolve()):
        raise FocusNetError("E_USAGE", "The data set would replace the scans it is made of; name another folder.")
    scans = find_scans(source)
    results: list[ImportedScan] = []
    accepted = _Accepted()
    with new_folder(out, options.overwrite, _holds_dataset) as folder:
        read = in_turn(partial(_read_or_refuse, rules=options.rules), scans, options.jobs)
        for number, (scan, drawn) in enumerate(zip(scans, read, strict=True), start=1):
            case = f"case_{number:04d}"
            if isinstance(drawn, FocusNetError):
                results.append(ImportedScan(case, scan.name, error=(drawn.code, drawn.message)))
            else:
                results.append(_write_scan(folder, case, scan, drawn, accepted))
            if progress is not None:
                progress(number, len(scans), case)
        if not accepted.details:
            codes = ", ".join(f"{scan.source}: {scan.error[0]}" for scan in results[:5] if scan.error)
            raise FocusNetError("E_NO_CASES", f"None of the {len(scans)} scans can be used ({codes}).")
        patients = _number_patients(accepted)
        _write_description(folder, accepted.details, options)
        if options.mapping is not None:
            with atomic_path(options.mapping, overwrite=options.overwrite) as partial_file:
                partial_file.write_text(json.dumps(accepted.folders, indent=1, ensure_ascii=False), encoding="utf-8")
    return ImportReport(tuple(results), patients)


def _read_or_refuse(scan: Scan, rules: ScanRules) -> DrawnScan | FocusNetError:
    try:
        return read_scan(scan, rules)
    except FocusNetError as error:
        return error
    except OSError as error:
        return FocusNetError("E_UNREADABLE", f"A file can't be read: {error.strerror}.")
    except MemoryError:
        return FocusNetError("E_OUT_OF_MEMORY", "Memory does not suffice; import with one job or crop the scan.")


def _write_scan(folder: Path, case: str, scan: Scan, drawn: DrawnScan, accepted: _Accepted) -> ImportedScan:
    write_image(drawn.ct, folder / "imagesTr" / f"{case}_0000{ENDING}")
    write_image(Volume(drawn.labels.array, drawn.labels.geometry), folder / "labelsTr" / f"{case}{ENDING}")
    accepted.details[case] = {
        "patient": scan.patient,
        "annotated": list(drawn.annotated),
        "scored": list(drawn.scored),
        "spacing_mm": [round(s, 4) for s in drawn.ct.geometry.spacing_xyz],
        "size": list(drawn.ct.array.shape[::-1]),
    }
    accepted.patient_ids[case], accepted.folders[case] = drawn.patient_id, scan.name
    return ImportedScan(case, scan.name, drawn.annotated, drawn.unmapped, drawn.notes)


def _number_patients(accepted: _Accepted) -> int:
    """Replace the patients' folders by numbers, the same for folders with one patient ID; how many there are."""
    folders = {case: detail["patient"] for case, detail in accepted.details.items()}
    ids = {case: patient_id for case, patient_id in accepted.patient_ids.items() if patient_id}
    if len(set(ids.values())) == 1 and len(set(folders.values())) > 1:
        ids = {}  # one ID for all is the mark of an anonymised export, not of one patient
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(name: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for case, patient_id in ids.items():
        parent[root(("ID", patient_id))] = root(("folder", folders[case]))
    numbers: dict[tuple[str, str], int] = {}
    for case, folder in folders.items():
        number = numbers.setdefault(root(("folder", folder)), len(numbers) + 1)
        accepted.details[case]["patient"] = f"patient_{number:04d}"
    return len(numbers)


def _write_description(folder: Path, details: dict[str, dict[str, Any]], options: ImportOptions) -> None:
    """Number the organs that occur from 1 on, as nnU-Net wants it, and describe the data set."""
    found = [key for key in KEYS if any(key in detail["annotated"] for detail in details.values())]
    values = np.zeros(256, np.uint8)
    values[[KEYS.index(key) + 1 for key in found]] = np.arange(1, len(found) + 1)
    for case in details:
        path = folder / "labelsTr" / f"{case}{ENDING}"
        labels = load_sitk(path)
        write_image(Volume(values[labels.array], labels.geometry), path, overwrite=True)
    description = {
        "name": options.name,
        "description": options.description,
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{key: number for number, key in enumerate(found, start=1)}},
        "file_ending": ENDING,
        "numTraining": len(details),
        "annotations": "cases.json",
    }
    for file, content in (("cases.json", {"cases": details}), ("dataset.json", description)):
        (folder / file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
