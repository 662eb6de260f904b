"""Selective scan in Triton: launches its passes. It computes in fp32.

Kept for the backward pass: the arguments, and the state before each chunk of tokens. The backward
pass makes the others again, STATES at a time. It can be differentiated once.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import triton_tools
from kernels.selective_scan.call import around
from kernels.triton_tools import available

__all__ = ["available", "run", "supports"]

# that the backward pass holds at once: 128 MiB
STATES = 1 << 25


def supports(*tensors: Tensor | None, delta_softplus: bool, **more: Tensor | None) -> str | None:
    from kernels.selective_scan.triton_kernels import TILE

    given = [x for x in (*tensors, *more.values()) if x is not None]
    if given[2].shape[1] > TILE:
        return f"it holds at most {TILE} states of a channel, not {given[2].shape[1]}"
    return next(filter(None, map(triton_tools.supports_device, given)), None)


def run(
    u: Float[Tensor, "B D N"],
    delta: Float[Tensor, "B D N"],
    a: Float[Tensor, "D S"],
    b: Float[Tensor, "B G S N"],
    c: Float[Tensor, "B G S N"],
    d: Float[Tensor, " D"] | None = None,
    *,
    z: Float[Tensor, "B D N"] | None = None,
    delta_bias: Float[Tensor, " D"] | None = None,
    delta_softplus: bool = False,
    initial_state: Float[Tensor, "B D S"] | None = None,
) -> tuple[Float[Tensor, "B D N"], Float[Tensor, "B D S"]]:
    return around(_Scan.apply, u, delta, a, b, c, d, z, delta_bias, delta_softplus, initial_state)


class _Scan(torch.autograd.Function):
    """y and the last state, from u, delta ``(X, D, N)``, a, h ``(X, S, D)``, b, c ``(X, S, N)``."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        from kernels.selective_scan import triton_kernels as kernels

        u, delta, b, c = (x.mT.contiguous() for x in (u, delta, b, c))
        call = _Launch(u, a)
        ends, before, totals = call.of_chunks(a), call.of_chunks(a), call.of_chunks(a[:, 0])
        y, last = torch.empty_like(delta), torch.empty_like(a)
        call(kernels.ends_kernel, u, delta, a, b, ends, totals)
        call.carries(ends, totals, a, h.contiguous(), before, last, reverse=False)
        call(kernels.outputs_kernel, u, delta, a, b, c, before, y)
        ctx.save_for_backward(u, delta, a, b, c, before, totals)
        return y.mT, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_h: Tensor) -> tuple[Tensor, ...]:
        from kernels.selective_scan import triton_kernels as kernels

        u, delta, a, b, c, before, totals = ctx.saved_tensors
        grad_y = grad_y.mT.contiguous()
        call = _Launch(u, a)
        ends, after, grad_a = (call.of_chunks(a) for _ in range(3))
        grad_h, last = grad_h.contiguous(), torch.empty_like(a)
        call(kernels.ends_backward_kernel, grad_y, delta, a, c, ends)
        call.carries(ends, totals, a, grad_h, after, last, reverse=True)
        grad_u, grad_delta = torch.empty_like(delta), torch.empty_like(delta)
        # one row of b and c for each block of channels
        grad_b, grad_c = (a.new_empty(*b.shape[:2], call.blocks, b.shape[2]) for _ in range(2))
        grads = (grad_u, grad_delta, grad_a, grad_b, grad_c)
        call.slabs(u, delta, a, b, c, grad_y, before, after, *grads)
        return (
            grad_u.mT,
            grad_delta.mT,
            grad_a.sum(dim=1),
            grad_b.sum(dim=2).mT,
            grad_c.sum(dim=2).mT,
            last,
        )


class _Launch:
    """Sizes and grid of a call's launches."""

    def __init__(self, u: Tensor, a: Tensor):
        import triton

        from kernels.selective_scan.triton_kernels import CHUNK, blocks

        self.size, self.n, self.d = u.shape
        self.s = a.shape[1]
        self.tile = blocks(self.s)
        self.chunk, self.chunks = CHUNK, triton.cdiv(self.n, CHUNK)
        self.blocks = triton.cdiv(self.d, self.tile["BLOCK"])

    def of_chunks(self, like: Tensor) -> Tensor:
        """A buffer with one such tensor for each chunk, (X, chunks, ...)."""
        return like.new_empty(self.size, self.chunks, *like.shape[1:])

    def __call__(self, kernel: Any, *tensors: Tensor) -> None:
        grid = (self.chunks, self.size, self.blocks)
        sizes = (self.n, self.d, self.s, self.chunks)
        kernel[grid](*tensors, *sizes, CHUNK=self.chunk, **self.tile)

    def carries(self, *tensors: Tensor, reverse: bool) -> None:
        from kernels.selective_scan.triton_kernels import carries_kernel

        grid = (1, self.size, self.blocks)
        sizes = (self.d, self.s, self.chunks)
        carries_kernel[grid](*tensors, *sizes, REVERSE=reverse, **self.tile)

    def slabs(self, *tensors: Tensor) -> None:
        """The backward pass, some chunks at a time."""
        from kernels.selective_scan.triton_kernels import backward_kernel

        of_chunk = self.size * self.chunk * self.s * self.d
        some = min(self.chunks, max(1, STATES // of_chunk))
        states = tensors[1].new_empty(some * of_chunk)
        sizes = (self.n, self.d, self.s, self.chunks)
        for first in range(0, self.chunks, some):
            grid = (min(some, self.chunks - first), self.size, self.blocks)
            backward_kernel[grid](
                *tensors[:8], states, *tensors[8:], *sizes, first, CHUNK=self.chunk, **self.tile
            )
