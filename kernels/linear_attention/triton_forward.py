"""Triton: states between the chunks, one after the other, and outputs, all chunks side by side.

``y_i = e^{G_i} q_i S + sum_{j <= i} (q_i . e^{G_i - G_j} k_j) v_j``, with S the state before the
chunk; see ``chunked.py``. Legend as in ``triton_parts.py``; a row of the grid is one head of one
example.
"""

from typing import no_type_check

import triton
import triton.language as tl

from kernels.linear_attention.triton_parts import (
    features,
    from_start,
    log_decays,
    ordered,
    put,
    scores,
    seen,
    tile,
    to_end,
)


@no_type_check
@triton.jit
def linear_state_kernel(
    x, values, weights, g, mask, initial, initial_sum, states, sums, last, last_sum,
    n, heads, chunks, steps, shift,
    K: tl.constexpr, V: tl.constexpr, PHI: tl.constexpr, DECAY: tl.constexpr,
    MASKED: tl.constexpr, SUM: tl.constexpr, REVERSE: tl.constexpr, WEIGHTED: tl.constexpr,
    EACH: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``S = e^{G_C} S + sum_i e^{G_C - G_i} phi(x_i) value_i^T`` over chunks, z the same with ones.

    REVERSE: from the last chunk on, with ``e^{G_i}``: the gradient in the states. WEIGHTED: z with
    ``weights`` for ones. EACH: writes the state that each chunk begins with; otherwise programs of
    axis 2 begin at zero and sum ``steps`` chunks each. ``last`` is where they end.
    """
    blocks = tl.cdiv(V, BV)
    row, part = tl.program_id(1).to(tl.int64), tl.program_id(2)
    ks = tl.program_id(0) // blocks * BK + tl.arange(0, BK)
    vs = tl.program_id(0) % blocks * BV + tl.arange(0, BV)
    x, values, weights = x + row * n * K, values + row * n * V, weights + row * n
    mask += row // heads * n
    # one block of columns is enough for z
    writes = (ks < K) & (tl.program_id(0) % blocks == 0)
    WIDTH: tl.constexpr = K if DECAY == 2 else 1
    gs = ks if DECAY == 2 else tl.arange(0, 1)
    g += row * n * WIDTH
    state = tl.zeros((BK, BV), tl.float32)
    z = tl.zeros((BK,), tl.float32)
    if EACH:
        state += tile(initial + row * K * V, ks, ks < K, vs, V)
        if SUM:
            z += tl.load(initial_sum + row * K + ks, mask=ks < K, other=0)
    for step in range(steps):
        chunk = chunks - 1 - step if REVERSE else part * steps + step
        rows = chunk * C + tl.arange(0, C)
        real = seen(mask, rows, n, MASKED)
        if EACH:
            here = row * chunks + chunk
            put(states + here * K * V, state, ks, ks < K, vs, V)
            if SUM:
                tl.store(sums + here * K + ks, z, mask=writes)
        left = features(tile(x, rows, real, ks, K), real, ks, shift, K, PHI)
        if DECAY > 0:
            if REVERSE:
                left *= from_start(g, rows, n, gs, WIDTH)
            else:
                left *= to_end(g, rows, (chunk + 1) * C, n, gs, WIDTH)
            total = tl.exp(tl.sum(log_decays(g, rows, rows < n, gs, WIDTH), 0))
            state *= total[:, None]
            if SUM:
                z *= total
        right = tile(values, rows, real, vs, V)
        state += tl.dot(tl.trans(left), right, input_precision=PRECISION)
        if SUM:
            if WEIGHTED:
                left *= tl.load(weights + rows, mask=real, other=0)[:, None]
            z += tl.sum(left, 0)
    there = row * tl.num_programs(2) + part
    put(last + there * K * V, state, ks, ks < K, vs, V)
    if SUM:
        tl.store(last_sum + there * K + ks, z, mask=writes)


@no_type_check
@triton.jit
def linear_output_kernel(
    q, k, v, g, mask, states, sums, y, normaliser,
    n, heads, chunks, shift, eps,
    K: tl.constexpr, V: tl.constexpr, PHI: tl.constexpr, DECAY: tl.constexpr,
    MASKED: tl.constexpr, SUM: tl.constexpr, WITHIN: tl.constexpr, STRICT: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Outputs of one chunk and block of columns; divided by their normaliser with SUM.

    WITHIN: the chunk reads the state before it, and its own keys j <= i (j < i if STRICT);
    otherwise all chunks read one state.
    """
    chunk, row = tl.program_id(1), tl.program_id(2).to(tl.int64)
    rows = chunk * C + tl.arange(0, C)
    vs = tl.program_id(0) * BV + tl.arange(0, BV)
    real = rows < n
    WIDTH: tl.constexpr = K if DECAY == 2 else 1
    here = row * chunks + chunk if WITHIN else row
    q, states, sums, g = (
        q + row * n * K,
        states + here * K * V,
        sums + here * K,
        g + row * n * WIDTH,
    )
    out = tl.zeros((C, BV), tl.float32)
    total = tl.zeros((C,), tl.float32)
    for block in range(0, K, BK):
        ks = block + tl.arange(0, BK)
        x = features(tile(q, rows, real, ks, K), real, ks, shift, K, PHI)
        if DECAY > 0:
            x *= from_start(g, rows, n, ks if DECAY == 2 else tl.arange(0, 1), WIDTH)
        out += tl.dot(x, tile(states, ks, ks < K, vs, V), input_precision=PRECISION)
        if SUM:
            total += tl.sum(x * tl.load(sums + ks, mask=ks < K, other=0)[None, :], 1)
    if WITHIN:
        keys = seen(mask + row // heads * n, rows, n, MASKED)
        weights = scores(
            q, k + row * n * K, g, rows, keys, chunk * C, n, shift, K, PHI, DECAY, C, BK, PRECISION
        )
        weights = ordered(weights, STRICT, C)
        out += tl.dot(weights, tile(v + row * n * V, rows, keys, vs, V), input_precision=PRECISION)
        if SUM:
            total += tl.sum(weights, 1)
    if SUM:
        total += eps
        total = tl.where(total == 0, 1.0, total)
        out /= total[:, None]
        if tl.program_id(0) == 0:
            tl.store(normaliser + row * n + rows, total, mask=real)
    put(y + row * n * V, out, rows, real, vs, V)
