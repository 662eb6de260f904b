"""Triton: the convolution of one channel of one example, and the gradient in its taps.

A row is one channel of one example, ``(B D, N)``; its inputs are read once a tap, from the cache.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, no_type_check

import triton
import triton.language as tl

from kernels.triton_tools import DTYPES, Tuned, Variant


@no_type_check
@triton.jit
def short_conv_kernel(
    u, weight, bias, y, n, channels, left,
    W: tl.constexpr, BIASED: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """``y[t] = sum_w weight[w] u[t + w - left] + bias`` for a block of t."""
    row = tl.program_id(0).to(tl.int64)
    channel = row % channels
    t = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros((BN,), tl.float32)
    if BIASED:
        total += tl.load(bias + channel).to(tl.float32)
    for w in range(W):
        s = t + w - left
        x = tl.load(u + row * n + s, mask=(s >= 0) & (s < n), other=0).to(tl.float32)
        total += tl.load(weight + channel * W + w).to(tl.float32) * x
    tl.store(y + row * n + t, total.to(y.dtype.element_ty), mask=t < n)


@no_type_check
@triton.jit
def short_conv_taps_kernel(u, grad, grad_weight, n, left, W: tl.constexpr, BN: tl.constexpr):
    """``sum_t grad[t] u[t + w - left]`` of one row and tap."""
    row, w = tl.program_id(0).to(tl.int64), tl.program_id(1)
    total = tl.zeros((BN,), tl.float32)
    for start in range(0, n, BN):
        t = start + tl.arange(0, BN)
        s = t + w - left
        inside = (t < n) & (s >= 0) & (s < n)
        x = tl.load(u + row * n + s, mask=inside, other=0).to(tl.float32)
        total += x * tl.load(grad + row * n + t, mask=inside, other=0).to(tl.float32)
    tl.store(grad_weight + row * W + w, tl.sum(total, 0))


def _configs(*blocks: int) -> list[Any]:
    return [triton.Config({"BN": block}, num_warps=4, num_stages=1) for block in blocks]


CONV = Tuned(short_conv_kernel, _configs(512, 1024, 256), ("W",))
TAPS = Tuned(short_conv_taps_kernel, _configs(512, 1024, 256), ("W",))


def variants() -> Iterator[Variant]:
    """Four taps, with a bias and taps in fp32, and without and in the inputs' dtype."""
    conv = {"n": "i32", "channels": "i32", "left": "i32"}
    wide = {**conv, "weight": "*fp32", "bias": "*fp32"}
    taps = {"n": "i32", "left": "i32", "grad_weight": "*fp32"}
    for dtype in DTYPES:
        for name, tuned, types, biased in (
            ("short_conv", CONV, wide, True),
            ("short_conv-plain", CONV, conv, False),
            ("short_conv_taps", TAPS, taps, False),
        ):
            constants = {"W": 4, "BIASED": biased}
            found = tuned.variants(dtype, constants, partial(_kind, types), name=name)
            yield from (v for v in found if v.default or (dtype == "float32" and types != conv))


def _kind(types: dict[str, str], argument: str) -> str:
    return types.get(argument, "*")
