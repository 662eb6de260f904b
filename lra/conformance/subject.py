"""What is examined: a preset's mixer, block and backbone, at sizes small enough for exact tests.

A preset's *level* says which of the three its card belongs to. A mixer preset is tested as a bare
mixer, a block preset as one block, a backbone preset as the whole stack; each hosts the parts below
it. ``System`` gives all three one call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from lra.errors import UserError, nearest
from lra.resolvers import register
from models.backbone import Backbone
from models.bidirectional import TwoWay
from models.block import Block
from models.build import locate, make, make_mixer, mixer_class
from models.card import Card
from models.mixer import Mixer
from models.spec import LayerSpec
from models.wake import wake

CONF = Path(__file__).resolve().parents[2] / "conf"

# both: sees both sides by itself. two_way: a causal one under the two-direction wrapper
Mode = Literal["both", "causal", "two_way"]

DIM, HEADS, MAX_LEN = 16, 2, 33
# columns of the grid of a system that needs one: a ragged last row in MAX_LEN
COLUMNS = 8
# every window, block, landmark and bucket knob: several of them, and a ragged last one, in MAX_LEN
SIZED = 4


class System(nn.Module):
    """A mixer, block or backbone with one call: ``(x, mask) -> (y, mask of y)``."""

    part: Any

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    @property
    def parts(self) -> list[Mixer | Block | Backbone]:
        """Everything that may have a loss of its own or act after a step."""
        return [m for m in self.modules() if isinstance(m, (Mixer, Block, Backbone))]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        real = x.new_ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
        if isinstance(self.part, Backbone):
            return self.part(x, real)
        if isinstance(self.part, Block):
            return self.part(x, mask)[0], real
        return self.part(x, mask), real


@dataclass(frozen=True)
class Subject:
    """A system under examination: its configs, with every knob a plain value.

    ``files`` are the config files that they came from.
    """

    name: str
    mixer: Mapping[str, Any]
    block: Mapping[str, Any] = field(
        default_factory=lambda: {"_target_": "models.blocks.residual.ResidualBlock"}
    )
    backbone: Mapping[str, Any] = field(
        default_factory=lambda: {"_target_": "models.backbones.encoder.Encoder"}
    )
    files: tuple[Path, ...] = ()

    @property
    def mixer_class(self) -> type[Mixer]:
        return mixer_class(self.mixer)

    @property
    def system_class(self) -> type:
        """The class that the card belongs to."""
        for config, kind in ((self.backbone, Backbone), (self.block, Block)):
            found: Any = locate(config["_target_"], kind)
            if found.card is not None:
                return found
        return self.mixer_class

    @property
    def level(self) -> Literal["mixer", "block", "backbone"]:
        if issubclass(self.system_class, Mixer):
            return "mixer"
        return "block" if issubclass(self.system_class, Block) else "backbone"

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of the class that the card belongs to."""
        return {"mixer": self.mixer, "block": self.block, "backbone": self.backbone}[self.level]

    @property
    def card(self) -> Card:
        card: Any = getattr(self.system_class, "card", None)
        assert isinstance(card, Card), f"{self.system_class.__name__} has no card"
        return card

    def modes(self) -> tuple[Mode, ...]:
        """The directions that the card claims, and the wrapper where it can be wrapped."""
        found: list[Mode] = ["both"] if self.card.bidirectional else []
        if self.card.causality != "no":
            found.append("causal")
            if self.level == "mixer":
                found.append("two_way")
        return tuple(found)

    def grid(self, length: int) -> tuple[int, int] | None:
        """The grid for that many positions, where the card says that it needs one."""
        return (-(-length // COLUMNS), COLUMNS) if self.card.grid else None

    def with_knobs(self, **knobs: Any) -> "Subject":
        """The same system with other knobs."""
        changed: Any = {self.level: {**self.config, **knobs}}
        return replace(self, **changed)

    def build(
        self,
        mode: Mode | None = None,
        *,
        max_len: int = MAX_LEN,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        **sizes: Any,
    ) -> System:
        """The system, in eval mode, without maps of zeros. ``sizes`` are fields of ``LayerSpec``;
        the mode defaults to the first one that the card claims."""
        mode = mode or self.modes()[0]
        fields: dict[str, Any] = {
            "dim": DIM, "heads": HEADS, "ffn_dim": 2 * DIM, "grid": self.grid(max_len), **sizes,
        }  # fmt: skip
        spec = LayerSpec(max_len=max_len, causal=mode == "causal", **fields)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            part = self._part(spec, mode)
            wake(part)
        return System(to_dtype(part, dtype)).eval()

    def _part(self, spec: LayerSpec, mode: Mode) -> nn.Module:
        make_one = partial(make_mixer, self.mixer)
        if self.level == "mixer":
            if mode != "two_way":
                return make_one(spec)
            causal = replace(spec, causal=True, rotary=False, alibi=False)
            both = TwoWay(partial(make_one, causal))
            if spec.rotary:
                both.use_rotary()
            if spec.alibi:
                both.use_alibi()
            return both
        make_block = partial(make, self.block, Block)
        if self.level == "block":
            return make_block(spec, make_one)
        return make(self.backbone, Backbone, spec, lambda layer: make_block(layer, make_one))


def to_dtype(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Parameters and buffers in this precision, complex ones in the complex kind of it."""

    def cast(x: Tensor) -> Tensor:
        if x.is_complex():
            return x.to(dtype.to_complex())
        return x.to(dtype) if x.is_floating_point() else x

    return module._apply(cast)


def presets() -> list[str]:
    """Names of every preset in conf/model, but the one that hosts a mixer from outside."""
    return sorted(path.stem for path in (CONF / "model").glob("*.yaml") if path.stem != "custom")


def load(name: str, overrides: Sequence[str] = (), *, sized: int | None = SIZED) -> Subject:
    """The subject of a preset.

    Args:
        name: of a file in conf/model.
        overrides: as on the command line: ``mixer._target_=my_module.MyMixer``, ``mixer.k=8``.
        sized: value of every knob that ``${sized:...}`` ties to the length; None: the papers'.

    Raises:
        UserError: no such preset, or a value is missing.
    """
    files = [CONF / "model" / f"{name}.yaml"]
    if not files[0].exists():
        raise nearest(name, [path.stem for path in files[0].parent.glob("*.yaml")], kind="model")
    register()
    preset = OmegaConf.load(files[0])
    assert isinstance(preset, DictConfig)
    tree = OmegaConf.create({
        "protocol": {"size_divisor": None if sized is None else 1}, "task": {"max_length": sized},
    })  # fmt: skip
    for default in preset.pop("defaults"):
        if default != "_self_":
            ((group, choice),) = default.items()
            group = str(group).rpartition("/")[2]
            files.append(CONF / group / f"{choice}.yaml")
            tree[group] = OmegaConf.load(files[-1])
    try:
        merged = OmegaConf.merge(tree, preset, OmegaConf.from_dotlist(list(overrides)))
        parts: Any = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(f"model '{name}': {str(error).splitlines()[0]}") from error
    return Subject(name, parts["mixer"], parts["block"], parts["backbone"], tuple(files))
