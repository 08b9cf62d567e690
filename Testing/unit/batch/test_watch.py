"""A watched folder: what counts as complete, with a clock of the test's own; and the command as a process."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from focusnet.batch import WatchOptions, arrivals
from focusnet.cli import run
from focusnet.errors import FocusNetError
from focusnet.io.dicom import read_series
from focusnet.io.names import structure_names
from pydicom.uid import generate_uid


class Clock:
    """Time passes only while the watcher sleeps; ``events`` happen at their seconds."""

    def __init__(self, events):
        self.now, self.events = 0.0, dict(events)

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for due in [at for at in self.events if at <= self.now]:
            self.events.pop(due)()


@pytest.fixture
def incoming(tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    return folder


def files_of(folder):
    return sorted(folder.iterdir())


def watch(incoming, events=(), settle=10.0):
    clock = Clock(events)
    found = arrivals(incoming, WatchOptions(settle, 1.0, once=True), clock, clock.sleep)
    return [(clock.now, [path.name for path in case.files]) for case in found]


def test_a_series_is_given_when_nothing_of_it_has_changed_for_a_while(incoming, dicom_folder):
    files = files_of(dicom_folder)
    shutil.copy(files[0], incoming)

    def more():
        for path in files[1:]:
            shutil.copy(path, incoming)

    assert watch(incoming, {4: more}) == [(14.0, [path.name for path in files])]


def test_a_file_that_still_grows_is_waited_for(incoming, dicom_folder):
    for path in files_of(dicom_folder):
        shutil.copy(path, incoming)
    last = incoming / "9.dcm"
    whole = last.read_bytes()
    last.write_bytes(whole[:300])

    assert watch(incoming, {3: lambda: last.write_bytes(whole[:4000]), 8: lambda: last.write_bytes(whole)}) == [
        (18.0, [path.name for path in files_of(dicom_folder)])
    ]


def test_slices_that_come_late_give_the_series_again(incoming, dicom_folder):
    *files, last = files_of(dicom_folder)
    for path in files:
        shutil.copy(path, incoming)
    clock = Clock({})
    found = arrivals(incoming, WatchOptions(10.0, 1.0, once=True), clock, clock.sleep)
    assert len(next(found).files) == len(files)
    shutil.copy(last, incoming)
    assert len(next(found).files) == len(files) + 1
    assert clock.now == 20.0
    assert list(found) == []


def test_a_series_that_is_cleared_away_is_not_given_again(incoming, dicom_folder):
    files = [Path(shutil.copy(path, incoming)) for path in files_of(dicom_folder)]
    clearing = {20 + number: path.unlink for number, path in enumerate(files[:6])}
    late = {60: lambda: shutil.copy(dicom_folder / files[0].name, incoming)}
    clock = Clock(clearing | late)
    found = arrivals(incoming, WatchOptions(10.0, 1.0), clock, clock.sleep)
    whole = next(found)
    assert (clock.now, len(whole.files)) == (10.0, len(files))
    rest = next(found)
    assert (clock.now, len(rest.files)) == (70.0, len(files) - 5)


def test_a_removal_is_a_change_that_must_settle_too(incoming, dicom_folder):
    files = [Path(shutil.copy(path, incoming)) for path in files_of(dicom_folder)]
    assert watch(incoming, {5: files[0].unlink, 9: files[1].unlink}) == [(19.0, [path.name for path in files[2:]])]


def test_mixed_series_are_told_apart_and_other_files_passed_over(incoming, dicom_folder):
    other = generate_uid()
    for path in files_of(dicom_folder):
        shutil.copy(path, incoming)
        ds = pydicom.dcmread(path)
        ds.SeriesInstanceUID, ds.SOPInstanceUID = other, generate_uid()
        (incoming / "deep").mkdir(exist_ok=True)
        ds.save_as(incoming / "deep" / path.name)
    ds.Modality = "MR"
    ds.save_as(incoming / "mr.dcm")
    (incoming / "notes.txt").write_text("no DICOM")
    (incoming / ".part").write_text("hidden")
    found = [names for _, names in watch(incoming)]
    assert sorted(found) == [[path.name for path in files_of(dicom_folder)]] * 2


def test_a_folder_that_goes_is_said(incoming):
    assert watch(incoming) == []
    with pytest.raises(FocusNetError, match="E_UNREADABLE"):
        watch(incoming / "absent")


def test_a_watch_that_is_refused_leaves_no_folder(tmp_path, capsys):
    assert run(["watch", str(tmp_path / "absent"), str(tmp_path / "out"), "--once"]) == 2
    assert capsys.readouterr().err.startswith("E_UNREADABLE")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_the_command_segments_what_arrives_until_it_is_ended(incoming, dicom_folder, environment, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "focusnet", "watch", str(incoming), str(out), "--model", "tiny", "--device", "cpu"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--settle", "0.5", "--poll", "0.1"], stdout=log, stderr=log, env=environment
        )
        try:
            for path in files_of(dicom_folder):
                shutil.copy(path, incoming)
            deadline = time.monotonic() + 300
            written = out / "case_0001.rtstruct.dcm"
            while not (written.exists() and "done" in (out / "manifest.csv").read_text()):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 3
        finally:
            process.kill()
            process.wait()
    assert structure_names(written)
    assert pydicom.dcmread(written).StudyInstanceUID == pydicom.dcmread(dicom_folder / "0.dcm").StudyInstanceUID
    assert len((out / "manifest.csv").read_text().splitlines()) == 2
    assert len(files_of(incoming)) == len(files_of(dicom_folder))


def damage(path):
    """Give the modality a type that there is none of."""
    content = path.read_bytes()
    assert content.count(b"\x08\x00\x60\x00CS") == 1
    path.write_bytes(content.replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00ZZ"))


def test_a_damaged_file_is_passed_over(incoming, dicom_folder):
    for path in files_of(dicom_folder):
        shutil.copy(path, incoming)
    bad = incoming / "damaged.dcm"
    shutil.copy(files_of(dicom_folder)[0], bad)
    damage(bad)
    ((_, names),) = watch(incoming)
    assert names == [path.name for path in files_of(dicom_folder)]
    with pytest.raises(FocusNetError) as caught:
        read_series(incoming)
    assert caught.value.code == "E_UNREADABLE"


def test_folders_that_go_away_while_the_watcher_looks_are_passed_over(incoming, dicom_folder, monkeypatch):
    shutil.copytree(dicom_folder, incoming / "b")
    (incoming / "a").mkdir()
    scandir = os.scandir

    def removing(path="."):
        if not isinstance(path, int) and Path(path).name == "a":
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", removing)
    ((_, names),) = watch(incoming)
    assert names == [path.name for path in files_of(dicom_folder)]


def test_hidden_companions_that_macos_leaves_are_passed_over(dicom_folder, tmp_path):
    shutil.copytree(dicom_folder, tmp_path / "copy")
    (tmp_path / "copy" / "._slice0000.dcm").write_bytes(b"\x00\x05\x16\x07" * 50)
    np.testing.assert_array_equal(read_series(tmp_path / "copy").array, read_series(dicom_folder).array)
