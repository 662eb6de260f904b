"""ListOps: the value of a nested expression over digits."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lra.data import store
from lra.data.labelled import standing
from lra.data.listops_set import generated_key, write_generated
from lra.data.listops_trees import (
    EXTENDED_VOCAB,
    OFFICIAL,
    OFFICIAL_VOCAB,
    TreeLaw,
    check_operators,
)
from lra.data.listops_tsv import ROWS, official_key, write_official
from lra.tasks.knobs import check_flag, check_whole, padded_length
from lra.tasks.spec import Batch, TaskSpec, Tier, data_root

if TYPE_CHECKING:
    import datasets

CLASSES = 10


class ListOps:
    """One expression, one of ten classes.

    ::

        [MAX 4 [MIN 2 9 ] 0 ]      the tree: an operator, its arguments, a bracket
        12 5 11 3 10 15 1 15       x: no parentheses, lengths kept, 0 pads a batch
        4                          y: the value

    Ids: 0 padding, 1..10 the digits 0..9, 11 ``[MIN``, 12 ``[MAX``, 13 ``[MED``, 14 ``[SM`` (sum
    modulo 10), 15 ``]``, 16 unknown (in the official vocabulary; never occurs); 17 ``[FIRST`` and
    18 ``[LAST`` only where ``operators`` names one of them; one more with ``eos``. ``MED`` is the
    median rounded down.

    The labels are uneven: a model that reads only the first operator scores 36 to 37 % on the
    official distribution, one that always says the same class 17 %.

    Files that have not LRA's 96,000, 2,000 and 2,000 trees are a stand-in, ``listops_standin`` in
    every row, whatever program wrote them; only fewer test trees are no more than noted.

    Args:
        root: folder of built data.
        n_train, n_val, n_test: trees of each split; with ``source`` the most that is read.
        max_depth: levels of a tree, the last one digits only.
        max_args: most arguments of an operator; the fewest is 2.
        min_length, max_length: tokens of a tree lie strictly between; with ``source`` longer trees
            are cut to ``max_length``. A model must take ``max_length`` positions.
        eos: append an end-of-sequence id, as the S4 family; it counts in ``max_length``.
        padding: longest, each batch to its longest tree; full, to ``max_length`` (LRA); or to that
            many positions (Nystromformer: 2,048).
        operators: which occur, each equally often: MIN, MAX, MED, SM, FIRST, LAST.
        source: folder of the official ``basic_{train,val,test}.tsv``; None: generate. Depth,
            arguments, ``min_length`` and ``data_seed`` then say nothing.
        data_seed: of the generator.

    Raises:
        UserError: a knob has no such value, or no tree satisfies them.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        n_train: int = 96_000,
        n_val: int = 2_000,
        n_test: int = 2_000,
        max_depth: int = 10,
        max_args: int = 10,
        min_length: int = 500,
        max_length: int = 2000,
        operators: Sequence[str] = OFFICIAL,
        eos: bool = False,
        padding: str | int = "longest",
        source: str | Path | None = None,
        data_seed: int = 0,
    ) -> None:
        check_flag("eos", eos)
        check_whole(1, n_train=n_train, n_val=n_val, n_test=n_test)
        check_whole(1 + eos, max_length=max_length)
        check_whole(0, max_depth=max_depth, max_args=max_args, min_length=min_length)
        check_whole(0, data_seed=data_seed)
        self._root, self._seed = data_root(root), data_seed
        self._counts = {"train": n_train, "val": n_val, "test": n_test}
        self._operators = check_operators(operators)
        self._source = None if source is None else Path(source).expanduser().resolve()
        if source is None:
            self._law = TreeLaw(max_depth, max_args, min_length, max_length, self._operators)
        self._longest, self._padded = max_length, padded_length(padding, max_length)
        official = set(self._operators) <= set(OFFICIAL)
        self._vocab = OFFICIAL_VOCAB if official else EXTENDED_VOCAB
        self._eos = self._vocab if eos else None

    @cached_property
    def spec(self) -> TaskSpec:
        """The facts; with ``source`` they need its files, which are read if need be."""
        name, tier, notes = self._standing()
        return TaskSpec(
            name=name, kind="classify", length=self._padded or self._longest, classes=CLASSES,
            vocab=self._vocab + (self._eos is not None), chance_acc=0.1, tier=tier,
            published=None if tier == "stand-in" else "listops", notes=notes,
        )  # fmt: skip

    def _standing(self) -> tuple[str, Tier, tuple[str, ...]]:
        if self._source is None:
            return "listops", "regenerated", ()
        return standing("listops", self.manifest()["source_rows"], ROWS)

    def build(self, split: str, seed: int | None = None) -> "datasets.Dataset":
        """Columns x: token ids (uint8), y: value (uint8). ``seed`` is another ``data_seed``.

        Raises:
            UserError: a file is missing or broken (names the line), the trees that the knobs ask
                for are too few or too rare, or the folder cannot be written.
        """
        return store.load(self._folder(seed), split)

    def collate(self, dataset: "datasets.Dataset", rows: np.ndarray) -> Batch:
        """The rows of those numbers as ids ``(B, N)``, padded with 0."""
        from lra.data.columns import padded

        return Batch(*padded(dataset, rows, end=self._eos, length=self._padded))

    def manifest(self) -> Mapping[str, Any]:
        """What the data is, wherever and whenever it was built; builds it if need be."""
        facts = store.manifest(self._folder(None))
        assert facts is not None
        return facts

    def baselines(self) -> dict[str, float]:
        """Test accuracy of the most frequent value, and of that after each first operator; both
        are learned on train."""
        first, y = self._first_and_value("train")
        votes = np.zeros((EXTENDED_VOCAB, CLASSES), np.int64)
        np.add.at(votes, (first, y), 1)
        majority = votes.sum(axis=0).argmax()
        best = np.where(votes.any(axis=1), votes.argmax(axis=1), majority)
        first, y = self._first_and_value("test")
        return {
            "majority": float((y == majority).mean()),
            "first_operator": float((y == best[first]).mean()),
        }

    def _first_and_value(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        import pyarrow.compute as pc

        table = self.build(split).data.table
        return pc.list_element(table["x"], 0).to_numpy(), table["y"].to_numpy()

    def _folder(self, seed: int | None) -> Path:
        if self._source is not None:
            cut = self._longest - (self._eos is not None)
            asked = (self._source, self._counts, cut, self._operators)
            return store.ensure(
                self._root, "listops", official_key(*asked),
                lambda writer: write_official(writer, *asked), resumable=True,
            )  # fmt: skip
        drawn = (self._law, self._counts, self._seed if seed is None else seed)
        return store.ensure(
            self._root, "listops", generated_key(*drawn),
            lambda writer: write_generated(writer, *drawn), resumable=True,
        )  # fmt: skip
