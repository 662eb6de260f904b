"""Merged attention in Triton: all parts of a row in one pass, forward and backward.

The parts lie one behind the other: row i of part p is row ``p rows + i`` of ``(P rows, V)``.
"""

from collections.abc import Iterator
from typing import no_type_check

import triton
import triton.language as tl

from kernels.attention.triton_tile import load_rows, store_rows
from kernels.triton_tools import Tuned, Variant, pointer_kind


@no_type_check
@triton.jit
def merge_forward(
    outputs_ptr, lses_ptr, out_ptr, lse_ptr, parts, rows, V: tl.constexpr,
    PADDED_V: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Rows added up under a running maximum of their log-sum-exps."""
    i = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    real, place = i < rows, i
    top = tl.full([BM], float("-inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    out = tl.zeros([BM, PADDED_V], tl.float32)
    for _ in range(0, parts):
        part = tl.load(lses_ptr + place, mask=real, other=float("-inf"))
        seen = real & (part != float("-inf"))
        x = load_rows(outputs_ptr, place, seen, V, PADDED_V).to(tl.float32)
        new = tl.maximum(top, part)
        # a row of which no part has seen a key yet has no maximum to take off
        base = tl.where(new == float("-inf"), 0.0, new)
        weight, shrink = tl.exp(part - base), tl.exp(top - base)
        total = total * shrink + weight
        out = out * shrink[:, None] + x * weight[:, None]
        top = new
        place += rows
    nothing = total == 0
    out = out / tl.where(nothing, 1.0, total)[:, None]
    store_rows(out_ptr, out, i, real, V, PADDED_V)
    lse = tl.where(nothing, float("-inf"), top + tl.log(total))
    tl.store(lse_ptr + i, lse, mask=real)


@no_type_check
@triton.jit
def merge_backward(
    outputs_ptr, lses_ptr, out_ptr, lse_ptr, d_out_ptr, d_lse_ptr, d_outputs_ptr, d_lses_ptr,
    parts, rows, V: tl.constexpr, PADDED_V: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """``w d_out`` and ``w (d_out . (output - out) + d_lse)`` of each part."""
    i = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    real, place = i < rows, i
    lse = tl.load(lse_ptr + i, mask=real, other=0.0)
    d_lse = tl.load(d_lse_ptr + i, mask=real, other=0.0)
    d_out = load_rows(d_out_ptr, i, real, V, PADDED_V).to(tl.float32)
    out = load_rows(out_ptr, i, real, V, PADDED_V)
    rest = d_lse - tl.sum(d_out * out, 1)
    for _ in range(0, parts):
        part = tl.load(lses_ptr + place, mask=real, other=float("-inf"))
        seen = real & (part != float("-inf"))
        weight = tl.exp(tl.where(seen, part - lse, float("-inf")))
        x = load_rows(outputs_ptr, place, seen, V, PADDED_V).to(tl.float32)
        d_part = weight * (tl.sum(d_out * x, 1) + rest)
        tl.store(d_lses_ptr + place, tl.where(seen, d_part, 0.0), mask=real)
        d_x = tl.where(seen[:, None], d_out * weight[:, None], 0.0)
        store_rows(d_outputs_ptr, d_x, place, real, V, PADDED_V)
        place += rows


CONFIGS = tuple(triton.Config({"BM": m}, num_warps=w) for m, w in ((16, 4), (32, 4), (64, 8)))
FORWARD = Tuned(merge_forward, CONFIGS, ("PADDED_V",))
BACKWARD = Tuned(merge_backward, CONFIGS, ("PADDED_V",))


def variants() -> Iterator[Variant]:
    """Heads of 128."""
    kind = pointer_kind(inputs="outputs d_out d_outputs")
    for dtype in ("float32", "float16"):
        for tuned in (FORWARD, BACKWARD):
            yield from tuned.variants(dtype, {"V": 128, "PADDED_V": 128}, kind)
