"""A build that was interrupted goes on, whichever the task: it ends as an unbroken one."""

import numpy as np
import pytest

from lra.data import listops_tsv, synthetic, writer
from lra.tasks.copying import Copying
from lra.tasks.listops import ListOps
from lra.tasks.mqar import MQAR
from lra.tasks.needle import Needle
from lra.tasks.selective_copying import SelectiveCopying

COUNTS = dict(n_train=300, n_val=60, n_test=50)
TASKS = {
    "listops": (ListOps, dict(max_depth=4, max_args=5, min_length=16, max_length=64)),
    # few different rows: some are drawn again and left out
    "copying": (Copying, dict(max_length=9, n_symbols=3, n_values=8)),
    "selective_copying": (SelectiveCopying, dict(max_length=20, n_symbols=6, n_values=8)),
    "mqar": (MQAR, dict(max_length=24, num_pairs=4, vocab_size=40)),
    "needle": (Needle, dict(max_length=20, n_values=8, n_decoys=5)),
}


def write_files(folder):
    """ListOps files of trees that differ, but for every tenth."""
    folder.mkdir()
    for split, n in (("train", 300), ("val", 60), ("test", 50)):
        digits = [f"{i:04d}" if i % 10 == 0 else f"{len(split)}{i:04d}" for i in range(n)]
        rows = "".join(f"[MAX {' '.join(number)} ]\t{max(number)}\n" for number in digits)
        (folder / f"basic_{split}.tsv").write_text(f"Source\tTarget\n{rows}")
    return folder


@pytest.fixture(params=[*TASKS, "listops files"])
def make(request, tmp_path):
    """Makes the task under a folder of that name."""
    if request.param == "listops files":
        source = write_files(tmp_path / "source")
        return lambda name: ListOps(root=tmp_path / name, source=source, **COUNTS)
    kind, knobs = TASKS[request.param]
    return lambda name: kind(root=tmp_path / name, **COUNTS, **knobs)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(writer, "BATCH_BYTES", 200)
    monkeypatch.setattr(writer, "SHARD_BYTES", 1500)
    monkeypatch.setattr(listops_tsv, "CHUNK", 25)
    monkeypatch.setattr(synthetic, "CHUNK", 600)


# within train, and where train is written and its last shard is not
@pytest.mark.parametrize("stop_at", [200, 330])
def test_a_build_goes_on_behind_its_whole_shards(make, tmp_path, monkeypatch, stop_at):
    whole = make("whole").manifest()
    append, written = writer.Writer.append, []

    def stopping(self, split, **columns):
        if sum(written) >= stop_at:
            raise KeyboardInterrupt
        written.append(len(rows_of(columns["y"])))
        append(self, split, **columns)

    monkeypatch.setattr(writer.Writer, "append", stopping)
    with pytest.raises(KeyboardInterrupt):
        make("parts").build("train")
    (folder,) = (path for path in (tmp_path / "parts").glob("*/*") if path.is_dir())
    kept = {path.name for path in folder.iterdir()}
    assert "train-00000.arrow" in kept and "manifest.json" not in kept
    assert not any(name.endswith(".tmp") for name in kept)
    times = {name: (folder / name).stat().st_mtime_ns for name in kept}

    written.clear()
    stop_at = 10**9
    task = make("parts")
    facts = task.manifest()
    # what was whole stayed, and was not written again
    assert times == {name: (folder / name).stat().st_mtime_ns for name in kept}
    assert 0 < sum(written) < 410
    for part in facts.keys() - {"files"}:
        assert facts[part] == whole[part], part
    for split in ("train", "val", "test"):
        assert task.build(split)[:] == make("whole").build(split)[:]


def rows_of(column):
    """One item a row."""
    return column[1] if isinstance(column, tuple) else np.asarray(column)
