"""How far a batch is padded, in each task whose sequences are of unequal length."""

import numpy as np
import pytest

from lra.errors import UserError
from lra.tasks.knobs import padded_length
from lra.tasks.listops import ListOps
from lra.tasks.retrieval import Retrieval
from lra.tasks.text import Text
from tests.lra.reviews import write_parquet

ROWS = np.array([3, 0, 5])
TREES = dict(n_train=50, n_val=5, n_test=5, min_length=16, max_length=80)


@pytest.fixture(params=["listops", "text", "retrieval"])
def make(request, tmp_path):
    """Makes one of the tasks, 80 positions at most."""
    if request.param == "listops":
        return lambda **knobs: ListOps(root=tmp_path / "data", **TREES, **knobs)
    if request.param == "text":
        source = write_parquet(tmp_path / "source")
        return lambda **knobs: Text(
            root=tmp_path / "data", source=str(source), max_length=80, **knobs
        )
    pairs = "".join(f"{i % 2}.0\ta\tb\t{'x' * (i + 1)}\t{'y' * 9}\n" for i in range(20))
    for split in ("train", "eval", "test"):
        (tmp_path / f"new_aan_pairs.{split}.tsv").write_text(pairs)
    return lambda **knobs: Retrieval(
        root=tmp_path / "data", source=tmp_path, max_length=80, **knobs
    )


def fetched(task):
    return task.collate(task.build("train"), ROWS)


def test_a_batch_is_as_long_as_asked(make, tmp_path):
    longest = fetched(make())
    assert longest.x.shape[-1] == longest.mask.sum(-1).max() < 80
    for padding, length in (("full", 80), (96, 96), (80, 80)):
        task = make(padding=padding)
        batch = fetched(task)
        assert batch.x.shape == batch.mask.shape == (*longest.x.shape[:-1], length)
        assert task.spec.length == length
        # nothing else is changed
        n = longest.x.shape[-1]
        assert batch.x[..., :n].equal(longest.x) and batch.mask[..., :n].equal(longest.mask)
        assert not batch.x[..., n:].any() and not batch.mask[..., n:].any()
        assert batch.y.equal(longest.y)
    assert make().spec.length == make(padding="longest").spec.length == 80
    # one store serves all of them
    assert len([path for path in (tmp_path / "data").glob("*/*") if path.is_dir()]) == 1


def test_wrong_lengths_are_refused(make):
    for padding, says in (
        ("ful", "unknown value of padding 'ful': did you mean 'full'"),
        (79, "padding=79: write longest, full, or a length from max_length=80"),
        (True, "unknown value of padding 'True'"),
        (None, "unknown value of padding 'None'"),
    ):
        with pytest.raises(UserError, match=says):
            make(padding=padding)


def test_what_is_asked_for():
    assert padded_length("longest", 7) is None
    assert (padded_length("full", 7), padded_length(9, 7)) == (7, 9)
