"""What the tasks of drawn rows share: splits, batches and trivial rules."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lra.data import store
from lra.data.synthetic import NOT_SCORED, Law, key_of, write
from lra.tasks.knobs import check_whole
from lra.tasks.spec import Batch, TaskSpec, data_root

if TYPE_CHECKING:
    import datasets

RULE_TOKENS = 2**20  # tokens that the rules look at at a time


class DrawnTask:
    """A causal task that labels positions with values, its rows drawn by a law.

    A subclass has its knobs, and hands on what they make.

    Args:
        spec: the task's facts.
        law: draws columns x, ids of tokens, and y, values by position (-100: not scored).
        first_value: id of value 0; the last value is the last id.
        root: folder of built data.
        counts: rows of each split.
        seed: of the generator.
    """

    def __init__(
        self,
        spec: TaskSpec,
        law: Law,
        *,
        first_value: int,
        root: str | Path,
        counts: Mapping[str, int],
        seed: int,
    ) -> None:
        check_whole(1, **{f"n_{split}": count for split, count in counts.items()})
        check_whole(0, data_seed=seed)
        self.spec = spec
        self._law, self._first_value = law, first_value
        self._root, self._counts, self._seed = data_root(root), dict(counts), seed

    def build(self, split: str, seed: int | None = None) -> "datasets.Dataset":
        """Columns x: token ids, y: values by position, -100 where none is asked for, and what else
        the task says of a row. ``seed`` is another ``data_seed``.

        Raises:
            UserError: there are not so many different rows, or the folder cannot be written.
        """
        return store.load(self._folder(seed), split)

    def collate(self, dataset: "datasets.Dataset", rows: np.ndarray) -> Batch:
        """The rows of those numbers: ids ``(B, N)``, no padding, labels ``(B, N)``."""
        from lra.data.columns import lists, pad

        x, mask = pad(lists(dataset, "x")[rows])
        y, _ = pad(lists(dataset, "y")[rows], fill=NOT_SCORED)
        return Batch(x, mask, y)

    def manifest(self) -> Mapping[str, Any]:
        """What the data is, wherever and whenever it was built; builds it if need be."""
        facts = store.manifest(self._folder(None))
        assert facts is not None
        return facts

    def baselines(self) -> dict[str, float]:
        """Test accuracy of the most frequent value of train, of the value seen last, and of one
        drawn from the values seen so far (its expectation)."""
        votes = np.zeros(self.spec.classes, np.int64)
        for _, y in self._parts("train"):
            votes += np.bincount(y[y != NOT_SCORED], minlength=votes.size)
        majority = votes.argmax()
        sums = np.zeros(4)
        for x, y in self._parts("test"):
            row, at = np.nonzero(y != NOT_SCORED)
            value = x.astype(np.int64) - self._first_value
            wanted = y[row, at]
            latest, share = seen(value, row, at, wanted)
            hits = (wanted == majority, latest == wanted, share)
            sums += [row.size, *(hit.sum() for hit in hits)]
        names = ("majority", "latest_value", "context_value")
        return {name: float(hits / sums[0]) for name, hits in zip(names, sums[1:], strict=True)}

    def _parts(self, split: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """x and y of a split, ``(rows, N)``, some rows at a time."""
        from lra.data.columns import lists

        data, step = self.build(split), max(1, RULE_TOKENS // self.spec.length)
        for start in range(0, len(data), step):
            rows = range(start, min(start + step, len(data)))
            x, y = (np.stack(lists(data, column)[rows]) for column in ("x", "y"))
            yield x, y

    def _folder(self, seed: int | None) -> Path:
        name = self.spec.name
        drawn = (self._law, self._counts, self._seed if seed is None else seed)
        return store.ensure(
            self._root, name, key_of(*drawn), lambda w: write(w, name, *drawn), resumable=True
        )


def seen(
    value: np.ndarray, row: np.ndarray, at: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """At each scored position: the latest value seen, and the share of ``wanted`` in all so far.

    Args:
        value: ``(rows, N)``, below 0 where the token is no value.
        row, at, wanted: of each scored position its row, place and label.
    """
    is_value = value >= 0
    place = np.where(is_value, np.arange(value.shape[1]), 0)
    latest = value[row, np.maximum.accumulate(place, axis=1)[row, at]]
    # how often each value was seen up to each place: sorted by (row, value, place), a rank in a run
    n_values = int(max(value.max(), wanted.max())) + 1
    cell = np.arange(len(value))[:, None] * n_values + value
    runs = np.sort(cell[is_value] * value.shape[1] + np.nonzero(is_value)[1])
    begin = (row * n_values + wanted.astype(np.int64)) * value.shape[1]
    hits = np.searchsorted(runs, begin + at, side="right") - np.searchsorted(runs, begin)
    return latest, hits / np.maximum(is_value.cumsum(axis=1)[row, at], 1)
