"""What the tasks made from somebody's labelled data share: text, retrieval and image."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lra.data import store
from lra.data.splits import majority
from lra.data.writer import Writer
from lra.tasks.knobs import check_whole
from lra.tasks.spec import TaskSpec, Tier, data_root

if TYPE_CHECKING:
    import datasets

Limits = dict[str, int | None]


class Labelled(ABC):
    """A task on data of a source, one label an example.

    How many ids there are, and whether the data is the published one, is known when it has been
    read: asking for ``spec`` builds it.

    Args:
        name: of the task: its folder under ``root``.
        root: folder of built data.
        limits: most rows of each split; None: all.
        seed: of splits and samples.
    """

    def __init__(self, name: str, root: str | Path, limits: Limits, seed: int) -> None:
        given = {f"n_{split}": limit for split, limit in limits.items() if limit is not None}
        check_whole(1, **given)
        check_whole(0, data_seed=seed)
        self._name, self._root = name, data_root(root)
        self._limits, self._seed = limits, seed
        self._folders: dict[int, Path] = {}

    @cached_property
    def spec(self) -> TaskSpec:
        return self._spec(self.manifest())

    def build(self, split: str, seed: int | None = None) -> "datasets.Dataset":
        """Columns x: ids or pixels, y: label (uint8); retrieval also x2. ``seed`` is another
        ``data_seed``.

        Raises:
            UserError: the source is missing or broken (names file and row), or the folder cannot
                be written.
        """
        return store.load(self._folder(seed), self._stored(split))

    def manifest(self) -> Mapping[str, Any]:
        """What the data is, wherever and whenever it was built; builds it if need be."""
        facts = store.manifest(self._folder(None))
        assert facts is not None
        return facts

    def baselines(self) -> dict[str, float]:
        """Test accuracy of the most frequent label, which is learned on train."""
        train, test = (
            self.build(split).data.table.column("y").to_numpy() for split in ("train", "test")
        )
        return {"majority": majority(train, test)}

    @abstractmethod
    def _key(self, seed: int) -> Mapping[str, Any]:
        """All that decides the data."""

    @abstractmethod
    def _write(self, writer: Writer, seed: int) -> Mapping[str, Any]:
        """Appends the rows; returns the facts of the manifest."""

    @abstractmethod
    def _spec(self, facts: Mapping[str, Any]) -> TaskSpec:
        """The facts that a model and a table need."""

    def _stored(self, split: str) -> str:
        """The split of the store that holds a split of the task."""
        return split

    def _folder(self, seed: int | None) -> Path:
        seed = self._seed if seed is None else seed
        if seed not in self._folders:
            self._folders[seed] = store.ensure(
                self._root, self._name, self._key(seed), lambda w: self._write(w, seed),
                resumable=True,
            )  # fmt: skip
        return self._folders[seed]


def standing(
    name: str, found: Mapping[str, int], published: Mapping[str, int]
) -> tuple[str, Tier, tuple[str, ...]]:
    """What rows of a task on this data are called, their tier, and what their label must mention.

    Args:
        name: of the task.
        found: rows of each split of the source.
        published: rows of each split of the data set.
    """
    if any(found[split] != published[split] for split in published if split != "test"):
        return f"{name}_standin", "stand-in", ()
    if found["test"] > published["test"]:
        return f"{name}_standin", "stand-in", ()
    if found["test"] < published["test"]:
        return name, "official", (
            f"only {found['test']:,} of the {published['test']:,} test examples are there",
        )  # fmt: skip
    return name, "official", ()
