"""The short causal convolution that modern recurrent layers put before their mixing."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels.short_conv import short_conv


class CausalConv(nn.Module):
    """Each channel's last ``width`` inputs, weighted. Started as torch starts a convolution.

    Args:
        channels: C.
        width: taps.
        bias: add one number a channel.
    """

    def __init__(self, channels: int, width: int, *, bias: bool = True):
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(channels, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound)) if bias else None

    def forward(
        self, x: Float[Tensor, "B N C"], state: Float[Tensor, "B W C"] | None = None
    ) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B W C"]]:
        """Outputs, and the last ``width - 1`` inputs: the ``state`` of the next segment."""
        state = self.init_state(x) if state is None else state
        joined = torch.cat([state, x], dim=1)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y = short_conv(joined.mT, self.weight.to(x.dtype), bias, causal=True).mT
        return y[:, state.shape[1] :], joined[:, joined.shape[1] - state.shape[1] :]

    def init_state(self, like: Float[Tensor, "B *N C"]) -> Float[Tensor, "B W C"]:
        """Nothing seen yet."""
        return like.new_zeros(len(like), self.weight.shape[1] - 1, like.shape[-1])
