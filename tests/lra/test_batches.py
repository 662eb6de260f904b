"""Which rows make which batch: permutations laid end to end, a function of (seed, step) alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lra.training.batches import evaluation_rows, share, training_rows


def drawn(rows: int, batch: int, steps: int, seed: int = 0) -> np.ndarray:
    return np.concatenate([training_rows(rows, batch, step, seed=seed) for step in range(steps)])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 3))
def test_epochs_are_permutations_laid_end_to_end(rows, batch, seed):
    """Also where the batch does not divide the rows, or is larger than they are."""
    steps = -(-3 * rows // batch)
    stream = drawn(rows, batch, steps, seed)
    assert len(stream) == steps * batch
    epochs = stream[: 3 * rows].reshape(3, rows)
    for epoch in epochs:
        assert sorted(epoch) == list(range(rows))


def test_epochs_and_seeds_differ():
    epochs = drawn(1000, 100, 20).reshape(2, 1000)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(drawn(1000, 100, 10, seed=0), drawn(1000, 100, 10, seed=1))
    # shuffled: far from sorted
    assert abs(np.corrcoef(epochs[0], np.arange(1000))[0, 1]) < 0.15


def test_a_batch_does_not_depend_on_what_was_asked_before():
    steps = [7, 0, 31, 7, 2, 19, 31]
    asked = {step: training_rows(30, 8, step, seed=3) for step in steps}
    stream = drawn(30, 8, 32, seed=3).reshape(32, 8)
    for step, rows in asked.items():
        assert np.array_equal(rows, stream[step])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_a_batch(world):
    rows = training_rows(100, 12, 5, seed=0)
    parts = [share(rows, rank, world) for rank in range(world)]
    assert all(len(part) == 12 // world for part in parts)
    assert sorted(np.concatenate(parts)) == sorted(rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 4))
def test_evaluation_covers_every_row_once(rows, batch, world):
    seen = []
    for rank in range(world):
        parts = list(evaluation_rows(rows, batch, rank=rank, world=world))
        # only the last batch is short: none is dropped, none is empty
        assert all(len(part) == batch for part in parts[:-1])
        assert all(0 < len(part) <= batch for part in parts)
        seen += [row for part in parts for row in part]
    assert sorted(seen) == list(range(rows))
