"""What is measured at a length: a mixer, a block or a model, its inputs and its training step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.errors import Unsupported
from lra.lengths.config import LengthsConfig, Point
from lra.measurement.step import StepFns
from lra.model import as_user_error, make_model, model_spec
from lra.tasks.spec import TaskSpec
from lra.training.optimiser import make_optimiser
from models.backbone import Backbone
from models.block import Block
from models.build import card_of, locate, make, make_mixer, mixer_class
from models.card import Card
from models.mixer import Mixer
from models.model import Model
from models.wake import wake

CLASSES = 10
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
DTYPES = {"32-true": "float32", "bf16-mixed": "bfloat16-mixed", "16-mixed": "float16-mixed"}


@dataclass
class Inputs:
    """x ``(B, N)`` ids of a model, with labels ``(B,)``; or vectors ``(B, N, D)`` with those that
    the output is to become."""

    x: Tensor
    y: Tensor

    def cloned(self) -> "Inputs":
        return Inputs(self.x.clone(), self.y.clone())


class Part(nn.Module):
    """A bare mixer or a block, ``(B, N, D) -> (B, N, D)``; its backward goes on to its input."""

    def __init__(self, part: Mixer | Block):
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_(torch.is_grad_enabled())
        y = self.part(x, None)
        return y if isinstance(self.part, Mixer) else y[0]

    def aux_loss(self) -> Tensor | None:
        """That of the part and of all in it."""
        own = [m.aux_loss() for m in self.modules() if isinstance(m, (Mixer, Block))]
        losses = [loss for loss in own if loss is not None]
        return sum(losses[1:], losses[0]) if losses else None


@dataclass(frozen=True)
class Subject:
    """A system at one length.

    Attributes:
        system: a ``Part`` or a ``Model``.
        degenerate: dense attention in disguise at this length.
    """

    config: LengthsConfig
    point: Point
    system: Part | Model
    device: torch.device
    degenerate: bool

    @property
    def causal(self) -> bool:
        """Whether it is causal: asked for, or because it cannot be otherwise."""
        mixers = [m for m in self.system.modules() if isinstance(m, Mixer)]
        return all(m.causal for m in mixers) if mixers else self.config.causal

    @property
    def part(self) -> Mixer | Block | None:
        """The mixer or block, where that is what is measured."""
        return self.system.part if isinstance(self.system, Part) else None

    def inputs(self, seed: int) -> Inputs:
        """Fresh inputs, the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.point.batch, self.point.length)
        if isinstance(self.system, Model):
            x = torch.randint(1, self.config.vocab, shape, generator=generator)
            y = torch.randint(CLASSES, shape[:1], generator=generator)
        else:
            x, y = (
                torch.randn(*shape, self.config.run.recipe.dim, generator=generator)
                for _ in range(2)
            )
        return Inputs(x.to(self.device), y.to(self.device))

    def forward(self, system: nn.Module, x: Tensor) -> Tensor:
        """Logits, or mixed vectors, of the system or a copy of it."""
        with self.autocast():
            if isinstance(system, Model):
                return system(x, torch.ones_like(x, dtype=torch.bool))
            y: Tensor = system(x)
            return y

    def autocast(self) -> torch.autocast:
        """What the recipe's precision asks for."""
        dtype = AUTOCAST.get(self.config.run.recipe.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def step(self) -> StepFns:
        """Its training step: the recipe's optimiser and clipping."""
        recipe = self.config.run.recipe
        trained = any(p.requires_grad for p in self.system.parameters())
        return StepFns(
            self.system, make_optimiser(self.system, recipe)[0] if trained else None,
            loss=self._loss, clip_norm=recipe.grad_clip,
        )  # fmt: skip

    def call(self, step: StepFns, pass_: str) -> Callable[[Inputs], object]:
        """A pass of its training step or of a copy of it; inference has no loss."""

        def forward(batch: Inputs) -> Tensor:
            with torch.no_grad():
                return self.forward(step.model, batch.x)

        calls: dict[str, Callable[[Inputs], object]] = {
            "forward": forward, "forward_backward": step.forward_backward, "step": step.full_step,
        }  # fmt: skip
        return calls[pass_]

    def _loss(self, system: Part | Model, inputs: Inputs) -> Tensor:
        output = self.forward(system, inputs.x).float()
        model = isinstance(system, Model)
        loss = F.cross_entropy(output, inputs.y) if model else F.mse_loss(output, inputs.y)
        extra = system.aux_loss()
        return loss if extra is None else loss + extra


def held_by(step: StepFns, pass_: str, batch: Inputs) -> Sequence[object]:
    """What exists before a pass and is part of its memory."""
    if pass_ == "forward":
        return step.model, batch.x
    return (step.model, step.optimizer, batch) if pass_ == "step" else (step.model, batch)


def card(config: LengthsConfig) -> Card:
    """The card of the configured system.

    Raises:
        UserError: a class does not exist.
    """
    run = config.run
    with as_user_error():
        return card_of(run.backbone, run.layers[0]["block"], run.layers[0]["mixer"])


def make_subject(config: LengthsConfig, point: Point, device: torch.device) -> Subject:
    """The system at a length, its parameters drawn from the run's seed.

    Raises:
        UserError: a class, knob or combination does not exist.
        Unsupported: the system does not do that, or has no such level.
    """
    run, n = config.run, point.length
    task = TaskSpec(
        name="lengths", kind="classify", length=n, classes=CLASSES, vocab=config.vocab,
        chance_acc=1 / CLASSES, tier="regenerated", causal=config.causal,
        grid=_grid(n) if card(config).grid else None,
    )  # fmt: skip
    spec = model_spec(run.recipe, task, two_way=run.bidirectional)
    torch.manual_seed(run.seed)
    if config.level == "model":
        model = make_model(run, spec).to(device)
        return Subject(config, point, model, device, model.dense_at(n))
    _check_level(config)
    facts = card(config)
    # what bounds the length has room for the token that is decoded after n others
    more = int("decode" in config.passes and facts.recurrent and bool(facts.length_bound))
    layer = replace(spec.layer, causal=config.causal, max_len=spec.layer.max_len + more)
    mixer, block = run.layers[0]["mixer"], run.layers[0]["block"]
    part: Mixer | Block
    with as_user_error():
        if config.level == "mixer":
            part = make_mixer(mixer, layer)
        else:
            part = make(block, Block, layer, partial(make_mixer, mixer))
    wake(part)
    degenerate = facts.family != "exact" and part.dense_at(n)
    return Subject(config, point, Part(part).to(device), device, degenerate)


def _check_level(config: LengthsConfig) -> None:
    run = config.run
    if locate(run.backbone["_target_"], Backbone).card is not None:
        raise Unsupported(f"{run.model} is a whole model: task.level=model")
    if (
        config.level == "mixer"
        and locate(run.layers[0]["block"]["_target_"], Block).card is not None
    ):
        raise Unsupported(f"{run.model} is a block: task.level=block or model")
    if len({str(layer) for layer in run.layers}) > 1:
        raise Unsupported("a hybrid has several mixers: task.level=model")
    mixer_class(run.layers[0]["mixer"])


def _grid(n: int) -> tuple[int, int]:
    """The most nearly square grid of that many positions."""
    rows = next(r for r in range(int(n**0.5), 0, -1) if n % r == 0)
    return rows, n // rows
