"""Retrieval: do two papers cite one another? Two texts, each read byte by byte."""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lra.data import aan_tsv
from lra.data.characters import TOKENS, Reading
from lra.data.labelled import Labelled
from lra.data.splits import stratified
from lra.data.writer import Writer
from lra.errors import UserError
from lra.tasks.knobs import check_choice, check_flag, check_whole, padded_length
from lra.tasks.spec import Batch, TaskSpec

if TYPE_CHECKING:
    import datasets

SET_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Retrieval(Labelled):
    """Pairs of papers, related or not; two towers of shared weights read one paper each.

    ::

        We parse ...   A corpus ...     two texts
        88 102 33 113 ... | 66 33 ...   x: byte + 1 of both, cut to max_length each, 0 pads
        1                               y: 1 where one cites the other

    The official pairs are of the ACL Anthology Network (AAN). Any other set in their layout is a
    stand-in: it has a name of its own in every row, and is never called AAN. A set counts as AAN's
    if its three files have exactly LRA's numbers of rows, 147,086, 18,090 and 17,437.

    Published numbers differ by more than models: LRA's code joins [a, b] where its paper says
    [a, b, a*b, a-b] (``recipe.pairing``), pools the first byte (``recipe.pooling=first``), warms up
    for 8,000 of 5,000 steps, and leaves out up to 31 test pairs; here every pair is scored. It also
    encodes 10,000 bytes of a text at most, which a ``max_length`` of 4,000 never meets.

    Args:
        root: folder of built data.
        source: folder of ``new_aan_pairs.{train,eval,test}.tsv``; there is none to download.
        set_name: what a set that is not AAN's is called; None: ``retrieval_standin``.
        tokens: bytes (257 ids) or chars (those of train with ``min_freq``, as the S4 family).
        eos: append an end-of-sequence id to both; it counts in ``max_length``.
        min_freq: occurrences in train that make a character known; ``tokens=chars`` only.
        max_length: ids of a text; the rest is cut off.
        padding: longest, each batch to its longest text; full, to ``max_length`` (LRA); or to that
            many positions (Nystromformer: 4,096).
        n_train, n_val, n_test: most pairs of each split, a stratified sample; None: all.
        data_seed: of the samples.

    Raises:
        UserError: a knob has no such value.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        source: str | Path | None = None,
        set_name: str | None = None,
        tokens: str = "bytes",
        eos: bool = False,
        min_freq: int = 1,
        max_length: int = 4000,
        padding: str | int = "longest",
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        limits = {"train": n_train, "val": n_val, "test": n_test}
        super().__init__("retrieval", root, limits, data_seed)
        check_choice("tokens", tokens, TOKENS)
        check_flag("eos", eos)
        check_whole(1 + eos, max_length=max_length)
        check_whole(1, min_freq=min_freq)
        if set_name is not None and (not SET_NAME.fullmatch(set_name) or _claims(set_name)):
            raise UserError(
                f"set_name={set_name}: write a name of small letters, digits and _ that is not "
                "retrieval and does not say aan"
            )
        self._location, self._set_name = source, set_name
        self._reading = Reading(tokens, eos, max_length, min_freq)
        self._padded = padded_length(padding, max_length)

    def collate(self, dataset: "datasets.Dataset", rows: np.ndarray) -> Batch:
        """The rows of those numbers as ids ``(B, 2, N)``, all texts padded with 0 alike."""
        import torch

        from lra.data.columns import labels, lists, pad

        pairs = zip(*(lists(dataset, column)[rows] for column in ("x", "x2")), strict=True)
        sides = [side for pair in pairs for side in pair]
        x, mask = (t.unflatten(0, (-1, 2)) for t in pad(sides, length=self._padded))
        return Batch(x, mask, torch.from_numpy(labels(dataset)[rows].astype(np.int64)))

    @cached_property
    def _files(self) -> dict[str, Path]:
        return aan_tsv.find(self._location)

    def _key(self, seed: int) -> Mapping[str, Any]:
        return {**self._asked(seed), **self._reading.asked(), **aan_tsv.key(self._files)}

    def _asked(self, seed: int) -> dict[str, Any]:
        return {"asked": self._limits, "seed": seed}

    def _write(self, writer: Writer, seed: int) -> Mapping[str, Any]:
        found = aan_tsv.scan_all(self._files)
        labels = {split: scan.labels for split, scan in found.items()}
        chosen = self._choose(labels, seed)
        codec, encoding = self._reading.codec(
            lambda: (
                [text for pair in part for text in pair]
                for part in aan_tsv.pairs(self._files["train"], chosen["train"])
            )
        )
        counted = aan_tsv.write_pairs(writer, self._files, labels, chosen, codec)
        facts = {
            "source": "pairs of papers",
            "source_sha256": {self._files[s].name: scan.sha256 for s, scan in found.items()},
            "source_rows": {split: len(rows) for split, rows in labels.items()},
        }
        return {**facts, **counted, **encoding, **self._asked(seed)}

    def _choose(self, labels: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
        """The rows of each split, ascending."""
        rng, chosen = np.random.default_rng(seed), {}
        for split, found in labels.items():
            limit = self._limits[split]
            n = len(found) if limit is None else min(limit, len(found))
            chosen[split] = stratified(found, n, rng)
        return chosen

    def _spec(self, facts: Mapping[str, Any]) -> TaskSpec:
        official = self._set_name is None and facts["source_rows"] == aan_tsv.ROWS
        return TaskSpec(
            name="retrieval" if official else self._set_name or "retrieval_standin",
            kind="match", length=self._padded or self._reading.max_length, classes=2,
            vocab=facts["vocab"], chance_acc=0.5, tier="official" if official else "stand-in",
            published="retrieval" if official else None,
        )  # fmt: skip


def _claims(name: str) -> bool:
    """Whether a name says that the pairs are LRA's."""
    return name == "retrieval" or "aan" in name.split("_")
