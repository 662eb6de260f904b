"""The configuration of ``task=kernels``, validated before torch is imported."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lra import presets
from lra.config import DEVICES, Limits, check_optional
from lra.errors import UserError, nearest
from lra.resolvers import from_checkout

DTYPES = ("float32", "bfloat16", "float16")
PASSES = ("forward", "forward_backward")
OP_KEYS = (
    "name", "_target_", "variants", "batch", "heads", "head_dim", "lengths", "dtypes",
)  # fmt: skip


@dataclass(frozen=True)
class KernelConfig:
    """What to time of one op; the keys and their meaning stand in ``conf/task/kernels.yaml``.

    Attributes:
        target: dotted name of the function that makes the op's inputs.
        lengths, dtypes: by type of device, ``cpu`` or ``cuda``.
        backend: ``auto``, ``all``, a name, several names, or a name for each op.
    """

    op: str
    target: str
    variants: list[dict[str, Any]]
    batch: int
    heads: int
    head_dim: int
    lengths: dict[str, list[int]]
    dtypes: dict[str, list[str]]
    passes: list[str]
    reference_longest: int
    budget_s: float
    min_samples: int
    max_samples: int
    limit_s: float
    backend: str | list[str] | dict[str, str]
    device: str
    rerun: bool
    limits: Limits
    results: Path


def load(cfg: DictConfig, changed: list[str] | None = None) -> KernelConfig:
    """The composed configuration as a ``KernelConfig``.

    Args:
        cfg: what Hydra composed.
        changed: the command line's overrides.

    Raises:
        UserError: no op, or a value that is missing, of the wrong type or out of range.
    """
    try:
        tree: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(str(error).strip().split("\n")[0]) from error
    check_optional(changed or [])
    op, task = tree["op"], tree["task"]
    if not isinstance(op, dict) or op.get("name") is None:
        raise UserError(
            "task=kernels needs an op: op=attention, or -m 'op=glob(*)'; there are "
            f"{', '.join(presets.names('op'))}"
        )
    for key in op:
        if key not in OP_KEYS:
            raise nearest(f"op.{key}", [f"op.{name}" for name in OP_KEYS], kind="key")
    if tree["device"] not in DEVICES:
        raise nearest(str(tree["device"]), DEVICES, kind="device")
    if type(tree["rerun"]) is not bool:
        raise UserError(f"rerun must be true or false, got {tree['rerun']}")
    low, high = (_whole(f"task.{key}", task[key]) for key in ("min_samples", "max_samples"))
    if low > high:
        raise UserError(f"task.min_samples={low} must be at most task.max_samples={high}")
    return KernelConfig(
        op=op["name"], target=op["_target_"], variants=_variants(op["variants"]),
        **{key: _whole(f"op.{key}", op[key]) for key in ("batch", "heads", "head_dim")},
        lengths=_by_device("lengths", op, task, _lengths),
        dtypes=_by_device("dtypes", op, task, _dtypes),
        passes=_names("task.passes", task["passes"], PASSES, kind="pass"),
        reference_longest=_whole("task.reference_longest", task["reference_longest"]),
        budget_s=_seconds("task.budget_s", task["budget_s"]),
        min_samples=low, max_samples=high,
        limit_s=_seconds("task.limit_s", task["limit_s"]),
        backend=_backend(tree["backend"]), device=tree["device"], rerun=tree["rerun"],
        limits=Limits(**tree["limits"]),
        results=Path(from_checkout(str(tree["paths"]["results"]))),
    )  # fmt: skip


def _by_device(key: str, op: Mapping[str, Any], task: Mapping[str, Any], read: Any) -> Any:
    """The op's own list on every device, else the task's list for each."""
    if op[key] is not None:
        own = read(f"op.{key}", op[key])
        return {device: own for device in task[key]}
    return {device: read(f"task.{key}.{device}", value) for device, value in task[key].items()}


def _list(name: str, value: Any) -> list[Any]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UserError(f"{name} is empty: give at least one value, {name}=[...]")
    return values


def _lengths(name: str, value: Any) -> list[int]:
    return sorted({_whole(name, length) for length in _list(name, value)})


def _dtypes(name: str, value: Any) -> list[str]:
    return _names(name, value, DTYPES, kind="dtype")


def _names(name: str, value: Any, known: tuple[str, ...], *, kind: str) -> list[str]:
    found = list(dict.fromkeys(str(item) for item in _list(name, value)))
    for item in found:
        if item not in known:
            raise nearest(item, known, kind=f"{kind} in {name}")
    return found


def _whole(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{name} must be a whole number of at least 1, got {value}")
    return value


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UserError(f"{name} must be more than 0, got {value}")
    return float(value)


def _variants(value: Any) -> list[dict[str, Any]]:
    found = _list("op.variants", value)
    for variant in found:
        if not isinstance(variant, dict):
            raise UserError(f"op.variants must be a list of {{option: value}}, got {variant}")
    return found


def _backend(value: Any) -> str | list[str] | dict[str, str]:
    """Names only; whether an op has them is known when torch is."""
    names = list(value.values()) if isinstance(value, dict) else _list("backend", value)
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"backend must be auto, all, a name, a list of names, got {value}")
    return value
