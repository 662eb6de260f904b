"""From plain config mappings (``_target_`` and knobs) to modules; the configs are the registry."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import Any, TypeVar

from torch import nn

from kernels.errors import Unsupported
from models.backbone import Backbone
from models.bidirectional import TwoWay
from models.block import Block
from models.card import Card
from models.mixer import Mixer
from models.model import Model
from models.spec import LayerSpec, ModelSpec

VAR_POSITIONAL, VAR_KEYWORD = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
Config = Mapping[str, Any]
Kind = TypeVar("Kind", bound=nn.Module)


def locate(target: str, kind: type[Kind]) -> type[Kind]:
    """The class at ``module.Class``, checked to be a ``kind``.

    Raises:
        ValueError: no such module or class, or it is something else.
    """
    module_name, _, class_name = target.rpartition(".")
    if not module_name:
        raise ValueError(f"_target_ must be 'module.Class', got '{target}'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"cannot import '{module_name}' of _target_ '{target}' ({error}): "
            "is its folder on PYTHONPATH?"
        ) from error
    except Exception as error:
        raise ValueError(
            f"'{module_name}' of _target_ '{target}' fails at import with "
            f"{type(error).__name__}: {error}"
        ) from error
    found = getattr(module, class_name, None)
    if found is None:
        names = [name for name, value in vars(module).items() if isinstance(value, type)]
        near = get_close_matches(class_name, names, n=1)
        hint = f": did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"'{module_name}' has no class '{class_name}'{hint}")
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise ValueError(f"_target_ '{target}' is not a {kind.__name__}")
    return found


def mixer_class(config: Config) -> type[Mixer]:
    """The mixer class of a config.

    Raises:
        ValueError: there is none at its ``_target_``, or it has no card.
    """
    found = locate(config["_target_"], Mixer)
    if not isinstance(getattr(found, "card", None), Card):
        raise ValueError(
            f"{found.__name__} has no card: give it 'card = Card(...)', models/card.py"
        )
    return found


def card_of(backbone: Config, block: Config, mixer: Config) -> Card:
    """The card of a system: its backbone's or its block's where they have one, else its mixer's."""
    host, layer = locate(backbone["_target_"], Backbone), locate(block["_target_"], Block)
    return host.card or layer.card or mixer_class(mixer).card


def knobs_of(cls: type) -> list[str]:
    """Names of a class's own keyword knobs: those that the standard constructor does not have."""
    standard = {"self", "dim", "spec", "make_mixer", "make_block"}
    standard |= set(inspect.signature(Mixer.__init__).parameters)
    return [
        name for name, parameter in inspect.signature(cls).parameters.items()
        if name not in standard and parameter.kind not in (VAR_POSITIONAL, VAR_KEYWORD)
    ]  # fmt: skip


def make(config: Config, kind: type[Kind], *args: Any, **kwargs: Any) -> Kind:
    """An instance of the config's ``_target_`` with its knobs."""
    cls = locate(config["_target_"], kind)
    knobs = {str(key): value for key, value in config.items() if key != "_target_"}
    for knob in knobs:
        if knob not in knobs_of(cls):
            known = ", ".join(knobs_of(cls)) or "none"
            raise ValueError(f"{cls.__name__} has no knob '{knob}': its knobs are {known}")
    for knob, parameter in inspect.signature(cls).parameters.items():
        if knob in knobs_of(cls) and knob not in knobs and parameter.default is parameter.empty:
            raise ValueError(f"{cls.__name__} needs the knob '{knob}': it has no default")
    return cls(*args, **kwargs, **knobs)


def make_mixer(config: Config, spec: LayerSpec) -> Mixer:
    """The mixer of a layer. A causal-only one on a bidirectional task runs causally, or both ways
    with two sets of parameters where ``spec.two_way`` asks for it."""
    one_way = not spec.causal and not mixer_class(config).card.bidirectional
    build = partial(
        make, config, Mixer, spec.dim, heads=spec.heads, max_len=spec.max_len,
        causal=spec.causal or one_way, layer=spec.layer, depth=spec.depth,
        dropout=spec.mixer_dropout, qkv_dim=spec.qkv_dim, grid=spec.grid,
    )  # fmt: skip
    mixer = TwoWay(build) if one_way and spec.two_way else build()
    if spec.rotary:
        mixer.use_rotary()
    if spec.alibi:
        mixer.use_alibi()
    return mixer


def build_model(
    spec: ModelSpec, *, backbone: Config, layers: Sequence[tuple[Config, Config]]
) -> Model:
    """The model of a spec.

    Args:
        spec: sizes and switches.
        backbone: its config.
        layers: (block config, mixer config) of each layer; one pair broadcasts to all.

    Raises:
        ValueError: a knob, class or combination does not exist; the message says which does.
    """
    depth = spec.layer.depth
    if len(layers) not in (1, depth):
        raise ValueError(
            f"{len(layers)} layers were given for a depth of {depth}: give 1 or {depth}"
        )
    host = locate(backbone["_target_"], Backbone)
    if host.card is not None and not host.card.bidirectional:
        if spec.layer.two_way and not spec.layer.causal:
            raise Unsupported(
                f"{host.__name__} reads from left to right, and bidirectional=true wraps mixers "
                "alone: set bidirectional=false"
            )
        spec = replace(spec, layer=replace(spec.layer, causal=True))

    def make_block(layer: LayerSpec) -> Block:
        block, mixer = layers[layer.layer % len(layers)]
        return make(block, Block, layer, partial(make_mixer, mixer))

    one_way = spec.layer.causal or not sees_both_sides(spec.layer, backbone, layers)
    if one_way and spec.pooling in ("cls", "first"):
        # a causal model's first position has seen nothing
        cls = int(spec.pooling == "cls")
        layer = replace(spec.layer, max_len=spec.layer.max_len - cls)
        spec = replace(spec, pooling="mean", layer=layer)
    model = Model(spec, partial(make, backbone, Backbone), make_block)
    if model.backbone.cross:
        for block, mixer in layers:
            _check_cross(host, locate(block["_target_"], Block), mixer_class(mixer))
    if (spec.layer.rotary or spec.layer.alibi) and not model.mixers():
        parts = ", ".join(dict.fromkeys(type(part).__name__ for part in model.parts))
        raise Unsupported(
            f"no mixer in {parts} could take positions rope or alibi: its recipe.positions are "
            "sinusoidal, learned or none"
        )
    return model


def _check_cross(host: type[Backbone], block: type[Block], mixer: type[Mixer]) -> None:
    if not block.cross:
        raise Unsupported(
            f"{host.__name__} takes keys and values from another sequence, {block.__name__} hands "
            "none to a mixer: choose block=residual and a mixer whose card says cross"
        )
    if not mixer.card.cross:
        raise Unsupported(
            f"{host.__name__} takes keys and values from another sequence, "
            f"{mixer.__name__} cannot: choose a mixer whose card says cross"
        )


def sees_both_sides(
    spec: LayerSpec, backbone: Config, layers: Sequence[tuple[Config, Config]]
) -> bool:
    """Whether every layer is bidirectional, by itself or by a two-way mixer."""
    cards = [card_of(backbone, block, mixer) for block, mixer in layers]
    own = [mixer_class(mixer).card for _, mixer in layers]
    return all(
        card.bidirectional or (spec.two_way and card is mixer)
        for card, mixer in zip(cards, own, strict=True)
    )
