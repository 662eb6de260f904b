"""The convolution in Triton, forward and backward; compiled and emulated so far.

Computed in fp32. Inputs that are not contiguous are copied. It can be differentiated once.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.dynamic_conv.triton_kernels import CONV, WEIGHTS
from kernels.triton_tools import available as available
from kernels.triton_tools import supports_device


def supports(v: Tensor, weights: Tensor, *, causal: bool = True) -> str | None:
    """Why this call cannot run here, or None."""
    return supports_device(v) or supports_device(weights)


def run(
    v: Float[Tensor, "B H N K"], weights: Float[Tensor, "B H N W"], *, causal: bool = True
) -> Float[Tensor, "B H N K"]:
    taps = weights.shape[3]
    return _Conv.apply(v, weights, taps - 1 if causal else taps // 2)


class _Conv(torch.autograd.Function):
    """Keeps its arguments only."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, weights: Tensor, left: int) -> Tensor:
        ctx.save_for_backward(v, weights)
        ctx.left = left
        return _convolve(v.contiguous(), weights.contiguous(), left, turned=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        v, weights = (x.contiguous() for x in ctx.saved_tensors)
        grad = grad.contiguous()
        batch, heads, n, width = v.shape
        grad_v = _convolve(grad, weights, ctx.left, turned=True)
        grad_weights = torch.empty_like(weights)
        WEIGHTS[lambda at: (batch * heads, -(-n // at["BN"]))](
            v, grad, grad_weights, n, ctx.left, K=width, W=weights.shape[3]
        )
        return grad_v, grad_weights, None


def _convolve(v: Tensor, weights: Tensor, left: int, *, turned: bool) -> Tensor:
    y = torch.empty_like(v)
    batch, heads, n, width = v.shape
    CONV[lambda at: (batch * heads, -(-n // at["BN"]), -(-width // at["BK"]))](
        v, weights, y, n, left, K=width, W=weights.shape[3], TURNED=turned
    )
    return y
