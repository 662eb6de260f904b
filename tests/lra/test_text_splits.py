"""Which reviews train, validate and test, and what recurs across these."""

import numpy as np
import pyarrow as pa
import pytest

from lra.data.splits import choose, duplicates, majority, stratified
from lra.errors import UserError
from tests.lra.built import rows
from tests.lra.reviews import make, reviews, write_parquet


def ids(text, cut):
    return [byte + 1 for byte in text.encode()[:cut]]


def test_an_honest_split_holds_a_stratified_tenth_of_train_out(tmp_path, text_source):
    task = make(tmp_path, text_source, max_length=50)
    train, val, test = (rows(task, split) for split in ("train", "val", "test"))
    assert [len(part) for part in (train, val, test)] == [54, 6, 40]
    assert sum(y for _, y in val) == 3 and sum(y for _, y in train) == 27
    texts, labels = reviews(60)
    known = {tuple(ids(text, 50)): label for text, label in zip(texts, labels, strict=True)}
    assert len(known) == 60
    together = [(tuple(x), y) for x, y in train + val]
    assert len(set(together)) == 60 and set(together) == set(known.items())
    assert test == [(ids(text, 50), y) for text, y in zip(*reviews(40, 1), strict=True)]


def test_a_legacy_split_validates_on_test_and_says_so(tmp_path, text_source):
    task = make(tmp_path, text_source, split="legacy")
    assert len(task.build("train")) == 60
    assert rows(task, "val") == rows(task, "test")
    assert "validated on the test split" in task.spec.notes
    assert make(tmp_path, text_source).spec.notes == ()


def test_the_seed_decides_what_is_held_out(tmp_path, text_source):
    first = rows(make(tmp_path, text_source), "val")
    assert rows(make(tmp_path / "again", text_source), "val") == first
    other = make(tmp_path, text_source, data_seed=1)
    assert rows(other, "val") != first
    assert other.build("val")["x"][:] == make(tmp_path, text_source).build("val", 1)["x"][:]


def test_limits_take_a_stratified_sample(tmp_path, text_source):
    task = make(tmp_path, text_source, n_train=10, n_val=2, n_test=8)
    for split, n in (("train", 10), ("val", 2), ("test", 8)):
        labels = task.build(split)["y"][:]
        assert len(labels) == n and sum(labels) == n // 2
    # the held-out rows are the same as without limits
    assert {tuple(x) for x, _ in rows(task, "val")} <= {
        tuple(x) for x, _ in rows(make(tmp_path, text_source), "val")
    }


def test_stratified_shares_are_as_near_as_can_be():
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    picked = stratified(labels, 17, np.random.default_rng(0))
    assert len(set(picked.tolist())) == 17 and (np.diff(picked) > 0).all()
    assert np.bincount(labels[picked]).tolist() == [12, 3, 2]
    assert stratified(labels, 100, np.random.default_rng(0)).tolist() == list(range(100))


def test_too_few_rows_for_a_split_are_refused():
    labels = {"train": np.zeros(4, np.uint8), "test": np.zeros(4, np.uint8)}
    with pytest.raises(UserError, match="too few rows for a val split"):
        choose(labels, "honest", {"train": None, "val": None, "test": None}, 0)


def test_duplicates_are_counted_and_kept(tmp_path):
    texts, _ = reviews(60)
    again, _ = reviews(40, 1)
    texts[3], texts[50] = again[0], again[0]
    task = make(tmp_path, write_parquet(tmp_path / "s", text=pa.array(texts)), split="legacy")
    assert task.manifest()["duplicates"] == {"test in train": 1}
    assert len(task.build("train")) == 60
    parts = {"train": [b"a", b"b"], "val": [b"b"], "test": [b"a", b"a", b"b", b"c"]}
    assert duplicates(parts) == {"val in train": 1, "test in train": 3, "test in val": 1}


def test_the_majority_line(tmp_path, text_source):
    assert make(tmp_path, text_source).baselines() == {"majority": 0.5}
    assert majority(np.array([1, 1, 0]), np.array([1, 0, 0, 0])) == 0.25
