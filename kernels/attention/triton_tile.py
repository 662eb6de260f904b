"""Pieces that the Triton kernels of attention are made of: rows, products, scores, loop bounds.

A kernel works on tiles of BM queries and BN keys. With ``BLOCK`` it walks a list of key blocks of
that many positions, without (0) a range of keys. Legend: i query positions, j key positions, shaped
to broadcast to a tile, in whichever order. ``no_type_check`` keeps the annotations' checker of the
tests away from functions that are no Python.
"""

from typing import no_type_check

import triton
import triton.language as tl

from kernels.triton_tools import interpreted

EMULATED = tl.constexpr(interpreted())
# what TF32 keeps of the bits of fp32, and half of the last of those
TF32 = tl.constexpr(-8192)
HALF = tl.constexpr(4096)


@no_type_check
@triton.jit
def load_rows(at, rows, real, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Rows ``[rows, PADDED]`` of a matrix, 0 where a row is not real and behind WIDTH."""
    column = tl.arange(0, PADDED)
    inside = real[:, None]
    if WIDTH < PADDED:
        inside = inside & (column[None, :] < WIDTH)
    return tl.load(at + rows[:, None] * WIDTH + column[None, :], mask=inside, other=0.0)


@no_type_check
@triton.jit
def store_rows(at, x, rows, real, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Stores what ``load_rows`` would load."""
    column = tl.arange(0, PADDED)
    inside = real[:, None] & (column[None, :] < WIDTH)
    where = at + rows[:, None] * WIDTH + column[None, :]
    tl.store(where, rounded(x, at.dtype.element_ty).to(at.dtype.element_ty), mask=inside)


@no_type_check
@triton.jit
def rounded(x, TYPE: tl.constexpr):
    """x in a type that products take. An interpreter cuts the bits of bf16 off and multiplies what
    is left as integers: there it is the nearest number (ties to even) in fp32."""
    if EMULATED and TYPE == tl.bfloat16:  # noqa: SIM300
        x = x.to(tl.float32)
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        # the carry must not make a number of NaN
        return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    else:
        return x.to(TYPE)


@no_type_check
@triton.jit
def as_tf32(x):
    """The nearest number that TF32 holds."""
    bits = (x.to(tl.int32, bitcast=True) + HALF) & TF32
    return bits.to(tl.float32, bitcast=True)


@no_type_check
@triton.jit
def product(a, b, SPLIT: tl.constexpr):
    """``a b`` in fp32. ``SPLIT`` keeps the bits of fp32 on units that multiply TF32: each operand
    is a sum of two numbers, and the product of the two small ones is left out."""
    if SPLIT:
        a_high, b_high = as_tf32(a), as_tf32(b)
        out = tl.dot(a - a_high, b_high, input_precision="tf32")
        out = tl.dot(a_high, b - b_high, out, input_precision="tf32")
        return tl.dot(a_high, b_high, out, input_precision="tf32")
    else:
        return tl.dot(a, b, input_precision="tf32")


@no_type_check
@triton.jit
def tanh(x):
    """By its series where the difference of exponentials would cancel."""
    e = tl.exp(-2 * tl.abs(x))
    far = (1 - e) / (1 + e)
    y = x * x
    near = x * (1 + y * (-1 / 3 + y * (2 / 15 + y * (-17 / 315 + y * (62 / 2835)))))
    return tl.where(y < 0.0625, near, tl.where(x < 0, -far, far))


@no_type_check
@triton.jit
def bend(
    s, i, j, n, m, left, right, farthest, cap, table, slope, key_mask, mask, partial,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, MASKED: tl.constexpr, RELATIVE: tl.constexpr,
    ALIBI: tl.constexpr, CAP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """From ``scale q k``: scores, -inf where hidden; and the cap's tanh. ``table`` points to the
    entry of distance 0."""
    t = s
    if CAP:
        t = tanh(s / cap)
        s = t * cap
    seen = (i < n) & (j < m)
    # the last query sits beside the last key
    distance = j - (i + m - n)
    if ALIBI:
        s -= slope * tl.abs(distance).to(tl.float32)
    if LEFT:
        seen = seen & (distance >= -left)
    if RIGHT:
        seen = seen & (distance <= right)
    if MASKED:
        seen = seen & (tl.load(key_mask + j, mask=j < m, other=0) != 0)
    if BLOCK:
        pair = (i % BLOCK) * BLOCK + j % BLOCK
        seen = seen & (tl.load(mask + pair, mask=seen & partial, other=1) != 0)
    if RELATIVE:
        # the last of all, and only of seen pairs: so it takes the fewest registers
        near = tl.minimum(tl.maximum(distance, -farthest), farthest)
        s += tl.load(table + near, mask=seen, other=0.0)
    return tl.where(seen, s, float("-inf")), t


@no_type_check
@triton.jit
def key_range(
    first, n, m, left, right, offsets, BM: tl.constexpr, BN: tl.constexpr, BLOCK: tl.constexpr,
    LEFT: tl.constexpr, RIGHT: tl.constexpr,
):  # fmt: skip
    """Steps over the keys of a tile of queries that begins at ``first``.

    A step is BN keys: those of the listed blocks (``offsets`` of the head's lists), else of the
    range that the window does not hide.
    """
    if BLOCK:
        start = tl.load(offsets + first // BLOCK) * (BLOCK // BN)
        stop = tl.load(offsets + first // BLOCK + 1) * (BLOCK // BN)
    else:
        start = 0
        stop = tl.cdiv(m, BN)
        if LEFT:
            start = tl.maximum(first + m - n - left, 0) // BN
        if RIGHT:
            last = tl.minimum(first + BM, n) - 1 + m - n
            stop = tl.minimum(stop, tl.cdiv(tl.maximum(last + right + 1, 0), BN))
    return start, stop


@no_type_check
@triton.jit
def query_range(
    first, n, m, left, right, offsets, BM: tl.constexpr, BN: tl.constexpr, BLOCK: tl.constexpr,
    LEFT: tl.constexpr, RIGHT: tl.constexpr,
):  # fmt: skip
    """Steps over the queries, BM each, that see a tile of keys that begins at ``first``."""
    if BLOCK:
        start = tl.load(offsets + first // BLOCK) * (BLOCK // BM)
        stop = tl.load(offsets + first // BLOCK + 1) * (BLOCK // BM)
    else:
        start = 0
        stop = tl.cdiv(n, BM)
        if RIGHT:
            start = tl.maximum(first - (m - n) - right, 0) // BM
        if LEFT:
            last = tl.minimum(first + BN, m) - 1 - (m - n)
            stop = tl.minimum(stop, tl.cdiv(tl.maximum(last + left + 1, 0), BM))
    return start, stop


@no_type_check
@triton.jit
def tile_at(step, indices, mask_ids, masks, TILE: tl.constexpr, BLOCK: tl.constexpr):
    """Where a step's tile begins, the mask of its block, and whether that hides anything."""
    if BLOCK:
        each = BLOCK // TILE
        entry = step // each
        first = tl.load(indices + entry) * BLOCK + step % each * TILE
        number = tl.load(mask_ids + entry)
        mask = masks + number.to(tl.int64) * BLOCK * BLOCK
        partial = number > 0
    else:
        first = step * TILE
        mask = masks
        partial = step < 0
    return first, mask, partial
