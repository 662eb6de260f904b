"""Needle: one key and its value far away among noise; at the end, the key once more."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from lra.data.synthetic import Columns, ids, labels, without_replacement
from lra.data.synthetic_task import DrawnTask
from lra.errors import UserError
from lra.tasks.knobs import check_whole
from lra.tasks.spec import TaskSpec

NOISE, KEY, FIRST = 1, 2, 3


@dataclass(frozen=True)
class NeedleLaw:
    """Noise; the key at a uniformly drawn depth with a uniform value after it, and again as the
    last token; as many decoys, uniform values at uniformly drawn other places."""

    length: int
    n_values: int
    n_decoys: int
    version: ClassVar[int] = 1

    @property
    def vocab(self) -> int:
        return FIRST + self.n_values

    def draw(self, rng: np.random.Generator, rows: int) -> Columns:
        depth = rng.integers(self.length - 2, size=(rows, 1))
        decoys = without_replacement(rng, rows, self.n_decoys, np.ones(self.length - 3))
        # the needle has two places of its own
        decoys += 2 * (decoys >= depth)
        value = rng.integers(self.n_values, size=(rows, 1 + self.n_decoys))
        x = ids(rows, self.length, NOISE, self.vocab)
        places = np.concatenate([depth + 1, decoys], axis=1)
        np.put_along_axis(x, places, (value + FIRST).astype(x.dtype), axis=1)
        np.put_along_axis(x, depth, KEY, axis=1)
        x[:, -1] = KEY
        y = labels(rows, self.length, self.n_values)
        y[:, -1] = value[:, 0]
        return {"x": x, "y": y, "depth": depth[:, 0].astype(np.int32)}


class Needle(DrawnTask):
    """One key far away: the plainest test of whether a distance can be bridged.

    ::

        noise, decoys, key and value  query         max_length=9, n_decoys=2
        1  5  1  2  7  1  1  4        2             x
        .  .  .  .  .  .  .  .        4             y: the value after the key

    Ids: 0 padding (never occurs), 1 noise, 2 the key, ``3 + v`` the value ``v``. A dot is a
    position that is not scored. Decoys are values without a key: to find a value is not enough.

    Rows have a column ``depth``, the place of the key, so that errors can be told by distance.

    Args:
        root: folder of built data.
        n_train, n_val, n_test: rows of each split.
        max_length: tokens of every row, at least ``n_decoys + 3``.
        n_values: different values.
        n_decoys: values that stand elsewhere.
        data_seed: of the generator.

    Raises:
        UserError: the decoys do not fit the length.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        n_train: int = 100_000,
        n_val: int = 2_000,
        n_test: int = 2_000,
        max_length: int = 1024,
        n_values: int = 16,
        n_decoys: int = 7,
        data_seed: int = 0,
    ) -> None:
        check_whole(1, max_length=max_length, n_decoys=n_decoys)
        check_whole(2, n_values=n_values)
        if max_length < n_decoys + 3:
            raise UserError(
                f"n_decoys={n_decoys}, key, value and query need max_length={n_decoys + 3} or "
                f"more, got {max_length}"
            )
        law = NeedleLaw(max_length, n_values, n_decoys)
        spec = TaskSpec(
            name="needle", kind="token", length=max_length, classes=n_values, vocab=law.vocab,
            causal=True, chance_acc=1 / n_values, tier="regenerated",
        )  # fmt: skip
        counts = {"train": n_train, "val": n_val, "test": n_test}
        super().__init__(spec, law, first_value=FIRST, root=root, counts=counts, seed=data_seed)
