"""Hyena: long convolutions and gates by turns."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.long_conv import long_conv
from kernels.short_conv import short_conv
from models.card import Card
from models.implicit_filter import ImplicitFilter
from models.mixer import Mixer
from models.padding import zero_padding


class Hyena(Mixer):
    """v <- x_n * (h_n * v + D_n v) for n = 1 .. order (the first product is of each position, the
    second a convolution); x_n and v are short convolutions of linear maps of the input.

    Poli et al. 2023, definition 3.1 and algorithm 3. Filters h_n are networks of the position. Not
    causal: a second filter of each n reads the future, and the short convolutions are centred.

    Args:
        order: gates, and long convolutions.
        filter_order: width of the filter network.
        emb_dim: odd number of position features of the filter network.
        sin_freq: frequency of its sines at the start.
        short_filter: taps of the short convolutions.
        num_inner_mlps: hidden layers of the filter network besides the first.
        lr_filter: learning rate of the filter network, which has no weight decay; None: as all
            others.
    """

    card = Card(
        title="Hyena Hierarchy: Towards Larger Convolutional Language Models",
        authors="Poli, Massaroli, Nguyen, Fu, Dao, Baccus, Bengio, Ermon, Re",
        year=2023,
        link="https://arxiv.org/abs/2302.10866",
        family="conv",
        time="N log N d + N d^2",
        memory="N d",
        causality="native",
        bidirectional=True,
        ops=("short_conv", "long_conv"),
        deviations=(
            "as many long convolutions as gates, as the paper defines; its code has one fewer",
            "position features of the filters are fixed, where the authors' code trains them, too",
            "not causal: filters of both sides are channels of one network, each with its window",
            "the window has no shift, which is 0 in the authors' code: filters fade to nothing",
            "short convolutions have no bias",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        order: int = 2,
        filter_order: int = 64,
        emb_dim: int = 3,
        sin_freq: float = 1.0,
        short_filter: int = 3,
        num_inner_mlps: int = 2,
        lr_filter: float | None = 1e-3,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if order < 1 or short_filter < 1:
            raise ValueError("Hyena: order and short_filter must be at least 1")
        if not self.causal and short_filter % 2 == 0:
            raise ValueError(f"Hyena: a centred short_filter is odd, got {short_filter}")
        self.order, self.directions = order, 1 if self.causal else 2
        self.into = nn.Linear(dim, (order + 1) * dim)
        bound = short_filter**-0.5
        taps = torch.empty((order + 1) * dim, short_filter).uniform_(-bound, bound)
        self.short = nn.Parameter(taps)
        self.filter = ImplicitFilter(
            self.directions * order * dim, max_len=self.max_len, width=filter_order,
            emb_dim=emb_dim, sin_freq=sin_freq, inner_layers=num_inner_mlps, lr=lr_filter,
        )  # fmt: skip
        self.d = nn.Parameter(torch.randn(order, dim))
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        self.check(x, mask, context)
        u = zero_padding(self.into(zero_padding(x, mask)), mask).mT
        with torch.autocast(x.device.type, enabled=False):
            u = short_conv(u.to(self.short.dtype), self.short, causal=self.causal)
            # what the convolution carried into the padding must not come back
            u = zero_padding(u.mT, mask).mT
            *gates, v = u.chunk(self.order + 1, dim=1)
            v = F.dropout(v, self.dropout, self.training)
            kernels = self.filter(x.shape[1]).unflatten(0, (self.order, self.directions, -1))
            for gate, kernel, d in zip(gates, kernels, self.d, strict=True):
                future = None if self.causal else kernel[1]
                v = gate * long_conv(v, kernel[0], d, kernel_reverse=future)
        return self.out(v.mT)
