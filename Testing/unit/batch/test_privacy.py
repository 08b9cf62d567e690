"""Canaries in every text tag and in every path: what of them comes out of a batch."""

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from focusnet.io.dicom import PATIENT_STUDY_TAGS
from pydicom.datadict import DicomDictionary

CANARY = "Kanarienvogel"
TEXT = {"LO": 64, "SH": 16, "PN": 64, "LT": 200, "ST": 200, "UT": 200, "UC": 64}
DAY = "18991231"
NEEDED = {"SpecificCharacterSet", "SOPInstanceUID", "SOPClassUID", "RescaleType"}


def with_canaries(path: Path) -> int:
    """Put a canary into every text element that a CT slice may hold, and one into every date; how many."""
    ds = pydicom.dcmread(path)
    ds.SpecificCharacterSet = "ISO_IR 192"
    count = 0
    for tag, (kind, *_, keyword) in DicomDictionary.items():
        if not 0x0008_0000 <= tag < 0x0040_FFFF or keyword in NEEDED or not keyword or keyword in ds:
            continue
        if kind in TEXT:
            ds.add_new(tag, kind, f"{CANARY}{'^Ä' if kind == 'PN' else ''} {tag:x}"[: TEXT[kind]])
        elif kind == "DA":
            ds.add_new(tag, kind, DAY)
        count += 1
    ds.save_as(path)
    return count


def readable(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def texts(path: Path) -> dict[str, str]:
    """Text of the elements of a DICOM file, by keyword."""
    return {element.keyword or str(element.tag): str(element.value) for element in pydicom.dcmread(path).iterall()}


@pytest.mark.skipif(sys.platform == "win32", reason="TMPDIR")
def test_nothing_of_a_patient_leaves_a_batch_but_in_the_structure_set(dicom_folder, environment, tmp_path):
    archive = tmp_path / "archive" / f"{CANARY} 1"
    shutil.copytree(dicom_folder, archive)
    for path in archive.iterdir():
        assert with_canaries(path) > 1000
    uids = [pydicom.dcmread(archive / "0.dcm")[name].value for name in ("StudyInstanceUID", "SeriesInstanceUID")]
    # Three that fail: a damaged slice, a slice that is missing, an image that is no DICOM.
    for number, spoil in ((2, lambda p: p.write_bytes(p.read_bytes()[:700])), (3, Path.unlink)):
        spoil(shutil.copytree(archive, tmp_path / "archive" / f"{CANARY} {number}") / "5.dcm")
    (tmp_path / "archive" / f"{CANARY}.nrrd").write_text(f"NRRD0004\n# {CANARY}\ntype: {CANARY}\n")
    temporary, out = tmp_path / "tmp", tmp_path / "out"
    temporary.mkdir()
    formats = [word for name in ("rtstruct", "seg.nrrd", "nii.gz") for word in ("--format", name)]
    command = [sys.executable, "-m", "focusnet", "batch", str(tmp_path / "archive"), "-o", str(out), *formats, "-v"]
    done = subprocess.run(
        [*command, "--model", "tiny", "--device", "cpu", "--uncertainty"],
        capture_output=True,
        text=True,
        env={**environment, "TMPDIR": str(temporary)},
        cwd=temporary,
    )
    assert done.returncode == 1, done.stderr
    manifest = (out / "manifest.csv").read_text()
    assert [line.split(",")[2:4] for line in manifest.splitlines()[1:]] == [
        ["done", ""],
        ["failed", "E_UNREADABLE"],
        ["failed", "E_MISSING_SLICES"],
        ["failed", "E_OUTPUT_FORMAT"],
    ]
    assert list(temporary.iterdir()) == []
    secrets = [CANARY, DAY, *uids]
    assert not [secret for secret in secrets if secret in done.stdout + done.stderr]
    written = sorted(path for path in out.rglob("*") if path.is_file())
    assert len(written) == 8
    for path in written:
        assert CANARY not in str(path.relative_to(out))
        if path.suffix == ".dcm":
            open_to = {*PATIENT_STUDY_TAGS, "ReferencedSOPInstanceUID"}
            found = {key for key, text in texts(path).items() if CANARY in text or DAY in text}
            assert found <= open_to
            assert {"PatientName", "PatientID", "StudyDate"} <= found
        else:
            content = readable(path)
            assert not [secret for secret in secrets if secret.encode() in content], path.name
