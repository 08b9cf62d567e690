"""Checkpoints: whole at every moment, never code."""

import io
import pickle
import random

import pytest
import torch
from focusnet.errors import FocusNetError
from focusnet_training import checkpoint


def test_round_trip(tmp_path):
    state = {"model": {"w": torch.arange(3.0)}, "step": 7, "best": float("-inf"), "optimizer": None}
    checkpoint.save_checkpoint(tmp_path / "last.pt", state)
    loaded = checkpoint.load_checkpoint(tmp_path / "last.pt")
    assert loaded["step"] == 7
    assert loaded["best"] == float("-inf")
    assert torch.equal(loaded["model"]["w"], state["model"]["w"])
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save_checkpoint(path, {"step": 1})

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(FocusNetError) as caught:
        checkpoint.save_checkpoint(path, {"step": 2})
    assert caught.value.code == "E_CHECKPOINT_WRITE"
    monkeypatch.undo()
    assert checkpoint.load_checkpoint(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_damage_anywhere_is_noticed(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save_checkpoint(path, {"model": {f"w{n}": torch.randn(50) for n in range(20)}, "step": 7})
    whole = path.read_bytes()
    sound = io.BytesIO()
    torch.save(checkpoint.load_checkpoint(path), sound)
    rng = random.Random(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            state = checkpoint.load_checkpoint(path)
        except FocusNetError:
            refused += 1
        else:  # padding, or a header that nothing reads
            again = io.BytesIO()
            torch.save(state, again)
            assert again.getvalue() == sound.getvalue()
    assert refused > 100


def test_memory_that_does_not_suffice_is_no_damage(tmp_path, monkeypatch):
    checkpoint.save_checkpoint(tmp_path / "last.pt", {"step": 1})

    def greedy(*given, **named):
        raise MemoryError

    monkeypatch.setattr(checkpoint.torch, "load", greedy)
    with pytest.raises(MemoryError):
        checkpoint.load_checkpoint(tmp_path / "last.pt")


@pytest.mark.parametrize("content", [b"", b"a", b"hello world\n", b"\x80\x02", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_foreign_files_are_refused(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(FocusNetError) as caught:
        checkpoint.load_checkpoint(tmp_path / "last.pt")
    assert caught.value.code == "E_CHECKPOINT"


@pytest.mark.parametrize("kind", ["missing", "text", "pickle", "code", "format"])
def test_what_is_not_a_checkpoint_is_refused(tmp_path, kind, capsys):
    path = tmp_path / "last.pt"
    if kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "code":
        torch.save({"format": 1, "model": Evil()}, path)
    elif kind == "format":
        torch.save({"format": 99}, path)
    with pytest.raises(FocusNetError) as caught:
        checkpoint.load_checkpoint(path)
    assert caught.value.code == "E_CHECKPOINT"
    assert "code ran" not in capsys.readouterr().out
