"""Mixer and feed-forward network on residual branches (Vaswani et al. 2017, section 3.1).

pre:  x + f(norm(x))        (LRA's encoder; a last norm follows the stack)
post: norm(x + f(x))        (the paper's)
"""

import math
from dataclasses import replace
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.block import Block, MakeMixer
from models.norm import make_norm
from models.spec import LayerSpec

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


def feed_forward(dim: int, hidden: int, activation: str, dropout: float) -> nn.Module:
    """Linear, activation, dropout, Linear."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got '{activation}'")
    return nn.Sequential(
        nn.Linear(dim, hidden),
        ACTIVATIONS[activation](),
        nn.Dropout(dropout),
        nn.Linear(hidden, dim),
    )


def width(ffn_dim: int, factor: float) -> int:
    """Inner width of a feed-forward network, to the nearest whole number."""
    if not 0 < factor < math.inf:
        raise ValueError(f"ffn_factor must be more than 0, got {factor}")
    inner = round(factor * ffn_dim)
    if inner < 1:
        raise ValueError(f"ffn_factor={factor} of ffn_dim={ffn_dim} leaves no feed-forward network")
    return inner


class ResidualBlock(Block):
    """The default block.

    Args:
        ffn: whether a feed-forward network follows the mixer; None: unless the mixer's card says
            that it replaces one. Papers whose layer is a small mixer alone (S4D, LRU) get one, so
            that only the mixer differs between models.
        ffn_factor: width of that network, in the recipe's ``ffn_dim``.
    """

    cross = True

    def __init__(
        self,
        spec: LayerSpec,
        make_mixer: MakeMixer,
        *,
        ffn: bool | None = None,
        ffn_factor: float = 1.0,
    ):
        super().__init__(spec, make_mixer)
        if spec.norm_position not in ("pre", "post"):
            raise ValueError(f"norm_position must be pre or post, got '{spec.norm_position}'")
        self.pre = spec.norm_position == "pre"
        self.mixer = make_mixer(spec)
        self.mixer_norm = make_norm(spec.norm, spec.dim)
        self.dropout = nn.Dropout(spec.dropout)
        self.ffn: nn.Module | None = None
        if not self.mixer.card.replaces_ffn if ffn is None else ffn:
            self.ffn = self.feed_forward(replace(spec, ffn_dim=width(spec.ffn_dim, ffn_factor)))
            self.ffn_norm = make_norm(spec.norm, spec.dim)

    def feed_forward(self, spec: LayerSpec) -> nn.Module:
        """What acts on each position after the mixer."""
        return feed_forward(spec.dim, spec.ffn_dim, spec.activation, spec.dropout)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None,
        carry: Any = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Any]:
        source: dict[str, Any] = {}
        if context is not None:
            context = self.mixer_norm(context, context_mask) if self.pre else context
            source = {"context": context, "context_mask": context_mask}
        if self.pre:
            x = x + self.dropout(self.mixer(self.mixer_norm(x, mask), mask, **source))
            if self.ffn is not None:
                x = x + self.dropout(self.ffn(self.ffn_norm(x, mask)))
        else:
            x = self.mixer_norm(x + self.dropout(self.mixer(x, mask, **source)), mask)
            if self.ffn is not None:
                x = self.ffn_norm(x + self.dropout(self.ffn(x)), mask)
        return x, carry

    # -- decoding: where the mixer can ---------------------------------------------------------

    def ffn_state(self, batch: int) -> Any:
        """What the feed-forward network knows before the first token."""
        return None

    def ffn_step(self, x: Float[Tensor, "B 1 D"], state: Any) -> tuple[Float[Tensor, "B 1 D"], Any]:
        """The feed-forward network on one token, and its next state."""
        assert self.ffn is not None
        return self.ffn(x), state

    def init_state(self, batch: int) -> Any:
        return self.mixer.init_state(batch), self.ffn_state(batch)

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        x, (mixed, known) = x_t[:, None], state
        y, mixed = self.mixer.step((self.mixer_norm(x) if self.pre else x)[:, 0], mixed)
        x = x + self.dropout(y[:, None])
        x = x if self.pre else self.mixer_norm(x)
        if self.ffn is not None:
            y, known = self.ffn_step(self.ffn_norm(x) if self.pre else x, known)
            x = x + self.dropout(y)
            x = x if self.pre else self.ffn_norm(x)
        return x[:, 0], (mixed, known)
