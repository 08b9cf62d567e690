"""What a reader should know before the numbers: failures, flags, missed and extra organs, what was not compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from focusnet import organs
from focusnet.evaluation.case import Row

if TYPE_CHECKING:
    from focusnet.evaluation.run import EvaluationResult


@dataclass(frozen=True)
class Notice:
    """One line of the summary that a reader should not miss; ``level`` is ``bad``, ``warn``, ``info`` or ``good``."""

    level: str
    title: str
    text: str


COMPLETE = Notice(
    "good",
    "Complete",
    "Every organ that the reference names was compared in every case that holds it: none missed, none extra, no "
    "unknown name.",
)


def find_notices(result: EvaluationResult, first: str) -> list[Notice]:
    """What a reader should know before the numbers, the gravest first."""
    unscored, rows = result.unscored, result.rows[first]
    grids = Counter(outcome.grids[first] for outcome in result.outcomes if first in outcome.grids)
    mixed = {text: count for text, count in grids.items() if not text.startswith("both on")}
    errors = [(o.case, flag) for o in result.outcomes for flag in o.flags if flag.severity == "error"]
    warnings = [flag.code.replace("_", " ") for o in result.outcomes for flag in o.flags if flag.severity == "warning"]
    notes = [(o.case, source, line) for o in result.outcomes for source, lines in o.notes.items() for line in lines]
    entries = [
        ("bad", "Failed", [f"{case}: {error}" for case, error in result.failed.items()]),
        ("bad", "Quality flags", [f"{flag.message} ({case})" for case, flag in errors]),
        ("bad", "Left out when read", [f"{line} ({source}, {case})" for case, source, line in notes]),
        ("bad", "Missed", _listed(rows, "missed")),
        ("bad", "Extra", _listed(rows, "extra")),
        ("warn", "In no prediction, not scored", [_names(keys) for keys in unscored.not_predicted.values()]),
        ("warn", "In no reference, not scored", [_names(unscored.no_reference)] if unscored.no_reference else []),
        ("warn", "Unknown names", [f"{name} ({', '.join(sources)})" for name, sources in unscored.unmapped.items()]),
        ("warn", "Cases without prediction", unscored.reference_only),
        ("warn", "Cases without reference", unscored.prediction_only),
        ("warn", "Not in every method", [f"{name}: {', '.join(cases)}" for name, cases in unscored.absent.items()]),
        ("warn", "Without CT", unscored.no_image),
        ("info", "Different grids", [f"{count} × {text}" for text, count in mixed.items()]),
        ("info", "Empty on both sides", _listed(rows, "both_empty")),
    ]
    states = Counter(row.state for row in rows)
    counts = {
        "Missed": states["missed"],
        "Extra": states["extra"],
        "Empty on both sides": states["both_empty"],
        "In no prediction, not scored": sum(map(len, unscored.not_predicted.values())),
        "In no reference, not scored": len(unscored.no_reference),
    }
    notices = [
        Notice(level, f"{title} ({counts.get(title, len(texts))})", "; ".join(texts))
        for level, title, texts in entries
        if texts
    ]
    if warnings:
        text = "; ".join(f"{count} × {code}" for code, count in Counter(warnings).items())
        notices.insert(sum(n.level == "bad" for n in notices), Notice("warn", f"Quality flags ({len(warnings)})", text))
    return notices if any(texts for level, _, texts in entries if level != "info") else [*notices, COMPLETE]


def _listed(rows: Iterable[Row], state: str) -> list[str]:
    by_organ: dict[str, list[str]] = {}
    for row in rows:
        if row.state == state:
            by_organ.setdefault(row.organ, []).append(row.case)
    return [f"{organs.organ(key).name} in {', '.join(cases)}" for key, cases in by_organ.items()]


def _names(keys: Iterable[str]) -> str:
    return ", ".join(organs.organ(key).name for key in keys)
