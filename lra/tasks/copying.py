"""Copying: symbols at the start, given back in order at the end, however long the wait."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from lra.data.synthetic import Columns, ids, labels
from lra.data.synthetic_task import DrawnTask
from lra.errors import UserError
from lra.tasks.knobs import check_whole
from lra.tasks.spec import TaskSpec

BLANK, GO, FIRST = 1, 2, 3


@dataclass(frozen=True)
class CopyLaw:
    """Uniform symbols, blanks, the go marker, blanks."""

    length: int
    n_symbols: int
    n_values: int
    version: ClassVar[int] = 1

    @property
    def vocab(self) -> int:
        return FIRST + self.n_values

    def draw(self, rng: np.random.Generator, rows: int) -> Columns:
        symbols = rng.integers(self.n_values, size=(rows, self.n_symbols))
        x = ids(rows, self.length, BLANK, self.vocab)
        x[:, : self.n_symbols] = symbols + FIRST
        x[:, -self.n_symbols - 1] = GO
        y = labels(rows, self.length, self.n_values)
        y[:, -self.n_symbols :] = symbols
        return {"x": x, "y": y}


class Copying(DrawnTask):
    """The copying memory task of Arjovsky, Shah and Bengio 2016 (arXiv 1511.06464).

    ::

        symbols    blanks     go  blanks        max_length=10, n_symbols=3
        5  3  4    1  1  1    2   1  1  1       x
        .  .  .    .  .  .    .   2  0  1       y: the value of each symbol, in order

    Ids: 0 padding (never occurs), 1 blank, 2 go, ``3 + v`` the symbol of value ``v``. A dot is a
    position that is not scored; the paper also scores the blanks, which nothing can get wrong.
    ``max_length`` is the paper's ``T + 2 n_symbols``. Every position needs its own symbol: the
    answer depends on where, not on what.

    Args:
        root: folder of built data.
        n_train, n_val, n_test: rows of each split.
        max_length: tokens of every row, at least ``2 n_symbols + 1``.
        n_symbols: symbols to be copied.
        n_values: different symbols.
        data_seed: of the generator.

    Raises:
        UserError: the symbols do not fit the length.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        n_train: int = 100_000,
        n_val: int = 2_000,
        n_test: int = 2_000,
        max_length: int = 1020,
        n_symbols: int = 10,
        n_values: int = 8,
        data_seed: int = 0,
    ) -> None:
        check_whole(1, max_length=max_length, n_symbols=n_symbols)
        check_whole(2, n_values=n_values)
        if max_length < 2 * n_symbols + 1:
            raise UserError(
                f"n_symbols={n_symbols} with their copies and the go marker need max_length="
                f"{2 * n_symbols + 1} or more, got {max_length}"
            )
        law = CopyLaw(max_length, n_symbols, n_values)
        spec = TaskSpec(
            name="copying", kind="token", length=max_length, classes=n_values, vocab=law.vocab,
            causal=True, chance_acc=1 / n_values, tier="regenerated",
        )  # fmt: skip
        counts = {"train": n_train, "val": n_val, "test": n_test}
        super().__init__(spec, law, first_value=FIRST, root=root, counts=counts, seed=data_seed)
