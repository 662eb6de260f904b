"""From a validated configuration and a task to a model, and what its protocol says of it."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lra.config import Recipe, RunConfig
from lra.errors import UserError
from lra.presets import alters
from lra.saved import Saved
from lra.tasks.spec import TaskSpec
from models.build import build_model, card_of
from models.model import Model
from models.spec import LayerSpec, ModelSpec

# what of a command line departs from the rules of a protocol; a mixer's knobs have a column
CHANGES = ("recipe.", "recipe=", "protocol.", "block.", "backbone.", "bidirectional=")


def model_spec(recipe: Recipe, task: TaskSpec, *, two_way: bool) -> ModelSpec:
    """Sizes and switches of the model that a recipe asks for on a task."""
    cls = recipe.pooling == "cls"
    return ModelSpec(
        layer=LayerSpec(
            dim=recipe.dim, heads=recipe.heads, max_len=task.length + int(cls), causal=task.causal,
            depth=recipe.depth, qkv_dim=recipe.qkv_dim, ffn_dim=recipe.ffn_dim,
            dropout=recipe.dropout, mixer_dropout=recipe.mixer_dropout, norm=recipe.norm,
            norm_position=recipe.norm_position, activation=recipe.activation, grid=task.grid,
            rotary=recipe.positions == "rope", alibi=recipe.positions == "alibi", two_way=two_way,
        ),
        kind=task.kind, classes=task.classes, vocab=task.vocab, features=task.features,
        positions=recipe.positions, embedding_std=recipe.embedding_std,
        position_std=recipe.position_std, pooling=recipe.pooling, head=recipe.head,
        head_dim=recipe.head_dim or recipe.ffn_dim, pairing=recipe.pairing,
    )  # fmt: skip


@dataclass(frozen=True)
class Built:
    """A cell's model, or why it cannot be built: the cell's row will say it."""

    spec: ModelSpec
    model: Model | None
    problem: Exception | None = None


def build(config: RunConfig, task: TaskSpec, saved: Saved | None) -> Built:
    """The cell's model, its parameters drawn from the cell's seed, or as they were saved.

    Raises:
        UserError: a class, knob or combination does not exist, or the saved model does not fit.
    """
    made_for = task if saved is None else saved.task(task)
    spec = model_spec(config.recipe, made_for, two_way=config.bidirectional)
    torch.manual_seed(config.seed)
    try:
        model = make_model(config, spec)
        if saved is not None:
            saved.load_into(model)
    except UserError:
        raise
    except Exception as problem:
        return Built(spec, None, problem)
    return Built(spec, model)


def make_model(config: RunConfig, spec: ModelSpec) -> Model:
    """The model, its parameters drawn from the global generator.

    Raises:
        UserError: a class, knob or combination does not exist.
        Unsupported: the system does not do that.
    """
    with as_user_error():
        layers = [(layer["block"], layer["mixer"]) for layer in config.layers]
        return build_model(spec, backbone=config.backbone, layers=layers)


def family(config: RunConfig) -> str:
    """The family of its card; of a hybrid of several none is that of a mixer."""
    with as_user_error():
        found = {
            card_of(config.backbone, layer["block"], layer["mixer"]).family
            for layer in config.layers
        }
    return found.pop() if len(found) == 1 else "whole_model"


def mixer_knobs(layers: Sequence[Mapping[str, Any]]) -> str:
    """The knobs of the mixer as JSON; a list of those of each layer where several are given."""
    knobs = [{k: v for k, v in layer["mixer"].items() if k != "_target_"} for layer in layers]
    return json.dumps(knobs[0] if len(knobs) == 1 else knobs or {}, sort_keys=True)


def n_params(model: torch.nn.Module) -> int:
    """Number of trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def departures(changed: Sequence[str], of: tuple[str, ...], *, apart: tuple[str, ...]) -> str:
    """The overrides that begin like one of ``of`` and like none of ``apart``, and the experiments
    that change a cell, sorted; ``++recipe.steps=3`` is ``recipe.steps=3``."""
    kept = [
        item for item in (written.lstrip("+~") for written in changed)
        if item.startswith(of) and not item.startswith(apart)
        or item.startswith("experiment=") and alters(item.partition("=")[2])
    ]  # fmt: skip
    return " ".join(sorted(kept))


def label(config: RunConfig, spec: ModelSpec, model: Model, of_data: tuple[str, ...] = ()) -> str:
    """How a row stands to its protocol's rules.

    ``standard``, or what departs from them: what the task says of its data (``of_data``), changed
    recipe or task values (where the data lies is none), and more parameters than
    ``parameter_budget`` times those of the transformer at the same sizes (LRA's rule: 1.1).
    """
    notes = list(of_data)
    changed = departures(config.changed, (*CHANGES, "task."), apart=("task.source=",))
    if changed:
        notes.append(f"changed {changed}")
    budget = config.protocol.get("parameter_budget")
    if budget is not None:
        base = n_params(_transformer(spec))
        share = n_params(model) / base
        if share > budget:
            notes.append(f"over budget: {100 * (share - 1):.0f} % more parameters")
    return "; ".join(notes) or "standard"


def _transformer(spec: ModelSpec) -> Model:
    """The transformer of the same sizes, without memory for its parameters."""
    spec = replace(spec, layer=replace(spec.layer, two_way=False))
    with torch.device("meta"):
        return build_model(
            spec,
            backbone={"_target_": "models.backbones.encoder.Encoder"},
            layers=[(
                {"_target_": "models.blocks.residual.ResidualBlock"},
                {"_target_": "models.mixers.exact.transformer.Transformer"},
            )],
        )  # fmt: skip


@contextlib.contextmanager
def as_user_error() -> Iterator[None]:
    """What a constructor refuses is the user's to mend; ``Unsupported`` stays itself."""
    from kernels.errors import Unsupported

    try:
        yield
    except Unsupported:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
