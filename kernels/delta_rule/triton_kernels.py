"""Triton: what the delta rule has beyond linear attention. Its equations stand in ``wy.py``.

Legend as in linear attention's ``triton_parts.py``: a row of the grid is one head of one example,
C the positions of a chunk. T is the inverse of a chunk's triangular system, ``(X, n, C, C)``.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl

from kernels.linear_attention.triton_kernels import WIDE, constants_of, forms, kind_of
from kernels.linear_attention.triton_parts import (
    between,
    from_start,
    log_decays,
    ordered,
    precision,
    put,
    tile,
    to_end,
)
from kernels.triton_tools import Tuned, Variant

# positions of a chunk
CHUNK = 32


@no_type_check
@triton.jit
def delta_inverse_kernel(
    k, beta, g, inverse, n, chunks,
    K: tl.constexpr, DECAY: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """T of one chunk, row after row: ``T_i = e_i - beta_i sum_{j < i} D_ij (k_i . k_j) T_j``."""
    chunk, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    i, rows = tl.arange(0, C), chunk * C + tl.arange(0, C)
    real = rows < n
    overlap = tl.zeros((C, C), tl.float32)
    for block in range(0, K, BK):
        x = tile(k + row * n * K, rows, real, block + tl.arange(0, BK), K)
        overlap += tl.dot(x, tl.trans(x), input_precision=PRECISION)
    if DECAY:
        overlap *= between(g + row * n, rows, n, C)
    system = ordered(overlap, True, C) * tile(beta + row * n, rows, real, tl.arange(0, 1), 1)
    t = tl.where(i[:, None] == i[None, :], 1.0, 0.0)
    for line in range(1, C):
        factors = tl.sum(tl.where(i[:, None] == line, system, 0.0), 0)
        t -= tl.where(i[:, None] == line, tl.sum(factors[:, None] * t, 0)[None, :], 0.0)
    put(inverse + (row * chunks + chunk) * C * C, t, i, i < C, i, C)


@no_type_check
@triton.jit
def delta_apply_kernel(
    inverse, x, beta, g, out, n, chunks,
    V: tl.constexpr, SCALED: tl.constexpr, DECAY: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """``T (beta x)``, with DECAY ``T (beta e^G x)``; if not SCALED, ``T^T x``."""
    chunk, row = tl.program_id(1), tl.program_id(2).to(tl.int64)
    i, rows = tl.arange(0, C), chunk * C + tl.arange(0, C)
    cols = tl.program_id(0) * BK + tl.arange(0, BK)
    real = rows < n
    t = tile(inverse + (row * chunks + chunk) * C * C, i, i < C, i, C)
    right = tile(x + row * n * V, rows, real, cols, V)
    if SCALED:
        right *= tile(beta + row * n, rows, real, tl.arange(0, 1), 1)
        if DECAY:
            right *= from_start(g + row * n, rows, n, tl.arange(0, 1), 1)
    else:
        t = tl.trans(t)
    solved = tl.dot(t, right, input_precision=PRECISION)
    put(out + row * n * V, solved, rows, real, cols, V)


@no_type_check
@triton.jit
def delta_state_kernel(
    k, reads, added, g, initial, states, u, last, n, chunks,
    K: tl.constexpr, V: tl.constexpr, DECAY: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Chunk after chunk: the state before it, ``u = added - reads S``, and what u adds to S."""
    row = tl.program_id(1).to(tl.int64)
    ks, vs = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV)
    k, reads, added = k + row * n * K, reads + row * n * K, added + row * n * V
    g, u = g + row * n, u + row * n * V
    state = tile(initial + row * K * V, ks, ks < K, vs, V)
    for chunk in range(chunks):
        rows = chunk * C + tl.arange(0, C)
        real = rows < n
        put(states + (row * chunks + chunk) * K * V, state, ks, ks < K, vs, V)
        found = tl.dot(tile(reads, rows, real, ks, K), state, input_precision=PRECISION)
        new = tile(added, rows, real, vs, V) - found
        put(u, new, rows, real, vs, V)
        key = tile(k, rows, real, ks, K)
        if DECAY:
            one = tl.arange(0, 1)
            key *= to_end(g, rows, (chunk + 1) * C, n, one, 1)
            state *= tl.exp(tl.sum(log_decays(g, rows, real, one, 1), 0))[:, None]
        state += tl.dot(tl.trans(key), new, input_precision=PRECISION)
    put(last + row * K * V, state, ks, ks < K, vs, V)


@no_type_check
@triton.jit
def delta_state_grad_kernel(
    q, k, reads, grad, g, final, past, grad_u, first, n, chunks,
    K: tl.constexpr, V: tl.constexpr, DECAY: tl.constexpr, C: tl.constexpr, BK: tl.constexpr,
    BV: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From the last chunk on: the gradient in the state after it, in u, and in the state before."""
    row = tl.program_id(1).to(tl.int64)
    ks, vs = tl.arange(0, BK), tl.program_id(0) * BV + tl.arange(0, BV)
    q, k, reads = q + row * n * K, k + row * n * K, reads + row * n * K
    grad, g, grad_u = grad + row * n * V, g + row * n, grad_u + row * n * V
    state = tile(final + row * K * V, ks, ks < K, vs, V)
    for step in range(chunks):
        chunk = chunks - 1 - step
        rows = chunk * C + tl.arange(0, C)
        real = rows < n
        put(past + (row * chunks + chunk) * K * V, state, ks, ks < K, vs, V)
        x, key = tile(q, rows, real, ks, K), tile(k, rows, real, ks, K)
        dy = tile(grad, rows, real, vs, V)
        weights = tl.dot(x, tl.trans(key), input_precision=PRECISION)
        if DECAY:
            one = tl.arange(0, 1)
            weights *= between(g, rows, n, C)
            x *= from_start(g, rows, n, one, 1)
            key *= to_end(g, rows, (chunk + 1) * C, n, one, 1)
        weights = ordered(weights, False, C)
        du = tl.dot(tl.trans(weights), dy, input_precision=PRECISION)
        du += tl.dot(key, state, input_precision=PRECISION)
        put(grad_u, du, rows, real, vs, V)
        if DECAY:
            state *= tl.exp(tl.sum(log_decays(g, rows, real, one, 1), 0))[:, None]
        state += tl.dot(tl.trans(x), dy, input_precision=PRECISION)
        read = tile(reads, rows, real, ks, K)
        state -= tl.dot(tl.trans(read), du, input_precision=PRECISION)
    put(first + row * K * V, state, ks, ks < K, vs, V)


def widest(dtype: torch.dtype) -> int:
    """Keys of a head, at most: the state of a block of values stays in registers."""
    return 64 if dtype == torch.float32 else 128


def _config(warps: int, **constants: int) -> Any:
    return triton.Config(constants, num_warps=warps, num_stages=1)


INVERSE = Tuned(delta_inverse_kernel, (_config(4, BK=32), _config(8, BK=64)), ("K", "DECAY"))
APPLY = Tuned(delta_apply_kernel, (_config(4, BK=32), _config(4, BK=64)), ("V", "SCALED", "DECAY"))
STATE = Tuned(delta_state_kernel, (_config(4, BV=16), _config(8, BV=32)), ("K", "V", "DECAY"))
STATE_GRAD = Tuned(
    delta_state_grad_kernel, (_config(4, BV=16), _config(8, BV=16)), ("K", "V", "DECAY")
)


def variants() -> Iterator[Variant]:
    """The widest keys, with a decay and without; and linear attention's kernels as they are called
    from here, with values in fp32."""
    wide = (*WIDE, "inverse", "reads", "added", "u", "final", "grad_u", "first", "out")
    kind = partial(kind_of, wide=wide)
    for dtype, decay in ((torch.float32, 1), (torch.bfloat16, 0), (torch.float16, 1)):
        width = widest(dtype)
        own = constants_of(
            dtype, decay, K=width, V=width, C=CHUNK, BK=width, PHI=0, MASKED=False,
            SUM=False, SCALED=True, WITHIN=True, VALUES=False,
        )  # fmt: skip
        for tuned in (INVERSE, APPLY, STATE, STATE_GRAD):
            found = tuned.variants(str(dtype).removeprefix("torch."), own, kind)
            yield from (v for v in found if v.default or dtype == torch.float32)
        yield from forms(dtype, own, "delta", wide=(*WIDE, "v"))
        if dtype == torch.float32:
            strict = own | {"STRICT": True, "PAST": False}
            yield from forms(dtype, strict, "delta-strict", wide=(*WIDE, "v", "y"))
    transposed = own | {"SCALED": False, "DECAY": 0, "PRECISION": precision(torch.float32)}
    found = APPLY.variants("float32", transposed, kind, name="delta_apply-transposed")
    yield from (v for v in found if v.default)
