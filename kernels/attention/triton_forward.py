"""Attention's forward pass in Triton (FlashAttention-2, arXiv 2307.08691, algorithm 1).

``DOT`` is the dtype of the operands of products, which add up in fp32.
"""

from typing import no_type_check

import triton
import triton.language as tl

from kernels.attention.triton_tile import (
    bend,
    key_range,
    load_rows,
    product,
    rounded,
    store_rows,
    tile_at,
)


@no_type_check
@triton.jit
def attention_forward(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, key_mask_ptr, relative_ptr, alibi_ptr, offsets_ptr,
    indices_ptr, mask_ids_ptr, masks_ptr, heads, group, list_heads, n, m, left, right, farthest,
    scale, cap,
    K: tl.constexpr, V: tl.constexpr, PADDED_K: tl.constexpr, PADDED_V: tl.constexpr,
    BLOCK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, MASKED: tl.constexpr,
    RELATIVE: tl.constexpr, ALIBI: tl.constexpr, CAP: tl.constexpr, DOT: tl.constexpr,
    SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp of BM queries of a head."""
    tiles = tl.cdiv(n, BM)
    first = tl.program_id(0) % tiles * BM
    z = (tl.program_id(0) // tiles).to(tl.int64)
    i = first + tl.arange(0, BM)
    q = rounded(load_rows(q_ptr + z * n * K, i, i < n, K, PADDED_K), DOT)
    # heads come in groups that share keys, and the groups of all examples follow each other
    k_ptr += z // group * m * K
    v_ptr += z // group * m * V
    key_mask_ptr += z // heads * m
    table = relative_ptr + z % heads * (2 * farthest + 1) + farthest
    slope = tl.load(alibi_ptr + z % heads) if ALIBI else 0.0
    if BLOCK:
        offsets_ptr += z % list_heads * (tl.cdiv(n, BLOCK) + 1)
    start, stop = key_range(first, n, m, left, right, offsets_ptr, BM, BN, BLOCK, LEFT, RIGHT)
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    out = tl.zeros([BM, PADDED_V], tl.float32)
    for step in range(start, stop):
        begin, mask, partial = tile_at(step, indices_ptr, mask_ids_ptr, masks_ptr, BN, BLOCK)
        j = begin + tl.arange(0, BN)
        k = rounded(load_rows(k_ptr, j, j < m, K, PADDED_K), DOT)
        s = product(q, tl.trans(k), SPLIT) * scale
        s, _ = bend(
            s, i[:, None], j[None, :], n, m, left, right, farthest, cap, table, slope,
            key_mask_ptr, mask, partial, LEFT, RIGHT, MASKED, RELATIVE, ALIBI, CAP, BLOCK,
        )  # fmt: skip
        new = tl.maximum(top, tl.max(s, 1))
        # a row that has seen no key yet has no maximum to take off
        base = tl.where(new == float("-inf"), 0.0, new)
        p = tl.exp(s - base[:, None])
        shrink = tl.exp(top - base)
        total = total * shrink + tl.sum(p, 1)
        v = rounded(load_rows(v_ptr, j, j < m, V, PADDED_V), DOT)
        out = out * shrink[:, None] + product(rounded(p, DOT), v, SPLIT)
        top = new
    nothing = total == 0
    out = out / tl.where(nothing, 1.0, total)[:, None]
    lse = tl.where(nothing, float("-inf"), top + tl.log(total))
    store_rows(out_ptr + z * n * V, out, i, i < n, V, PADDED_V)
    tl.store(lse_ptr + z * n + i, lse, mask=i < n)
