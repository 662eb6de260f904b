"""Which rows of a labelled data set make train, val and test, and how they get into a store.

Legend: an origin is a split of the source, train or test; a split is one of ours.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any, Protocol

import numpy as np

from lra.data.digests import digest
from lra.data.writer import Column, Writer
from lra.errors import UserError
from lra.progress import progress

ORIGINS = ("train", "test")
HELD_OUT = 0.1  # share of train that an honest split validates on
SPLITTERS = ("honest", "legacy")

# rows of each split: where they come from, and their numbers there, ascending
Chosen = Mapping[str, tuple[str, np.ndarray]]


class Source(Protocol):
    """A labelled data set as its publisher lays it out. Every method may raise ``UserError``."""

    def key(self) -> dict[str, Any]:
        """Names the data without reading it."""

    def facts(self) -> dict[str, Any]:
        """What kind of source it is, and sha256 of its files."""

    def labels(self, origin: str) -> np.ndarray:
        """Labels of all rows (uint8)."""

    def rows(self, origin: str, wanted: np.ndarray) -> Iterator[list[bytes]]:
        """The contents of the rows of those ascending numbers, in order, some at a time."""


def choose(
    labels: Mapping[str, np.ndarray], kind: str, limits: Mapping[str, int | None], seed: int
) -> dict[str, tuple[str, np.ndarray]]:
    """The rows of each split.

    honest: a tenth of train, the same share of each label, validates. legacy: all of train trains,
    and val is test (not in the answer), as most published code has it for IMDb.

    Args:
        labels: by origin.
        kind: one of ``SPLITTERS``.
        limits: most rows of each split, a sample with the same share of each label; None: all.
        seed: of the split and of the samples.

    Raises:
        UserError: the source has too few rows.
    """
    rng = np.random.default_rng(seed)
    every = {origin: np.arange(len(labels[origin])) for origin in ORIGINS}
    found = {"train": ("train", every["train"]), "test": ("test", every["test"])}
    if kind == "honest":
        held = stratified(labels["train"], round(HELD_OUT * len(every["train"])), rng)
        found["train"] = ("train", np.setdiff1d(every["train"], held))
        found["val"] = ("train", held)
    for split, (origin, rows) in found.items():
        limit = limits[split]
        if limit is not None and limit < len(rows):
            rows = rows[stratified(labels[origin][rows], limit, rng)]
            found[split] = (origin, rows)
        if not len(rows):
            raise UserError(f"the source has too few rows for a {split} split: give a whole one")
    return found


def stratified(labels: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Ascending numbers of ``n`` rows, as near as can be the same share of each label."""
    values, counts = np.unique(labels, return_counts=True)
    share = n * counts / max(len(labels), 1)
    quota = np.floor(share).astype(np.int64)
    # largest remainders, the first label first
    quota[np.argsort(quota - share, kind="stable")[: n - quota.sum()]] += 1
    parts = [
        rng.permutation(np.flatnonzero(labels == value))[:count]
        for value, count in zip(values, quota, strict=True)
    ]
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)


def write_rows(
    writer: Writer,
    source: Source,
    labels: Mapping[str, np.ndarray],
    chosen: Chosen,
    encode: Callable[[list[bytes]], Column],
    title: str,
) -> dict[str, Any]:
    """Appends the chosen rows as columns x (what ``encode`` makes of them) and y, from where an
    interrupted build stopped.

    Returns:
        Facts for the manifest: labels of each split, and how many contents recur across splits.
    """
    seen: dict[str, list[bytes]] = {split: [] for split in chosen}
    there = {split: writer.rows(split) for split in chosen}
    done = 0
    with progress(title, sum(len(rows) for _, rows in chosen.values()), unit="rows") as shown:
        for origin in ORIGINS:
            mine = {split: rows for split, (place, rows) in chosen.items() if place == origin}
            wanted, start = np.sort(np.concatenate(list(mine.values()))), 0
            for contents in source.rows(origin, wanted):
                numbers = wanted[start : start + len(contents)]
                start, done = start + len(contents), done + len(contents)
                for split, rows in mine.items():
                    inside = np.flatnonzero(np.isin(numbers, rows, assume_unique=True))
                    new = inside[max(there[split] - len(seen[split]), 0) :]
                    seen[split] += [digest(contents[i]) for i in inside]
                    if new.size:
                        x, y = encode([contents[i] for i in new]), labels[origin][numbers[new]]
                        writer.append(split, x=x, y=y)
                shown.update(done)
            assert start == len(wanted), (origin, start, len(wanted))
    counts = {split: label_counts(labels[origin][rows]) for split, (origin, rows) in chosen.items()}
    return {"labels": counts, "duplicates": duplicates(seen)}


def label_counts(labels: np.ndarray) -> dict[str, int]:
    """How often each label occurs."""
    values, counts = np.unique(labels, return_counts=True)
    return {str(value): int(count) for value, count in zip(values, counts, strict=True)}


def duplicates(contents: Mapping[str, list[bytes]]) -> dict[str, int]:
    """Of each pair of splits, how many rows of the later one have a content of the earlier one;
    nothing is dropped for it."""
    order = [split for split in ("train", "val", "test") if split in contents]
    found = {}
    for earlier, later in combinations(order, 2):
        known = set(contents[earlier])
        found[f"{later} in {earlier}"] = sum(row in known for row in contents[later])
    return found


def majority(train: np.ndarray, test: np.ndarray) -> float:
    """Test accuracy in [0, 1] of always saying train's most frequent label."""
    values, counts = np.unique(train, return_counts=True)
    return float((test == values[counts.argmax()]).mean())
