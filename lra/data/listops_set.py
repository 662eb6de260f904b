"""A set of ListOps trees that are all different, the same on any number of worker processes."""

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from lra.data.digests import row_digests
from lra.data.listops_trees import GENERATOR, TreeLaw, Trees, draw_chunk
from lra.data.workers import cores, ordered_map
from lra.data.writer import Writer
from lra.errors import UserError
from lra.progress import progress

RAREST = 1e-4  # share of the trees begun that must satisfy the law
FEWEST_NEW = 0.01  # share of the trees drawn that must be new
PATIENCE = 200_000  # trees begun before either share is judged
WORTH_WORKERS = 2**24  # tokens; less is drawn here before worker processes have started


def generated_key(law: TreeLaw, counts: Mapping[str, int], seed: int) -> dict[str, Any]:
    """All that decides the trees and their splits."""
    return {"generator": GENERATOR, "seed": seed, "asked": dict(counts), "law": asdict(law)}


def write_generated(
    writer: Writer, law: TreeLaw, counts: Mapping[str, int], seed: int
) -> dict[str, Any]:
    """Writes ``counts`` trees by split, no two alike; returns the facts of the manifest.

    The splits are drawn from one stream, so that a build that was interrupted draws it again from
    the start; the trees that it left are not written again.

    Raises:
        UserError: there are not so many, or they are too rare.
    """
    n, done = sum(counts.values()), 0
    splits = split_of(list(counts.values()), seed)
    workers = cores() if n * law.max_length > WORTH_WORKERS else 1
    there, passed = {name: writer.rows(name) for name in counts}, dict.fromkeys(counts, 0)
    with progress("making ListOps", n, unit="trees") as shown:
        for trees in distinct_trees(law, n, seed, workers):
            of_split = splits[done : done + trees.labels.size]
            for i, name in enumerate(counts):
                part = select(trees, of_split == i)
                append(writer, name, part, first=max(there[name] - passed[name], 0))
                passed[name] += part.labels.size
            done += trees.labels.size
            shown.update(done)
    return {"source": "generated", **generated_key(law, counts, seed)}


def distinct_trees(law: TreeLaw, n: int, seed: int, workers: int) -> Generator[Trees]:
    """``n`` different trees, a chunk at a time: the first ones of the stream ``seed``.

    Raises:
        UserError: the law is satisfied too rarely, or by too few different trees.
    """
    seen: set[bytes] = set()
    begun = kept = drawn = new = 0
    with closing(ordered_map(partial(draw_chunk, law, seed), workers)) as chunks:
        for trees in chunks:
            before = len(seen)
            fresh = _unseen(trees, seen, n)
            if fresh.labels.size:
                yield fresh
            if len(seen) == n:
                return
            begun, kept = begun + law.candidates, kept + trees.labels.size
            drawn, new = drawn + trees.labels.size, new + len(seen) - before
            if begun >= PATIENCE and kept < RAREST * begun:
                raise UserError(
                    f"fewer than 1 in {1 / RAREST:,.0f} trees has more than {law.min_length} and "
                    f"fewer than {law.max_length} tokens: widen the bounds, or change max_depth="
                    f"{law.max_depth}, max_args={law.max_args}"
                )
            if drawn >= PATIENCE:
                if new < FEWEST_NEW * drawn:
                    raise UserError(
                        f"found only {len(seen):,} of {n:,} different trees: lower n_train, n_val, "
                        f"n_test, or raise max_length={law.max_length}, max_depth={law.max_depth}, "
                        f"max_args={law.max_args}"
                    )
                drawn = new = 0


def append(writer: Writer, split: str, trees: Trees, first: int) -> None:
    """Adds trees to a split, from number ``first`` on."""
    if first < trees.labels.size:
        tokens = trees.tokens[trees.lengths[:first].sum() :]
        writer.append(split, x=(tokens, trees.lengths[first:]), y=trees.labels[first:])


def _unseen(trees: Trees, seen: set[bytes], n: int) -> Trees:
    """The trees not in ``seen``, until that holds ``n``; adds them to it."""
    keep = np.zeros(trees.labels.size, bool)
    for i, tree in enumerate(row_digests((trees.tokens, trees.lengths))):
        if len(seen) == n:
            break
        if tree not in seen:
            seen.add(tree)
            keep[i] = True
    return select(trees, keep)


def select(trees: Trees, keep: np.ndarray) -> Trees:
    """The trees where ``keep`` is true."""
    if keep.all():
        return trees
    tokens = trees.tokens[np.repeat(keep, trees.lengths)]
    return Trees(tokens, trees.lengths[keep], trees.labels[keep])


def split_of(counts: list[int], seed: int) -> np.ndarray:
    """Split of each tree of the stream, ``counts[i]`` times ``i`` in random order.

    Rare trees come late in a stream without repetitions, so that slices of it would differ.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
    return rng.permutation(np.repeat(np.arange(len(counts), dtype=np.uint8), counts))
