"""Triton: per-token weights over a window of values, the same turned around, and their gradient.

A row is one head of one example: values ``(B H, N, K)``, weights ``(B H, N, W)``.
"""

from collections.abc import Iterator
from typing import Any, no_type_check

import triton
import triton.language as tl

from kernels.triton_tools import DTYPES, Tuned, Variant


@no_type_check
@triton.jit
def dynamic_conv_kernel(
    v, weights, y, n, left,
    K: tl.constexpr, W: tl.constexpr, TURNED: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """``y[t] = sum_w weights[t, w] v[t + w - left]`` for a block of t and channels.

    TURNED: its transpose, ``y[t] = sum_w weights[s, w] v[s]`` with ``s = t - w + left``.
    """
    row = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1) * BN + tl.arange(0, BN)
    ks = tl.program_id(2) * BK + tl.arange(0, BK)
    v, weights, y = v + row * n * K, weights + row * n * W, y + row * n * K
    total = tl.zeros((BN, BK), tl.float32)
    for w in range(W):
        s = t - w + left if TURNED else t + w - left
        real = (t < n) & (s >= 0) & (s < n)
        owner = s if TURNED else t
        weight = tl.load(weights + owner * W + w, mask=real, other=0).to(tl.float32)
        inside = real[:, None] & (ks[None, :] < K)
        x = tl.load(v + s[:, None] * K + ks[None, :], mask=inside, other=0).to(tl.float32)
        total += weight[:, None] * x
    inside = (t[:, None] < n) & (ks[None, :] < K)
    tl.store(y + t[:, None] * K + ks[None, :], total.to(y.dtype.element_ty), mask=inside)


@no_type_check
@triton.jit
def dynamic_conv_weights_kernel(
    v, grad, grad_weights, n, left,
    K: tl.constexpr, W: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """``grad[t] . v[t + w - left]`` for a block of t and every w."""
    row = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1) * BN + tl.arange(0, BN)
    v, grad, grad_weights = v + row * n * K, grad + row * n * K, grad_weights + row * n * W
    for w in range(W):
        s = t + w - left
        real = (t < n) & (s >= 0) & (s < n)
        total = tl.zeros((BN,), tl.float32)
        for block in range(0, K, BK):
            ks = block + tl.arange(0, BK)
            inside = real[:, None] & (ks[None, :] < K)
            x = tl.load(v + s[:, None] * K + ks[None, :], mask=inside, other=0).to(tl.float32)
            dy = tl.load(grad + t[:, None] * K + ks[None, :], mask=inside, other=0).to(tl.float32)
            total += tl.sum(x * dy, 1)
        tl.store(grad_weights + t * W + w, total.to(grad_weights.dtype.element_ty), mask=t < n)


def _configs(*sizes: tuple[int, int]) -> list[Any]:
    return [triton.Config({"BN": n, "BK": k}, num_warps=4, num_stages=1) for n, k in sizes]


CONV = Tuned(dynamic_conv_kernel, _configs((64, 32), (32, 64), (128, 32)), ("K", "W", "TURNED"))
WEIGHTS = Tuned(dynamic_conv_weights_kernel, _configs((64, 32), (32, 64), (128, 32)), ("K", "W"))


def variants() -> Iterator[Variant]:
    """Heads of 64, seven taps."""
    for dtype in DTYPES:
        for name, tuned, turned in (
            ("dynamic_conv", CONV, False),
            ("dynamic_conv-turned", CONV, True),
            ("dynamic_conv_weights", WEIGHTS, False),
        ):
            constants = {"K": 64, "W": 7, "TURNED": turned}
            found = tuned.variants(dtype, constants, _kind, name=name)
            yield from (v for v in found if v.default or (dtype == "float32" and not turned))


def _kind(argument: str) -> str:
    return "i32" if argument in ("n", "left") else "*"
