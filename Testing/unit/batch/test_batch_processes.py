"""Batches in real processes: killed parents, lost and slow workers, Dask."""

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from focusnet.batch import find_archive, processes, run_batch
from focusnet.errors import FocusNetError
from focusnet.segment import Case, CaseResult

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def rows_of(folder):
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fake_serve(pipe, options, threads):
    """A worker whose cases say what is to happen."""
    if options.device == "never loads":
        os._exit(9)
    if options.device == "refused":
        pipe.send(FocusNetError("E_BUNDLE_HASH", "The weights were changed."))
        return
    pipe.send("ready")
    while True:
        task = pipe.recv()
        kind = task.case.path.name
        marker = task.out / f"{kind} was here"
        if kind.startswith("dies") or (kind.startswith("once") and not marker.exists()):
            marker.touch()
            os._exit(9)
        if kind.startswith("hangs"):
            time.sleep(600)
        pipe.send(CaseResult(task.case.name, "done", 0.1))


@pytest.fixture
def fake_workers(monkeypatch):
    """Workers as above, forked, so that they start at once."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(processes, "_serve", fake_serve)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_case_that_ends_or_holds_its_process_fails_alone(fake_workers, options, tmp_path):
    cases = []
    for name in ("good 1", "dies", "good 2", "once", "hangs", "good 3"):
        (tmp_path / name).write_text(name)
        cases.append(Case(name, tmp_path / name))
    start = time.monotonic()
    rows = run_batch(cases, tmp_path / "out", options(jobs=2, timeout_s=2.0), lambda *_: None)
    assert {row.number: (row.status, row.reason_code) for row in rows} == {
        1: ("done", ""),
        2: ("failed", "E_PROCESS_ENDED"),
        3: ("done", ""),
        4: ("done", ""),
        5: ("failed", "E_TIMEOUT"),
        6: ("done", ""),
    }
    assert time.monotonic() - start < 60


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(("device", "code"), [("never loads", "E_PROCESS_ENDED"), ("refused", "E_BUNDLE_HASH")])
def test_a_model_that_can_not_be_loaded_stops_the_batch_and_fails_no_case(
    fake_workers, archive, options, tmp_path, device, code
):
    good = options()
    batch = replace(good, segment=replace(good.segment, device=device))
    with pytest.raises(FocusNetError, match=code):
        run_batch(find_archive(archive(2)), tmp_path / "out", batch, lambda *_: None)
    assert rows_of(tmp_path / "out") == []


def command(archive, out, *more):
    fixed = ["--model", "tiny", "--device", "cpu", "--precision", "fp32", "--json"]
    return [sys.executable, "-m", "focusnet", "batch", str(archive), "-o", str(out), *fixed, *map(str, more)]


@posix
def test_a_batch_that_is_killed_goes_on_and_its_workers_end_with_it(archive, environment, tmp_path):
    folder, out = archive(5, bad=(1,)), tmp_path / "out"
    process = subprocess.Popen(command(folder, out), stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    second = json.loads(process.stdout.readline())
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (first["number"], first["status"], second["reason_code"]) == (1, "done", "E_UNREADABLE")
    assert children
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in children):  # noqa: PTH110 - not a file of ours
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)
    done = subprocess.run(command(folder, out), capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stderr
    told = [json.loads(line)["number"] for line in done.stdout.splitlines()]
    assert not {1, 2} & set(told)
    assert [(row["number"], row["status"]) for row in rows_of(out)] == [
        ("1", "done"),
        ("2", "failed"),
        ("3", "done"),
        ("4", "done"),
        ("5", "done"),
    ]
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith("case")) == [
        ".lock",
        "batch.json",
        "manifest.csv",
    ]


@pytest.fixture
def cluster(environment, tmp_path):
    """A Dask scheduler and two workers of this machine, each a process; address and workers."""
    pytest.importorskip("distributed")
    scheduler_file = tmp_path / "scheduler.json"
    settings = {**environment, "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False"}

    def start(*words):
        arguments = [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]]
        return subprocess.Popen(arguments, env=settings, stdout=log, stderr=log, cwd=tmp_path)

    with (tmp_path / "dask.log").open("w") as log:
        scheduler = start("dask_scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(scheduler_file))
        deadline = time.monotonic() + 120
        while not scheduler_file.exists() or not scheduler_file.read_text():
            assert time.monotonic() < deadline, (tmp_path / "dask.log").read_text()
            time.sleep(0.1)
        address = json.loads(scheduler_file.read_text())["address"]
        workers = [start("dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard") for _ in range(2)]
        yield address, workers
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


@posix
@pytest.mark.slow
def test_a_lost_dask_worker_loses_no_case(archive, options, cluster, environment, tmp_path, monkeypatch):
    address, workers = cluster
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = []

    def report(row, _):
        seen.append(row.number)
        if len(seen) == 2:
            workers[0].kill()

    rows = run_batch(find_archive(archive(8, bad=(3,))), tmp_path / "out", options(scheduler=address), report)
    assert sorted(seen) == list(range(1, 9))
    assert {row.number: row.reason_code for row in rows if row.status != "done"} == {4: "E_UNREADABLE"}
    assert len(list((tmp_path / "out").glob("case_*.seg.nrrd"))) == 7
    assert "patient" not in (tmp_path / "dask.log").read_text()


def test_a_scheduler_that_does_not_answer_is_refused(archive, options, tmp_path, monkeypatch):
    cluster = pytest.importorskip("focusnet.batch.cluster")
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with pytest.raises(FocusNetError, match="E_SCHEDULER"):
        run_batch(find_archive(archive(1)), tmp_path / "out", options(scheduler="tcp://127.0.0.1:9"), lambda *_: None)
