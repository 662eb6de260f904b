"""Merged attention in Triton: all parts of a row in one pass, forward and backward.

The parts lie one behind the other: row i of part p is row ``p rows + i`` of ``(P rows, V)``.
"""

import functools
from collections.abc import Iterator
from typing import no_type_check

import triton
import triton.language as tl

from kernels.attention.triton_tile import load_rows, store_rows
from kernels.triton_tools import DTYPES, Tuned, Variant, pointer_kind


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


# a program holds whole rows
WIDEST = 512
KERNELS = {"forward": merge_forward, "backward": merge_backward}
# numbers of a tile, warps
TILES = ((2048, 4), (4096, 4), (8192, 8))


@functools.cache
def tuned(name: str, padded: int) -> Tuned:
    """A kernel for rows of a padded width: the wider, the fewer."""
    configs = [triton.Config({"BM": max(1, n // padded)}, num_warps=w) for n, w in TILES]
    return Tuned(KERNELS[name], configs, ("PADDED_V",))


def variants() -> Iterator[Variant]:
    """The widest rows, and some that do not fill their tile."""
    kind = pointer_kind(inputs="outputs d_out d_outputs")
    for dtype, width, padded in (
        *((name, WIDEST, WIDEST) for name in DTYPES),
        ("float16", 65, 128),
    ):
        for name in KERNELS:
            found = tuned(name, padded).variants(
                dtype, {"V": width, "PADDED_V": padded}, kind, name=f"merge_{name}-{padded}"
            )
            yield from (v for v in found if v.default or dtype == "float32")
