"""Diagonal scan in Triton, in three passes over chunks that run side by side.

    ends      every chunk from zero: its last state, and the product of its coefficients
    carries   chunk after chunk: the state before each
    states    every chunk from the state before it: all states

Inside a chunk a program goes step by step, its channels in parallel. Complex numbers lie as pairs
(real, imaginary) in the last dimension. "Order" is scan order: of the last position first if
``REVERSE``.
"""

from collections.abc import Iterator
from typing import no_type_check

import triton
import triton.language as tl

from kernels.triton_tools import DTYPES, Tuned, Variant, pointer_kind

# steps of a chunk
CHUNK = 64


@no_type_check
@triton.jit
def _load(pointer, offset, mask, other, COMPLEX: tl.constexpr):
    """Real and imaginary part, in fp32; ``other`` is real."""
    if COMPLEX:
        re = tl.load(pointer + 2 * offset, mask=mask, other=other)
        im = tl.load(pointer + 2 * offset + 1, mask=mask, other=0.0)
    else:
        re = tl.load(pointer + offset, mask=mask, other=other)
        im = tl.zeros_like(re)
    return re.to(tl.float32), im.to(tl.float32)


@no_type_check
@triton.jit
def _store(pointer, offset, re, im, mask, COMPLEX: tl.constexpr):
    if COMPLEX:
        tl.store(pointer + 2 * offset, re, mask=mask)
        tl.store(pointer + 2 * offset + 1, im, mask=mask)
    else:
        tl.store(pointer + offset, re, mask=mask)


@no_type_check
@triton.jit
def _multiply_add(a_re, a_im, x_re, x_im, b_re, b_im, COMPLEX: tl.constexpr):
    if COMPLEX:
        re = a_re * x_re - a_im * x_im + b_re
        im = a_re * x_im + a_im * x_re + b_im
    else:
        re = a_re * x_re + b_re
        im = x_im
    return re, im


@no_type_check
@triton.jit
def diagonal_scan_chunks(
    a_ptr, b_ptr, carries_ptr, products_ptr, h_ptr, n, d, chunks, a_batch, a_step, a_channel,
    b_batch, b_step, b_channel, CHUNK: tl.constexpr, BLOCK: tl.constexpr, COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """``STATES``: reads carries and writes h. Else writes ends (as carries) and products."""
    chunk = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    real = channel < d
    parts = 2 if COMPLEX else 1
    a_ptr += batch * a_batch * parts
    b_ptr += batch * b_batch * parts
    h_ptr += batch * n * d * parts
    place = (batch * chunks + chunk) * d + channel
    if STATES:
        re, im = _load(carries_ptr, place, real, 0.0, COMPLEX)
    else:
        re = tl.zeros([BLOCK], tl.float32)
        im = tl.zeros([BLOCK], tl.float32)
    all_re = tl.full([BLOCK], 1.0, tl.float32)
    all_im = tl.zeros([BLOCK], tl.float32)
    for i in range(CHUNK):
        order = chunk * CHUNK + i
        mask = real & (order < n)
        t = n - 1 - order if REVERSE else order
        # beyond the end: times 1, plus 0
        a_re, a_im = _load(a_ptr, t * a_step + channel * a_channel, mask, 1.0, COMPLEX)
        b_re, b_im = _load(b_ptr, t * b_step + channel * b_channel, mask, 0.0, COMPLEX)
        re, im = _multiply_add(a_re, a_im, re, im, b_re, b_im, COMPLEX)
        if STATES:
            _store(h_ptr, t * d + channel, re, im, mask, COMPLEX)
        else:
            all_re, all_im = _multiply_add(a_re, a_im, all_re, all_im, 0.0, 0.0, COMPLEX)
    if not STATES:
        _store(carries_ptr, place, re, im, real, COMPLEX)
        _store(products_ptr, place, all_re, all_im, real, COMPLEX)


@no_type_check
@triton.jit
def diagonal_scan_carries(
    ends_ptr, products_ptr, initial_ptr, carries_ptr, d, chunks, BLOCK: tl.constexpr,
    COMPLEX: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = channel < d
    re, im = _load(initial_ptr, batch * d + channel, real, 0.0, COMPLEX)
    for chunk in range(chunks):
        place = (batch * chunks + chunk) * d + channel
        _store(carries_ptr, place, re, im, real, COMPLEX)
        a_re, a_im = _load(products_ptr, place, real, 1.0, COMPLEX)
        b_re, b_im = _load(ends_ptr, place, real, 0.0, COMPLEX)
        re, im = _multiply_add(a_re, a_im, re, im, b_re, b_im, COMPLEX)


CONFIGS = [
    triton.Config({"BLOCK": block}, num_warps=warps)
    for block, warps in ((64, 2), (32, 1), (128, 4))
]
chunks_kernel = Tuned(diagonal_scan_chunks, CONFIGS, ("n", "d", "COMPLEX"))
carries_kernel = Tuned(diagonal_scan_carries, CONFIGS, ("d", "chunks", "COMPLEX"))


def variants() -> Iterator[Variant]:
    """Both passes over chunks and the carries: real in every dtype, each pass in one direction;
    complex in fp32."""
    for dtype, is_complex in (*((name, False) for name in DTYPES), ("float32", True)):
        for states in (False, True):
            for reverse in (False, True) if is_complex else (states,):
                constants = {"CHUNK": CHUNK, "COMPLEX": is_complex, "STATES": states}
                found = chunks_kernel.variants(
                    dtype, {**constants, "REVERSE": reverse}, pointer_kind("a b")
                )
                yield from (v for v in found if v.default or (is_complex and states and reverse))
    for is_complex in (False, True):
        found = carries_kernel.variants("float32", {"COMPLEX": is_complex}, pointer_kind())
        yield from (v for v in found if v.default or is_complex)
