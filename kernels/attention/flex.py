"""torch's FlexAttention, compiled: the band as a block mask, the rest as a change of each score.

Its block masks are made once for each geometry. On a CPU it has a forward pass only, without the
log-sum-exp.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import (
    AuxRequest,
    BlockMask,
    flex_attention,
)

from kernels import compiling
from kernels.attention.relative import entry
from kernels.attention.score import Score
from kernels.compiling import available as available
from kernels.geometry import geometry

# positions of a block of its masks
BLOCK = 128
# of a head, for the products of its GPU kernel
NARROWEST = 16


def supports(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    window: tuple[int, int] | None,
    key_mask: Tensor | None,
    score: Score,
    scale: float,
    dropout_p: float,
    return_lse: bool,
) -> str | None:
    """Why it cannot do this call, or None."""
    if score.activation != "softmax":
        return f"it has the softmax only, not '{score.activation}'"
    if dropout_p:
        return "it has no dropout"
    tensors = (q, k, v, score.bias, score.relative, score.alibi)
    learned = any(x is not None and x.requires_grad for x in tensors)
    if q.device.type == "cpu" and learned and torch.is_grad_enabled():
        return "it has no backward pass on a CPU"
    if q.device.type == "cpu" and return_lse:
        return "it has no log-sum-exp on a CPU"
    if q.device.type != "cpu" and min(q.shape[-1], v.shape[-1]) < NARROWEST:
        return f"its heads are at least {NARROWEST} wide on a GPU"
    if q.dtype == torch.float64:
        return "it has no fp64"
    return None


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    window: tuple[int, int] | None,
    key_mask: Tensor | None,
    score: Score,
    scale: float,
    dropout_p: float,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    n, m = q.shape[2], k.shape[2]
    left, right = window or (None, None)
    right = 0 if causal else right
    band = None
    if left is not None or right is not None:
        band = block_mask(n, m, left, right, q.device)
    if not torch.is_grad_enabled():
        # on a CPU it refuses tensors that would want a gradient elsewhere
        q, k, v = (x.detach() for x in (q, k, v))
    found = compiled()(
        q,
        k,
        v,
        score_mod=score_change(q, k, key_mask, score),
        block_mask=band,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
        return_aux=AuxRequest(lse=True) if return_lse else None,
    )
    return (found[0], found[1].lse) if return_lse else found


@functools.cache
def compiled() -> Callable[..., Any]:
    """FlexAttention through torch.compile: as it is, it would make the N x M matrix."""
    return compiling.compiled(flex_attention, fullgraph=True)


@functools.lru_cache(maxsize=64)
@geometry
def block_mask(
    n: int, m: int, left: int | None, right: int | None, device: torch.device
) -> BlockMask:
    """The band, aligned bottom-right, for all heads: its blocks, and those that it fills."""
    low = -m - n if left is None else -left
    high = m + n if right is None else right
    row, column = (torch.arange(0, size, BLOCK) for size in (n, m))
    # smallest and largest key minus query position of a block
    nearest = column - (row + BLOCK - 1).clamp(max=n - 1)[:, None] - (m - n)
    farthest = (column + BLOCK - 1).clamp(max=m - 1) - row[:, None] - (m - n)
    full = (nearest >= low) & (farthest <= high)
    partial = (farthest >= low) & (nearest <= high) & ~full

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        distance = j - (i + m - n)
        return (distance >= low) & (distance <= high)

    some, every = _lists(partial, device), _lists(full, device)
    return BlockMask.from_kv_blocks(
        some[0], some[1], every[0], every[1], BLOCK_SIZE=BLOCK, mask_mod=visible, seq_lengths=(n, m)
    )


def _lists(blocks: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many blocks each row has, and which: those first, the others behind them."""
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    count = blocks.sum(-1, dtype=torch.int32)
    return count[None, None].to(device), order[None, None].int().to(device)


def score_change(
    q: Tensor, k: Tensor, key_mask: Tensor | None, score: Score
) -> Callable[..., Tensor] | None:
    """Soft cap, biases, slopes and key mask, as FlexAttention wants them."""
    offset = k.shape[2] - q.shape[2]
    bias = table = None
    if score.bias is not None:
        bias = score.bias.expand(*q.shape[:3], k.shape[2])
    if score.relative is not None:
        table = score.relative.expand(q.shape[1], -1)
    if all(x is None for x in (bias, table, score.alibi, score.soft_cap, key_mask)):
        return None

    def change(s: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if score.soft_cap is not None:
            s = score.soft_cap * torch.tanh(s / score.soft_cap)
        if bias is not None:
            s = s + bias[b, h, i, j]
        if table is not None:
            s = s + table[h, entry(table, j - i - offset)]
        if score.alibi is not None:
            s = s - score.alibi[h] * (j - i - offset).abs()
        return s if key_mask is None else torch.where(key_mask[b, j], s, -torch.inf)

    return change
