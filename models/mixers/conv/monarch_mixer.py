"""Monarch Mixer's sequence mixer: one gated long convolution, and one beside it."""

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


class MonarchMixer(Mixer):
    """y = x2 * (h * (x1 x v) + D (x1 x v)), plus g * u where ``residual_long_conv``; x1, x2, v are
    short convolutions of linear maps of u.

    Fu et al. 2023, section 4 (M2-BERT): filters are networks of the position; both ways each has a
    second one for the future, and the short convolutions are centred. The preset's block has the
    paper's block-diagonal feed-forward network.

    Args:
        filter_order: width of the filter networks.
        emb_dim: odd number of position features of the filter networks.
        residual_long_conv: add a convolution of the input itself.
        lr_filter: learning rate of the filter networks, which have no weight decay; None: as all
            others.
    """

    card = Card(
        title="Monarch Mixer: A Simple Sub-Quadratic GEMM-Based Architecture",
        authors="Fu, Arora, Grogan, Johnson, Eyuboglu, Thomas, Spector, Poli, Rudra, Re",
        year=2023,
        link="https://arxiv.org/abs/2310.12109",
        family="conv",
        time="N log N d + N d^2",
        memory="N d",
        causality="native",
        bidirectional=True,
        ops=("short_conv", "long_conv"),
        deviations=(
            "convolutions use torch's FFT; backend={long_conv: monarch} uses Monarch products",
            "position features of the filters are fixed, where the authors' code trains them, too",
            "not causal: filters of both sides are channels of one network, each with its window",
            "sines of the filters start at frequency 1, in the authors' M2-BERT at 10",
            "short convolutions have no bias, and the residual convolution no skip",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        filter_order: int = 128,
        emb_dim: int = 5,
        residual_long_conv: bool = True,
        lr_filter: float | None = 1e-3,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        self.directions = 1 if self.causal else 2
        self.into = nn.Linear(dim, 3 * dim)
        self.short = nn.Parameter(torch.empty(3 * dim, 3).uniform_(-(3**-0.5), 3**-0.5))
        channels = self.directions * dim
        sizes: dict[str, Any] = {
            "max_len": self.max_len, "width": filter_order, "emb_dim": emb_dim, "lr": lr_filter,
        }  # fmt: skip
        self.filter = ImplicitFilter(channels, **sizes)
        self.residual_filter: ImplicitFilter | None = None
        if residual_long_conv:
            self.residual_filter = ImplicitFilter(channels, **sizes)
        self.d = nn.Parameter(torch.randn(dim))
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
        x = zero_padding(x, mask)
        u = zero_padding(self.into(x), mask).mT
        with torch.autocast(x.device.type, enabled=False):
            u = short_conv(u.to(self.d.dtype), self.short, causal=self.causal)
            # what the convolution carried into the padding must not come back
            x1, x2, v = zero_padding(u.mT, mask).mT.chunk(3, dim=1)
            y = x2 * self._convolve(x1 * v, self.filter, self.d)
            if self.residual_filter is not None:
                y = y + self._convolve(x.mT.to(y.dtype), self.residual_filter, None)
        return self.out(F.dropout(y.mT, self.dropout, self.training))

    def _convolve(
        self, u: Float[Tensor, "B D N"], taps: ImplicitFilter, d: Tensor | None
    ) -> Float[Tensor, "B D N"]:
        kernel = taps(u.shape[2]).unflatten(0, (self.directions, -1))
        return long_conv(u, kernel[0], d, kernel_reverse=None if self.causal else kernel[1])
