"""What the panel shows of a result, as plain values: rows of the table, its headline, and where an organ lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from focusnet.organs import organ

RESULT_ATTRIBUTE = "FocusNet.Result"
"""Attribute of every node of a result, and of its folder."""
SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Row:
    """One organ of the result table.

    Attributes:
        key: Organ key.
        name: Human name.
        volume_ml: Volume in ml, 0 where the organ was not found.
        confidence: DSC to expect where the model was calibrated for the organ, else its mean probability; in [0, 1].
        severity: Worst of its flags, or empty.
        message: All its flags in words.
    """

    key: str
    name: str
    volume_ml: float
    confidence: float
    severity: str
    message: str


def table_rows(organs: Mapping[str, Mapping[str, Any]], flags: Sequence[Mapping[str, str]]) -> list[Row]:
    """Rows with the worst flags first, then in the model's order."""
    rows = []
    for key, values in organs.items():
        own = [flag for flag in flags if flag["organ"] == key]
        worst = min((SEVERITIES.index(flag["severity"]) for flag in own), default=None)
        name = organ(key).name
        message = " ".join(flag["message"].removeprefix(f"{name}: ") for flag in own)
        severity = "" if worst is None else SEVERITIES[worst]
        rows.append(Row(key, name, float(values["volume_ml"]), float(values["confidence"]), severity, message))
    return sorted(rows, key=lambda row: SEVERITIES.index(row.severity) if row.severity else len(SEVERITIES))


def headline(organs: Mapping[str, Mapping[str, Any]], flags: Sequence[Mapping[str, str]], seconds: float) -> str:
    """Findings on the whole scan first, then how many organs there are and how many need a look."""
    whole = [f"{flag['severity'].upper()}: {flag['message']}" for flag in flags if not flag["organ"]]
    found = sum(1 for values in organs.values() if values["volume_ml"] > 0)
    flagged = len({flag["organ"] for flag in flags if flag["organ"] and flag["severity"] != "info"})
    looks = f"; {flagged} to look at closely" if flagged else ""
    return "\n".join([*whole, f"{found} of {len(organs)} organs in {seconds:.0f} s{looks}. All are unreviewed."])


def jump_to_segment(node: Any, segment_id: str) -> bool:
    """Centre all slice views on a segment; False where it has no voxel."""
    from slicer.util import getNodesByClass

    centre = node.GetSegmentCenterRAS(segment_id)
    if centre is None:
        return False
    for view in getNodesByClass("vtkMRMLSliceNode"):
        view.JumpSliceByCentering(*centre)
    return True
