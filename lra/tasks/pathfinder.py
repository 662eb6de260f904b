"""Pathfinder: does one dashed contour join the two discs? At 128 x 128 it is called Path-X."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lra.data import store
from lra.data.pathfinder_folder import find_folder
from lra.data.pathfinder_law import NAMES, law_of
from lra.data.pathfinder_official import ROWS, check_rule, official_key, write_official
from lra.data.pathfinder_set import generated_key, write_generated
from lra.data.pixels import PixelInput
from lra.tasks.knobs import check_whole
from lra.tasks.spec import Batch, TaskSpec, Tier, data_root

if TYPE_CHECKING:
    import datasets

RULE_ROWS = 20_000  # images of train that the trivial rules are learned on
PART = 2**24  # pixels that they look at at a time


class Pathfinder:
    """Gray images read row by row, two classes.

    ::

        O = = .  .  .  - -      two long contours (=) and short ones that distract (-), in dashes;
        .  .  . =  .  .  .      two discs (O), each at an end of a long one
        . - - .  = .  O .
        .  .  . - .  = .  =     x: 1,024 gray levels (size 32), 0 black to 255, row by row
        .  O = = =  .  = .      y: 1 if one contour joins the discs, else 0

    At 32 x 32 the distractors are brighter than the targets (255 and 191, the discs 221); at the
    larger sizes the discs are brightest. Two thirds of the pixels are black at 32.

    A folder that lists not just as many images as the release, 200,000, is a stand-in, such as
    ``pathfinder_standin`` in every row, whatever program drew them.

    Args:
        root: folder of built data.
        size: rows, and columns, of an image: 32, 64, 128 (Path-X) or 256.
        difficulty: dashes of a long contour: hard 14 (what LRA uses), intermediate 9, easy 6.
        n_train, n_val, n_test: images of each split; with ``source`` the most that is read.
        pixels: embed, 256 ids (LRA), or scalar, ``(pixel / 255 - mean) / std`` (S4, Mega).
        mask_zero_pixels: black pixels count as padding, as in the code of LRA and Nystromformer.
        mean, std: of scalar: 0 and 1 in S4, 0.5 and 0.5 in Mega.
        source: the official release: the folder that holds ``pathfinder32`` and its like, or one
            of those; None: draw images of the same distribution.
        split_rule: of ``source``, which has no splits: seeded, by ``data_seed``; s4, the split of
            S4, Mega and S5; or all, to evaluate a saved model: every image tests, train and val are
            the same images, and a row says so.
        data_seed: of the generator, or of the split.

    Raises:
        UserError: a knob is wrong.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        size: int = 32,
        difficulty: str = "hard",
        n_train: int = 160_000,
        n_val: int = 20_000,
        n_test: int = 20_000,
        pixels: str = "embed",
        mask_zero_pixels: bool = False,
        mean: float = 0.0,
        std: float = 1.0,
        source: str | Path | None = None,
        split_rule: str = "seeded",
        data_seed: int = 0,
    ) -> None:
        check_whole(1, n_train=n_train, n_val=n_val, n_test=n_test)
        check_whole(0, data_seed=data_seed)
        self._root, self._seed = data_root(root), data_seed
        self._counts = {"train": n_train, "val": n_val, "test": n_test}
        self._law, self._size, self._difficulty = law_of(size, difficulty), size, difficulty
        self._input = PixelInput(pixels, mask_zero_pixels, mean, std)
        self._source = None if source is None else Path(source).expanduser().resolve()
        self._rule = check_rule(split_rule)
        self._name, self._published = NAMES[size]

    @cached_property
    def spec(self) -> TaskSpec:
        """The facts; with ``source`` they need its files, which are read if need be."""
        name, tier = self._standing()
        known = self._difficulty == "hard" and tier != "stand-in"
        return TaskSpec(
            name=name, kind="classify", length=self._size**2, classes=2,
            grid=(self._size, self._size), chance_acc=0.5, tier=tier,
            published=self._published if known else None, vocab=self._input.vocab,
            features=self._input.features,
            notes=("train and val are the test images",) if self._only_test else (),
        )  # fmt: skip

    def _standing(self) -> tuple[str, Tier]:
        if self._source is None:
            return self._name, "regenerated"
        if self.manifest()["source_rows"] == ROWS:
            return self._name, "official"
        return f"{self._name}_standin", "stand-in"

    @property
    def _only_test(self) -> bool:
        return self._source is not None and self._rule == "all"

    def build(self, split: str, seed: int | None = None) -> "datasets.Dataset":
        """Columns x: gray levels (uint8, all rows equally long), y: class (uint8). ``seed`` is
        another ``data_seed``.

        Raises:
            UserError: the source is missing or broken (names file and line), or the folder cannot
                be written.
        """
        return store.load(self._folder(seed), "test" if self._only_test else split)

    def collate(self, dataset: "datasets.Dataset", rows: np.ndarray) -> Batch:
        """The rows of those numbers: ids ``(B, N)`` or scalars ``(B, N, 1)``."""
        from lra.data.columns import labels, lists

        return self._input.batch(np.stack(lists(dataset, "x")[rows]), labels(dataset)[rows])

    def manifest(self) -> Mapping[str, Any]:
        """What the data is, wherever and whenever it was built; builds it if need be."""
        facts = store.manifest(self._folder(None))
        assert facts is not None
        return facts

    def baselines(self) -> dict[str, float]:
        """Test accuracy of the more frequent class, and of the best threshold on an image's mean
        brightness; both are learned on train."""
        brightness, y = self._brightness("train", RULE_ROWS)
        order = np.argsort(brightness, kind="stable")
        # accuracy of calling 1 what is brighter than the first i images
        right = np.cumsum(np.append(0, 1 - 2 * y[order].astype(int))) + int(y.sum())
        signs = {1: right.max(), -1: len(y) - right.min()}
        sign = max(signs, key=lambda s: signs[s])
        cut = right.argmax() if sign == 1 else right.argmin()
        threshold = np.append(brightness[order], np.inf)[cut]
        majority = y.mean() >= 0.5
        brightness, y = self._brightness("test")
        bright = (brightness >= threshold) == (sign == 1)
        return {
            "majority": float((y == majority).mean()),
            "brightness": float((y == bright).mean()),
        }

    def _brightness(self, split: str, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        from lra.data.columns import labels, lists

        dataset = self.build(split)
        n = len(dataset) if most is None else min(len(dataset), most)
        step = max(PART // self._size**2, 1)
        parts = [
            np.stack(lists(dataset, "x")[range(first, min(first + step, n))]).mean(axis=1)
            for first in range(0, n, step)
        ]
        return np.concatenate(parts), labels(dataset)[:n]

    def _folder(self, seed: int | None) -> Path:
        seed = self._seed if seed is None else seed
        if self._source is None:
            drawn = (self._law, self._counts, seed)
            return store.ensure(
                self._root, self._name, generated_key(*drawn),
                lambda writer: write_generated(writer, *drawn), resumable=True,
            )  # fmt: skip
        found = find_folder(self._source, self._size, self._difficulty)
        asked = (found, self._counts, self._rule, seed, self._size, self._difficulty)
        return store.ensure(
            self._root, self._name, official_key(*asked),
            lambda writer: write_official(writer, *asked), resumable=True,
        )  # fmt: skip
