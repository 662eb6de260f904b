"""Pieces that the Triton kernels of linear attention and of the delta rule are made of.

A sequence is read in chunks of C positions, a head's width in blocks; matrices are row-major
``(positions, width)``. Everything is fp32 from the load to the store. Legend: i, j positions of one
chunk, g log-decays <= 0, one a position (width 1) or one a channel.
"""

from typing import no_type_check

import torch
import triton
import triton.language as tl

# e^FLOOR is 0 in fp32, and sums of a chunk of it keep their small addends
FLOOR = tl.constexpr(-200.0)


def chunk_length(dtype: torch.dtype, decay: int) -> int:
    """Positions of a chunk that leave registers enough.

    fp32 products in full take twice as many; with a decay per channel (2) the pairs of a chunk take
    C exponentials a position and channel.
    """
    return 32 if decay == 2 or dtype == torch.float32 else 64


def precision(dtype: torch.dtype) -> str:
    """Of ``tl.dot``: TF32 holds every fp16 and bf16 number exactly; fp32 wants all its bits."""
    return "ieee" if dtype == torch.float32 else "tf32"


@no_type_check
@triton.jit
def tile(at, rows, real, cols, WIDTH: tl.constexpr):
    """Entries (rows, cols) in fp32, 0 where a row is not real or a column outside."""
    inside = real[:, None] & (cols[None, :] < WIDTH)
    return tl.load(at + rows[:, None] * WIDTH + cols[None, :], mask=inside, other=0).to(tl.float32)


@no_type_check
@triton.jit
def put(at, x, rows, real, cols, WIDTH: tl.constexpr):
    """Stores x at (rows, cols)."""
    inside = real[:, None] & (cols[None, :] < WIDTH)
    where = at + rows[:, None] * WIDTH + cols[None, :]
    tl.store(where, x.to(at.dtype.element_ty), mask=inside)


@no_type_check
@triton.jit
def seen(mask, rows, n, MASKED: tl.constexpr):
    """Whether each position is there and not hidden."""
    real = rows < n
    if MASKED:
        real = real & (tl.load(mask + rows, mask=real, other=0) != 0)
    return real


@no_type_check
@triton.jit
def features(x, real, cols, shift, WIDTH: tl.constexpr, PHI: tl.constexpr):
    """phi(x), 0 where a row is not real: the identity, elu + 1, or relu + shift. NaN stays NaN."""
    if PHI == 1:
        x = tl.where(x <= 0, tl.exp(tl.minimum(x, 0.0)), x + 1.0)
    elif PHI == 2:
        x = tl.where(x <= 0, 0.0, x) + shift
    return tl.where(real[:, None] & (cols[None, :] < WIDTH), x, 0.0)


@no_type_check
@triton.jit
def pull_back(x, grad, PHI: tl.constexpr):
    """Gradient in x from that in phi(x)."""
    if PHI == 1:
        grad = grad * tl.where(x <= 0, tl.exp(tl.minimum(x, 0.0)), 1.0)
    elif PHI == 2:
        grad = tl.where(x <= 0, 0.0, grad)
    return grad


@no_type_check
@triton.jit
def log_decays(at, rows, real, cols, WIDTH: tl.constexpr):
    """g, (C, WIDTH's block); 0 outside."""
    g = tile(at, rows, real, cols, WIDTH)
    return tl.where(g < FLOOR, FLOOR, g)


@no_type_check
@triton.jit
def from_start(at, rows, n, cols, WIDTH: tl.constexpr):
    """``e^{G_i}``: decay from before the chunk to each position."""
    return tl.exp(tl.cumsum(log_decays(at, rows, rows < n, cols, WIDTH), 0))


@no_type_check
@triton.jit
def to_end(at, rows, end, n, cols, WIDTH: tl.constexpr):
    """``e^{G_C - G_i}``: decay from each position to the end, a sum of what follows."""
    later = (rows + 1 < n) & (rows + 1 < end)
    return tl.exp(tl.cumsum(log_decays(at, rows + 1, later, cols, WIDTH), 0, reverse=True))


@no_type_check
@triton.jit
def between(at, rows, n, C: tl.constexpr):
    """``e^{G_i - G_j}`` for j < i and one g a position: sums of what lies between, no difference.

    1 elsewhere.
    """
    i = tl.arange(0, C)
    g = log_decays(at, rows, rows < n, tl.arange(0, 1), 1)
    return tl.exp(tl.cumsum(tl.where(i[:, None] > i[None, :], g, 0.0), 0))


@no_type_check
@triton.jit
def step_between(sums, at, first, j, n, cols, WIDTH: tl.constexpr, C: tl.constexpr):
    """Sums of g between j and each i > j, from those between j + 1 and i; (C, WIDTH's block)."""
    i = tl.arange(0, C)
    row = first + j + 1 + tl.arange(0, 1)
    g = log_decays(at, row, (row < n) & (j + 1 < C), cols, WIDTH)
    return sums + tl.where(i[:, None] > j, g, 0.0)


@no_type_check
@triton.jit
def ordered(weights, STRICT: tl.constexpr, C: tl.constexpr):
    """Weights of pairs (i, j) with j <= i, or j < i; 0 elsewhere."""
    i = tl.arange(0, C)
    if STRICT:
        return tl.where(i[:, None] > i[None, :], weights, 0.0)
    else:
        return tl.where(i[:, None] >= i[None, :], weights, 0.0)


@no_type_check
@triton.jit
def scores(
    q, k, g, rows, keys, first, n, shift,
    K: tl.constexpr, PHI: tl.constexpr, DECAY: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """``phi(q_i) . e^{G_i - G_j} phi(k_j)`` of all pairs of a chunk, (C, C); right for j <= i."""
    weights = tl.zeros((C, C), tl.float32)
    real = rows < n
    for block in range(0, K, BK):
        cols = block + tl.arange(0, BK)
        x = features(tile(q, rows, real, cols, K), real, cols, shift, K, PHI)
        key = features(tile(k, rows, keys, cols, K), keys, cols, shift, K, PHI)
        if DECAY == 2:
            i = tl.arange(0, C)
            sums = tl.zeros((C, BK), tl.float32)
            for step in range(C):
                j = C - 1 - step
                sums = step_between(sums, g, first, j, n, cols, K, C)
                here = tl.sum(tl.where(i[:, None] == j, key, 0.0), 0)
                column = tl.sum(x * tl.exp(sums) * here[None, :], 1)
                weights += tl.where(i[None, :] == j, column[:, None], 0.0)
        else:
            weights += tl.dot(x, tl.trans(key), input_precision=PRECISION)
    if DECAY == 1:
        weights *= between(g, rows, n, C)
    return weights


@no_type_check
@triton.jit
def grad_scores(
    grad, grad_sum, v, g, rows, keys, n,
    V: tl.constexpr, DECAY: tl.constexpr, SUM: tl.constexpr, C: tl.constexpr, BV: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient in the weights of all pairs of a chunk, with a scalar decay's share; (C, C)."""
    weights = tl.zeros((C, C), tl.float32)
    for block in range(0, V, BV):
        cols = block + tl.arange(0, BV)
        dy = tile(grad, rows, rows < n, cols, V)
        weights += tl.dot(dy, tl.trans(tile(v, rows, keys, cols, V)), input_precision=PRECISION)
    if SUM:
        weights += tl.load(grad_sum + rows, mask=rows < n, other=0)[:, None]
    if DECAY == 1:
        weights *= between(g, rows, n, C)
    return weights
