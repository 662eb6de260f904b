"""Plain CUDA: a thread a node, a warp a state; no fraction is stored.

Sums that share their poles (leading dimensions of v that w lacks) share their fractions too, four
at a time. Differentiates once.
"""

import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Complex
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import cuda_tools
from kernels.cuda_tools import available, dense

__all__ = ["available", "run", "supports"]

SOURCE = Path(__file__).with_name("cauchy_kernel.cu")


def supports(v: Tensor, z: Tensor, w: Tensor) -> str | None:
    return cuda_tools.supports_device(v)


def run(
    v: Complex[Tensor, "*V J"], z: Complex[Tensor, " L"], w: Complex[Tensor, "*W J"]
) -> Complex[Tensor, "*K L"]:
    shape = torch.broadcast_shapes(v.shape, w.shape)
    own = max(v.ndim - w.ndim, 0)
    sums, states = math.prod(shape[:own]), shape[-1]
    rows = w.expand(shape[own:]).reshape(-1, states)
    kernel = _Cauchy.apply(v.expand(shape).reshape(sums, -1, states), z, rows)
    return kernel.reshape(*shape[:-1], z.shape[0])


class _Cauchy(torch.autograd.Function):
    """v (P, rows, J), z (L,), w (rows, J) to K (P, rows, L)."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, z: Tensor, w: Tensor) -> Tensor:
        v, z, w = (dense(x, torch.complex64) for x in (v, z, w))
        ctx.save_for_backward(v, z, w)
        return _of_nodes("cauchy_kernel_forward", v, z, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        v, z, w = ctx.saved_tensors
        grad = dense(grad, torch.complex64)
        grad_v, grad_w, grad_z = torch.empty_like(v), torch.empty_like(w), None
        cuda_tools.launch(
            SOURCE, "cauchy_kernel_backward", v, z, w, grad, grad_v, grad_w, *v.shape, z.shape[0]
        )
        if ctx.needs_input_grad[1]:
            slope = _of_nodes("cauchy_kernel_slope", v, z, w)
            grad_z = (grad * slope.conj()).sum((0, 1))
        return grad_v, grad_z, grad_w


def _of_nodes(launcher: str, v: Tensor, z: Tensor, w: Tensor) -> Tensor:
    values = torch.empty(*v.shape[:2], z.shape[0], dtype=v.dtype, device=v.device)
    cuda_tools.launch(SOURCE, launcher, v, z, w, values, *v.shape, z.shape[0])
    return values
