"""What state spaces trained as a convolution share: kernels in, gated features out."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.long_conv import long_conv
from models.mixer import Mixer
from models.padding import zero_padding


class ConvolutionalSSM(Mixer):
    """y = K * u + D u; out = GLU(W gelu(y)). Not causal: a second kernel reads the future, from
    lag -1 on. A subclass writes ``kernels``."""

    def __init__(self, dim: int, **standard: Any):
        super().__init__(dim, **standard)
        self.directions = 1 if self.causal else 2
        self.d = nn.Parameter(torch.randn(dim))
        self.gate = nn.Linear(dim, 2 * dim)

    def kernels(self, length: int) -> Float[Tensor, "directions D L"]:
        """The first ``length`` taps of the convolution kernel of each direction."""
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        self.check(x, mask, context)
        with torch.autocast(x.device.type, enabled=False):
            u = zero_padding(x, mask).mT.to(self.d.dtype)
            kernels = self.kernels(x.shape[1])
            future = None if self.causal else kernels[1]
            y = long_conv(u, kernels[0], self.d, kernel_reverse=future).mT
        return self.gated(y)

    def gated(self, y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        y = F.dropout(F.gelu(y), self.dropout, self.training)
        return F.glu(self.gate(y), dim=-1)
