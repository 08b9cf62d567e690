import json
from pathlib import Path

import pytest
from focusnet.organs import CATALOGUE, Organ
from focusnet.terminology import terminology_json, terminology_string


def test_string_has_slicers_form() -> None:
    assert terminology_string(CATALOGUE["parotid_l"]) == (
        "Segmentation category and type - FocusNet~SCT^123037004^Anatomical Structure~SCT^45289007^Parotid gland"
        "~SCT^7771000^Left~Anatomic codes - DICOM master list~^^~^^"
    )
    assert terminology_string(CATALOGUE["optic_nerve_r"]).split("~")[2:4] == [
        "SCT^18234004^Optic nerve",
        "SCT^24028007^Right",
    ]
    assert terminology_string(CATALOGUE["brainstem"]).split("~")[3] == "^^"


@pytest.mark.parametrize("organ", CATALOGUE.values(), ids=lambda o: o.key)
def test_string_has_seven_parts_of_three_codes(organ: Organ) -> None:
    parts = terminology_string(organ).split("~")
    assert len(parts) == 7
    assert all(part.count("^") == 2 for i, part in enumerate(parts) if i not in (0, 4))


def test_file_on_disk_is_the_catalogue(root: Path) -> None:
    path = root / "FocusNetSegmentation" / "Resources" / "FocusNet.term.json"
    assert path.read_text(encoding="utf-8") == terminology_json(), (
        f"Rewrite {path.name} with the text of focusnet.terminology.terminology_json()."
    )


def test_file_lists_every_organ_once_with_its_side() -> None:
    (category,) = json.loads(terminology_json())["SegmentationCodes"]["Category"]
    types = {t["CodeValue"]: t for t in category["Type"]}
    assert len(types) == len(category["Type"])
    for organ in CATALOGUE.values():
        entry = types[organ.snomed_code]
        assert entry["CodeMeaning"] == organ.snomed_meaning
        if organ.side:
            assert sorted(m["CodeMeaning"] for m in entry["Modifier"]) == ["Left", "Right"]
    parotid = {m["CodeMeaning"]: m for m in types["45289007"]["Modifier"]}
    assert parotid["Left"]["recommendedDisplayRGBValue"] == list(CATALOGUE["parotid_l"].colour)
    assert parotid["Right"]["3dSlicerLabel"] == "right parotid gland"
    assert types["91609006"]["3dSlicerLabel"] == "mandible"
    assert types["81745001"]["Modifier"][0]["3dSlicerLabel"] == "left eye"
