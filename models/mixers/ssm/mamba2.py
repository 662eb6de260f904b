"""Mamba-2: one decay for each head makes the state space a linear attention (SSD)."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.linear_attention import linear_attention
from models.card import Card
from models.causal_conv import CausalConv
from models.mixer import Mixer
from models.mixers.ssm.mamba import inverse_softplus_steps, output_map
from models.own_rate import own_rate
from models.padding import zero_padding


class Mamba2(Mixer):
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, y_t = C_t h_t + D x_t with one A and dt a head;
    out = W' norm(y silu(z)). Equal to Y = (L * C B^T) X, L_ij = exp(A (dt_{j+1} + .. + dt_i)).

    Dao & Gu 2024, sections 5-7: z, x, B, C and dt come from one projection; x, B and C pass a
    causal convolution and silu. Groups of heads share B and C. A hidden token adds nothing.

    Args:
        d_state: states of a channel.
        headdim: channels of a head; a narrower model has one head.
        ngroups: sets of B and C.
        d_conv: taps of the causal convolution.
        expand: inner width, in widths of the model.
        dt_min, dt_max: steps at the start, log-uniform over heads.
    """

    card = Card(
        title="Transformers are SSMs: Generalized Models and Efficient Algorithms Through "
        "Structured State Space Duality",
        authors="Dao, Gu",
        year=2024,
        link="https://arxiv.org/abs/2405.21060",
        family="ssm",
        time="N d^2 + N d n",
        memory="N d",
        causality="native",
        bidirectional=False,
        recurrent=True,
        replaces_ffn=True,
        ops=("short_conv", "linear_attention"),
        deviations=(
            "one norm for the whole inner width; the authors' code has one for each of ngroups",
            "dropout, where the recipe has it, acts before the output map; the paper has none",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        d_state: int = 64,
        headdim: int = 64,
        ngroups: int = 1,
        d_conv: int = 4,
        expand: int = 2,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if min(d_state, headdim, ngroups, d_conv, expand) < 1:
            raise ValueError(
                "Mamba2: d_state, headdim, ngroups, d_conv and expand must be at least 1"
            )
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"Mamba2: need 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")
        inner = expand * dim
        self.width = min(headdim, inner)
        self.own_heads, self.groups, self.d_state = inner // self.width, ngroups, d_state
        if inner % self.width or self.own_heads % ngroups:
            raise ValueError(
                f"Mamba2: headdim={headdim} must divide the inner width {inner}, and "
                f"ngroups={ngroups} the number of heads"
            )
        self.sizes = (inner, ngroups * d_state, ngroups * d_state)
        self.into = nn.Linear(dim, inner + sum(self.sizes) + self.own_heads, bias=False)
        self.conv = CausalConv(sum(self.sizes), d_conv)
        self.dt_bias = nn.Parameter(inverse_softplus_steps(self.own_heads, dt_min, dt_max))
        self.log_a = nn.Parameter(torch.empty(self.own_heads).uniform_(1, 16).log())
        self.d = nn.Parameter(torch.ones(self.own_heads))
        own_rate(self.dt_bias, self.log_a, self.d)
        self.norm = nn.RMSNorm(inner, eps=1e-5)
        self.out = output_map(inner, dim, self.depth)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
        state: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        """y; with ``state`` (of ``init_state``, or of the segment before) also the next one."""
        self.check(x, mask, context)
        seen, hidden = (None, None) if state is None else state
        inner, channels = self.sizes[0], sum(self.sizes)
        z, u, dt = self.into(zero_padding(x, mask)).split([inner, channels, self.own_heads], -1)
        u, seen = self.conv(u, seen)
        u = zero_padding(F.silu(u), mask)
        with torch.autocast(x.device.type, enabled=False):
            y, hidden = self._mix(u.to(self.d.dtype), dt.to(self.d.dtype), hidden)
        y = F.dropout(self.norm(y * F.silu(z).to(y.dtype)), self.dropout, self.training)
        y = self.out(y)
        return y if state is None else (y, (seen, hidden))

    def _mix(
        self, u: Float[Tensor, "B N C"], dt: Float[Tensor, "B N H"], hidden: Tensor | None
    ) -> tuple[Float[Tensor, "B N I"], Tensor]:
        v, b, c = u.split(self.sizes, dim=-1)
        v = v.unflatten(-1, (self.own_heads, -1)).transpose(1, 2)
        share = self.own_heads // self.groups
        b, c = (
            x.unflatten(-1, (self.groups, -1)).transpose(1, 2).repeat_interleave(share, 1)
            for x in (b, c)
        )
        dt = F.softplus(dt + self.dt_bias).mT
        y, (hidden, _) = linear_attention(
            c, b, v * dt[..., None], causal=True, log_decay=-self.log_a.exp()[:, None] * dt,
            normalise=False, initial_state=None if hidden is None else (hidden, None),
        )  # fmt: skip
        return (y + self.d[:, None, None] * v).transpose(1, 2).flatten(2), hidden

    def init_state(self, batch: int) -> tuple[Tensor, Tensor]:
        like = self.d.new_zeros(batch, sum(self.sizes))
        return (
            self.conv.init_state(like),
            like.new_zeros(batch, self.own_heads, self.d_state, self.width),
        )

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        y, state = self.forward(x_t[:, None], state=state)
        return y[:, 0], state
