"""Broken reviews, wrong knobs, a full disk, a killed build: one line, and nothing half built."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lra.data import store
from lra.errors import UserError
from tests.lra.built import nothing_built
from tests.lra.reviews import make, write_parquet

CHECKOUT = Path(__file__).resolve().parents[2]


def not_utf8(texts):
    content = b"".join(texts)
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(texts), [None, pa.py_buffer(offsets), pa.py_buffer(content)]
    )


@pytest.mark.parametrize(
    "columns, says",
    [
        (dict(text=pa.array([b"x"] * 60)), r"train.parquet has columns text \(binary\), label"),
        (dict(text=pa.array(range(60))), r"expected text \(string\)"),
        (dict(label=pa.array(["pos"] * 60)), r"expected label \(int\)"),
        (dict(label=pa.array([0] * 50 + [2] * 10)), "train.parquet, row 51: label 2 is not one of"),
        (dict(label=pa.array([0] * 50 + [-1] * 10)), "train.parquet, row 51: label -1 is not"),
        (dict(label=pa.array([0] * 50 + [None] * 10)), "train.parquet, row 51: label None is not"),
        (dict(text=pa.array(["x"] * 20 + [None] * 40)), "train.parquet, row 21: there is no text"),
        (
            dict(text=not_utf8([b"x"] * 20 + [b"ab\xff"] + [b"y"] * 39)),
            r"train.parquet, row 21: not UTF-8 text \(byte 0xff at 2\)",
        ),
    ],
)
def test_a_broken_table_names_file_and_row(tmp_path, columns, says):
    source = write_parquet(tmp_path / "source", **columns)
    with pytest.raises(UserError, match=says):
        make(tmp_path, source, split="legacy").build("train")
    assert nothing_built(tmp_path / "data")


def test_a_missing_column_is_named(tmp_path, text_source):
    table = pq.read_table(text_source / "train.parquet").rename_columns(["sentence", "label"])
    pq.write_table(table, text_source / "train.parquet")
    with pytest.raises(UserError, match=r"has columns sentence \(string\), label \(int64\); expec"):
        make(tmp_path, text_source).build("train")


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "missing", "no rows"])
def test_a_broken_file_is_named(tmp_path, text_source, damage):
    path = text_source / "train.parquet"
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-100])
        case "garbage":
            path.write_bytes(b"no parquet" * 100)
        case "empty":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
        case "no rows":
            pq.write_table(pq.read_table(path)[:0], path)
    with pytest.raises(UserError, match="train") as caught:
        make(tmp_path, text_source).build("train")
    assert "\n" not in str(caught.value)
    assert nothing_built(tmp_path / "data")


def test_a_broken_review_file_is_named(tmp_path):
    folder = tmp_path / "aclImdb"
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            (folder / split / label).mkdir(parents=True)
            for i in range(10):
                (folder / split / label / f"{i}_1.txt").write_bytes(b"fine")
    bad = folder / "train" / "pos" / "3_1.txt"
    bad.write_bytes(b"caf\xe9 noir")
    with pytest.raises(UserError, match=f"^{bad}: not UTF-8 text .byte 0xe9 at 3.$"):
        make(tmp_path, folder).build("train")
    assert nothing_built(tmp_path / "data")


@pytest.mark.parametrize(
    "knobs, says",
    [
        (dict(split="honset"), "unknown value of split 'honset': did you mean 'honest'"),
        (dict(tokens="char"), "did you mean 'chars'"),
        (dict(eos="yes"), "eos=yes: write true or false"),
        (dict(eos=True, max_length=1), "max_length=1"),
        (dict(max_length=0), "max_length=0"),
        (dict(min_freq=0), "min_freq=0"),
        (dict(n_test=0), "n_test=0"),
        (dict(data_seed=-1), "data_seed=-1"),
    ],
)
def test_bad_knobs_are_refused_before_any_work(tmp_path, text_source, knobs, says):
    with pytest.raises(UserError, match=says):
        make(tmp_path, text_source, **knobs)
    assert nothing_built(tmp_path / "data")


def test_a_full_disk_leaves_nothing(tmp_path, text_source):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match="the disk is full; free space"):
            make(tmp_path, text_source).build("train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert nothing_built(tmp_path / "data")


def test_a_killed_build_is_not_served_and_is_built_again(tmp_path, text_source):
    code = (
        "import sys, time\n"
        "from lra.data import splits\n"
        "from lra.tasks.text import Text\n"
        "def stop(counts):\n"
        "    print('half', flush=True)\n"
        "    time.sleep(100)\n"
        "splits.duplicates = stop\n"
        "Text(root=sys.argv[1], source=sys.argv[2]).build('train')\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "data"), str(text_source)],
        cwd=CHECKOUT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "half\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    (folder,) = (path for path in (tmp_path / "data" / "text").iterdir() if path.is_dir())
    assert store.manifest(folder) is None
    assert len(make(tmp_path, text_source).build("train")) == 54
    assert store.manifest(folder) is not None
