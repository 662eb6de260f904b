"""WKV in Triton: a program has some channels of a sequence and goes through it token by token.

Exponents are fp64 (in fp32, 100 - 1e-6 is 100, however many tokens the decay goes on), all else is
fp32.

Backward it goes through it twice: forth, to write down the state before each token, and back. Rows
are (B, N, D); a state (B, 3, D) holds numerator, denominator and exponent.
"""

from collections.abc import Iterator
from typing import no_type_check

import triton
import triton.language as tl

from kernels.triton_tools import DTYPES, Tuned, Variant, pointer_kind


@no_type_check
@triton.jit
def _load(pointer, offset, mask):
    return tl.load(pointer + offset, mask=mask, other=0.0).to(tl.float32)


@no_type_check
@triton.jit
def _weights(past, present):
    """e to both exponents, relative to the larger; 0 if both are -inf."""
    scale = tl.maximum(past, present)
    scale = tl.where(scale == float("-inf"), 0.0, scale)
    return tl.exp((past - scale).to(tl.float32)), tl.exp((present - scale).to(tl.float32))


@no_type_check
@triton.jit
def _step(w, k, v, a, b, p):
    """The state after a token, with what it keeps of the one before and what it adds."""
    after = tl.maximum(p - w, k)
    decay, add = _weights(p - w, k)
    return decay * a + add * v, decay * b + add, after, decay, add


@no_type_check
@triton.jit
def wkv_forward(w_ptr, u_ptr, k_ptr, v_ptr, state_ptr, y_ptr, last_ptr, n, d, BLOCK: tl.constexpr):
    batch = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = channel < d
    w, u = _load(w_ptr, channel, real).to(tl.float64), _load(u_ptr, channel, real).to(tl.float64)
    state = batch * 3 * d + channel
    a, b = _load(state_ptr, state, real), _load(state_ptr, state + d, real)
    p = _load(state_ptr, state + 2 * d, real).to(tl.float64)
    for t in range(n):
        row = (batch * n + t) * d + channel
        k, v = _load(k_ptr, row, real), _load(v_ptr, row, real)
        past, present = _weights(p, u + k)
        total = past * b + present
        y = (past * a + present * v) / tl.where(total == 0.0, 1.0, total)
        tl.store(y_ptr + row, y, mask=real)
        a, b, p, _, _ = _step(w, k, v, a, b, p)
    tl.store(last_ptr + state, a, mask=real)
    tl.store(last_ptr + state + d, b, mask=real)
    tl.store(last_ptr + state + 2 * d, p.to(tl.float32), mask=real)


@no_type_check
@triton.jit
def wkv_backward(
    w_ptr, u_ptr, k_ptr, v_ptr, state_ptr, grad_y_ptr, grad_last_ptr, before_ptr, exponents_ptr,
    grad_w_ptr, grad_u_ptr, grad_k_ptr, grad_v_ptr, grad_state_ptr, n, d, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients; those in w and u of each sequence, to be summed. ``before`` is (B, N, 2, D)."""
    batch = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = channel < d
    w, u = _load(w_ptr, channel, real).to(tl.float64), _load(u_ptr, channel, real).to(tl.float64)
    state = batch * 3 * d + channel
    a, b = _load(state_ptr, state, real), _load(state_ptr, state + d, real)
    p = _load(state_ptr, state + 2 * d, real).to(tl.float64)
    for t in range(n):
        row = (batch * n + t) * d
        tl.store(before_ptr + 2 * row + channel, a, mask=real)
        tl.store(before_ptr + 2 * row + d + channel, b, mask=real)
        tl.store(exponents_ptr + row + channel, p, mask=real)
        k, v = _load(k_ptr, row + channel, real), _load(v_ptr, row + channel, real)
        a, b, p, _, _ = _step(w, k, v, a, b, p)
    # what was written may be read by another thread
    tl.debug_barrier()
    grad_a = _load(grad_last_ptr, state, real)
    grad_b = _load(grad_last_ptr, state + d, real)
    grad_w = tl.zeros([BLOCK], tl.float32)
    grad_u = tl.zeros([BLOCK], tl.float32)
    for i in range(n):
        row = (batch * n + n - 1 - i) * d
        k, v = _load(k_ptr, row + channel, real), _load(v_ptr, row + channel, real)
        a = _load(before_ptr, 2 * row + channel, real)
        b = _load(before_ptr, 2 * row + d + channel, real)
        p = tl.load(exponents_ptr + row + channel, mask=real, other=0.0)
        past, present = _weights(p, u + k)
        total = past * b + present
        total = tl.where(total == 0.0, 1.0, total)
        # in numerator and denominator of y
        top = _load(grad_y_ptr, row + channel, real) / total
        bottom = -top * (past * a + present * v) / total
        own = present * (top * v + bottom)
        _, _, _, decay, add = _step(w, k, v, a, b, p)
        grad_k = own + add * (grad_a * v + grad_b)
        tl.store(grad_k_ptr + row + channel, grad_k, mask=real)
        tl.store(grad_v_ptr + row + channel, present * top + add * grad_a, mask=real)
        grad_u += own
        grad_a, grad_b = decay * grad_a, decay * grad_b
        grad_w -= grad_a * a + grad_b * b
        grad_a += past * top
        grad_b += past * bottom
    a, b = _load(state_ptr, state, real), _load(state_ptr, state + d, real)
    tl.store(grad_state_ptr + state, grad_a, mask=real)
    tl.store(grad_state_ptr + state + d, grad_b, mask=real)
    tl.store(grad_state_ptr + state + 2 * d, grad_a * a + grad_b * b, mask=real)
    tl.store(grad_w_ptr + batch * d + channel, grad_w, mask=real)
    tl.store(grad_u_ptr + batch * d + channel, grad_u, mask=real)


CONFIGS = [
    triton.Config({"BLOCK": block}, num_warps=warps)
    for block, warps in ((32, 1), (64, 2), (128, 4))
]
forward_kernel = Tuned(wkv_forward, CONFIGS, ("n", "d"))
backward_kernel = Tuned(wkv_backward, CONFIGS, ("n", "d"))


def variants() -> Iterator[Variant]:
    """Both kernels, keys and values in every dtype."""
    for dtype in DTYPES:
        for kernel in (forward_kernel, backward_kernel):
            found = kernel.variants(dtype, {}, pointer_kind("k v", fp64="exponents"))
            yield from (v for v in found if v.default or dtype == "float32")
