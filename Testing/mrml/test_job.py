import errno
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from focusnet.errors import FocusNetError
from focusnet.segment import SegmentOptions

LPS_GRID = np.array([[-2.0, 0, 0, 39], [0, -2.2, 0, 38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
SHAPE = (30, 36, 40)
KEYS = {1: "parotid_l", 2: "parotid_r", 3: "brainstem", 4: "lens_l"}


class Child:
    """Stands for the child process: says what the test wants, and can put a result into the folder."""

    def __init__(self, arguments):
        self.folder = Path(arguments[2])
        self.lines = []
        self.code = None
        self.ended = False

    def poll(self):
        lines, self.lines = self.lines, []
        return lines, self.code

    def end(self):
        self.ended = True
        self.code = -9

    def say(self, **message):
        self.lines.append("@focusnet " + json.dumps(message))

    def finish(self):
        from focusnet.geometry import LabelMap
        from FocusNetSegmentationLib.exchange import Report, read_request, write_report

        volume, _ = read_request(self.folder)
        labels = LabelMap((volume.array // 100).astype(np.uint8), volume.geometry, KEYS)
        organs = {key: {"volume_ml": 1.0, "confidence": 0.9, "flags": []} for key in KEYS.values()}
        write_report(self.folder, Report(labels, organs, (), (), {"model": "m"}, 1.5))
        self.code = 0


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where jobs make their folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def job(scene, ct_node, temporary):
    """A running job; its child stand-in is ``job.child``."""
    from FocusNetSegmentationLib.job import SegmentationJob
    from FocusNetSegmentationLib.mrml import ResultOptions

    children = []
    made = SegmentationJob(
        ct_node(LPS_GRID, SHAPE),
        SegmentOptions("m"),
        ResultOptions(),
        lambda arguments: children.append(Child(arguments)) or children[-1],
    )
    made.child = children[0]
    return made


def test_progress_log_and_result(scene, job, temporary):
    assert job.poll()
    job.child.say(kind="progress", stage="segmenting", share=0.4, seconds_left=12.0)
    job.child.lines += ["some library says hello", "", "  "]
    assert job.poll()
    assert (job.progress.stage, job.progress.share, job.progress.seconds_left) == ("segmenting", 0.4, 12.0)
    assert job.log == ["some library says hello"]
    job.child.finish()
    assert not job.poll()
    assert set(job.outcome.result.nodes) == set(KEYS.values())
    assert job.outcome.result.nodes["lens_l"].GetAttribute("FocusNet.model") == "m"
    assert job.error is None
    assert list(temporary.iterdir()) == []
    assert not job.poll()


def test_a_ct_that_is_moved_meanwhile_gets_its_organs_where_it_lies(scene, job, transform_node):
    import slicer

    turn = np.array([[0, -1.0, 0, 15], [1, 0, 0, -7], [0, 0, 1, 4], [0, 0, 0, 1]])
    transform = transform_node(turn)
    job.volume_node.SetAndObserveTransformNodeID(transform.GetID())
    job.child.finish()
    assert not job.poll()
    ct = slicer.util.arrayFromVolume(job.volume_node)
    for value, key in KEYS.items():
        node = job.outcome.result.nodes[key]
        assert node.GetTransformNodeID() == transform.GetID()
        segment = node.GetSegmentation().GetNthSegmentID(0)
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, job.volume_node)
        np.testing.assert_array_equal(mask > 0, ct == 100 * value)


def test_a_ct_whose_voxels_change_meanwhile_gets_none(scene, job):
    import slicer

    slicer.util.updateVolumeFromArray(job.volume_node, np.zeros((4, 5, 6), np.int16))
    job.child.finish()
    assert not job.poll()
    assert job.error.code == "E_VOLUME_CHANGED"
    assert job.outcome is None


def test_cancel_ends_the_child_and_changes_nothing(scene, job, temporary):
    before = scene.GetNumberOfNodes()
    job.cancel()
    assert job.child.ended
    assert job.error.code == "E_CANCELLED"
    assert not job.poll()
    assert scene.GetNumberOfNodes() == before
    assert list(temporary.iterdir()) == []


def test_cancel_after_the_end_keeps_the_result(job):
    job.child.finish()
    job.poll()
    job.cancel()
    assert job.outcome is not None
    assert job.error is None


def test_removing_the_ct_ends_the_child(scene, job, temporary):
    scene.Clear(0)
    assert not job.poll()
    assert job.child.ended
    assert job.error.code == "E_VOLUME_GONE"
    assert list(temporary.iterdir()) == []


def test_refusal_is_the_reason_given(job, temporary):
    job.child.say(kind="error", code="E_NOT_CT", message="This is no CT.")
    job.child.code = 2
    assert not job.poll()
    assert str(job.error) == "E_NOT_CT: This is no CT."
    assert list(temporary.iterdir()) == []


def test_sudden_death_shows_the_last_line_and_the_likely_cause(job):
    job.child.lines = ["loading", "Killed here"]
    job.child.code = -9
    job.poll()
    assert job.error.code == "E_CHILD"
    assert "Killed here" in job.error.message
    assert "memory" in job.error.message


def test_exit_without_a_result_is_an_error(scene, job, temporary):
    before = scene.GetNumberOfNodes()
    job.child.code = 0
    assert not job.poll()
    assert job.error.code == "E_RESULT"
    assert scene.GetNumberOfNodes() == before
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("where", ["writing", "starting"])
def test_failed_start_leaves_no_copy_of_the_ct(scene, ct_node, temporary, monkeypatch, where):
    from FocusNetSegmentationLib import job as module
    from FocusNetSegmentationLib.mrml import ResultOptions

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "writing":
        monkeypatch.setattr(module, "write_request", fail)
    with pytest.raises(FocusNetError, match=r"E_START: .*No space left"):
        module.SegmentationJob(ct_node(LPS_GRID, SHAPE), SegmentOptions(), ResultOptions(), fail)
    assert list(temporary.iterdir()) == []


def test_volume_without_voxels_is_refused_before_anything_starts(scene, temporary):
    from FocusNetSegmentationLib.job import SegmentationJob
    from FocusNetSegmentationLib.mrml import ResultOptions

    with pytest.raises(FocusNetError, match="E_EMPTY_IMAGE"):
        SegmentationJob(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"), SegmentOptions(), ResultOptions())
    assert list(temporary.iterdir()) == []


def test_real_child_reports_why_it_refuses(scene, ct_node, temporary):
    from FocusNetSegmentationLib.job import SegmentationJob
    from FocusNetSegmentationLib.mrml import ResultOptions

    job = SegmentationJob(ct_node(LPS_GRID, SHAPE), SegmentOptions("no-such-model"), ResultOptions())
    end = time.monotonic() + 300
    while job.poll() and time.monotonic() < end:
        time.sleep(0.05)
    assert job.error.code == "E_UNKNOWN_MODEL"
    assert list(temporary.iterdir()) == []


def test_inside_slicer_its_python_is_started(monkeypatch):
    from FocusNetSegmentationLib import process as module

    started = []
    monkeypatch.setattr(module, "ChildProcess", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(module.runtime, "in_application", lambda: True)
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/opt/Slicer/bin/{name}")
    import slicer

    monkeypatch.setattr(slicer.util, "startupEnvironment", lambda: {"HOME": "h"})
    module.start_python(["-m", "x"])
    (command, environment) = started[0]
    assert command == ["/opt/Slicer/bin/PythonSlicer", "-m", "x"]
    assert environment["HOME"] == "h"
    assert environment["PYTHONPATH"] == str(module.LIBRARY)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(FocusNetError, match="E_START"):
        module.start_python([])
    assert sys.executable
