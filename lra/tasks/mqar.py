"""Multi-query associative recall: many pairs of key and value, then every key once more."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from lra.data.synthetic import Columns, ids, labels, without_replacement
from lra.data.synthetic_task import DrawnTask
from lra.errors import UserError
from lra.tasks.knobs import check_flag, check_whole
from lra.tasks.spec import TaskSpec

BLANK, FIRST_KEY = 1, 2


@dataclass(frozen=True)
class RecallLaw:
    """Pairs of different keys and different values; each key again in a slot of its own, slot ``g``
    (from 1) drawn in proportion to ``g ** (power_a - 1)``."""

    length: int
    num_pairs: int
    vocab_size: int
    power_a: float
    random_non_queries: bool
    version: ClassVar[int] = 1

    @property
    def first_value(self) -> int:
        return self.vocab_size // 2

    @property
    def n_values(self) -> int:
        return self.vocab_size - self.first_value

    def draw(self, rng: np.random.Generator, rows: int) -> Columns:
        pairs, context = self.num_pairs, 2 * self.num_pairs
        n_keys = self.first_value - FIRST_KEY
        keys = FIRST_KEY + without_replacement(rng, rows, pairs, np.ones(n_keys))
        values = without_replacement(rng, rows, pairs, np.ones(self.n_values))
        slot = np.arange(1, (self.length - context) // 2 + 1)
        gaps = without_replacement(rng, rows, pairs, slot ** (self.power_a - 1))
        x = ids(rows, self.length, BLANK, self.vocab_size)
        if self.random_non_queries:
            x[:] = rng.integers(FIRST_KEY, self.vocab_size, x.shape)
        x[:, 0:context:2] = keys
        x[:, 1:context:2] = values + self.first_value
        queries = context + 2 * gaps
        np.put_along_axis(x, queries, keys.astype(x.dtype), axis=1)
        y = labels(rows, self.length, self.n_values)
        np.put_along_axis(y, queries, values.astype(y.dtype), axis=1)
        return {"x": x, "y": y}


class MQAR(DrawnTask):
    """Multi-query associative recall of Arora et al. 2023 (Zoology, arXiv 2312.04927).

    ::

        key val key val   query     query           max_length=12, num_pairs=2, vocab_size=10
        4   7   2   9     2   1     4   1   1 1 1 1     x
        .   .   .   .     4   .     2   .   . . . .     y: the value after the same key

    Ids: 0 padding (never occurs), 1 blank, then keys up to ``vocab_size // 2 - 1``, then values
    (value ``v`` is ``vocab_size // 2 + v``). A dot is a position that is not scored. Keys are all
    different, values too; every key is asked once, mostly soon (a power law, as of repeated bigrams
    in text). A state of fixed size must hold all pairs at once.

    Args:
        root: folder of built data.
        n_train, n_val, n_test: rows of each split.
        max_length: tokens of every row, at least ``4 num_pairs``.
        num_pairs: pairs of a row.
        vocab_size: ids altogether.
        power_a: of the law of gaps; 1 is uniform.
        random_non_queries: any key or value instead of blanks.
        data_seed: of the generator.

    Raises:
        UserError: the pairs do not fit the length or the vocabulary.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        n_train: int = 100_000,
        n_val: int = 3_000,
        n_test: int = 3_000,
        max_length: int = 512,
        num_pairs: int = 64,
        vocab_size: int = 8192,
        power_a: float = 0.01,
        random_non_queries: bool = False,
        data_seed: int = 0,
    ) -> None:
        check_whole(1, max_length=max_length, num_pairs=num_pairs, vocab_size=vocab_size)
        if max_length < 4 * num_pairs:
            raise UserError(
                f"num_pairs={num_pairs} and their queries need max_length={4 * num_pairs} or more, "
                f"got {max_length}"
            )
        least = 2 * (max(num_pairs, 2) + FIRST_KEY)
        if vocab_size < least:
            raise UserError(
                f"num_pairs={num_pairs} different keys and values need vocab_size={least} or more, "
                f"got {vocab_size}"
            )
        if not isinstance(power_a, (int, float)) or not power_a > 0:
            raise UserError(f"power_a={power_a}: write a number above 0")
        check_flag("random_non_queries", random_non_queries)
        law = RecallLaw(max_length, num_pairs, vocab_size, power_a, random_non_queries)
        spec = TaskSpec(
            name="mqar", kind="token", length=max_length, classes=law.n_values, vocab=vocab_size,
            causal=True, chance_acc=1 / law.n_values, tier="regenerated",
        )  # fmt: skip
        counts = {"train": n_train, "val": n_val, "test": n_test}
        first = law.first_value
        super().__init__(spec, law, first_value=first, root=root, counts=counts, seed=data_seed)
