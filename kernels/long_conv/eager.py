"""Convolution by real FFTs of at least twice the length; spectra are made again in the
backward pass. It can be differentiated once."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.fft import irfft, rfft
from torch.nn.functional import pad


def run(
    u: Float[Tensor, "B D N"],
    kernel: Float[Tensor, "D L"],
    skip: Float[Tensor, " D"] | None = None,
    *,
    kernel_reverse: Float[Tensor, "D M"] | None = None,
) -> Float[Tensor, "B D N"]:
    wide, ring = on_a_ring(u, kernel, kernel_reverse)
    y = _Circular.apply(wide, ring)
    return (y if skip is None else y + skip[:, None] * u).to(u.dtype)


def on_a_ring(
    u: Float[Tensor, "B D N"],
    kernel: Float[Tensor, "D L"],
    kernel_reverse: Float[Tensor, "D M"] | None,
) -> tuple[Float[Tensor, "B D N"], Float[Tensor, "D S"]]:
    """u, and both kernels on a ring that is too wide for N inputs to wrap; fp32 or wider."""
    n = u.shape[2]
    past = kernel[:, :n]
    future = None if kernel_reverse is None else kernel_reverse[:, : n - 1]
    reach = max(past.shape[1], 1 if future is None else future.shape[1] + 1)
    size = fast_size(n + reach - 1)
    wide = torch.promote_types(u.dtype, torch.float32)
    ring = pad(past.to(wide), (0, size - past.shape[1]))
    if future is not None:
        # lag -1 is the last place of the ring
        ring = ring + pad(future.to(wide).flip(1), (size - future.shape[1], 0))
    return u.to(wide), ring


def fast_size(least: int) -> int:
    """The smallest even size from ``least`` on without prime factors above 5: FFTs like those."""
    best = 2
    while best < least:
        best *= 2
    five = 1
    while five < best:
        three = five
        while three < best:
            size = three * 2
            while size < least:
                size *= 2
            best = min(best, size)
            three *= 3
        five *= 5
    return best


class _Circular(torch.autograd.Function):
    """Circular convolution of u, zero-padded to the length of ``ring``, cut back to N."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, ring: Tensor) -> Tensor:
        ctx.save_for_backward(u, ring)
        size = ring.shape[1]
        return irfft(rfft(u, n=size).mul_(rfft(ring)), n=size)[..., : u.shape[2]]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, ring = ctx.saved_tensors
        size = ring.shape[1]
        spectrum = rfft(grad, n=size)
        grad_u = grad_ring = None
        if ctx.needs_input_grad[1]:
            # summed over the batch before the way back
            both = (spectrum * rfft(u, n=size).conj()).sum(dim=0)
            grad_ring = irfft(both, n=size)
        if ctx.needs_input_grad[0]:
            grad_u = irfft(spectrum.mul_(rfft(ring).conj()), n=size)[..., : u.shape[2]]
        return grad_u, grad_ring
