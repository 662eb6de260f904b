"""Mega's multi-dimensional damped exponential moving average."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kernels.long_conv import long_conv
from kernels.vandermonde_kernel import vandermonde_kernel
from models.padding import zero_padding


class MovingAverage(nn.Module):
    """h_t = alpha beta x_t + (1 - alpha delta) h_{t-1}, y_t = <eta, h_t> / sqrt(n) + omega x_t.

    Ma et al. 2023 (arXiv 2209.10655), section 3.1: n states of each channel, alpha and delta in
    (0, 1). Computed as a convolution (appendix A). Both ways: a second average of its own runs on
    the reversed sequence; the present is in both.

    Args:
        dim: channels.
        states: n.
        causal: one direction.
    """

    def __init__(self, dim: int, *, states: int, causal: bool):
        super().__init__()
        if states < 1:
            raise ValueError(f"n_dim must be at least 1, got {states}")
        ways = 1 if causal else 2
        self.causal = causal
        self.alpha = nn.Parameter(torch.randn(ways, dim, states) * 0.2)
        self.delta = nn.Parameter(torch.randn(ways, dim, states) * 0.2)
        # alternating signs, as the published code starts
        sign = 1.0 - 2.0 * (torch.arange(states) % 2)
        self.beta = nn.Parameter(torch.randn(ways, dim, states) * 0.02 + sign)
        self.eta = nn.Parameter(torch.randn(ways, dim, states))
        self.omega = nn.Parameter(torch.randn(dim))

    def kernels(self, length: int) -> Float[Tensor, "W D L"]:
        """Taps of each direction, from the present on."""
        alpha, delta = self.alpha.sigmoid(), self.delta.sigmoid()
        weight = self.eta * alpha * self.beta * alpha.shape[-1] ** -0.5
        log_decay = torch.log1p(-alpha * delta)
        # a real state is half of a conjugate pair
        c, log_a = (torch.complex(x, torch.zeros_like(x)) for x in (weight / 2, log_decay))
        return vandermonde_kernel(c, log_a, length)

    def forward(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B N D"]:
        with torch.autocast(x.device.type, enabled=False):
            u = zero_padding(x, mask).mT.to(self.omega.dtype)
            kernels = self.kernels(x.shape[1])
            if self.causal:
                return long_conv(u, kernels[0], self.omega).mT
            past, future = kernels
            skip = self.omega + future[:, 0]
            if x.shape[1] == 1:
                return long_conv(u, past, skip).mT
            return long_conv(u, past, skip, kernel_reverse=future[:, 1:]).mT

    # -- decoding ------------------------------------------------------------------------------

    def init_state(self, batch: int) -> Float[Tensor, "B D S"]:
        """h before the first token."""
        return self.omega.new_zeros(batch, *self.alpha.shape[1:])

    def step(
        self, x_t: Float[Tensor, "B D"], h: Float[Tensor, "B D S"]
    ) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D S"]]:
        """y_t and h_t, of one direction."""
        with torch.autocast(x_t.device.type, enabled=False):
            x = x_t.to(self.omega.dtype)
            alpha, delta = self.alpha[0].sigmoid(), self.delta[0].sigmoid()
            h = alpha * self.beta[0] * x[..., None] + (1 - alpha * delta) * h
            return (self.eta[0] * h).sum(-1) * h.shape[-1] ** -0.5 + self.omega * x, h
