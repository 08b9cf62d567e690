"""Names of structures to organs, with a user's own table."""

import numpy as np
import pytest
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry
from focusnet.io.names import NameMatch, match_names, read_name_table, structure_names
from focusnet.io.segmentation import Segment, Segmentation, write_segmentation


def test_every_name_gets_one_answer_in_order():
    names = ["Parotid_L", "parotis rechts", "PTV1", "", "Parotid_L"]
    found = match_names(names)
    assert [match.name for match in found] == names
    assert found[0] == NameMatch("Parotid_L", "parotid_l", "Parotid_L", "catalogue")
    assert [match.organ for match in found] == ["parotid_l", "parotid_r", None, None, "parotid_l"]


def test_unknown_names_come_with_suggestions_on_their_side():
    (match,) = match_names(["Parotit_L"])
    assert match.organ is None
    assert match.source is None
    assert match.suggestions[0] == "parotid_l"
    assert not any(key.endswith("_r") for key in match.suggestions)


def test_the_table_goes_before_the_catalogue_and_may_leave_out():
    table = {"Parotid_L": "parotid_r", "old cord": "", "  GTV  n ": "brain"}
    found = match_names(["parotid_l", "Old Cord", "gtv N", "Brainstem"], table)
    assert [(m.organ, m.source) for m in found] == [
        ("parotid_r", "table"),
        (None, "table"),
        ("brain", "table"),
        ("brainstem", "catalogue"),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "name,organ\nGl. parotis li,Parotid_L\nhelp,\n"),
        ("t.csv", "\ufeffOrgan;Name;why\nleft parotid;Gl. parotis li;a\n;help;b\n"),
        ("t.json", '{"Gl. parotis li": "parotid_l", "help": ""}'),
    ],
)
def test_tables_of_every_form(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_name_table(tmp_path / name) == {"Gl. parotis li": "parotid_l", "help": ""}


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("t.csv", b"name,organ\nx,kidney\n", "E_UNKNOWN_ORGAN"),
        ("t.csv", b"name,organ\nx,brain\nx,larynx\n", "E_NAME_TABLE"),
        ("t.csv", b"from,to\nx,brain\n", "E_NAME_TABLE"),
        ("t.csv", b"name,organ\nx\n", "E_NAME_TABLE"),
        ("t.csv", b"name,organ\n\xff\xfe,brain\n", "E_NAME_TABLE"),
        ("t.csv", b"", "E_NAME_TABLE"),
        ("t.json", b'["x"]', "E_NAME_TABLE"),
        ("t.json", b'{"x": 3}', "E_NAME_TABLE"),
        ("t.json", b"{", "E_NAME_TABLE"),
    ],
)
def test_bad_tables_are_refused(tmp_path, name, content, code):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FocusNetError) as caught:
        read_name_table(tmp_path / name)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_an_absent_table_is_refused(tmp_path):
    with pytest.raises(FocusNetError, match="E_NAME_TABLE"):
        read_name_table(tmp_path / "none.csv")


def test_names_of_a_segmentation_file(tmp_path):
    geometry = Geometry.from_parts((3, 4, 5))
    masks = [Segment(name, np.ones(geometry.shape_zyx, dtype=np.uint8)) for name in ("Brainstem", "ring 2")]
    write_segmentation(Segmentation(geometry, masks), tmp_path / "s.seg.nrrd")
    assert structure_names(tmp_path / "s.seg.nrrd") == ["Brainstem", "ring 2"]


def test_names_of_other_files_are_refused(tmp_path):
    (tmp_path / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x00\x00UL")
    with pytest.raises(FocusNetError):
        structure_names(tmp_path / "cut.dcm")
    with pytest.raises(FocusNetError):
        structure_names(tmp_path / "absent.seg.nrrd")
