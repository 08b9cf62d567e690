"""``focusnet names``, and what ``batch`` and ``watch`` say and refuse on the command line."""

import json

import numpy as np
import pytest
from focusnet import DISCLAIMER
from focusnet.batch import run as batch_run
from focusnet.batch.work import run_task
from focusnet.geometry import Geometry
from focusnet.io.image import write_image
from focusnet.io.segmentation import Segment, Segmentation, write_segmentation


@pytest.fixture
def structures(tmp_path):
    geometry = Geometry.from_parts((3, 4, 5))
    names = ("Parotid_L", "parotis rechts", "Parotit_L", "GTV 70", "zzz")
    segments = [Segment(name, np.ones(geometry.shape_zyx, dtype=np.uint8)) for name in names]
    write_segmentation(Segmentation(geometry, segments), tmp_path / "s.seg.nrrd")
    return tmp_path / "s.seg.nrrd"


@pytest.mark.parametrize("command", ["names", "batch", "watch"])
def test_every_subcommand_has_help_quiet_and_verbose(focusnet, command):
    code, out, _ = focusnet(command, "--help")
    assert code == 0
    for option in ("--quiet", "--verbose", "--json"):
        assert option in "\n".join(out)


def test_every_name_is_listed_known_or_not(focusnet, structures):
    code, out, err = focusnet("names", structures)
    assert code == 0
    meanings = {line.partition("  -> ")[0].strip(): line.partition("->")[2].strip() for line in out}
    assert list(meanings) == ["Parotid_L", "parotis rechts", "Parotit_L", "GTV 70", "zzz"]
    assert meanings["Parotid_L"] == "Parotid_L"
    assert meanings["parotis rechts"] == "Parotid_R"
    assert meanings["Parotit_L"].startswith("unknown; close: parotid_l")
    assert meanings["zzz"] == "unknown"
    assert err[0] == "2 of 5 names are known."
    assert "--table" in err[1]


def test_a_table_of_own_spellings_is_used(focusnet, structures, tmp_path):
    (tmp_path / "own.csv").write_text("name,organ\nParotit_L,Parotid_L\nGTV 70,\nzzz,brain\n")
    code, out, err = focusnet("names", structures, "--table", tmp_path / "own.csv", "--json")
    assert (code, err) == (0, [])
    (rows,) = map(json.loads, out)
    assert [(row["name"], row["organ"], row["source"]) for row in rows] == [
        ("Parotid_L", "parotid_l", "catalogue"),
        ("parotis rechts", "parotid_r", "catalogue"),
        ("Parotit_L", "parotid_l", "table"),
        ("GTV 70", None, "table"),
        ("zzz", "brain", "table"),
    ]
    _, out, err = focusnet("names", structures, "--table", tmp_path / "own.csv")
    assert out[3].endswith("left out by the own table")
    assert err == ["5 of 5 names are known."]
    (tmp_path / "own.csv").write_text("name,organ\nzzz,kidney\n")
    code, out, err = focusnet("names", structures, "--table", tmp_path / "own.csv")
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("E_UNKNOWN_ORGAN: ")


@pytest.fixture
def inline(monkeypatch):
    """Batches compute in this process."""

    class Pool:
        def run(self, tasks):
            for task in tasks:
                yield task, run_task(task)

    monkeypatch.setattr(batch_run, "_pool", lambda options: Pool())


def test_a_batch_tells_numbers_codes_and_no_names(focusnet, inline, ct, tiny_model, tmp_path):
    folder, out = tmp_path / "archive", tmp_path / "out"
    write_image(ct, folder / "Secret Person.nrrd")
    (folder / "Another Secret.nrrd").write_bytes(b"damaged")
    arguments = ["batch", folder, "-o", out, "--model", tiny_model, "--device", "cpu"]
    code, lines, err = focusnet(*arguments)
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("case 2 of 2: done in ")
    assert err == [
        "case 1 of 2: failed, E_UNREADABLE",
        "1 of 2 cases are done; see manifest.csv for the others.",
        DISCLAIMER,
    ]
    assert focusnet(*arguments, "-q") == (1, [], [])
    assert focusnet(*arguments, "--which", 1) == (0, [str(folder / "Another Secret.nrrd")], [])
    code, lines, _ = focusnet(*arguments, "--json", "--retry-failed")
    (row,) = map(json.loads, lines)
    assert (row["number"], row["status"], row["reason_code"], row["flags"]) == (1, "failed", "E_UNREADABLE", [])


def test_refusals_are_one_line_and_exit_code_2(focusnet, ct_file, tiny_model, tmp_path):
    folder = ct_file.parent
    for arguments, code in (
        (["batch", folder, "-o", folder / "out"], "E_USAGE"),
        (["watch", folder, folder / "out"], "E_USAGE"),
        (["batch", folder, "-o", tmp_path / "o", "--format", "stl"], "E_OUTPUT_FORMAT"),
        (["batch", folder, "-o", tmp_path / "o", "--model", "nothing"], "E_UNKNOWN_MODEL"),
        (["batch", tmp_path / "absent", "-o", tmp_path / "o"], "E_UNREADABLE"),
        (["batch", folder, "-o", tmp_path / "o", "--which", 3], "E_USAGE"),
        (["watch", tmp_path / "absent", tmp_path / "o2", "--once", "--model", tiny_model], "E_UNREADABLE"),
        (["names", tmp_path / "absent.dcm"], "E_UNREADABLE"),
    ):
        status, out, err = focusnet(*arguments)
        assert (status, out) == (2, []), arguments
        assert len(err) == 1, err
        assert err[0].startswith(f"{code}: "), err
    assert not (tmp_path / "o").exists()
