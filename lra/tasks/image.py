"""Image: what is on a small picture? Read pixel by pixel."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lra.data import splits
from lra.data.cifar import CLASSES, GRAYS, OFFER, PIXELS, ROWS, SIDE, open_cifar
from lra.data.labelled import Labelled, standing
from lra.data.pixels import PixelInput
from lra.data.splits import Source
from lra.data.writer import Writer
from lra.errors import UserError
from lra.tasks.knobs import check_choice, check_whole
from lra.tasks.spec import Batch, TaskSpec

if TYPE_CHECKING:
    import datasets


class Image(Labelled):
    """CIFAR-10 in gray, ten classes, row by row.

    ::

        59  43  50  68 ...   x: 1,024 gray values; embed: ids, no offset, so 0 is black, no padding
        -1.04 -1.30 ...      scalar: (value / 255 - mean) / std, one number a position
        6                    y: airplane 0, automobile 1, bird 2, cat 3, deer 4, dog 5, frog 6, ...

    LRA embeds 256 ids, which withholds that 59 is near 60; the S4 family and Mega feed the number.
    That alone is worth tens of points: results of the two are not comparable. LRA's code, and
    Nystromformer's after it, masks black pixels as if they were padding (``mask_zero_pixels``).

    Args:
        root: folder of built data.
        source: a name on the hub; or a folder of parquet files of its schema (gray pictures are
            taken as they are), or ``cifar-10-batches-bin``.
        revision: the commit of a name on the hub.
        gray: weights and rounding from RGB: tf (LRA) or pil (S4 family, Mega).
        pixels: embed or scalar.
        mean, std: of the gray value in [0, 1]; ``pixels=scalar`` only. As S4; Mega has 0.48, 0.24.
        mask_zero_pixels: True: black pixels are masked.
        max_length: pixels kept, whole rows from the top; 1,024 is the picture.
        n_train, n_val, n_test: most pictures of each split, a stratified sample; None: all.
        data_seed: of splits and samples. A stratified tenth of train validates.

    Raises:
        UserError: a knob has no such value.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        source: str = OFFER.hub,
        revision: str = OFFER.revision,
        gray: str = "tf",
        pixels: str = "embed",
        mean: float = 122.6 / 255,
        std: float = 61.0 / 255,
        mask_zero_pixels: bool = False,
        max_length: int = PIXELS,
        n_train: int | None = None,
        n_val: int | None = None,
        n_test: int | None = None,
        data_seed: int = 0,
    ) -> None:
        super().__init__("image", root, {"train": n_train, "val": n_val, "test": n_test}, data_seed)
        check_choice("gray", gray, GRAYS)
        check_whole(SIDE, max_length=max_length)
        if max_length % SIDE or max_length > PIXELS:
            raise UserError(f"max_length={max_length}: write a multiple of {SIDE} up to {PIXELS}")
        self._input = PixelInput(pixels, mask_zero_pixels, mean, std)
        self._location = str(source), str(revision)
        self._gray, self._length = gray, max_length

    def collate(self, dataset: "datasets.Dataset", rows: np.ndarray) -> Batch:
        """The rows of those numbers: ids ``(B, N)`` or scalars ``(B, N, 1)``."""
        from lra.data.columns import labels, lists

        pixels = np.stack([row[: self._length] for row in lists(dataset, "x")[rows]])
        return self._input.batch(pixels, labels(dataset)[rows])

    @cached_property
    def _source(self) -> Source:
        return open_cifar(*self._location, self._gray)

    def _key(self, seed: int) -> Mapping[str, Any]:
        return {**self._asked(seed), "source": self._source.key()}

    def _asked(self, seed: int) -> dict[str, Any]:
        return {"gray": self._gray, "asked": self._limits, "seed": seed}

    def _write(self, writer: Writer, seed: int) -> Mapping[str, Any]:
        source = self._source
        labels = {origin: source.labels(origin) for origin in splits.ORIGINS}
        chosen = splits.choose(labels, "honest", self._limits, seed)
        counted = splits.write_rows(writer, source, labels, chosen, _encode, "reading CIFAR-10")
        rows = {origin: len(found) for origin, found in labels.items()}
        return {**source.facts(), "source_rows": rows, **counted, **self._asked(seed)}

    def _spec(self, facts: Mapping[str, Any]) -> TaskSpec:
        name, tier, notes = standing("image", facts["source_rows"], ROWS)
        return TaskSpec(
            name=name, kind="classify", length=self._length, classes=CLASSES,
            vocab=self._input.vocab, features=self._input.features,
            grid=(self._length // SIDE, SIDE), chance_acc=0.1, tier=tier,
            published="image" if tier == "official" else None, notes=notes,
        )  # fmt: skip


def _encode(pictures: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(pictures), np.uint8).reshape(-1, PIXELS)
