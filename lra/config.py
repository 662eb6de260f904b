"""The composed configuration, validated: frozen dataclasses that the rest can trust."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lra.errors import UserError, nearest
from lra.presets import check_name, names
from lra.resolvers import checkout, from_checkout

CHOICES = {
    "norm": ("layer", "batch", "rms", "scale"),
    "norm_position": ("pre", "post"),
    "activation": ("gelu", "relu", "silu"),
    "positions": ("sinusoidal", "learned", "rope", "alibi", "none"),
    "pooling": ("mean", "mean_all", "mean_zero", "cls", "first"),
    "head": ("linear", "mlp", "mlp3"),
    "pairing": ("nli", "concat"),
    "schedule": ("constant", "rsqrt", "linear", "cosine", "one_cycle"),
    "selection": ("best_val", "last"),
    "precision": ("32-true", "bf16-mixed", "16-mixed"),
}
POSITIVE = (
    "dim", "depth", "heads", "ffn_dim", "qkv_dim", "head_dim", "steps", "batch", "accumulate",
    "eval_batch", "eval_every", "lr", "eps", "embedding_std", "position_std", "grad_clip",
    "warmup_power",
)  # fmt: skip
NOT_NEGATIVE = ("dropout", "mixer_dropout", "weight_decay", "warmup_steps")
BELOW_ONE = ("dropout", "mixer_dropout")
DEVICES = ("auto", "cpu", "cuda")
LOGGER_MODES = ("online", "offline", "disabled")


@dataclass(frozen=True)
class Recipe:
    """Size, optimiser, schedule, pooling and the other switches of one (protocol, task).

    The keys and their meaning stand in ``conf/config.yaml``.
    """

    dim: int
    depth: int
    heads: int
    ffn_dim: int
    qkv_dim: int | None
    norm: str
    norm_position: str
    activation: str
    positions: str
    embedding_std: float
    position_std: float | None
    pooling: str
    head: str
    head_dim: int | None
    pairing: str
    dropout: float
    mixer_dropout: float
    weight_decay: float
    grad_clip: float | None
    lr: float
    betas: list[float]
    eps: float
    schedule: str
    warmup_steps: int
    warmup_power: int
    steps: int
    batch: int
    accumulate: int
    eval_batch: int | None
    eval_every: int
    selection: str
    precision: str

    def __post_init__(self) -> None:
        for key, choices in CHOICES.items():
            if getattr(self, key) not in choices:
                raise nearest(str(getattr(self, key)), choices, kind=f"recipe.{key}")
        for key in POSITIVE + NOT_NEGATIVE:
            value = getattr(self, key)
            bound = "more than 0" if key in POSITIVE else "at least 0"
            fits = value is None or value > 0 or (value == 0 and key in NOT_NEGATIVE)
            if not fits or value == math.inf:
                raise UserError(f"recipe.{key} must be {bound}, got {value}")
        for key in BELOW_ONE:
            if getattr(self, key) >= 1:
                raise UserError(f"recipe.{key} must be below 1, got {getattr(self, key)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"recipe.betas must be two numbers in [0, 1), got {list(self.betas)}")
        if (self.qkv_dim or self.dim) % self.heads:
            raise UserError(
                f"recipe.heads={self.heads} must divide recipe.qkv_dim or dim, "
                f"{self.qkv_dim or self.dim}"
            )
        if self.batch % self.accumulate:
            raise UserError(
                f"recipe.accumulate={self.accumulate} must divide recipe.batch={self.batch}"
            )


@dataclass(frozen=True)
class Limits:
    """What a cell may use; None is no limit (memory: 90 % of the machine's)."""

    time_s: float | None = None
    memory_gib: float | None = None

    def __post_init__(self) -> None:
        for key in ("time_s", "memory_gib"):
            value = getattr(self, key)
            if value is not None and not value > 0:
                raise UserError(f"limits.{key} must be more than 0, got {value}")


@dataclass(frozen=True)
class RunConfig:
    """One cell's whole configuration."""

    model: str
    backbone: dict[str, Any]
    # mixer and block of each layer; one serves all
    layers: list[dict[str, Any]]
    task: dict[str, Any]
    protocol: dict[str, Any]
    recipe: Recipe
    logger: dict[str, Any]
    seed: int
    device: str
    backend: str | dict[str, str]
    bidirectional: bool
    checkpoint: str | None
    init: str | None
    rerun: bool
    limits: Limits
    data: Path
    results: Path
    changed: list[str] = field(default_factory=list)


def load(cfg: DictConfig, changed: list[str] | None = None) -> RunConfig:
    """The composed configuration as a ``RunConfig``.

    Args:
        cfg: what Hydra composed.
        changed: the command line's overrides, which a protocol's label mentions.

    Raises:
        UserError: a value is missing, of the wrong type or out of range.
    """
    try:
        tree: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(_first_line(error)) from error
    check_optional(changed or [])
    if (tree.pop("op", None) or {}).get("name") is not None:
        raise UserError("op=... belongs to task=kernels: python run.py task=kernels op=...")
    for part in ("mixer", "backbone", "block"):
        if tree[part].get("_target_") in (None, "???"):
            raise UserError(f"{part}._target_ is missing: give {part}._target_=my_module.MyClass")
    _check_top(tree)
    paths = {key: Path(from_checkout(value)) for key, value in tree["paths"].items()}
    return RunConfig(
        model=model_name(tree),
        layers=_layers(tree),
        recipe=_typed(Recipe, "recipe", tree),
        limits=_typed(Limits, "limits", tree),
        data=paths["data"],
        results=paths["results"],
        changed=[item for item in changed or [] if not item.startswith(("paths.", "logger"))],
        **{key: tree[key] for key in (
            "backbone", "task", "protocol", "logger", "seed", "device", "backend",
            "bidirectional", "checkpoint", "init", "rerun",
        )},
    )  # fmt: skip


def check_optional(changed: list[str]) -> None:
    """Raises UserError for a wrong choice of an optional group, of which Hydra says nothing."""
    for item in changed:
        group, _, name = item.partition("=")
        if group in ("recipe", "experiment"):
            check_name(group, name)


def _check_top(tree: Mapping[str, Any]) -> None:
    """The keys themselves, and the values that belong to no group."""
    known = {field.name for field in fields(RunConfig)} - {"data", "results", "changed"}
    known |= {"mixer", "block", "paths"}
    for key in tree:
        if key not in known:
            raise nearest(str(key), known, kind="key")
    for key in ("recipe", "limits", "paths", "logger", "task", "protocol"):
        if not isinstance(tree[key], dict):
            raise UserError(f"{key} is a group of values: give {key}.name=value")
    if tree["device"] not in DEVICES:
        raise nearest(str(tree["device"]), DEVICES, kind="device")
    if tree["logger"].get("mode") not in LOGGER_MODES:
        raise nearest(str(tree["logger"].get("mode")), LOGGER_MODES, kind="logger.mode")
    if type(tree["seed"]) is not int or tree["seed"] < 0:
        raise UserError(f"seed must be a whole number of at least 0, got {tree['seed']}")
    timing_s = tree["protocol"].get("timing_s")
    if type(timing_s) not in (int, float) or not timing_s > 0:
        raise UserError(f"protocol.timing_s must be a number of seconds, got {timing_s}")
    for key in ("bidirectional", "rerun"):
        if type(tree[key]) is not bool:
            raise UserError(f"{key} must be true or false, got {tree[key]}")
    for key, kinds, what in (
        ("layers", list, "a list of model names, [transformer,s4d]"),
        ("backend", (str, dict), "a backend for every op, or {op: backend}"),
        ("checkpoint", str, "the path of a saved model.pt"),
        ("init", str, "the path of a saved model.pt"),
    ):
        if tree[key] is not None and not isinstance(tree[key], kinds):
            raise UserError(f"{key} must be {what}, got {tree[key]}")
    if tree["checkpoint"] is not None and tree["init"] is not None:
        raise UserError("checkpoint evaluates a saved model, init trains it further: give one")
    for key, value in tree["paths"].items():
        if not isinstance(value, str) or not value:
            raise UserError(f"paths.{key} must be a folder, got {value}")


def _typed(kind: type, key: str, tree: Mapping[str, Any]) -> Any:
    """A section as its dataclass, types converted and checked by OmegaConf."""
    schema, found = OmegaConf.structured(kind), tree[key]
    known = [f"{key}.{name}" for name in schema]
    for name in found:
        if f"{key}.{name}" not in known:
            raise nearest(f"{key}.{name}", known, kind="key")
    missing = [name for name in schema if _is_required(schema, name) and found.get(name) is None]
    if missing:
        protocol, task = tree["protocol"]["name"], tree["task"]["name"]
        raise UserError(
            f"protocol '{protocol}' has no recipe for task '{task}': choose another protocol, or "
            f"give {', '.join(f'{key}.{name}=...' for name in missing)}"
        )
    try:
        OmegaConf.set_readonly(schema, False)
        return OmegaConf.to_object(OmegaConf.merge(schema, found))
    except OmegaConfBaseException as error:
        where = f"{key}.{error.full_key}" if error.full_key else key
        raise UserError(f"{where}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _is_required(schema: Any, name: str) -> bool:
    return not schema._get_node(name)._is_optional()


def model_name(tree: Mapping[str, Any]) -> str:
    """The preset's name; ``custom`` is named after its class, a hybrid after its layers."""
    if tree["layers"]:
        names = [x if isinstance(x, str) else _class_name(x) for x in tree["layers"]]
        return names[0] if len(set(names)) == 1 else "+".join(names)
    name = str(tree["model"]["name"])
    return _class_name(tree["mixer"]) if name == "custom" else name


def _class_name(mixer: Mapping[str, Any]) -> str:
    return str(mixer["_target_"]).rpartition(".")[2].lower()


def _layers(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Mixer and block of each layer; names in a hybrid are those of models."""
    if not tree["layers"]:
        return [{"mixer": tree["mixer"], "block": tree["block"]}]
    return [_layer(entry, tree) for entry in tree["layers"]]


def _layer(entry: str | dict[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a model, under this protocol and task; of a bare mixer config in this block."""
    if isinstance(entry, dict):
        return {"mixer": entry, "block": tree["block"]}
    known = names("model")
    if entry not in known or entry == "custom":
        raise nearest(str(entry), [name for name in known if name != "custom"],
                      kind="model in layers")  # fmt: skip
    conf = Path(checkout()) / "conf"
    preset = OmegaConf.load(conf / "model" / f"{entry}.yaml")
    chosen = {k: v for part in preset.defaults if part != "_self_" for k, v in part.items()}
    if chosen["/backbone"] != "encoder":
        raise UserError(f"layers: {entry} is a whole model; a layer is a mixer or a block")
    parts = OmegaConf.create({
        "mixer": OmegaConf.load(conf / "mixer" / f"{chosen['/mixer']}.yaml"),
        "block": OmegaConf.load(conf / "block" / f"{chosen['/block']}.yaml"),
        "protocol": tree["protocol"], "task": tree["task"], "recipe": tree["recipe"],
    })  # fmt: skip
    resolved: Any = OmegaConf.to_container(parts, resolve=True)
    own, given = resolved["block"], tree["block"]
    # the knobs that were given for the same kind of block count for all of them
    block = given if own["_target_"] == given["_target_"] else own
    return {"mixer": resolved["mixer"], "block": block}
