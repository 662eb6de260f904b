"""Selective copying: symbols scattered among noise, given back in order at the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from lra.data.synthetic import Columns, ids, labels, without_replacement
from lra.data.synthetic_task import DrawnTask
from lra.errors import UserError
from lra.tasks.knobs import check_whole
from lra.tasks.spec import TaskSpec

NOISE, GO, FIRST = 1, 2, 3


@dataclass(frozen=True)
class SelectiveCopyLaw:
    """Uniform symbols at uniformly drawn places among noise, then one go marker for each."""

    length: int
    n_symbols: int
    n_values: int
    version: ClassVar[int] = 1

    @property
    def vocab(self) -> int:
        return FIRST + self.n_values

    def draw(self, rng: np.random.Generator, rows: int) -> Columns:
        context = self.length - self.n_symbols
        symbols = rng.integers(self.n_values, size=(rows, self.n_symbols))
        places = without_replacement(rng, rows, self.n_symbols, np.ones(context))
        x = ids(rows, self.length, NOISE, self.vocab)
        np.put_along_axis(x, np.sort(places, axis=1), (symbols + FIRST).astype(x.dtype), axis=1)
        x[:, context:] = GO
        y = labels(rows, self.length, self.n_values)
        y[:, context:] = symbols
        return {"x": x, "y": y}


class SelectiveCopying(DrawnTask):
    """The selective copying task of Gu and Dao 2023 (arXiv 2312.00752, figure 2), as the
    denoising of Jing et al. 2019 (arXiv 1706.02761).

    ::

        noise and symbols            go          max_length=10, n_symbols=3
        1  4  1  1  5  3  1          2  2  2     x
        .  .  .  .  .  .  .          1  2  0     y: the value of each symbol, in order

    Ids: 0 padding (never occurs), 1 noise, 2 go, ``3 + v`` the symbol of value ``v``. A dot is a
    position that is not scored. Where a symbol stands says nothing of where it goes: a model whose
    mixing does not depend on the content cannot tell which tokens to keep.

    Args:
        root: folder of built data.
        n_train, n_val, n_test: rows of each split.
        max_length: tokens of every row, at least ``2 n_symbols``; the paper's length counts the
            ``max_length - n_symbols`` before the go markers.
        n_symbols: symbols to be copied.
        n_values: different symbols; the paper's vocabulary of 16 counts noise and go.
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
        max_length: int = 4112,
        n_symbols: int = 16,
        n_values: int = 14,
        data_seed: int = 0,
    ) -> None:
        check_whole(1, max_length=max_length, n_symbols=n_symbols)
        check_whole(2, n_values=n_values)
        if max_length < 2 * n_symbols:
            raise UserError(
                f"n_symbols={n_symbols} and their copies need max_length={2 * n_symbols} or more, "
                f"got {max_length}"
            )
        law = SelectiveCopyLaw(max_length, n_symbols, n_values)
        spec = TaskSpec(
            name="selective_copying", kind="token", length=max_length, classes=n_values,
            vocab=law.vocab, causal=True, chance_acc=1 / n_values, tier="regenerated",
        )  # fmt: skip
        counts = {"train": n_train, "val": n_val, "test": n_test}
        super().__init__(spec, law, first_value=FIRST, root=root, counts=counts, seed=data_seed)
