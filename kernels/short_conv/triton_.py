"""The convolution in Triton, forward and backward; compiled and emulated so far.

Computed in fp32. Inputs that are not contiguous are copied. It can be differentiated once.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.short_conv.triton_kernels import CONV, TAPS
from kernels.triton_tools import available as available
from kernels.triton_tools import supports_device


def supports(
    u: Tensor, weight: Tensor, bias: Tensor | None = None, *, causal: bool = True
) -> str | None:
    """Why this call cannot run here, or None."""
    every = (u, weight) if bias is None else (u, weight, bias)
    return next(filter(None, map(supports_device, every)), None)


def run(
    u: Float[Tensor, "B D N"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None = None,
    *,
    causal: bool = True,
) -> Float[Tensor, "B D N"]:
    taps = weight.shape[1]
    return _Conv.apply(u, weight, bias, taps - 1 if causal else taps // 2)


class _Conv(torch.autograd.Function):
    """Keeps its arguments only."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, bias: Tensor | None, left: int) -> Tensor:
        ctx.save_for_backward(u, weight, bias)
        ctx.left = left
        return _convolve(
            u.contiguous(), weight.contiguous(), None if bias is None else bias.contiguous(), left
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, weight, bias = ctx.saved_tensors
        taps = weight.shape[1]
        u, grad = u.contiguous(), grad.contiguous()
        batch, channels, n = u.shape
        # the transposed convolution is one with its taps turned around
        grad_u = _convolve(grad, weight.flip(1).contiguous(), None, taps - 1 - ctx.left)
        found = u.new_empty(batch, channels, taps, dtype=torch.float32)
        TAPS[(batch * channels, taps)](u, grad, found, n, ctx.left, W=taps)
        grad_bias = None
        if bias is not None:
            grad_bias = grad.sum(dim=(0, 2), dtype=torch.float32).to(bias.dtype)
        return grad_u, found.sum(dim=0).to(weight.dtype), grad_bias, None


def _convolve(u: Tensor, weight: Tensor, bias: Tensor | None, left: int) -> Tensor:
    y = torch.empty_like(u)
    batch, channels, n = u.shape
    CONV[lambda at: (batch * channels, -(-n // at["BN"]))](
        u, weight, weight if bias is None else bias, y, n, channels, left,
        W=weight.shape[1], BIASED=bias is not None,
    )  # fmt: skip
    return y
