"""The text task on the real reviews: IMDb's own bytes, counts and characters."""

import hashlib
import time
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

from lra.data.columns import lists
from lra.tasks.text import Text


@pytest.fixture(scope="module")
def real(lra_data, tmp_path_factory):
    """IMDb at 4,096 bytes, and how long it took."""
    folder = lra_data / "imdb"
    if not (folder / "train.parquet").is_file():
        pytest.skip("IMDb is not in LRA_DATA")
    begin = time.monotonic()
    task = Text(root=tmp_path_factory.mktemp("imdb"), source=str(folder), max_length=4096)
    task.build("train")
    return task, folder, time.monotonic() - begin


def digest(parts):
    return hashlib.sha256(b"\0".join(sorted(parts))).hexdigest()


def test_real_reviews_agree_with_the_bytes_of_the_files(real):
    task, folder, _ = real
    for origin, parts in (("train", ("train", "val")), ("test", ("test",))):
        table = pq.read_table(folder / f"{origin}.parquet")
        raw = [
            bytes([label]) + text.encode()[:4096]
            for text, label in zip(
                table["text"].to_pylist(), table["label"].to_pylist(), strict=True
            )
        ]
        stored = []
        for split in parts:
            data = task.build(split)
            cuts = [(row - 1).astype(np.uint8) for row in lists(data, "x")[range(len(data))]]
            labels = data.data.table.column("y").to_pylist()
            stored += [bytes([y]) + cut.tobytes() for cut, y in zip(cuts, labels, strict=True)]
            if origin == "test":
                assert stored == raw
        assert len(stored) == len(raw) == 25_000
        assert digest(stored) == digest(raw)


def test_real_reviews_are_the_published_set(real):
    task, _, spent_s = real
    facts = task.manifest()
    assert facts["rows"] == {"train": 22_500, "val": 2_500, "test": 25_000}
    assert facts["labels"] == {
        "train": {"0": 11_250, "1": 11_250},
        "val": {"0": 1_250, "1": 1_250},
        "test": {"0": 12_500, "1": 12_500},
    }
    assert set(facts["source_sha256"]) == {"train.parquet", "test.parquet"}
    assert facts["duplicates"]["test in train"] > 100
    spec = task.spec
    assert (spec.name, spec.tier, spec.vocab, spec.length) == ("text", "official", 257, 4096)
    assert (spec.kind, spec.classes, spec.chance_acc, spec.notes) == ("classify", 2, 0.5, ())
    assert task.baselines() == {"majority": 0.5}
    assert spent_s < 60


def test_the_vocabulary_of_the_s4_family(real, tmp_path):
    _, folder, _ = real
    knobs = dict(tokens="chars", eos=True, split="legacy", max_length=4096, n_test=10)
    task = Text(root=tmp_path, source=str(folder), **knobs)
    counts = Counter()
    for text in pq.read_table(folder / "train.parquet")["text"].to_pylist():
        counts.update(text[:4095])
    known = [char for char, n in counts.items() if n >= 15]
    # configs/dataset/imdb.yaml of state-spaces/s4 says "about 135"
    assert task.spec.vocab == 3 + len(known) == 134
    symbols = task.manifest()["characters"]
    assert symbols == "".join(sorted(known, key=lambda char: (-counts[char], char)))
    texts = [t[:4095] for t in pq.read_table(folder / "test.parquet")["text"].to_pylist()]
    for ids in task.build("test")["x"]:
        assert ids[-1] == 2 and min(ids) > 0
        back = "".join(symbols[i - 3] if i > 2 else "?" for i in ids[:-1])
        alike = (text for text in texts if len(text) == len(back) and text[:9] == back[:9])
        assert back in ["".join(c if c in known else "?" for c in text) for text in alike]
