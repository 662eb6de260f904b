"""Attention's backward pass in Triton, from the log-sum-exp (FlashAttention-2, arXiv 2307.08691).

With p = exp(s - lse) and delta = d_out . out - d_lse:  ds = p (d_out . v - delta),
dq = scale ds k,  dk = scale ds^T q,  dv = p^T d_out. One kernel walks over the keys of a tile of
queries, the other over the queries of a tile of keys, all those of a key head: no atomics, and the
same bits on every run.
"""

from typing import no_type_check

import triton
import triton.language as tl

from kernels.attention.triton_tile import (
    bend,
    key_range,
    load_rows,
    product,
    query_range,
    rounded,
    store_rows,
    tile_at,
)


@no_type_check
@triton.jit
def attention_delta(
    out_ptr, d_out_ptr, lse_ptr, d_lse_ptr, delta_ptr, rows, V: tl.constexpr,
    PADDED_V: tl.constexpr, D_LSE: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """``d_out . out - d_lse`` of every row, 0 where it sees no key."""
    i = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    real = i < rows
    out = load_rows(out_ptr, i, real, V, PADDED_V).to(tl.float32)
    d_out = load_rows(d_out_ptr, i, real, V, PADDED_V).to(tl.float32)
    delta = tl.sum(out * d_out, 1)
    if D_LSE:
        delta -= tl.load(d_lse_ptr + i, mask=real, other=0.0)
    lse = tl.load(lse_ptr + i, mask=real, other=0.0)
    tl.store(delta_ptr + i, tl.where(lse == float("-inf"), 0.0, delta), mask=real)


@no_type_check
@triton.jit
def load_sums(lse_ptr, delta_ptr, i, n):
    """Log-sum-exp (+inf for a row without a key: weights of 0), and delta."""
    lse = tl.load(lse_ptr + i, mask=i < n, other=float("-inf"))
    lse = tl.where(lse == float("-inf"), float("inf"), lse)
    return lse, tl.load(delta_ptr + i, mask=i < n, other=0.0)


@no_type_check
@triton.jit
def attention_query_grad(
    q_ptr, k_ptr, v_ptr, d_out_ptr, lse_ptr, delta_ptr, d_q_ptr, key_mask_ptr, relative_ptr,
    alibi_ptr, offsets_ptr, indices_ptr, mask_ids_ptr, masks_ptr, heads, group, list_heads, n, m,
    left, right, farthest, scale, cap,
    K: tl.constexpr, V: tl.constexpr, PADDED_K: tl.constexpr, PADDED_V: tl.constexpr,
    BLOCK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, MASKED: tl.constexpr,
    RELATIVE: tl.constexpr, ALIBI: tl.constexpr, CAP: tl.constexpr, DOT: tl.constexpr,
    SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Gradients of BM queries of a head."""
    tiles = tl.cdiv(n, BM)
    first = tl.program_id(0) % tiles * BM
    z = (tl.program_id(0) // tiles).to(tl.int64)
    i = first + tl.arange(0, BM)
    lse, delta = load_sums(lse_ptr + z * n, delta_ptr + z * n, i, n)
    q = rounded(load_rows(q_ptr + z * n * K, i, i < n, K, PADDED_K), DOT)
    seeing = (i < n) & (lse != float("inf"))
    d_out = rounded(load_rows(d_out_ptr + z * n * V, i, seeing, V, PADDED_V), DOT)
    k_ptr += z // group * m * K
    v_ptr += z // group * m * V
    key_mask_ptr += z // heads * m
    table = relative_ptr + z % heads * (2 * farthest + 1) + farthest
    slope = tl.load(alibi_ptr + z % heads) if ALIBI else 0.0
    if BLOCK:
        offsets_ptr += z % list_heads * (tl.cdiv(n, BLOCK) + 1)
    start, stop = key_range(first, n, m, left, right, offsets_ptr, BM, BN, BLOCK, LEFT, RIGHT)
    d_q = tl.zeros([BM, PADDED_K], tl.float32)
    for step in range(start, stop):
        begin, mask, partial = tile_at(step, indices_ptr, mask_ids_ptr, masks_ptr, BN, BLOCK)
        j = begin + tl.arange(0, BN)
        k = rounded(load_rows(k_ptr, j, j < m, K, PADDED_K), DOT)
        s = product(q, tl.trans(k), SPLIT) * scale
        s, t = bend(
            s, i[:, None], j[None, :], n, m, left, right, farthest, cap, table, slope,
            key_mask_ptr, mask, partial, LEFT, RIGHT, MASKED, RELATIVE, ALIBI, CAP, BLOCK,
        )  # fmt: skip
        p = tl.exp(s - lse[:, None])
        v = rounded(load_rows(v_ptr, j, j < m, V, PADDED_V), DOT)
        d_s = p * (product(d_out, tl.trans(v), SPLIT) - delta[:, None])
        if CAP:
            d_s = d_s * (1 - t * t)
        d_q += product(rounded(d_s, DOT), k, SPLIT)
    store_rows(d_q_ptr + z * n * K, d_q * scale, i, i < n, K, PADDED_K)


@no_type_check
@triton.jit
def attention_key_grad(
    q_ptr, k_ptr, v_ptr, d_out_ptr, lse_ptr, delta_ptr, d_k_ptr, d_v_ptr, key_mask_ptr,
    relative_ptr, alibi_ptr, offsets_ptr, indices_ptr, mask_ids_ptr, masks_ptr, heads, group,
    list_heads, n, m, left, right, farthest, scale, cap,
    K: tl.constexpr, V: tl.constexpr, PADDED_K: tl.constexpr, PADDED_V: tl.constexpr,
    BLOCK: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr, MASKED: tl.constexpr,
    RELATIVE: tl.constexpr, ALIBI: tl.constexpr, CAP: tl.constexpr, DOT: tl.constexpr,
    SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Gradients of BN keys and values of a key head; tiles of scores are (keys, queries).

    The lists are those of the query blocks that see each key block.
    """
    tiles = tl.cdiv(m, BN)
    first = tl.program_id(0) % tiles * BN
    shared = (tl.program_id(0) // tiles).to(tl.int64)
    j = first + tl.arange(0, BN)
    k = rounded(load_rows(k_ptr + shared * m * K, j, j < m, K, PADDED_K), DOT)
    v = rounded(load_rows(v_ptr + shared * m * V, j, j < m, V, PADDED_V), DOT)
    key_mask_ptr += shared * group // heads * m
    d_k = tl.zeros([BN, PADDED_K], tl.float32)
    d_v = tl.zeros([BN, PADDED_V], tl.float32)
    for member in range(0, group):
        z = shared * group + member
        table = relative_ptr + z % heads * (2 * farthest + 1) + farthest
        slope = tl.load(alibi_ptr + z % heads) if ALIBI else 0.0
        lists = offsets_ptr
        if BLOCK:
            lists += z % list_heads * (tl.cdiv(m, BLOCK) + 1)
        start, stop = query_range(first, n, m, left, right, lists, BM, BN, BLOCK, LEFT, RIGHT)
        for step in range(start, stop):
            begin, mask, partial = tile_at(step, indices_ptr, mask_ids_ptr, masks_ptr, BM, BLOCK)
            i = begin + tl.arange(0, BM)
            lse, delta = load_sums(lse_ptr + z * n, delta_ptr + z * n, i, n)
            q = rounded(load_rows(q_ptr + z * n * K, i, i < n, K, PADDED_K), DOT)
            s = product(k, tl.trans(q), SPLIT) * scale
            s, t = bend(
                s, i[None, :], j[:, None], n, m, left, right, farthest, cap, table, slope,
                key_mask_ptr, mask, partial, LEFT, RIGHT, MASKED, RELATIVE, ALIBI, CAP, BLOCK,
            )  # fmt: skip
            p = tl.exp(s - lse[None, :])
            seeing = (i < n) & (lse != float("inf"))
            d_out = rounded(load_rows(d_out_ptr + z * n * V, i, seeing, V, PADDED_V), DOT)
            d_v += product(rounded(p, DOT), d_out, SPLIT)
            d_s = p * (product(v, tl.trans(d_out), SPLIT) - delta[None, :])
            if CAP:
                d_s = d_s * (1 - t * t)
            d_k += product(rounded(d_s, DOT), q, SPLIT)
    store_rows(d_k_ptr + shared * m * K, d_k * scale, j, j < m, K, PADDED_K)
    store_rows(d_v_ptr + shared * m * V, d_v, j, j < m, V, PADDED_V)
