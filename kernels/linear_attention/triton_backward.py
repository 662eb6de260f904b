"""Triton: gradients of causal and bidirectional linear attention in queries, keys and values.

Each chunk makes its pairs again. The gradient in the log-decays is left in parts: what queries
(``of_query``) and keys (``of_pairs``, ``of_end``) have to do with decays; ``triton_.py`` sums them.
Legend as in ``triton_parts.py``; ``past`` is the gradient in the state after each chunk.
"""

from typing import no_type_check

import triton
import triton.language as tl

from kernels.linear_attention.triton_parts import (
    features,
    from_start,
    grad_scores,
    ordered,
    pull_back,
    put,
    scores,
    seen,
    step_between,
    tile,
    to_end,
)


@no_type_check
@triton.jit
def linear_query_grad_kernel(
    q, k, v, grad, grad_sum, g, mask, states, sums, grad_q, of_query,
    n, heads, chunks, shift,
    K: tl.constexpr, V: tl.constexpr, PHI: tl.constexpr, DECAY: tl.constexpr,
    MASKED: tl.constexpr, SUM: tl.constexpr, WITHIN: tl.constexpr, STRICT: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient in the queries of one chunk: of the state, and of keys j <= i (j < i if STRICT)."""
    chunk, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows = chunk * C + tl.arange(0, C)
    i, real = tl.arange(0, C), rows < n
    WIDTH: tl.constexpr = K if DECAY == 2 else 1
    here = row * chunks + chunk if WITHIN else row
    q, k, v, grad = q + row * n * K, k + row * n * K, v + row * n * V, grad + row * n * V
    states, sums, g, grad_sum = (
        states + here * K * V, sums + here * K, g + row * n * WIDTH, grad_sum + row * n
    )  # fmt: skip
    if WITHIN:
        keys = seen(mask + row // heads * n, rows, n, MASKED)
        weights = grad_scores(grad, grad_sum, v, g, rows, keys, n, V, DECAY, SUM, C, BV, PRECISION)
        # the diagonal has no decay: apart, so that it need not cancel
        same = tl.sum(tl.where(i[:, None] == i[None, :], weights, 0.0), 1)
        weights = ordered(weights, True, C)
    through = tl.zeros((C,), tl.float32)
    for block in range(0, K, BK):
        ks = block + tl.arange(0, BK)
        raw = tile(q, rows, real, ks, K)
        dx = tl.zeros((C, BK), tl.float32)
        for other in range(0, V, BV):
            vs = other + tl.arange(0, BV)
            state = tl.trans(tile(states, ks, ks < K, vs, V))
            dx += tl.dot(tile(grad, rows, real, vs, V), state, input_precision=PRECISION)
        if SUM:
            z = tl.load(sums + ks, mask=ks < K, other=0)
            dx += tl.load(grad_sum + rows, mask=real, other=0)[:, None] * z[None, :]
        if DECAY > 0:
            dx *= from_start(g, rows, n, ks if DECAY == 2 else tl.arange(0, 1), WIDTH)
        if WITHIN:
            key = features(tile(k, rows, keys, ks, K), keys, ks, shift, K, PHI)
            if DECAY == 2:
                dx += _from_keys(weights, key, g, chunk * C, n, ks, K, C, BK)
            else:
                dx += tl.dot(weights, key, input_precision=PRECISION)
            if DECAY > 0:
                moved = dx * features(raw, real, ks, shift, K, PHI)
                if DECAY == 1:
                    through += tl.sum(moved, 1)
                else:
                    put(of_query + row * n * K, moved, rows, real, ks, K)
            if not STRICT:
                dx += same[:, None] * key
        put(grad_q + row * n * K, pull_back(raw, dx, PHI), rows, real, ks, K)
    if DECAY == 1:
        tl.store(of_query + row * n + rows, through, mask=real)


@no_type_check
@triton.jit
def linear_key_grad_kernel(
    q, k, v, grad, grad_sum, g, mask, past, past_sum, grad_k, grad_v, of_pairs, of_end,
    n, heads, chunks, shift,
    K: tl.constexpr, V: tl.constexpr, PHI: tl.constexpr, DECAY: tl.constexpr,
    MASKED: tl.constexpr, SUM: tl.constexpr, WITHIN: tl.constexpr, STRICT: tl.constexpr,
    PAST: tl.constexpr, VALUES: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient in the keys of one chunk, and with VALUES in its values.

    PAST: of the state after the chunk; WITHIN: of queries i >= j (i > j if STRICT).
    """
    chunk, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    rows = chunk * C + tl.arange(0, C)
    i, real = tl.arange(0, C), rows < n
    keys = seen(mask + row // heads * n, rows, n, MASKED)
    WIDTH: tl.constexpr = K if DECAY == 2 else 1
    here = row * chunks + chunk if WITHIN else row
    q, k, v, grad = q + row * n * K, k + row * n * K, v + row * n * V, grad + row * n * V
    past, past_sum, g, grad_sum = (
        past + here * K * V, past_sum + here * K, g + row * n * WIDTH, grad_sum + row * n
    )  # fmt: skip
    if VALUES:
        _grad_values(
            q, k, grad, g, past, grad_v + row * n * V, rows, keys, chunk * C, n, shift,
            K, V, PHI, DECAY, WITHIN, STRICT, PAST, C, BK, BV, PRECISION,
        )  # fmt: skip
    if WITHIN:
        weights = grad_scores(grad, grad_sum, v, g, rows, keys, n, V, DECAY, SUM, C, BV, PRECISION)
        same = tl.sum(tl.where(i[:, None] == i[None, :], weights, 0.0), 1)
        weights = ordered(weights, True, C)
    pairs, ends = tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32)
    for block in range(0, K, BK):
        ks = block + tl.arange(0, BK)
        raw = tile(k, rows, keys, ks, K)
        dx = tl.zeros((C, BK), tl.float32)
        if PAST:
            for other in range(0, V, BV):
                vs = other + tl.arange(0, BV)
                state = tl.trans(tile(past, ks, ks < K, vs, V))
                dx += tl.dot(tile(v, rows, keys, vs, V), state, input_precision=PRECISION)
            if SUM:
                dx += tl.load(past_sum + ks, mask=ks < K, other=0)[None, :]
            if DECAY > 0:
                gs = ks if DECAY == 2 else tl.arange(0, 1)
                dx *= to_end(g, rows, (chunk + 1) * C, n, gs, WIDTH)
        if DECAY > 0:
            key = features(raw, keys, ks, shift, K, PHI)
            if DECAY == 1:
                ends += tl.sum(key * dx, 1)
            else:
                put(of_end + row * n * K, key * dx, rows, real, ks, K)
        if WITHIN:
            x = features(tile(q, rows, real, ks, K), real, ks, shift, K, PHI)
            if DECAY == 2:
                inside = _from_queries(weights, x, g, chunk * C, n, ks, K, C, BK)
                put(of_pairs + row * n * K, key * inside, rows, real, ks, K)
            else:
                inside = tl.dot(tl.trans(weights), x, input_precision=PRECISION)
                if DECAY == 1:
                    pairs += tl.sum(key * inside, 1)
            dx += inside
            if not STRICT:
                dx += same[:, None] * x
        dx = tl.where(keys[:, None], pull_back(raw, dx, PHI), 0.0)
        put(grad_k + row * n * K, dx, rows, real, ks, K)
    if DECAY == 1:
        tl.store(of_pairs + row * n + rows, pairs, mask=real)
        tl.store(of_end + row * n + rows, ends, mask=real)


@no_type_check
@triton.jit
def _grad_values(
    q, k, grad, g, past, grad_v, rows, keys, first, n, shift,
    K: tl.constexpr, V: tl.constexpr, PHI: tl.constexpr, DECAY: tl.constexpr,
    WITHIN: tl.constexpr, STRICT: tl.constexpr, PAST: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient in the values of one chunk, written block by block."""
    WIDTH: tl.constexpr = K if DECAY == 2 else 1
    if WITHIN:
        weights = scores(
            q, k, g, rows, keys, first, n, shift, K, PHI, DECAY, C, BK, PRECISION
        )  # fmt: skip
        weights = tl.trans(ordered(weights, STRICT, C))
    for other in range(0, V, BV):
        vs = other + tl.arange(0, BV)
        dv = tl.zeros((C, BV), tl.float32)
        if PAST:
            for block in range(0, K, BK):
                ks = block + tl.arange(0, BK)
                x = features(tile(k, rows, keys, ks, K), keys, ks, shift, K, PHI)
                if DECAY > 0:
                    gs = ks if DECAY == 2 else tl.arange(0, 1)
                    x *= to_end(g, rows, first + C, n, gs, WIDTH)
                dv += tl.dot(x, tile(past, ks, ks < K, vs, V), input_precision=PRECISION)
        if WITHIN:
            dv += tl.dot(weights, tile(grad, rows, rows < n, vs, V), input_precision=PRECISION)
        put(grad_v, tl.where(keys[:, None], dv, 0.0), rows, rows < n, vs, V)


@no_type_check
@triton.jit
def _from_keys(
    weights, key, g, first, n, cols, WIDTH: tl.constexpr, C: tl.constexpr, BK: tl.constexpr
):
    """``sum_{j < i} weights_ij e^{G_i - G_j} k_j`` with a decay per channel, (C, BK)."""
    i = tl.arange(0, C)
    sums = tl.zeros((C, BK), tl.float32)
    out = tl.zeros((C, BK), tl.float32)
    for step in range(C):
        j = C - 1 - step
        sums = step_between(sums, g, first, j, n, cols, WIDTH, C)
        column = tl.sum(tl.where(i[None, :] == j, weights, 0.0), 1)
        here = tl.sum(tl.where(i[:, None] == j, key, 0.0), 0)
        out += column[:, None] * here[None, :] * tl.exp(sums)
    return out


@no_type_check
@triton.jit
def _from_queries(
    weights, x, g, first, n, cols, WIDTH: tl.constexpr, C: tl.constexpr, BK: tl.constexpr
):
    """``sum_{i > j} weights_ij e^{G_i - G_j} q_i`` with a decay per channel, (C, BK)."""
    i = tl.arange(0, C)
    sums = tl.zeros((C, BK), tl.float32)
    out = tl.zeros((C, BK), tl.float32)
    for step in range(C):
        j = C - 1 - step
        sums = step_between(sums, g, first, j, n, cols, WIDTH, C)
        column = tl.sum(tl.where(i[None, :] == j, weights, 0.0), 1)
        here = tl.sum(column[:, None] * tl.exp(sums) * x, 0)
        out += tl.where(i[:, None] == j, here[None, :], 0.0)
    return out
