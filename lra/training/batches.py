"""Which rows make which batch: a function of (seed, step) alone, so that a resumed run sees what an
unbroken one would have seen, and so does any number of processes."""

import functools
from collections.abc import Iterator

import numpy as np


def training_rows(rows: int, batch: int, step: int, *, seed: int) -> np.ndarray:
    """Row numbers of training step ``step`` (from 0): epochs are permutations, laid end to end."""
    first = step * batch
    parts, taken = [], 0
    while taken < batch:
        epoch, start = divmod(first + taken, rows)
        order = _permutation(rows, epoch, seed)
        parts.append(order[start : start + batch - taken])
        taken += len(parts[-1])
    return np.concatenate(parts)


@functools.lru_cache(maxsize=2)
def _permutation(rows: int, epoch: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def share(rows: np.ndarray, rank: int, world: int) -> np.ndarray:
    """The rows of one process: every ``world``-th."""
    return rows[rank::world]


def evaluation_rows(rows: int, batch: int, *, rank: int, world: int) -> Iterator[np.ndarray]:
    """Every row once, in order, the last batch as short as it is."""
    mine = share(np.arange(rows), rank, world)
    for start in range(0, len(mine), batch):
        yield mine[start : start + batch]
