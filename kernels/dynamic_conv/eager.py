"""The convolution in torch: the band of an N x N matrix, block by block, times windows of v.

A block of C positions sees C + W - 1 others; its weights stand on the diagonals of a
``(C, C + W - 1)`` matrix, so that every product is a dense one. Half precision is computed in fp32.
It can be differentiated once. Legend: X batch times heads, n blocks, C positions of one, K head
width, W taps, P = C + W - 1.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

# shortest block: below it products are too small to be worth calling
SHORTEST = 16


def run(
    v: Float[Tensor, "B H N K"], weights: Float[Tensor, "B H N W"], *, causal: bool = True
) -> Float[Tensor, "B H N K"]:
    taps = weights.shape[3]
    return _Band.apply(v, weights, taps - 1 if causal else taps // 2)


class _Band(torch.autograd.Function):
    """Keeps its arguments only."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, weights: Tensor, left: int) -> Tensor:
        ctx.save_for_backward(v, weights)
        ctx.left = left
        with torch.autocast(v.device.type, enabled=False):
            y = _convolve(_wide(v), _wide(weights), left)
        return y.view(v.shape).to(v.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        v, weights = ctx.saved_tensors
        right = weights.shape[3] - 1 - ctx.left
        grad_wide = _wide(grad)
        with torch.autocast(v.device.type, enabled=False):
            turned = _turned(_wide(weights), ctx.left)
            grad_v = _convolve(grad_wide, turned, right)
            grad_weights = _correlate(grad_wide, _wide(v), weights.shape[3], ctx.left)
        return grad_v.view(v.shape).to(v.dtype), grad_weights.view_as(weights).to(weights), None


def _convolve(
    v: Float[Tensor, "X N K"], weights: Float[Tensor, "X N W"], left: int
) -> Float[Tensor, "X N K"]:
    taps = weights.shape[2]
    band = _blocks(weights, _block(taps))
    matrix = band.new_zeros(*band.shape[:3], band.shape[2] + taps - 1)
    _diagonals(matrix, taps).copy_(band)
    y = matrix @ _windows(v, taps, left)
    return y.flatten(1, 2)[:, : v.shape[1]]


def _correlate(
    grad: Float[Tensor, "X N K"], v: Float[Tensor, "X N K"], taps: int, left: int
) -> Float[Tensor, "X N W"]:
    """Gradient in the weights: ``grad[t] . v[t + w - left]``."""
    matrix = _blocks(grad, _block(taps)) @ _windows(v, taps, left).mT
    return _diagonals(matrix, taps).flatten(1, 2)[:, : v.shape[1]].contiguous()


def _turned(weights: Float[Tensor, "X N W"], left: int) -> Float[Tensor, "X N W"]:
    """Weights of the transposed band: tap w of position s is tap W-1-w of the position it is from.

    That position is ``s + w - (W - 1 - left)``; a step of w goes on by one row and back by one tap.
    """
    batch, n, taps = weights.shape
    right = taps - 1 - left
    rows = pad(weights, (0, 0, right, left)).contiguous()
    turned = rows.as_strided(
        (batch, n, taps),
        ((n + taps - 1) * taps, taps, taps - 1),
        rows.storage_offset() + taps - 1,
    )
    return turned.contiguous()


def _block(taps: int) -> int:
    """Positions of a block: about as many as taps, so that half of the matrix is in the band."""
    return max(SHORTEST, 1 << (taps - 1).bit_length())


def _blocks(x: Float[Tensor, "X N K"], block: int) -> Float[Tensor, "X n C K"]:
    missing = -x.shape[1] % block
    return (pad(x, (0, 0, 0, missing)) if missing else x).unflatten(1, (-1, block))


def _windows(v: Float[Tensor, "X N K"], taps: int, left: int) -> Float[Tensor, "X n P K"]:
    """What each block sees, as overlapping views."""
    block = _block(taps)
    missing = -v.shape[1] % block
    padded = pad(v, (0, 0, left, taps - 1 - left + missing))
    return padded.unfold(1, block + taps - 1, block).mT


def _diagonals(matrix: Float[Tensor, "X n C P"], taps: int) -> Float[Tensor, "X n C W"]:
    """Entries ``(i, i + w)`` as a view."""
    batch, blocks, block, width = matrix.shape
    area = block * width
    return matrix.as_strided(
        (batch, blocks, block, taps), (blocks * area, area, width + 1, 1), matrix.storage_offset()
    )


def _wide(x: Tensor) -> Tensor:
    """As ``(X, N, .)`` in at least fp32."""
    return x.flatten(0, 1).to(torch.promote_types(x.dtype, torch.float32))
