"""The terminology context file and strings, read by Slicer's own terminology logic."""

from pathlib import Path

import pytest
from focusnet.organs import CATALOGUE
from focusnet.terminology import CONTEXT_NAME, terminology_string

slicer = pytest.importorskip("slicer")


def test_slicer_finds_every_organ_in_the_file(root: Path) -> None:
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    path = root / "FocusNetSegmentation" / "Resources" / "FocusNet.term.json"
    assert logic.LoadTerminologyFromFile(str(path)) == CONTEXT_NAME
    shared_codes = {"eye_anterior_l", "eye_anterior_r", "eye_posterior_l", "eye_posterior_r"}
    for organ in CATALOGUE.values():
        entry = slicer.vtkSlicerTerminologyEntry()
        assert logic.DeserializeTerminologyEntry(terminology_string(organ), entry)
        entry.SetTerminologyContextName("elsewhere")
        assert logic.UpdateEntryFromLoadedTerminologies(entry, [CONTEXT_NAME], [])
        assert entry.GetTerminologyContextName() == CONTEXT_NAME, organ.key
        assert entry.GetTypeObject().GetCodeValue() == organ.snomed_code
        assert entry.GetTypeObject().GetCodeMeaning() == organ.snomed_meaning
        side = entry.GetTypeModifierObject()
        assert (side.GetCodeMeaning() or None) == (organ.side.capitalize() if organ.side else None)
        if organ.key not in shared_codes:
            shown = side if organ.side else entry.GetTypeObject()
            assert tuple(shown.GetRecommendedDisplayRGBValue()) == organ.colour
            assert shown.GetSlicerLabel() == organ.name.lower()
