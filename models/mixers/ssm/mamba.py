"""Mamba: a state space whose step, input and output depend on the token."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.selective_scan import selective_scan
from models.card import Card
from models.causal_conv import CausalConv
from models.mixer import Mixer
from models.own_rate import own_rate
from models.padding import zero_padding


def inverse_softplus_steps(count: int, dt_min: float, dt_max: float) -> Float[Tensor, " D"]:
    """Biases whose softplus is log-uniform on [dt_min, dt_max]."""
    span = math.log(dt_max) - math.log(dt_min)
    dt = (torch.rand(count) * span + math.log(dt_min)).exp()
    return dt + (-torch.expm1(-dt)).log()


def output_map(inner: int, dim: int, depth: int) -> nn.Linear:
    """The map out of a layer, smaller at the start the more layers add up (GPT-2's rule, as in the
    authors' code)."""
    linear = nn.Linear(inner, dim, bias=False)
    with torch.no_grad():
        linear.weight *= depth**-0.5
    return linear


class Mamba(Mixer):
    """(x, z) = W u, x = silu(conv(x)), h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t,
    y_t = C_t h_t + D x_t, out = W' (y silu(z)); dt, B, C are linear in x.

    Gu & Dao 2023, section 3 and algorithm 2. A is negative and real, -(1 .. d_state) at the start.
    A hidden token adds nothing to the state.

    Args:
        d_state: states of a channel.
        d_conv: taps of the causal convolution.
        expand: inner width, in widths of the model.
        dt_rank: rank of the map from x to dt; None: a sixteenth of the model's width, rounded up.
        dt_min, dt_max: steps at the start, log-uniform over channels.
    """

    card = Card(
        title="Mamba: Linear-Time Sequence Modeling with Selective State Spaces",
        authors="Gu, Dao",
        year=2023,
        link="https://arxiv.org/abs/2312.00752",
        family="ssm",
        time="N d^2 + N d n",
        memory="N d",
        causality="native",
        bidirectional=False,
        recurrent=True,
        replaces_ffn=True,
        ops=("short_conv", "selective_scan"),
        deviations=(
            "dropout, where the recipe has it, acts before the output map; the paper has none",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if min(d_state, d_conv, expand) < 1 or (dt_rank is not None and dt_rank < 1):
            raise ValueError("Mamba: d_state, d_conv, expand and dt_rank must be at least 1")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"Mamba: need 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")
        inner, rank = expand * dim, dt_rank or -(-dim // 16)
        self.sizes = (rank, d_state, d_state)
        self.into = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = CausalConv(inner, d_conv)
        self.select = nn.Linear(inner, sum(self.sizes), bias=False)
        self.step_size = nn.Linear(rank, inner)
        nn.init.uniform_(self.step_size.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.step_size.bias.copy_(inverse_softplus_steps(inner, dt_min, dt_max))
        self.log_a = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.d = nn.Parameter(torch.ones(inner))
        own_rate(self.log_a, self.d)
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
        u, z = self.into(zero_padding(x, mask)).chunk(2, dim=-1)
        u, seen = self.conv(u, seen)
        u = zero_padding(F.silu(u), mask)
        with torch.autocast(x.device.type, enabled=False):
            u, z = u.to(self.d.dtype), z.to(self.d.dtype)
            rank, b, c = F.linear(u, self.select.weight).split(self.sizes, dim=-1)
            y, hidden = selective_scan(
                u.mT, F.linear(rank, self.step_size.weight).mT, -self.log_a.exp(), b.mT, c.mT,
                self.d, z=z.mT, delta_bias=self.step_size.bias, delta_softplus=True,
                initial_state=hidden,
            )  # fmt: skip
        y = self.out(F.dropout(y.mT, self.dropout, self.training))
        return y if state is None else (y, (seen, hidden))

    def init_state(self, batch: int) -> tuple[Tensor, Tensor]:
        inner, states = self.log_a.shape
        like = self.d.new_zeros(batch, inner)
        return self.conv.init_state(like), like.new_zeros(batch, inner, states)

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        y, state = self.forward(x_t[:, None], state=state)
        return y[:, 0], state
