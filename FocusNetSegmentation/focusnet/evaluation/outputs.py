"""The files of an evaluation: CSV, JSON, report and tables; each appears complete or not at all."""

from __future__ import annotations

import csv
import io
import json
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
import SimpleITK as sitk

import focusnet
from focusnet import organs
from focusnet.errors import FocusNetError
from focusnet.evaluation.case import CSV_COLUMNS, Row
from focusnet.evaluation.definitions import METRICS, STATES, STATISTICS
from focusnet.evaluation.job import CaseOutcome
from focusnet.evaluation.localisation import LOCALISATION_LIMITS_MM
from focusnet.evaluation.statistics import Contest, PairedTest
from focusnet.evaluation.summary import OrganSummary, summarise_rows
from focusnet.evaluation.tables import latex, markdown_tables, paper_table
from focusnet.io.atomic import atomic_path

if TYPE_CHECKING:
    from focusnet.evaluation.run import EvaluationResult

SCHEMA = 1
METRICS_CSV = "metrics.csv"
METRICS_JSON = "metrics.json"
REPORT_HTML = "report.html"
TABLE_FILES = {"markdown": "tables.md", "latex": "tables.tex"}


def check_output_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds an earlier evaluation, before any work is done.

    Raises:
        FocusNetError: ``E_OUTPUT_EXISTS``.
    """
    if folder.exists() and not folder.is_dir():
        raise FocusNetError("E_OUTPUT_EXISTS", f"'{folder.name}' is a file; name a folder for the results.")
    found = [name for name in (METRICS_CSV, METRICS_JSON, REPORT_HTML) if (folder / name).exists()]
    if found and not overwrite:
        raise FocusNetError(
            "E_OUTPUT_EXISTS",
            f"'{folder.name}' holds an earlier evaluation ({', '.join(found)}); choose another folder or allow "
            "overwriting.",
        )


def write_outputs(result: EvaluationResult, folder: Path) -> dict[str, Path]:
    """Write all files of an evaluation; those of an earlier one are removed first.

    Args:
        result: What was found.
        folder: Made where it is missing.

    Returns:
        Path by name of the file; without the report where jinja2 is not installed.

    Raises:
        FocusNetError: ``E_OUTPUT_WRITE``.
    """
    _remove_earlier(folder)
    first, *others = result.rows
    tables = {METRICS_CSV: _rows_csv(result.rows[first])}
    if result.observer:
        tables["metrics_observer.csv"] = _rows_csv(result.observer)
    for number, method in enumerate(others, start=2):
        name = f"metrics_{_slug(method)}.csv"
        tables[name if name not in tables else f"metrics_{number}.csv"] = _rows_csv(result.rows[method])
    if result.tests:
        tables["comparison.csv"] = _tests_csv(result.tests)
    written = {name: _write_text(folder / name, _as_csv(table)) for name, table in tables.items()}
    for kind in result.options.tables:
        if kind == "markdown":
            text = markdown_tables(result.rows, result.tests)
        else:
            text = latex(paper_table(result.rows, result.tests))
        written[TABLE_FILES[kind]] = _write_text(folder / TABLE_FILES[kind], text)
    if find_spec("jinja2") is not None:
        from focusnet.evaluation.report import render_report

        written[REPORT_HTML] = _write_text(folder / REPORT_HTML, render_report(result))
    content = as_json(result) | {"files": [*written, METRICS_JSON]}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    written[METRICS_JSON] = _write_text(folder / METRICS_JSON, text + "\n")
    return written


def versions() -> dict[str, str]:
    """Versions that the numbers depend on."""
    return {
        "slicer-focusnet": focusnet.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "SimpleITK": sitk.Version.VersionString(),
    }


def as_json(result: EvaluationResult) -> dict[str, Any]:
    """Everything that an evaluation found, with definitions, versions and hashes; no paths."""
    methods = {**result.rows, **({"second observer": result.observer} if result.observer else {})}
    keys = sorted({row.organ for rows in methods.values() for row in rows}, key=list(organs.CATALOGUE).index)
    settings = result.jobs[0].settings
    return {
        "schema": SCHEMA,
        "disclaimer": focusnet.DISCLAIMER,
        "versions": versions(),
        "definitions": {
            "measures": {field: {"unit": m.unit, "definition": m.definition} for field, m in METRICS.items()},
            "states": STATES,
            "statistics": STATISTICS,
            "added_path_length_tolerance_mm": settings.apl_tolerance_mm,
            "localisation_limits_mm": LOCALISATION_LIMITS_MM,
            "tolerances_mm": {
                key: {
                    "value": settings.tolerance_of(key),
                    "source": "given"
                    if key in settings.tolerances_mm
                    else "default"
                    if organs.organ(key).tolerance_is_default
                    else "published",
                }
                for key in keys
            },
        },
        "seed": result.options.seed,
        "patients": {job.case: job.patient for job in result.jobs if job.patient != job.case},
        "cases": {outcome.case: _case_json(outcome) for outcome in result.outcomes},
        "not_compared": asdict(result.unscored),
        "summary": {name: {s.organ: _summary_json(s) for s in summarise_rows(rows)} for name, rows in methods.items()},
        "comparison": [{**test.contest._asdict(), **_without(asdict(test), "contest")} for test in result.tests],
        "rows": {name: [asdict(row) for row in rows] for name, rows in methods.items()},
    }


def _case_json(outcome: CaseOutcome) -> dict[str, Any]:
    if outcome.error is not None:
        return {"error": {"code": outcome.error.code, "message": outcome.error.message}}
    return {
        "grid": dict(outcome.grids),
        "sha256": dict(outcome.sha256),
        "unmapped": {source: list(names) for source, names in outcome.unmapped.items()},
        "notes": {source: list(lines) for source, lines in outcome.notes.items()},
        "flags": [asdict(flag) for flag in outcome.flags],
    }


def _summary_json(summary: OrganSummary) -> dict[str, Any]:
    return {
        "states": dict(summary.states),
        "small": summary.is_small,
        "measures": {field: asdict(measure) for field, measure in summary.measures.items()},
        "volumes_ml": summary.volumes_ml and summary.volumes_ml._asdict(),
        "localisation": summary.localisation and summary.localisation._asdict(),
    }


def _without(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name != key}


def _rows_csv(rows: Iterable[Row]) -> list[list[Any]]:
    return [list(CSV_COLUMNS), *([getattr(row, column) for column in CSV_COLUMNS] for row in rows)]


def _tests_csv(tests: Iterable[PairedTest]) -> list[list[Any]]:
    plain = [f.name for f in fields(PairedTest) if f.name not in ("contest", "interval")]
    heading = [*Contest._fields, *plain, "interval_low", "interval_high"]
    return [heading, *([*t.contest, *(getattr(t, name) for name in plain), *(t.interval or ("", ""))] for t in tests)]


def _as_csv(table: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    return text.getvalue()


def _write_text(path: Path, text: str) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def _remove_earlier(folder: Path) -> None:
    """Remove the files that an earlier evaluation lists as its own."""
    try:
        listed = json.loads((folder / METRICS_JSON).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in listed:
        if isinstance(name, str) and re.fullmatch(r"[\w-]+\.(csv|json|html|md|tex)", name):
            (folder / name).unlink(missing_ok=True)


def _slug(name: str) -> str:
    return re.sub(r"[^\w-]+", "_", name).strip("_") or "method"
