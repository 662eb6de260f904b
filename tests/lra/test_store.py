"""The store: whole or not at all, built once, read row by row."""

import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lra.data import store, writer
from lra.data.columns import Lists, lists, pad
from lra.data.feed_bench import fetch_ms
from lra.errors import UserError

CHECKOUT = Path(__file__).resolve().parents[2]


def some_rows(n=50, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, n).astype(np.int32)
    return rng.integers(0, 255, lengths.sum(), dtype=np.uint8), lengths


def writes(*, train=50, test=7, log=None):
    """A build of two splits that appends in unequal parts."""

    def build(out):
        if log is not None:
            log.append(1)
        for split, n in (("train", train), ("test", test)):
            values, lengths = some_rows(n)
            cut = n // 3
            at = lengths[:cut].sum()
            y = np.arange(n, dtype=np.int64)
            out.append(split, x=(values[:at], lengths[:cut]), y=y[:cut])
            out.append(split, x=(values[at:], lengths[cut:]), y=y[cut:])
        return {"source": "test"}

    return build


def start(code, *args):
    """Another process that runs code with the checkout in its path."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_rows_come_back(tmp_path):
    folder = store.ensure(tmp_path, "task", {"a": 1}, writes())
    train = store.load(folder, "train")
    values, lengths = some_rows()
    assert train.column_names == ["x", "y"] and len(train) == 50
    assert train.data.column("x").type == pa.list_(pa.uint8())
    assert train[3]["x"] == values[lengths[:3].sum() :][: lengths[3]].tolist()
    assert train["y"][:] == list(range(50))
    assert store.manifest(folder)["rows"] == {"train": 50, "test": 7}


@pytest.mark.parametrize("dtype", ["int16", "float16", "float32"])
def test_other_types_and_token_labels(tmp_path, dtype):
    values, lengths = some_rows()
    labels = values.astype(np.int16) - 100

    def build(out):
        out.append("train", x=(values.astype(dtype), lengths), y=(labels, lengths))
        return {}

    train = store.load(store.ensure(tmp_path, "task", {}, build), "train")
    got = np.concatenate(lists(train, "x")[range(50)])
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, values.astype(dtype))
    np.testing.assert_array_equal(np.concatenate(lists(train, "y")[range(50)]), labels)


def test_a_store_is_built_once_for_a_key(tmp_path):
    built = []
    first = store.ensure(tmp_path, "task", {"a": 1, "b": [2]}, writes(log=built))
    assert store.ensure(tmp_path, "task", {"b": [2], "a": 1}, writes(log=built)) == first
    assert len(built) == 1
    assert store.ensure(tmp_path, "task", {"a": 2, "b": [2]}, writes(log=built)) != first
    assert len(built) == 2


def test_shards_and_record_batches_do_not_show(tmp_path, monkeypatch):
    whole = store.ensure(tmp_path / "whole", "task", {}, writes())
    monkeypatch.setattr(writer, "BATCH_BYTES", 100)
    monkeypatch.setattr(writer, "SHARD_BYTES", 300)
    parts = store.ensure(tmp_path / "parts", "task", {}, writes())
    assert len(store.manifest(parts)["files"]["train"]) > 1
    assert store.manifest(parts)["sha256"] == store.manifest(whole)["sha256"]
    assert store.load(parts, "train")[:] == store.load(whole, "train")[:]


def test_the_digest_sees_where_rows_end(tmp_path):
    def build(lengths):
        def append(out):
            out.append("train", x=(np.arange(4, dtype=np.uint8), np.array(lengths)))
            return {}

        return append

    folders = [store.ensure(tmp_path, "task", {"l": ls}, build(ls)) for ls in ([1, 3], [2, 2])]
    digests = [store.manifest(folder)["sha256"] for folder in folders]
    assert digests[0] != digests[1]


@pytest.mark.parametrize("damage", ["no manifest", "torn manifest", "torn shard", "lost shard"])
def test_a_damaged_store_is_not_served_but_built_again(tmp_path, damage):
    built = []
    folder = store.ensure(tmp_path, "task", {}, writes(log=built))
    shard, manifest = folder / "train-00000.arrow", folder / "manifest.json"
    match damage:
        case "no manifest":
            manifest.unlink()
        case "torn manifest":
            manifest.write_text(manifest.read_text()[:50])
        case "torn shard":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "lost shard":
            shard.unlink()
    assert store.manifest(folder) is None
    assert store.ensure(tmp_path, "task", {}, writes(log=built)) == folder
    assert len(built) == 2 and len(store.load(folder, "train")) == 50


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(out):
        writes()(out)
        raise UserError("line 7 is wrong")

    with pytest.raises(UserError, match="line 7"):
        store.ensure(tmp_path, "task", {}, build)
    assert [path.suffix for path in (tmp_path / "task").iterdir()] in ([], [".lock"])
    store.ensure(tmp_path, "task", {}, writes())


def test_a_killed_build_is_not_served_and_frees_its_lock(tmp_path):
    child = start(
        """
        import pathlib, sys, time
        import numpy as np
        from lra.data import store, writer
        writer.BATCH_BYTES = 10
        def build(out):
            for i in range(3):
                if i == 2:
                    writer.SHARD_BYTES = 2**20
                out.append("train", x=(np.zeros(99, np.uint8), np.array([99])))
                writer.SHARD_BYTES = 10
            print("half", flush=True)
            time.sleep(100)
        writer.SHARD_BYTES = 10
        store.ensure(pathlib.Path(sys.argv[1]), "task", {}, build)
        """,
        tmp_path,
    )
    assert child.stdout.readline() == "half\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    (folder,) = (path for path in (tmp_path / "task").iterdir() if path.is_dir())
    left = sorted(path.name for path in folder.iterdir())
    assert left == ["train-00000.arrow", "train-00001.arrow", "train-00002.arrow.tmp"]
    assert store.manifest(folder) is None
    assert store.ensure(tmp_path, "task", {}, writes(train=9)) == folder
    assert len(store.load(folder, "train")) == 9
    names = {path.name for path in folder.iterdir()}
    assert names == {"manifest.json", "train-00000.arrow", "test-00000.arrow"}


def test_two_processes_build_once(tmp_path):
    code = """
        import pathlib, sys, time
        import numpy as np
        from lra.data import store
        root = pathlib.Path(sys.argv[1])
        def build(out):
            with open(root / "builds", "a") as file:
                file.write("x")
            time.sleep(1)
            out.append("train", x=(np.zeros(99, np.uint8), np.array([99])))
            return {}
        folder = store.ensure(root, "task", {}, build)
        print(len(store.load(folder, "train")))
        """
    children = [start(code, tmp_path) for _ in range(2)]
    assert [child.communicate(timeout=60)[0] for child in children] == ["1\n", "1\n"]
    assert (tmp_path / "builds").read_text() == "x"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file.*another data folder"):
        store.ensure(tmp_path / "file", "task", {}, writes())


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_serves_but_does_not_build(tmp_path):
    folder = store.ensure(tmp_path, "task", {}, writes())
    (tmp_path / "task").chmod(0o500)
    try:
        assert store.ensure(tmp_path, "task", {}, writes()) == folder
        with pytest.raises(UserError, match="cannot write"):
            store.ensure(tmp_path, "task", {"other": 1}, writes())
    finally:
        (tmp_path / "task").chmod(0o700)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    def build(out):
        for _ in range(30):
            out.append("train", x=(np.zeros(2**20, np.uint8), np.array([2**20])))
        out.append("test", x=(np.zeros(2**20, np.uint8), np.array([2**20])))
        return {}

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**23, hard))
    try:
        with pytest.raises(UserError, match="the disk is full; free space"):
            store.ensure(tmp_path, "task", {}, build)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in (tmp_path / "task").iterdir() if path.is_dir()]


def test_the_manifest_depends_on_neither_place_nor_time(tmp_path):
    folders = [store.ensure(tmp_path / name, "task", {}, writes()) for name in "ab"]
    texts = [(folder / "manifest.json").read_text() for folder in folders]
    assert texts[0] == texts[1] and str(tmp_path) not in texts[0]
    assert json.loads(texts[0])["source"] == "test"


@settings(deadline=None)
@given(data=st.data())
def test_rows_of_any_chunk_in_any_order(data):
    sizes = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(sum))
    fixed = data.draw(st.booleans())
    parts = [[[i] * 2 if fixed else list(range(i, i + i % 4)) for i in range(n)] for n in sizes]
    kind = pa.list_(pa.int16(), 2) if fixed else pa.list_(pa.int16())
    chunked = pa.chunked_array([pa.array(part, kind) for part in parts])
    # a slice makes offsets that do not begin at 0
    skip = data.draw(st.integers(0, sum(sizes) - 1))
    column = Lists(datasets.Dataset(pa.table({"x": chunked}).slice(skip)), "x")
    rows = [row for part in parts for row in part][skip:]
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6))
    assert [row.tolist() for row in column[index]] == [rows[i] for i in index]
    assert [row.tolist() for row in column[range(len(column))]] == rows
    for outside in (-1, len(rows)):
        with pytest.raises(IndexError, match=f"of a column of {len(rows)}"):
            column[[outside]]


@settings(deadline=None)
@given(lengths=hnp.arrays(np.int32, st.integers(1, 6), elements=st.integers(0, 7)))
def test_pad_places_every_value_once(lengths):
    values = np.arange(lengths.sum(), dtype=np.int16)
    ids, mask = pad(np.split(values, np.cumsum(lengths)[:-1]), fill=-1)
    assert ids.shape == mask.shape == (len(lengths), lengths.max())
    assert ids.dtype == torch.int64 and mask.dtype == torch.bool
    assert mask.sum(dim=1).tolist() == lengths.tolist()
    assert ids[mask].tolist() == values.tolist()
    assert (ids[~mask] == -1).all()
    # real tokens come first
    assert (mask.int().diff(dim=1) <= 0).all()


def test_pad_puts_an_end_and_pads_to_a_length():
    rows = [np.array([5, 6], np.uint8), np.array([], np.uint8), np.array([7], np.uint8)]
    ids, mask = pad(rows, end=9)
    assert ids.tolist() == [[5, 6, 9], [9, 0, 0], [7, 9, 0]]
    assert mask.tolist() == [[True] * 3, [True, False, False], [True, True, False]]
    ids, mask = pad(rows, end=9, length=4)
    assert ids.tolist() == [[5, 6, 9, 0], [9, 0, 0, 0], [7, 9, 0, 0]]
    assert pad(rows, fill=-1, length=3)[0].tolist() == [[5, 6, -1], [-1, -1, -1], [7, -1, -1]]


def test_a_batch_of_long_rows_is_fetched_in_two_milliseconds(tmp_path):
    def build(out):
        lengths = np.full(1000, 4096, np.int32)
        for _ in range(20):
            out.append("train", x=(np.ones(lengths.sum(), np.uint8), lengths))
        return {}

    train = store.load(store.ensure(tmp_path, "task", {}, build), "train")
    spent_ms = fetch_ms(lambda rows: pad(lists(train, "x")[rows]), len(train), tries=100)
    assert np.median(spent_ms) < 2
