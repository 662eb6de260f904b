"""Plain CUDA: a thread sums over states at its positions; backward, a warp sums over the length.

Powers are never stored and phases never rounded, however long the kernel is. Differentiates once.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import cuda_tools
from kernels.cuda_tools import available, dense

__all__ = ["available", "run", "supports"]

SOURCE = Path(__file__).with_name("vandermonde_kernel.cu")


def supports(c: Tensor, log_a: Tensor, length: int) -> str | None:
    return cuda_tools.supports_device(c)


def run(
    c: Complex[Tensor, "*C n"], log_a: Complex[Tensor, "*A n"], length: int
) -> Float[Tensor, "*K L"]:
    c, log_a = torch.broadcast_tensors(c, log_a)
    rows = (x.reshape(-1, x.shape[-1]) for x in (c, log_a))
    return _Vandermonde.apply(*rows, length).reshape(*c.shape[:-1], length)


class _Vandermonde(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, c: Tensor, log_a: Tensor, length: int) -> Tensor:
        c, log_a = dense(c, torch.complex64), dense(log_a, torch.complex64)
        kernel = torch.empty(c.shape[0], length, device=c.device)
        cuda_tools.launch(SOURCE, "vandermonde_kernel_forward", c, log_a, kernel, *c.shape, length)
        ctx.save_for_backward(c, log_a)
        return kernel

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        c, log_a = ctx.saved_tensors
        grad_c, grad_log_a = torch.empty_like(c), torch.empty_like(log_a)
        cuda_tools.launch(
            SOURCE, "vandermonde_kernel_backward", c, log_a, dense(grad, torch.float32),
            grad_c, grad_log_a, *c.shape, grad.shape[-1],
        )  # fmt: skip
        return grad_c, grad_log_a, None
