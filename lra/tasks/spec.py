"""What a task is: facts, splits, and how rows become a batch.

Legend: B batch, N length, F features of a position.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import datasets
    import numpy as np
    import torch

Tier = Literal["official", "regenerated", "stand-in"]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TaskSpec:
    """The facts that a model and a table need.

    Attributes:
        name: row name; the task's name in ``results/published`` is ``published``.
        kind: ``classify`` one label, ``match`` two sequences and one label, ``token`` a label for
            each position (-100: not scored).
        length: longest sequence of a batch, in positions.
        classes: number of labels.
        vocab: number of ids (0 is padding), or None for scalar inputs.
        features: scalars of a position where ``vocab`` is None.
        grid: (rows, cols) of a flattened 2-D input.
        causal: position i must not see what follows.
        chance_acc: accuracy of a guess, in [0, 1].
        tier: where the data comes from: ``official`` files, ``regenerated`` by our generator from
            the published description, ``stand-in`` another data set of the same kind.
        published: task key in ``results/published``, or None.
        notes: what the label of every row must say of the data.
    """

    name: str
    kind: Literal["classify", "match", "token"]
    length: int
    classes: int
    chance_acc: float
    tier: Tier
    vocab: int | None = None
    features: int | None = None
    grid: tuple[int, int] | None = None
    causal: bool = False
    published: str | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Batch:
    """x ``(B, N)`` ids or ``(B, N, F)`` scalars (match: ``(B, 2, N)``), mask of x's positions
    (True = real token), y ``(B,)`` labels (token: ``(B, N)``, -100 not scored)."""

    x: "torch.Tensor"
    mask: "torch.Tensor"
    y: "torch.Tensor"

    def to(self, device: "torch.device | str") -> "Batch":
        return Batch(*(t.to(device, non_blocking=True) for t in (self.x, self.mask, self.y)))

    def part(self, index: int, parts: int) -> "Batch":
        """Every ``parts``-th example, from ``index``."""
        if parts == 1:
            return self
        return Batch(*(t[index::parts] for t in (self.x, self.mask, self.y)))

    def padded_to(self, length: int) -> "Batch":
        """The batch with padding up to ``length`` positions."""
        from torch.nn.functional import pad

        axis = self.mask.ndim - 1
        missing = length - self.mask.shape[axis]

        def longer(t: "torch.Tensor", fill: float) -> "torch.Tensor":
            return pad(t, [0, 0] * (t.ndim - 1 - axis) + [0, missing], value=fill)

        y = longer(self.y, -100) if self.y.ndim > 1 else self.y
        return Batch(longer(self.x, 0), longer(self.mask, False), y)

    def __len__(self) -> int:
        return len(self.y)


class Task(Protocol):
    """A task is one file in ``lra/tasks`` and one in ``conf/task``, its knobs named alike.

    The constructor takes the knobs of its config and ``root``, the folder of built data. It does no
    work: ``build`` does, once, under a lock, and finds its own work again.
    """

    spec: TaskSpec

    def build(self, split: str, seed: int | None = None) -> "datasets.Dataset":
        """A split as a memory-mapped ``datasets.Dataset`` with columns ``x`` and ``y`` (match: also
        ``x2``). ``seed`` overrides the config's data seed.

        Raises:
            UserError: the source is missing or broken; file and line named.
        """

    def collate(self, dataset: "datasets.Dataset", rows: "np.ndarray") -> Batch:
        """The dataset's rows of those numbers as a batch, padded to its longest sequence, or to the
        length that the knobs ask for."""

    def manifest(self) -> Mapping[str, Any]:
        """Source, sha256, generator version, counts: what makes this data this data."""

    def baselines(self) -> dict[str, float]:
        """Test accuracy in [0, 1] of trivial rules by name, on the splits in use."""


def data_root(root: str | Path) -> Path:
    """The folder of built data; relative paths count from the checkout."""
    path = Path(root).expanduser()
    return path if path.is_absolute() else Path(__file__).resolve().parents[2] / path
