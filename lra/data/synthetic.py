"""Drawn rows: of one length, no two alike, each a function of (seed, split, number) alone.

A law says how rows are distributed and draws many of them at a time. A row whose inputs came
before, in whichever split, is left out: no split leaks into another, however few rows there are.
"""

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np

from lra.data.digests import row_digests
from lra.data.workers import cores, ordered_map
from lra.data.writer import Column, Writer
from lra.errors import UserError
from lra.progress import progress

CHUNK = 2**18  # tokens drawn at a time
WORTH_WORKERS = 2**25  # tokens; less is drawn here before worker processes have started
FEWEST_NEW = 0.01  # share of the rows drawn that must be new
PATIENCE = 50_000  # rows drawn before that share is judged
NOT_SCORED = -100

# by column name (rows,) numbers or (rows, n) lists; the inputs are x
Columns = dict[str, np.ndarray]


class Law(Protocol):
    """A frozen dataclass of the knobs that decide how rows are distributed.

    Attributes:
        version: goes up whenever a seed would draw other rows than before.
        length: tokens of a row.
    """

    version: ClassVar[int]

    @property
    def length(self) -> int: ...

    def draw(self, rng: np.random.Generator, rows: int) -> Columns:
        """That many independent rows."""


def key_of(law: Law, counts: Mapping[str, int], seed: int) -> dict[str, Any]:
    """All that decides the rows and their splits, as JSON can hold it."""
    knobs: dict[str, Any] = asdict(law)  # type: ignore[call-overload]  # laws are dataclasses
    return {"generator": law.version, "seed": seed, "asked": dict(counts), "law": knobs}


def write(
    writer: Writer, task: str, law: Law, counts: Mapping[str, int], seed: int
) -> dict[str, Any]:
    """Writes ``counts`` rows by split, no two alike, from where an interrupted build stopped.

    Returns:
        The facts of the manifest.

    Raises:
        UserError: there are not so many different rows.
    """
    seen: set[bytes] = set()
    total, kept = sum(counts.values()), sum(writer.rows(name) for name in counts)
    with progress(f"making {task}", total, unit="rows", start=kept) as shown:
        for split, name in enumerate(counts):
            enough = len(seen) + counts[name]
            for column in writer.kept(name, "x"):
                seen.update(row_digests(column))
            for part in distinct(law, seed, split, enough, seen, writer.rows(name)):
                writer.append(name, **{key: _stored(value) for key, value in part.items()})
                shown.update(len(seen))
    return {"source": "generated", **key_of(law, counts, seed)}


def distinct(
    law: Law, seed: int, split: int, enough: int, seen: set[bytes], held: int = 0
) -> Generator[Columns]:
    """The rows of a split that are not in ``seen``, until that holds ``enough``; adds them to it.

    Args:
        held: rows of the split that ``seen`` holds; as many at least were drawn for them.

    Raises:
        UserError: hardly any row drawn is new.
    """
    asked, drawn, new = enough - len(seen), 0, 0
    if not asked:
        return
    workers = cores() if asked * law.length > WORTH_WORKERS else 1
    draw, first = partial(draw_chunk, law, seed, split), held // chunk_rows(law)
    with closing(ordered_map(draw, workers, first)) as chunks:
        for chunk in chunks:
            keep = _unseen(chunk["x"], seen, enough)
            if keep.any():
                yield {name: column[keep] for name, column in chunk.items()}
            if len(seen) == enough:
                return
            drawn, new = drawn + keep.size, new + int(keep.sum())
            if drawn >= PATIENCE:
                if new < FEWEST_NEW * drawn:
                    raise UserError(
                        f"found only {len(seen):,} different rows: lower n_train, n_val, n_test, "
                        "or let rows differ more by other knobs of the task"
                    )
                drawn = new = 0


def draw_chunk(law: Law, seed: int, split: int, number: int) -> Columns:
    """A numbered chunk of a split, a function of its arguments alone."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(split, number)))
    return law.draw(rng, chunk_rows(law))


def chunk_rows(law: Law) -> int:
    """Rows that are drawn at a time."""
    return max(1, CHUNK // law.length)


def _unseen(x: np.ndarray, seen: set[bytes], enough: int) -> np.ndarray:
    """Which rows are not in ``seen``, until that holds ``enough``; adds them to it."""
    keep = np.zeros(len(x), bool)
    for i, row in enumerate(row_digests(x)):
        if len(seen) == enough:
            break
        if row not in seen:
            seen.add(row)
            keep[i] = True
    return keep


def _stored(column: np.ndarray) -> Column:
    if column.ndim == 1:
        return column
    return column.ravel(), np.full(len(column), column.shape[1], np.int32)


# -- what laws are made of ---------------------------------------------------------------------


def without_replacement(
    rng: np.random.Generator, rows: int, k: int, weights: np.ndarray
) -> np.ndarray:
    """``k`` different indices a row, ``(rows, k)``, in the order drawn: one after the other, each
    with a chance in proportion to its weight among those left.

    By exponential clocks of those rates (Efraimidis & Spirakis 2006): the first ``k`` to ring.
    """
    rings = rng.standard_exponential((rows, weights.size)) / weights
    first = np.argpartition(rings, k - 1, axis=1)[:, :k]
    order = np.take_along_axis(rings, first, axis=1).argsort(axis=1)
    return np.take_along_axis(first, order, axis=1)


def ids(rows: int, length: int, fill: int, vocab: int) -> np.ndarray:
    """Token ids ``(rows, length)``, all ``fill``, in the smallest type that holds ``vocab`` ids."""
    return np.full((rows, length), fill, np.min_scalar_type(vocab - 1))


def labels(rows: int, length: int, classes: int) -> np.ndarray:
    """Labels ``(rows, length)`` of which none is scored, in the smallest type that holds them."""
    smallest = np.promote_types(np.min_scalar_type(-classes), np.min_scalar_type(NOT_SCORED))
    return np.full((rows, length), NOT_SCORED, smallest)
