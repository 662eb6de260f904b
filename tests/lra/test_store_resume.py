"""A build that can go on keeps its whole shards; fixed rows come back as written."""

import numpy as np
import pyarrow as pa
import pytest

from lra.data import store, writer
from lra.errors import UserError


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(writer, "BATCH_BYTES", 100)
    monkeypatch.setattr(writer, "SHARD_BYTES", 900)


def row(split, i):
    return np.full(16, i + 7 * len(split), np.uint8)


def builder(*, stop_at=None, written=None):
    """Writes 100 and 20 rows, five at a time, from where the writer stands."""

    def build(out):
        for split, count in (("train", 100), ("test", 20)):
            for first in range(out.rows(split), count, 5):
                if stop_at == (split, first):
                    raise UserError("stopped")
                if written is not None:
                    written.append((split, first))
                numbers = range(first, first + 5)
                ragged = (np.repeat(np.array(numbers, np.uint8), numbers), np.array(numbers))
                out.append(
                    split, x=np.stack([row(split, i) for i in numbers]), z=ragged,
                    y=np.array(numbers, np.int64),
                )  # fmt: skip
        return {"source": "test"}

    return build


def ensure(root, build):
    return store.ensure(root, "task", {}, build, resumable=True)


def folder_of(root):
    (folder,) = (path for path in (root / "task").iterdir() if path.is_dir())
    return folder


@pytest.mark.parametrize("stop", [("train", 60), ("train", 0), ("test", 0), ("test", 15)])
def test_an_unfinished_build_goes_on_and_ends_as_an_unbroken_one(tmp_path, stop):
    whole = ensure(tmp_path / "whole", builder())
    with pytest.raises(UserError, match="stopped"):
        ensure(tmp_path / "parts", builder(stop_at=stop))
    if stop != ("train", 0):
        kept = folder_of(tmp_path / "parts")
        assert store.manifest(kept) is None
        names = {path.name for path in kept.iterdir()}
        assert "train-00000.arrow" in names and not any(name.endswith(".tmp") for name in names)
    written = []
    parts = ensure(tmp_path / "parts", builder(written=written))
    assert stop == ("train", 0) or ("train", 0) not in written
    assert (parts / "manifest.json").read_text() == (whole / "manifest.json").read_text()
    for split in ("train", "test"):
        assert store.load(parts, split)[:] == store.load(whole, split)[:]


def test_fixed_rows_come_back(tmp_path):
    train = store.load(ensure(tmp_path, builder()), "train")
    assert train.data.column("x").type == pa.list_(pa.uint8(), 16)
    assert train[37]["x"] == row("train", 37).tolist() and train[3]["z"] == [3, 3, 3]


def test_the_digest_sees_the_width_of_fixed_rows(tmp_path):
    def build(shape):
        def append(out):
            out.append("train", x=np.arange(12, dtype=np.uint8).reshape(shape))
            return {}

        return append

    folders = [store.ensure(tmp_path, "task", {"s": s}, build(s)) for s in ([3, 4], [4, 3])]
    first, second = (store.manifest(folder)["sha256"]["train"] for folder in folders)
    assert first != second


def test_a_shard_that_was_damaged_is_written_again(tmp_path):
    whole = ensure(tmp_path / "whole", builder())
    with pytest.raises(UserError):
        ensure(tmp_path / "parts", builder(stop_at=("test", 15)))
    shard = folder_of(tmp_path / "parts") / "train-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-300])
    written = []
    parts = ensure(tmp_path / "parts", builder(written=written))
    assert written[0][0] == "train" and written[0][1] > 0
    assert (parts / "manifest.json").read_text() == (whole / "manifest.json").read_text()


def test_a_build_that_cannot_go_on_keeps_nothing(tmp_path):
    with pytest.raises(UserError):
        store.ensure(tmp_path, "task", {}, builder(stop_at=("test", 15)))
    assert not [path for path in (tmp_path / "task").iterdir() if path.is_dir()]
