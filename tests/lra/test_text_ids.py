"""From film reviews to batches: bytes and characters by hand, and what pads them."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from lra import presets
from lra.data.characters import Bytes, Chars, vocabulary
from lra.data.feed_bench import fetch_ms
from tests.lra.reviews import make, write_parquet


def golden(tmp_path, protocol):
    """The stored ids of one text under the knobs of a protocol."""
    knobs = presets.compose(f"protocol={protocol}", "task=text").task
    knobs = {k: v for k, v in knobs.items() if k not in ("name", "_target_", "source")}
    source = write_parquet(tmp_path / "source", text=pa.array(["Aé!<br />"] * 60))
    return make(tmp_path, source, **{**knobs, "n_train": None}).build("train")[0]["x"]


@pytest.mark.parametrize(
    "protocol", ["smoke", "laptop", "lra_paper", "lra_repo", "xformer_small", "mega"]
)
def test_golden_bytes(tmp_path, protocol):
    # A, the two bytes C3 A9, !, <br />
    assert golden(tmp_path, protocol) == [66, 196, 170, 34, 61, 99, 115, 33, 48, 63]


def test_golden_characters_of_the_s4_family(tmp_path):
    # all occur equally often: 0 pad, 1 unknown, 2 EOS, then by code point
    # ' ' 3, '!' 4, '/' 5, '<' 6, '>' 7, 'A' 8, 'b' 9, 'r' 10, 'é' 11
    assert golden(tmp_path, "s4") == [8, 11, 4, 6, 9, 10, 3, 5, 7, 2]


def test_bytes_are_cut_before_eos_and_inside_a_character():
    texts = ["aé".encode(), b"", b"xyz"]
    flat, lengths = Bytes(3, False).encode(texts)
    assert flat.tolist() == [98, 196, 170, 121, 122, 123] and lengths.tolist() == [3, 0, 3]
    flat, lengths = Bytes(3, True).encode(texts)
    assert flat.tolist() == [98, 196, 257, 257, 121, 122, 257] and lengths.tolist() == [3, 1, 3]
    assert Bytes(3, False).vocab == 257 and Bytes(3, True).vocab == 258
    assert Bytes(300, False).encode([bytes(range(256))])[0].tolist() == list(range(1, 257))


def test_characters_by_frequency_then_code_point():
    texts = [b"bbaac", "bbaaé\U0001f600".encode()]
    assert vocabulary([texts], 99, 1) == "abcé\U0001f600"
    assert vocabulary([texts], 99, 2) == "ab"
    # what is cut off is not counted
    assert vocabulary([texts], 2, 1) == "b"
    codec = Chars(4, True, "ab")
    flat, lengths = codec.encode(["abé".encode(), b"", b"aaaaaaa"])
    assert flat.tolist() == [3, 4, 1, 2, 2, 3, 3, 3, 2] and lengths.tolist() == [4, 1, 4]
    assert codec.vocab == 5 and flat.dtype == np.uint8
    assert Chars(4, False, "ab").encode([b"ba"])[0].tolist() == [3, 2]


def test_many_characters_take_two_bytes():
    symbols = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    codec = Chars(999, False, symbols)
    flat, _ = codec.encode([symbols.encode()])
    assert flat.dtype == np.uint16 and flat.tolist() == list(range(2, 302))


def test_a_batch_is_padded_with_zeros_to_its_longest_row(tmp_path, text_source):
    task = make(tmp_path, text_source)
    data = task.build("train")
    batch = task.collate(data, np.array([5, 0, 7]))
    wanted = [data[i] for i in (5, 0, 7)]
    lengths = [len(row["x"]) for row in wanted]
    assert batch.x.shape == batch.mask.shape == (3, max(lengths))
    assert (batch.x.dtype, batch.mask.dtype, batch.y.dtype) == (
        torch.int64, torch.bool, torch.int64,
    )  # fmt: skip
    assert batch.mask.sum(1).tolist() == lengths and (batch.x > 0).equal(batch.mask)
    assert batch.y.tolist() == [row["y"] for row in wanted]
    for row, got in zip(wanted, batch.x.tolist(), strict=True):
        assert got[: len(row["x"])] == row["x"]


def test_feeding_a_batch_takes_two_milliseconds(tmp_path):
    long = pa.array(["x" * 5000] * 600)
    source = write_parquet(tmp_path / "s", train=600, text=long)
    task = make(tmp_path, source, max_length=4096)
    data = task.build("train")
    assert task.collate(data, np.arange(32)).x.shape == (32, 4096)
    assert np.median(fetch_ms(lambda rows: task.collate(data, rows), len(data), tries=100)) < 2
