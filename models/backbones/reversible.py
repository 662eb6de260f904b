"""Reversible layers: what a layer was given is computed from what it gave, so nothing is kept."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kernels.errors import Unsupported
from models.backbone import Backbone, MakeBlock
from models.block import Block
from models.blocks.residual import ResidualBlock
from models.mixer import Mixer
from models.norm import BatchNorm, make_norm
from models.padding import zero_padding
from models.spec import LayerSpec


class Branch(NamedTuple):
    """f(x) = dropout(inner(norm(x))), one residual branch of a pre-norm block."""

    norm: nn.Module
    inner: nn.Module
    dropout: nn.Module

    def __call__(self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]) -> Tensor:
        x = self.norm(x, mask)
        y: Tensor = self.inner(x, mask) if isinstance(self.inner, Mixer) else self.inner(x)
        out: Tensor = self.dropout(y)
        return out

    def parameters(self) -> list[nn.Parameter]:
        """Those that learn."""
        return [p for part in (self.norm, self.inner) for p in part.parameters() if p.requires_grad]


class Reversible(Backbone):
    """y1 = x1 + F(x2), y2 = x2 + G(y1); backwards x2 = y2 - G(y1), x1 = y1 - F(x2).

    Gomez et al. 2017 (arXiv 1707.04585), section 3; Kitaev et al. 2020 (Reformer, 2001.04451),
    section 3: F is the mixer of a block, G its feed-forward network, each behind its norm. A block
    without the latter has F alone, and its neighbours take the halves in turn. The gradients are
    those of autograd through these equations; what is kept between forward and backward does not
    grow with the depth, but for the state of the random numbers (5 KB a branch on a CPU, 16 bytes
    more on a GPU). Backward computes every branch a second time, from inputs that are the first to
    rounding: a token at the very border of two hash buckets may then fall into the other one.

    Both halves begin as x. What the stack gives is their mean, as in the PyTorch code
    lucidrains/reformer-pytorch; the authors' (trax) has both side by side, twice the width.
    """

    def __init__(self, spec: LayerSpec, make_block: MakeBlock):
        super().__init__(spec, make_block)
        if spec.norm_position != "pre":
            raise Unsupported(
                "Reversible needs branches that end in a sum: set recipe.norm_position=pre"
            )
        self.blocks = nn.ModuleList(
            _checked(make_block(replace(spec, layer=layer))) for layer in range(spec.depth)
        )
        self.norm = make_norm(spec.norm, spec.dim)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"],
        *,
        tokens: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        x = zero_padding(x, mask)
        if torch.is_autocast_enabled(x.device.type):
            # the halves come back as exactly as they are kept
            x = x.to(torch.promote_types(x.dtype, torch.float32))
        branches = self.branches()
        learned = list(dict.fromkeys(p for branch in branches for p in branch.parameters()))
        first, second = _Stack.apply(branches, mask, x, *learned)
        return self.norm((first + second) / 2, mask), mask

    def branches(self) -> list[Branch]:
        """F and G of every layer, in order."""
        found = []
        blocks: Any = self.blocks
        for block in blocks:
            found.append(Branch(block.mixer_norm, block.mixer, block.dropout))
            if block.ffn is not None:
                found.append(Branch(block.ffn_norm, block.ffn, block.dropout))
        return found


def _checked(block: Block) -> Block:
    """The block, if its branches can be run twice and apart from one another."""
    name = type(block).__name__
    if type(block).forward is not ResidualBlock.forward:
        raise Unsupported(
            f"Reversible runs a mixer and a feed-forward network in turn, {name} is not made of "
            "them: choose block=residual"
        )
    for part in block.modules():
        if isinstance(part, BatchNorm):
            raise Unsupported(
                "Reversible runs every branch twice, and batch norm would count a batch twice: set "
                "recipe.norm=layer, rms or scale"
            )
        if isinstance(part, Mixer) and type(part).aux_loss is not Mixer.aux_loss:
            raise Unsupported(
                f"{type(part).__name__} has a loss of its own, which no gradient reaches through "
                "reversible layers: choose backbone=encoder"
            )
    return block


class _Stack(torch.autograd.Function):
    """All branches. Each turns the pair (a, b) into (b, a + f(b)): after F it is (x2, y1), after G
    (y1, y2)."""

    @staticmethod
    def forward(
        ctx: Any, branches: Sequence[Branch], mask: Tensor, x: Tensor, *learned: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.branches, ctx.learned, ctx.states = branches, learned, []
        ctx.autocast = _autocast(x.device)
        a = b = x
        for branch in branches:
            ctx.states.append(_random_state(x.device))
            a, b = b, a + branch(b, mask)
        ctx.save_for_backward(a, b, mask)
        return a, b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_a: Tensor, d_b: Tensor) -> tuple[Tensor | None, ...]:
        a, b, mask = ctx.saved_tensors
        grads: dict[Tensor, Tensor] = {}
        with torch.random.fork_rng([a.device] if _has_generator(a.device) else []):
            for branch, state in zip(ctx.branches[::-1], ctx.states[::-1], strict=True):
                _restore(state, a.device)
                seen = a.detach().requires_grad_()
                with torch.enable_grad(), ctx.autocast:
                    y = branch(seen, mask)
                leaves = [seen, *branch.parameters()]
                d_seen, *found = torch.autograd.grad(y, leaves, d_b.to(y.dtype), allow_unused=True)
                for leaf, grad in zip(leaves[1:], found, strict=True):
                    if grad is not None:
                        grads[leaf] = grads[leaf] + grad if leaf in grads else grad
                a, b = b - y.detach(), a
                d_a, d_b = d_b, d_a if d_seen is None else d_a + d_seen
        return None, None, d_a + d_b, *(grads.get(parameter) for parameter in ctx.learned)


def _autocast(device: torch.device) -> torch.autocast:
    """The precision as it is now, for later."""
    kind = device.type
    return torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))


def _has_generator(device: torch.device) -> bool:
    """Whether the device draws numbers of its own (a fake GPU does not)."""
    return device.type == "cuda" and torch.cuda.is_initialized()


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if _has_generator(device) else states


def _restore(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)
