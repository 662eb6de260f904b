"""Causal HyperAttention: exact inside leaves, estimated from each half to the half before it.

Legend: B batch (times pairs of halves), H heads, N positions of a half, P pairs of a chunk of
queries and a block of keys, S drawn keys, K/V head widths.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.attention import attention
from kernels.merge_attention import merge_attention
from kernels.merge_attention.rows import permute_rows, sort_by_bucket, take_rows
from models.chunks import into_chunks, mask_of_chunks, out_of_chunks

# the drawn ones of the real keys by their rank among them (B, S), which of them count, and the log
# of what each stands for (B)
Draw = tuple[Tensor, Tensor, Tensor]
Partial = tuple[Tensor, Tensor]  # output (B, H, N, V) and log-sum-exp (B, H, N)
Part = Callable[[Tensor, Tensor, Tensor], Partial]
LAST = torch.iinfo(torch.long).max


def causal_by_halves(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B H N K"],
    v: Float[Tensor, "B H N V"],
    codes: Int64[Tensor, "B H N 2"],
    real: Bool[Tensor, "B N"],
    *,
    leaf: int,
    block: int,
    draw: Callable[[Tensor], Draw],
) -> Float[Tensor, "B H N V"]:
    """Causal attention of more than ``leaf`` positions (Han et al. 2023, algorithm 4).

    The sequence is cut into leaves, which are exact. With s = leaf, 2 leaf, 4 leaf, ..., positions
    (2j + 1) s .. (2j + 2) s - 1 see positions 2j s .. (2j + 1) s - 1 by ``estimate``, for all j at
    once: every pair of positions is met once. Halves are counted from the start, so that a prefix
    is cut as it is alone.

    Args:
        codes: the places of queries and of keys in the order of the hash.
        real: False hides a key.
        leaf: positions of a leaf.
        block: keys that a query sees for its hash, at each level.
        draw: from the number of real keys (B) to the ``Draw`` of them.
    """
    parts: list[Part] = [partial(leaves, real=real, leaf=leaf)]
    size = leaf
    while size < q.shape[2]:
        # halves that no half follows serve nobody
        pairs = -(-(q.shape[2] - size) // (2 * size))
        end = min(2 * size * pairs, q.shape[2])
        mask = mask_of_chunks(real[:, :end], len(q), end, 2 * size, q.device)
        assert mask is not None
        mask = mask[:, :size]
        level = partial(
            across, size=size, end=end, codes=codes, real=mask, drawn=draw(mask.sum(1)), block=block
        )
        parts.append(level)
        size *= 2
    return Merged.apply(q, k, v, parts)


def leaves(q: Tensor, k: Tensor, v: Tensor, *, real: Tensor, leaf: int) -> Partial:
    """Exact causal attention inside each leaf."""
    batch, _, n, _ = q.shape
    y, lse = attention(
        *(into_chunks(x, leaf) for x in (q, k, v)), causal=True,
        key_mask=mask_of_chunks(real, batch, n, leaf, q.device), return_lse=True,
    )  # fmt: skip
    return out_of_chunks(y, batch, n), out_of_chunks(lse[..., None], batch, n)[..., 0]


def across(
    q: Tensor, k: Tensor, v: Tensor, *, size: int, end: int, codes: Tensor, real: Tensor,
    drawn: Draw, block: int,
) -> Partial:  # fmt: skip
    """One level: the second half of every 2 ``size`` positions before ``end`` against the first."""
    batch, _, n, _ = q.shape
    q, k, v, codes = (into_chunks(x[:, :, :end], 2 * size) for x in (q, k, v, codes))
    y, lse = estimate(
        q[:, :, size:], k[:, :, :size], v[:, :, :size],
        codes[:, :, size:, 0], codes[:, :, :size, 1], real, drawn, block,
    )  # fmt: skip
    # first halves have no part in this level
    y = out_of_chunks(F.pad(y, (0, 0, size, 0)), batch, end)
    lse = F.pad(lse, (size, 0), value=-torch.inf)
    lse = out_of_chunks(lse[..., None], batch, end)[..., 0]
    return F.pad(y, (0, 0, 0, n - end)), F.pad(lse, (0, n - end), value=-torch.inf)


def estimate(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B H N K"],
    v: Float[Tensor, "B H N V"],
    query_codes: Int64[Tensor, "B H N"],
    key_codes: Int64[Tensor, "B H N"],
    real: Bool[Tensor, "B N"],
    drawn: tuple[Int64[Tensor, "B S"], Bool[Tensor, "B S"], Float[Tensor, " B"]],
    block: int,
) -> tuple[Float[Tensor, "B H N V"], Float[Tensor, "B H N"]]:
    """Each query against its block of the sorted keys and the drawn keys outside it.

    Which block that is follows from the query's own code. Queries sorted by it are cut into chunks
    of ``block``: along them neither the chunk c nor the block m falls, so that c + m numbers the
    pairs (c, m) that are met, fewer than there are chunks and blocks together.
    """
    held = real.sum(1)
    places, used, weight = drawn
    # drawn by position: a key's hash has no say in which others are drawn
    by_position = torch.sort((~real).long(), dim=1, stable=True).indices
    chosen = by_position.gather(1, places)[:, None].expand(-1, k.shape[1], -1)
    far_k, far_v = (take_rows(x, chosen) for x in (k, v))
    order, inverse = sort_by_bucket(key_codes, real)
    far_block = take_rows(inverse, chosen) // block
    k, v = (permute_rows(x, order, inverse) for x in (k, v))
    sorted_codes = take_rows(key_codes.masked_fill(~real[:, None], LAST), order)
    block_of = home(query_codes, sorted_codes, held, block)

    order, inverse = sort_by_bucket(block_of)
    q, block_of = permute_rows(q, order, inverse), take_rows(block_of, order)
    place = torch.arange(q.shape[2], device=q.device)
    pair = place // block + block_of
    count = 2 * -(-q.shape[2] // block) - 1
    numbers = torch.arange(count, device=q.device).expand(*pair.shape[:2], -1).contiguous()
    # the first query of a pair; pairs that are not met are never read
    first = torch.searchsorted(pair, numbers).clamp(max=q.shape[2] - 1)
    chunk, blocks = first // block, take_rows(block_of, first)

    q = take_rows(_cut(q, block), chunk).flatten(0, 2)[:, None]
    near_k, near_v = (take_rows(_cut(x, block), blocks).flatten(0, 2)[:, None] for x in (k, v))
    at = blocks[..., None] * block + torch.arange(block, device=q.device)
    y, lse = attention(
        q, near_k, near_v, key_mask=(at < held[:, None, None, None]).flatten(0, 2), return_lse=True
    )

    far_k, far_v = (
        x[:, :, None].expand(-1, -1, count, -1, -1).flatten(0, 2)[:, None] for x in (far_k, far_v)
    )
    elsewhere = used[:, None, None] & (far_block[:, :, None] != blocks[..., None])
    far, far_lse = attention(q, far_k, far_v, key_mask=elsewhere.flatten(0, 2), return_lse=True)
    far_lse = far_lse + weight.repeat_interleave(pair.shape[1] * count)[:, None, None].to(far_lse)
    y, lse = merge_attention([y, far], [lse, far_lse])

    row = take_rows(pair * block + place % block, inverse)
    y, lse = (x[:, 0].unflatten(0, blocks.shape).flatten(2, 3) for x in (y, lse))
    return take_rows(y, row), take_rows(lse, row)


def home(
    query_codes: Int64[Tensor, "B H N"],
    sorted_codes: Int64[Tensor, "B H N"],
    held: Int64[Tensor, " B"],
    block: int,
) -> Int64[Tensor, "B H N"]:
    """The block of each query: the one with the middle of the keys of its code, or with the place
    that they would have; never one without a real key if there is any."""
    query_codes = query_codes.contiguous()
    low = torch.searchsorted(sorted_codes, query_codes)
    high = torch.searchsorted(sorted_codes, query_codes, right=True)
    last = (held - 1).clamp(min=0)[:, None, None]
    return ((low + high) // 2).minimum(last) // block


def _cut(x: Shaped[Tensor, "B H N K"], block: int) -> Shaped[Tensor, "B H M b K"]:
    """Blocks of rows, the last one filled with zeros."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % block)).unflatten(2, (-1, block))


class Merged(torch.autograd.Function):
    """The attention of several parts together.

    The backward pass computes each part once more: however many levels there are, the memory is
    that of one. With w_p = exp(lse_p - lse): d output_p = w_p d output, and
    d lse_p = w_p d output . (output_p - output).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part]) -> Tensor:
        y, lse = parts[0](q, k, v)
        for part in parts[1:]:
            more, more_lse = part(q, k, v)
            y, lse = merge_attention([y, more], [lse, more_lse])
        ctx.save_for_backward(q, k, v, y, lse)
        ctx.parts = parts
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, y, lse = ctx.saved_tensors
        inputs = [x.detach().requires_grad_() for x in (q, k, v)]
        grads = [torch.zeros_like(x, dtype=lse.dtype) for x in inputs]
        d_y = d_y.to(lse.dtype)
        for part in ctx.parts:
            with torch.enable_grad():
                own, own_lse = part(*inputs)
            unseen = own_lse == -torch.inf
            weight = torch.exp(own_lse.detach() - lse).masked_fill_(unseen, 0)
            d_own = d_y * weight[..., None]
            d_lse = (d_own * (own.detach() - y)).sum(-1)
            found = torch.autograd.grad((own, own_lse), inputs, (d_own.to(own.dtype), d_lse))
            for total, grad in zip(grads, found, strict=True):
                total += grad
        return *(total.to(x.dtype) for total, x in zip(grads, inputs, strict=True)), None
