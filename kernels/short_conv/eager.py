"""The convolution in torch: one pass over the sequence a tap, forward and backward.

Half precision is computed in fp32. It can be differentiated once.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def run(
    u: Float[Tensor, "B D N"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None = None,
    *,
    causal: bool = True,
) -> Float[Tensor, "B D N"]:
    taps = weight.shape[1]
    return _Taps.apply(u, weight, bias, taps - 1 if causal else taps // 2)


class _Taps(torch.autograd.Function):
    """Keeps its arguments only."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, weight: Tensor, bias: Tensor | None, left: int) -> Tensor:
        ctx.save_for_backward(u, weight, bias)
        ctx.left = left
        u_wide = _wide(u)
        taps = _rows(weight, u_wide)
        if bias is None:
            y = torch.zeros_like(u_wide)
        else:
            y = bias.to(u_wide)[:, None].expand(u.shape).contiguous()
        for w in range(len(taps)):
            to, source = _overlap(w - left, u.shape[2])
            y[..., to].addcmul_(u_wide[..., source], taps[w])
        return y.to(u.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, weight, bias = ctx.saved_tensors
        grad_wide, u_wide = _wide(grad), _wide(u)
        taps = _rows(weight, u_wide)
        grad_u = torch.zeros_like(u_wide)
        grad_weight = torch.empty_like(weight)
        for w in range(len(taps)):
            to, source = _overlap(w - ctx.left, u.shape[2])
            grad_u[..., source].addcmul_(grad_wide[..., to], taps[w])
            grad_weight[:, w] = (grad_wide[..., to] * u_wide[..., source]).sum(dim=(0, 2))
        grad_bias = None if bias is None else grad_wide.sum(dim=(0, 2)).to(bias.dtype)
        return grad_u.to(u.dtype), grad_weight, grad_bias, None


def _rows(weight: Tensor, like: Tensor) -> Tensor:
    """Taps as (W, D, 1), channels side by side: u may have its channels last."""
    return weight.to(like.dtype).T.contiguous()[..., None]


def _overlap(shift: int, n: int) -> tuple[slice, slice]:
    """Positions t, and t + shift, such that both are inside."""
    if abs(shift) >= n:
        return slice(0, 0), slice(0, 0)
    return slice(max(-shift, 0), n - max(shift, 0)), slice(max(shift, 0), n - max(-shift, 0))


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
