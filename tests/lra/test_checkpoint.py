"""Checkpoints: whole or skipped, the last two kept, data and never code, safe from ``kill -9``."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lra.training import checkpoint

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[int]:
    return sorted(int(path.name[5:14]) for path in folder.glob("step_*.pt"))


def state(step: int) -> dict:
    return {"step": step, "weight": torch.full((50,), float(step)), "nested": {"a": [1, 2.5, None]}}


def save(folder: Path, *steps: int) -> list[Path]:
    return [checkpoint.save(state(step), folder, step) for step in steps]


def test_round_trip(tmp_path):
    folder = tmp_path / "not yet there"
    assert checkpoint.load_newest(folder) is None
    save(folder, 10)
    found = checkpoint.load_newest(folder)
    assert found["step"] == 10 and found["nested"] == {"a": [1, 2.5, None]}
    assert torch.equal(found["weight"], torch.full((50,), 10.0))


def test_only_the_last_two_are_kept(tmp_path):
    save(tmp_path, 1, 2, 30, 100_000)
    assert names(tmp_path) == [30, 100_000]
    # the same step again (its times differ) is one checkpoint, not a second
    checkpoint.save({**state(100_000), "train_s": 2.0}, tmp_path, 100_000)
    assert names(tmp_path) == [30, 100_000]
    assert checkpoint.load_newest(tmp_path)["train_s"] == 2.0


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [tear, flip_a_bit, empty])
def test_a_damaged_newest_falls_back_with_a_warning(tmp_path, caplog, damage):
    _, newest = save(tmp_path, 10, 20)
    damage(newest)
    assert checkpoint.load_newest(tmp_path)["step"] == 10
    (record,) = caplog.records
    assert record.levelname == "WARNING" and newest.name in record.getMessage()
    assert "going back" in record.getMessage()


def test_all_damaged_is_none(tmp_path, caplog):
    for path in save(tmp_path, 10, 20):
        tear(path)
    assert checkpoint.load_newest(tmp_path) is None
    assert len(caplog.records) == 2


def test_a_run_that_came_back_keeps_two_whole_ones(tmp_path):
    """Damaged checkpoints of later steps must not push out the new, earlier ones."""
    for path in save(tmp_path, 30, 40):
        tear(path)
    save(tmp_path, 10)
    assert checkpoint.load_newest(tmp_path)["step"] == 10
    save(tmp_path, 20)
    assert names(tmp_path) == [10, 20]


def test_code_in_a_checkpoint_never_runs(tmp_path):
    """A file with the right digest that is a pickle of a call: refused, not called."""

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "owned"),))

    checkpoint.save({"model": Evil()}, tmp_path / "cell", 5)
    with pytest.raises(Exception, match="(?i)weights.only"):
        checkpoint.load_newest(tmp_path / "cell")
    assert not (tmp_path / "owned").exists()


def test_clear_leaves_the_rest(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / ".model.pt.123.part").write_bytes(b"torn")
    (tmp_path / "row.json").write_text("{}")
    checkpoint.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["row.json"]
    (tmp_path / "row.json").unlink()
    checkpoint.clear(tmp_path)
    assert not tmp_path.exists()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    checkpoint.write_atomically(path, b"old")

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


WRITER = """
import sys, torch
from pathlib import Path
from lra.training import checkpoint
weight = torch.zeros(1_000_000)
for step in range(1, 10**6):
    checkpoint.save({"step": step, "weight": weight.fill_(step)}, Path(sys.argv[1]), step)
    print(step, flush=True)
"""


def test_kill_9_in_a_loop_of_writes_leaves_a_whole_checkpoint(tmp_path, caplog):
    """The newest whole one is the last that was announced, or the one being announced."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout.readline() == "1\n"
        time.sleep(0.3)
        writer.send_signal(signal.SIGKILL)
        announced = [1, *map(int, writer.stdout.read().split())]
    finally:
        writer.kill()
        writer.wait()
    found = checkpoint.load_newest(tmp_path)
    assert not caplog.records, "a checkpoint was torn"
    assert found["step"] - announced[-1] in (0, 1)
    assert bool((found["weight"] == found["step"]).all())
    assert len(names(tmp_path)) <= 3
