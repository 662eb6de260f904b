"""The settings of ``task=lengths``, validated before torch is imported."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lra.config import RunConfig
from lra.errors import UserError, nearest

LEVELS = ("mixer", "block", "model")
PASSES = ("forward", "forward_backward", "step", "decode")
# what a position costs in all calls of a pass, on a machine like the one that this was written on
SECONDS_A_POSITION = {"cpu": 8e-4, "cuda": 2e-5}
KEYS = (
    "name", "level", "lengths", "device_lengths", "batch", "tokens", "causal", "passes", "vocab",
    "budget_s", "min_samples", "max_samples", "limit_s",
)  # fmt: skip


@dataclass(frozen=True)
class LengthsConfig:
    """What to measure of a model; the keys and their meaning stand in ``conf/task/lengths.yaml``.

    Attributes:
        run: the model, its recipe and what else a run has.
        lengths: by type of device, ``cpu`` or ``cuda``; ascending.
        tokens: positions of a batch, or None where ``batch`` counts.
    """

    run: RunConfig
    level: str
    lengths: dict[str, list[int]]
    batch: int
    tokens: int | None
    causal: bool
    passes: list[str]
    vocab: int
    budget_s: float
    min_samples: int
    max_samples: int
    limit_s: float

    def points(self, device: str) -> list["Point"]:
        """Lengths with their batch, shorter ones first."""
        lengths = self.lengths.get(device, self.lengths["cpu"])
        return [
            Point(n, self.batch if self.tokens is None else max(1, self.tokens // n))
            for n in lengths
        ]

    def estimate_s(self, device: str) -> float:
        """Seconds that all points take, roughly."""
        return sum(self.point_s(point, device) for point in self.points(device))

    def point_s(self, point: "Point", device: str) -> float:
        """Seconds that a point takes, roughly."""
        layers = self.run.recipe.depth if self.level == "model" else 1
        position_s = SECONDS_A_POSITION[device] * layers * self.run.recipe.dim / 64
        return self.budget_s + len(self.passes) * position_s * point.length * point.batch


@dataclass(frozen=True)
class Point:
    """A length and the number of sequences."""

    length: int
    batch: int

    def __str__(self) -> str:
        return str(self.length)


def settings(run: RunConfig) -> LengthsConfig:
    """The settings that a run's task holds.

    Raises:
        UserError: a value is missing, of the wrong type or out of range.
    """
    task = run.task
    for key in task:
        if key not in KEYS:
            raise nearest(f"task.{key}", [f"task.{name}" for name in KEYS], kind="key")
    for key in ("checkpoint", "init"):
        if getattr(run, key) is not None:
            raise UserError(f"{key} has no meaning for task=lengths: times do not depend on it")
    if task["level"] not in LEVELS:
        raise nearest(str(task["level"]), LEVELS, kind="task.level")
    if type(task["causal"]) is not bool:
        raise UserError(f"task.causal must be true or false, got {task['causal']}")
    low, high = (_whole(key, task[key]) for key in ("min_samples", "max_samples"))
    if low > high:
        raise UserError(f"task.min_samples={low} must be at most task.max_samples={high}")
    return LengthsConfig(
        run=run, level=task["level"], lengths=_lengths(task),
        batch=_whole("batch", task["batch"]),
        tokens=None if task["tokens"] is None else _whole("tokens", task["tokens"]),
        causal=task["causal"], passes=_passes(task["passes"]), vocab=_vocab(task["vocab"]),
        budget_s=_seconds("budget_s", task["budget_s"]), min_samples=low, max_samples=high,
        limit_s=_seconds("limit_s", task["limit_s"]),
    )  # fmt: skip


def _lengths(task: Mapping[str, Any]) -> dict[str, list[int]]:
    """The list given, on every device, or each device's own."""
    by_device = task["device_lengths"]
    if task["lengths"] is not None:
        by_device = dict.fromkeys(by_device, task["lengths"])
    return {
        device: sorted({_whole("lengths", n) for n in _list("lengths", lengths)})
        for device, lengths in by_device.items()
    }


def _passes(value: Any) -> list[str]:
    found = list(dict.fromkeys(str(item) for item in _list("passes", value)))
    for item in found:
        if item not in PASSES:
            raise nearest(item, PASSES, kind="pass in task.passes")
    return found


def _list(key: str, value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UserError(f"task.{key} is empty: give at least one value, task.{key}=[...]")
    return values


def _whole(key: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"task.{key} must be a whole number of at least 1, got {value}")
    return value


def _vocab(value: Any) -> int:
    if _whole("vocab", value) < 2:
        raise UserError("task.vocab must be at least 2: id 0 is padding")
    return int(value)


def _seconds(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UserError(f"task.{key} must be more than 0, got {value}")
    return float(value)
