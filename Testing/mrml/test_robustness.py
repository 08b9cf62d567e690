"""What must not happen to a scene: half a node, an orphan process or a forgotten copy of a patient."""

import os
import signal
import sys
import tempfile
import time

import numpy as np
import pytest
from focusnet.segment import SegmentOptions
from FocusNetSegmentationLib.process import ChildProcess, is_running

LPS_GRID = np.array([[-2.0, 0, 0, 39], [0, -2.2, 0, 38], [0, 0, 2.4, -34], [0, 0, 0, 1]])
SHAPE = (30, 36, 40)
STAGES = ("loading the model", "segmenting", "writing")

# Goes from stage to stage and has a child of its own, whose number it tells.
WORKER = f"""
import subprocess, sys, time
from FocusNetSegmentationLib.protocol import emit
own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("grandchild", own.pid, flush=True)
for number, stage in enumerate({STAGES!r}):
    emit("progress", stage=stage, share=number / 3, seconds_left=None)
    time.sleep(0.3 if stage != "writing" else 600)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Where jobs make their folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def job(scene, ct_node, temporary, root):
    """A job whose child process is real."""
    from FocusNetSegmentationLib.job import SegmentationJob
    from FocusNetSegmentationLib.mrml import ResultOptions

    environment = {**os.environ, "PYTHONPATH": str(root / "FocusNetSegmentation")}
    children = []

    def start(arguments):
        children.append(ChildProcess([sys.executable, "-c", WORKER], environment))
        return children[0]

    job = SegmentationJob(ct_node(LPS_GRID, SHAPE), SegmentOptions("m"), ResultOptions(), start)
    job.pid = children[0]._process.pid
    yield job
    job.cancel()


def wait(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def reach(job, stage):
    """Poll until the job tells a stage; the number of the grandchild."""
    wait(lambda: job.poll() and job.progress.stage == stage)
    return int(next(line for line in job.log if line.startswith("grandchild")).split()[1])


def nothing_left(scene, before, temporary, *pids):
    assert scene.GetNumberOfNodes() == before
    assert list(temporary.iterdir()) == []
    wait(lambda: not any(_alive(pid) for pid in pids), 10)


def _alive(pid):
    """Running; one that only waits to be counted by its parent is not."""
    if not is_running(pid):
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123 - a file of the kernel
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("stage", STAGES)
def test_cancelling_at_each_stage(scene, job, temporary, stage):
    before = scene.GetNumberOfNodes()
    grandchild = reach(job, stage)
    job.cancel()
    assert job.error.code == "E_CANCELLED"
    nothing_left(scene, before, temporary, job.pid, grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_killing_the_child_is_told_and_leaves_no_orphan(scene, job, temporary):
    before = scene.GetNumberOfNodes()
    grandchild = reach(job, "writing")
    os.kill(job.pid, signal.SIGKILL)
    wait(lambda: not job.poll(), 20)
    assert job.error.code == "E_CHILD"
    assert "memory" in job.error.message
    nothing_left(scene, before, temporary, job.pid, grandchild)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_closing_the_scene_mid_run(scene, job, temporary):
    grandchild = reach(job, "segmenting")
    scene.Clear(0)
    before = scene.GetNumberOfNodes()
    assert not job.poll()
    assert job.error.code == "E_VOLUME_GONE"
    nothing_left(scene, before, temporary, job.pid, grandchild)


def run_for_real(ct, options, temporary):
    from FocusNetSegmentationLib.job import SegmentationJob
    from FocusNetSegmentationLib.mrml import ResultOptions

    job = SegmentationJob(ct, options, ResultOptions())
    wait(lambda: not job.poll(), 300)
    return job


def test_a_volume_that_is_no_ct_is_refused_by_the_real_child(scene, ct_node, temporary):
    ct = ct_node(LPS_GRID, SHAPE)
    before = scene.GetNumberOfNodes()
    job = run_for_real(ct, SegmentOptions("openkbp7", device="cpu"), temporary)
    assert job.error.code in {"E_NOT_CT", "E_NOT_HU", "E_EMPTY_IMAGE", "E_TOO_FEW_SLICES"}
    assert job.error.message.endswith(".")
    nothing_left(scene, before, temporary)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of file sizes")
def test_a_full_disk_while_the_child_writes(scene, ct_node, temporary, root, monkeypatch):
    """The child may write no file beyond 20 kB, as on a disk with no more room."""
    from FocusNetSegmentationLib.job import SegmentationJob
    from FocusNetSegmentationLib.mrml import ResultOptions

    code = (
        "import resource, signal, sys, types\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from focusnet.geometry import LabelMap\n"
        "from FocusNetSegmentationLib import worker\n"
        "from FocusNetSegmentationLib.exchange import Report, read_request, write_report\n"
        "def segment(folder):\n"
        "    volume, _ = read_request(folder)\n"
        "    labels = LabelMap(np.ones(volume.array.shape, np.uint8), volume.geometry, {1: 'brainstem'})\n"
        "    write_report(folder, Report(labels, {}, (), (), {}, 1.0))\n"
        "worker._segment = segment\n"
        "sys.exit(worker.main(Path(sys.argv[1]), int(sys.argv[2])))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(root / "FocusNetSegmentation")}
    ct = ct_node(LPS_GRID, SHAPE)
    before = scene.GetNumberOfNodes()
    job = SegmentationJob(
        ct,
        SegmentOptions("m"),
        ResultOptions(),
        lambda arguments: ChildProcess([sys.executable, "-c", code, *arguments[2:]], environment),
    )
    wait(lambda: not job.poll(), 120)
    assert job.error.code == "E_DISK", job.error
    assert "disk space" in job.error.message
    nothing_left(scene, before, temporary)
