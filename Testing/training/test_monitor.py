"""What a run tells: a whole status, a log that a resume cuts back, curves, pictures, one line on failure."""

import csv
import json

import numpy as np
import pytest
from focusnet.errors import FocusNetError
from focusnet.geometry import Geometry
from focusnet_training import monitor as monitor_module
from focusnet_training.config import StageConfig
from focusnet_training.datasets import PreparedCase
from focusnet_training.monitor import Monitor, Position, Step, progress_report
from focusnet_training.validation import ValidationResult

STAGES = (StageConfig(name="snet", steps=4), StageConfig(name="sol", steps=6))
ALWAYS = {"state", "message", "steps_done", "steps_total", "stage", "step", "stage_steps", "seconds"}


def status(folder):
    return json.loads((folder / "status.json").read_text())


def table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def step(monitor, stage, number, skipped=0, **terms):
    monitor.step(Position(stage, number), Step(terms, 1e-3 / number, skipped, 2.0, 0.5))


def validate(monitor, stage, step, score=0.5, **organs):
    monitor.validated(Position(stage, step), ValidationResult(score, organs, {}), score)


def test_losses_are_means_since_the_last_validation(tmp_path):
    monitor = Monitor(tmp_path, STAGES)
    for number, value in enumerate((1.0, 3.0), start=1):
        step(monitor, 0, number, focal=value, dice=0.5)
    step(monitor, 0, 3, skipped=1)  # a skipped step says nothing about the loss
    validate(monitor, 0, 3, brainstem=0.75)
    row = monitor.rows()[0]
    assert (row["loss_focal"], row["loss_dice"], row["dsc_brainstem"]) == (2.0, 0.5, 0.75)
    step(monitor, 0, 4, skipped=1, focal=7.0)
    monitor.tell("training")
    told = status(tmp_path)
    assert told.keys() >= ALWAYS
    assert (told["loss_focal"], told["learning_rate"], told["skipped"]) == (7.0, 2.5e-4, 1)
    assert (told["steps_done"], told["steps_total"], told["dsc_brainstem"], told["best_score"]) == (4, 10, 0.75, 0.5)


def test_the_estimate_is_the_pace_times_what_is_left(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(monitor_module.time, "monotonic", lambda: now[0])
    monitor = Monitor(tmp_path, STAGES)
    step(monitor, 0, 1)
    assert status(tmp_path)["seconds_left"] is None
    now[0] += 20.0
    step(monitor, 0, 3)  # two steps in 20 s, seven to go
    assert (status(tmp_path)["seconds_left"], status(tmp_path)["seconds"]) == (70.0, 20.0)
    monitor.tell("finished")
    assert status(tmp_path)["seconds_left"] == 0.0


def test_waiting_is_a_share_of_all_but_the_first_step(tmp_path):
    monitor = Monitor(tmp_path, STAGES)
    for stage, number, seconds, waited in ((0, 1, 9.0, 9.0), (0, 2, 2.0, 0.5), (0, 3, 2.0, 0.1), (1, 1, 5.0, 5.0)):
        monitor.step(Position(stage, number), Step({}, 1e-3, 0, seconds, waited))
        monitor.tell("training")
        told = status(tmp_path)
        if (stage, number) == (0, 3):
            assert (told["steps_per_second"], told["waiting_share"]) == (0.5, 0.15)
    assert "waiting_share" not in told


def test_a_row_is_logged_once(tmp_path):
    monitor = Monitor(tmp_path, STAGES)
    for _ in range(2):  # as when a crash comes between the log and the checkpoint
        monitor.log({"stage": "snet", "step": 4, "note": "undone"})
    assert len(monitor.rows()) == len(table(tmp_path)) == 1


def test_resume_forgets_what_came_after_the_checkpoint(tmp_path):
    first = Monitor(tmp_path, STAGES)
    for stage, step in ((0, 2), (0, 4), (1, 3)):
        validate(first, stage, step, brainstem=0.1 * step)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"stage": "sol", "st')  # cut short by a crash
    again = Monitor(tmp_path, STAGES)
    again.resume(Position(0, 4), {"focal": (3.0, 2)}, 50.0, due=True)
    assert [r["step"] for r in again.rows()] == [2]
    assert [r["step"] for r in table(tmp_path)] == ["2"]
    assert again.seconds >= 50.0
    validate(again, 0, 4)
    assert again.rows()[-1]["loss_focal"] == 1.5
    again.resume(Position(0, 4), {}, 60.0, due=False)
    assert [r["step"] for r in again.rows()] == [2, 4]


def test_table_has_the_columns_of_all_stages(tmp_path):
    monitor = Monitor(tmp_path, STAGES)
    validate(monitor, 0, 4, brainstem=0.5)
    monitor.validated(Position(1, 6), ValidationResult(-0.02, {}, {"lens_l": 2.0}), -0.02)
    rows = table(tmp_path)
    assert [(r["stage"], r["dsc_brainstem"], r["error_mm_lens_l"]) for r in rows] == [
        ("snet", "0.5", ""),
        ("sol", "", "2.0"),
    ]


def test_an_unwritable_folder_is_one_clear_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monitor = Monitor(blocked / "run", STAGES)
    with pytest.raises(FocusNetError, match=r"status\.json") as caught:
        monitor.tell("training")
    assert caught.value.code == "E_OUTPUT_WRITE"
    monitor.last_word("failed", "E_CHECKPOINT_WRITE: disk full")  # the reason is not hidden by a second failure


def test_other_processes_write_nothing(tmp_path):
    silent = Monitor(tmp_path, STAGES, writes=False)
    step(silent, 0, 1, focal=1.0)
    validate(silent, 0, 1)
    silent.tell("finished")
    assert list(tmp_path.iterdir()) == []


def test_curves_can_be_read_by_tensorboard_and_a_resume_voids_what_followed(tmp_path):
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    monitor = Monitor(tmp_path, STAGES)
    validate(monitor, 0, 4, brainstem=0.5)
    monitor.close()
    again = Monitor(tmp_path, STAGES)
    validate(again, 1, 2, score=0.6)
    again.close()
    found, starts = {}, []
    for file in sorted((tmp_path / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at < len(data):  # length, its checksum, event, its checksum
            size = int.from_bytes(data[at : at + 8], "little")
            event = proto.Event.FromString(data[at + 12 : at + 12 + size])
            at += 16 + size
            starts += [event.step] if event.HasField("session_log") else []
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    assert found["dsc/brainstem", 4] == 0.5
    assert found["score", 6] == pytest.approx(0.6)
    assert starts[-1] == 6


def test_training_works_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setitem(monitor_module.sys.modules, "tensorboardX", None)
    monitor = Monitor(tmp_path, STAGES)
    validate(monitor, 0, 4)
    monitor.close()
    assert not (tmp_path / "tensorboard").exists()
    assert len(monitor.rows()) == 1


def test_pictures_show_prediction_and_truth(tmp_path):
    labels = np.zeros((6, 40, 40), np.uint8)
    labels[2:5, 10:30, 10:30] = 1
    case = PreparedCase(
        "patient-name",
        np.zeros(labels.shape, np.int16),
        labels,
        Geometry.from_parts(labels.shape, (2, 2, 2)),
        np.ones(1, bool),
        np.ones(1, bool),
    )
    monitor = Monitor(tmp_path, STAGES)
    monitor.draw(Position(0, 4), case, np.roll(labels, 3, axis=2), ["brainstem"])
    validate(monitor, 0, 4)
    picture = tmp_path / status(tmp_path)["picture"]
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert b"patient-name" not in data
    assert picture.name == "snet-000004.png"
    monitor.draw(Position(1, 4), case, np.zeros_like(labels), ["larynx", "mandible"])
    assert (tmp_path / "pictures/sol-000004.png").exists()  # the truth alone guides it
    nothing = np.zeros_like(labels)
    empty = PreparedCase("x", case.ct, nothing, case.geometry, case.annotated, case.scored)
    monitor.draw(Position(1, 6), empty, nothing, ["brainstem"])
    assert not (tmp_path / "pictures/sol-000006.png").exists()


def test_progress_hears_share_and_time_left(tmp_path):
    heard = []
    monitor = Monitor(tmp_path, STAGES, progress_report(lambda *told: heard.append(told)))
    step(monitor, 0, 2, focal=1.0)
    validate(monitor, 0, 4, score=0.8125)
    assert heard[0][:3] == ("train", "snet training", 0.2)
    assert heard[1][:3] == ("train", "snet training, validation score 0.812", 0.4)
