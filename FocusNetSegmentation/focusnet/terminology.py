"""Coded terms of the organs as 3D Slicer stores and lists them.

The strings carry every code themselves, so a segmentation keeps its terms where the context file is not installed. The
context file ``Resources/FocusNet.term.json`` lets a user pick the organs in Slicer's terminology selector.
"""

import json
from typing import Any

from focusnet.organs import CATALOGUE, Organ, Side

CONTEXT_NAME = "Segmentation category and type - FocusNet"
ANATOMIC_CONTEXT_NAME = "Anatomic codes - DICOM master list"
SCHEMA = "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/schemas/segment-context-schema.json#"
CATEGORY = ("123037004", "Anatomical Structure")
SIDE_MODIFIERS: dict[Side, tuple[str, str]] = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}


def terminology_string(organ: Organ) -> str:
    """Slicer's serialised terminology entry: context, category, type, side, and an empty anatomic region."""
    side = "^".join(("SCT", *SIDE_MODIFIERS[organ.side])) if organ.side else "^^"
    terms = ("^".join(("SCT", *CATEGORY)), f"SCT^{organ.snomed_code}^{organ.snomed_meaning}", side)
    return "~".join((CONTEXT_NAME, *terms, ANATOMIC_CONTEXT_NAME, "^^", "^^"))


def terminology_json() -> str:
    """Text of the terminology context file, one type per SNOMED CT concept, the sides as its modifiers.

    Where organs share a concept (the eye and its segments), the first of the catalogue gives its label and colour.
    """
    types: dict[str, dict[str, Any]] = {}
    for organ in CATALOGUE.values():
        entry = types.setdefault(organ.snomed_code, _code(organ.snomed_code, organ.snomed_meaning))
        if organ.side is None:
            entry.update(_display(organ))
            continue
        modifier = _code(*SIDE_MODIFIERS[organ.side]) | _display(organ)
        modifiers = entry.setdefault("Modifier", [])
        if modifier["CodeValue"] not in {m["CodeValue"] for m in modifiers}:
            modifiers.append(modifier)
    context = {
        "SegmentationCategoryTypeContextName": CONTEXT_NAME,
        "@schema": SCHEMA,
        "SegmentationCodes": {
            "Category": [
                _code(*CATEGORY)
                | {"showAnatomy": False, "Type": sorted(types.values(), key=lambda t: str(t["CodeMeaning"]))}
            ]
        },
    }
    return json.dumps(context, indent=2) + "\n"


def _code(value: str, meaning: str) -> dict[str, Any]:
    return {"CodingSchemeDesignator": "SCT", "CodeValue": value, "CodeMeaning": meaning}


def _display(organ: Organ) -> dict[str, Any]:
    return {"3dSlicerLabel": organ.name.lower(), "recommendedDisplayRGBValue": list(organ.colour)}
