"""Selective scan in Triton: chunks side by side, their ends one after the other.

    ends      every chunk from zero: its last state, and the sum of its steps
    carries   chunk after chunk: the state before each (kept for the backward pass)
    outputs   every chunk from the state before it

and backward the same in the other direction: what each chunk adds to the gradient in the state
before it, these chunk after chunk, then every gradient, for which the states of some chunks at a
time are made again. A program has a tile of (states, channels) and goes step by step.

Everything lies in rows, (X, N, D) and (X, N, S): X batch times groups, D channels of a group, S
states. Beyond the end of a sequence steps are 0, which changes no state.
"""

from collections.abc import Iterator
from typing import no_type_check

import triton
import triton.language as tl

from kernels.triton_tools import Tuned, Variant, pointer_kind

# steps of a chunk, and states times channels of a tile: of one channel, the most states
CHUNK, TILE = 32, 512


@no_type_check
@triton.jit
def _channels(d, BLOCK: tl.constexpr):
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    return channel, channel < d


@no_type_check
@triton.jit
def _tile(s, d, BLOCK_S: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets and mask of this program's tile in ``(S, D)``."""
    state = tl.arange(0, BLOCK_S)[:, None]
    channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)[None, :]
    return state * d + channel, (state < s) & (channel < d)


@no_type_check
@triton.jit
def _row(pointer, row, index, mask):
    """Of a row, in fp32; 0 outside."""
    return tl.load(pointer + row + index, mask=mask, other=0.0).to(tl.float32)


@no_type_check
@triton.jit
def selective_scan_ends(
    u_ptr, delta_ptr, a_ptr, b_ptr, ends_ptr, totals_ptr, n, d, s, chunks,
    CHUNK: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    chunk, x = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channel, real = _channels(d, BLOCK)
    state = tl.arange(0, BLOCK_S)
    tile, inside = _tile(s, d, BLOCK_S, BLOCK)
    a = tl.load(a_ptr + x * s * d + tile, mask=inside, other=0.0)
    h = tl.zeros([BLOCK_S, BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for i in range(CHUNK):
        t = chunk * CHUNK + i
        row = x * n + t
        u = _row(u_ptr, row * d, channel, real & (t < n))
        delta = _row(delta_ptr, row * d, channel, real & (t < n))
        b = _row(b_ptr, row * s, state, (state < s) & (t < n))
        h = tl.exp(delta[None, :] * a) * h + b[:, None] * (delta * u)[None, :]
        total += delta
    place = x * chunks + chunk
    tl.store(ends_ptr + place * s * d + tile, h, mask=inside)
    tl.store(totals_ptr + place * d + channel, total, mask=real)


@no_type_check
@triton.jit
def selective_scan_carries(
    ends_ptr, totals_ptr, a_ptr, initial_ptr, carries_ptr, last_ptr, d, s, chunks,
    BLOCK_S: tl.constexpr, BLOCK: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """What comes before each chunk (after it, ``REVERSE``), and what remains at the end."""
    x = tl.program_id(1).to(tl.int64)
    channel, real = _channels(d, BLOCK)
    tile, inside = _tile(s, d, BLOCK_S, BLOCK)
    a = tl.load(a_ptr + x * s * d + tile, mask=inside, other=0.0)
    h = tl.load(initial_ptr + x * s * d + tile, mask=inside, other=0.0)
    for i in range(chunks):
        chunk = chunks - 1 - i if REVERSE else i
        place = x * chunks + chunk
        tl.store(carries_ptr + place * s * d + tile, h, mask=inside)
        total = tl.load(totals_ptr + place * d + channel, mask=real, other=0.0)
        end = tl.load(ends_ptr + place * s * d + tile, mask=inside, other=0.0)
        h = tl.exp(total[None, :] * a) * h + end
    tl.store(last_ptr + x * s * d + tile, h, mask=inside)


@no_type_check
@triton.jit
def selective_scan_outputs(
    u_ptr, delta_ptr, a_ptr, b_ptr, c_ptr, before_ptr, y_ptr, n, d, s, chunks,
    CHUNK: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    chunk, x = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channel, real = _channels(d, BLOCK)
    state = tl.arange(0, BLOCK_S)
    tile, inside = _tile(s, d, BLOCK_S, BLOCK)
    a = tl.load(a_ptr + x * s * d + tile, mask=inside, other=0.0)
    h = tl.load(before_ptr + (x * chunks + chunk) * s * d + tile, mask=inside, other=0.0)
    for i in range(CHUNK):
        t = chunk * CHUNK + i
        row = x * n + t
        u = _row(u_ptr, row * d, channel, real & (t < n))
        delta = _row(delta_ptr, row * d, channel, real & (t < n))
        b = _row(b_ptr, row * s, state, (state < s) & (t < n))
        c = _row(c_ptr, row * s, state, (state < s) & (t < n))
        h = tl.exp(delta[None, :] * a) * h + b[:, None] * (delta * u)[None, :]
        y = tl.sum(h * c[:, None], axis=0)
        tl.store(y_ptr + row * d + channel, y, mask=real & (t < n))


@no_type_check
@triton.jit
def selective_scan_ends_backward(
    grad_y_ptr, delta_ptr, a_ptr, c_ptr, ends_ptr, n, d, s, chunks,
    CHUNK: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What the outputs of each chunk add to the gradient in the state before it."""
    chunk, x = tl.program_id(0), tl.program_id(1).to(tl.int64)
    channel, real = _channels(d, BLOCK)
    state = tl.arange(0, BLOCK_S)
    tile, inside = _tile(s, d, BLOCK_S, BLOCK)
    a = tl.load(a_ptr + x * s * d + tile, mask=inside, other=0.0)
    g = tl.zeros([BLOCK_S, BLOCK], tl.float32)
    for i in range(CHUNK):
        t = chunk * CHUNK + CHUNK - 1 - i
        row = x * n + t
        grad_y = _row(grad_y_ptr, row * d, channel, real & (t < n))
        delta = _row(delta_ptr, row * d, channel, real & (t < n))
        c = _row(c_ptr, row * s, state, (state < s) & (t < n))
        g = tl.exp(delta[None, :] * a) * (g + c[:, None] * grad_y[None, :])
    tl.store(ends_ptr + (x * chunks + chunk) * s * d + tile, g, mask=inside)


@no_type_check
@triton.jit
def selective_scan_backward(
    u_ptr, delta_ptr, a_ptr, b_ptr, c_ptr, grad_y_ptr, before_ptr, after_ptr, states_ptr,
    grad_u_ptr, grad_delta_ptr, grad_a_ptr, grad_b_ptr, grad_c_ptr, n, d, s, chunks, first,
    CHUNK: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients: in a of each chunk, in b and c of each block of channels, to be summed.

    Works on chunks from ``first`` on; ``states`` has room for those of the launch.
    """
    chunk, x = first + tl.program_id(0), tl.program_id(1).to(tl.int64)
    channel, real = _channels(d, BLOCK)
    state = tl.arange(0, BLOCK_S)
    tile, inside = _tile(s, d, BLOCK_S, BLOCK)
    a = tl.load(a_ptr + x * s * d + tile, mask=inside, other=0.0)
    place = (x * chunks + chunk) * s * d + tile
    h = tl.load(before_ptr + place, mask=inside, other=0.0)
    states_ptr += (x * tl.num_programs(0) + tl.program_id(0)) * CHUNK * s * d
    for i in range(CHUNK):
        t = chunk * CHUNK + i
        row = x * n + t
        u = _row(u_ptr, row * d, channel, real & (t < n))
        delta = _row(delta_ptr, row * d, channel, real & (t < n))
        b = _row(b_ptr, row * s, state, (state < s) & (t < n))
        # the state before each step
        tl.store(states_ptr + i * s * d + tile, h, mask=inside)
        h = tl.exp(delta[None, :] * a) * h + b[:, None] * (delta * u)[None, :]
    # what was written may be read by another thread
    tl.debug_barrier()
    g = tl.load(after_ptr + place, mask=inside, other=0.0)
    grad_a = tl.zeros([BLOCK_S, BLOCK], tl.float32)
    for i in range(CHUNK):
        t = chunk * CHUNK + CHUNK - 1 - i
        row = x * n + t
        u = _row(u_ptr, row * d, channel, real & (t < n))
        delta = _row(delta_ptr, row * d, channel, real & (t < n))
        grad_y = _row(grad_y_ptr, row * d, channel, real & (t < n))
        held = (state < s) & (t < n)
        b, c = _row(b_ptr, row * s, state, held), _row(c_ptr, row * s, state, held)
        part = (row * tl.num_programs(2) + tl.program_id(2)) * s + state
        tl.store(grad_c_ptr + part, tl.sum(h * grad_y[None, :], axis=1), mask=held)
        g += c[:, None] * grad_y[None, :]
        tl.store(grad_b_ptr + part, tl.sum(g * (delta * u)[None, :], axis=1), mask=held)
        through = tl.sum(g * b[:, None], axis=0)
        g = tl.exp(delta[None, :] * a) * g
        h = tl.load(states_ptr + (CHUNK - 1 - i) * s * d + tile, mask=inside, other=0.0)
        # in the logarithm of the decay
        turn = g * h
        grad_a += turn * delta[None, :]
        grad_delta = u * through + tl.sum(turn * a, axis=0)
        tl.store(grad_u_ptr + row * d + channel, delta * through, mask=real & (t < n))
        tl.store(grad_delta_ptr + row * d + channel, grad_delta, mask=real & (t < n))
    tl.store(grad_a_ptr + place, grad_a, mask=inside)


CONFIGS = [triton.Config({}, num_warps=warps) for warps in (4, 2, 8)]
KEY = ("n", "d", "s")
ends_kernel = Tuned(selective_scan_ends, CONFIGS, KEY)
carries_kernel = Tuned(selective_scan_carries, CONFIGS, ("d", "s", "chunks"))
outputs_kernel = Tuned(selective_scan_outputs, CONFIGS, KEY)
ends_backward_kernel = Tuned(selective_scan_ends_backward, CONFIGS, KEY)
backward_kernel = Tuned(selective_scan_backward, CONFIGS, KEY)


def blocks(states: int) -> dict[str, int]:
    """Sides of a tile for S states, powers of 2."""
    block_s = triton.next_power_of_2(states)
    return {"BLOCK_S": block_s, "BLOCK": TILE // block_s}


def variants() -> Iterator[Variant]:
    """Every kernel at 16 states and at the most; those that read inputs in every dtype."""
    for dtype, states in (("float32", 16), ("bfloat16", 16), ("float16", TILE)):
        constants = {"CHUNK": CHUNK, **blocks(states)}
        for kernel in (ends_kernel, outputs_kernel, ends_backward_kernel, backward_kernel):
            found = kernel.variants(dtype, constants, pointer_kind("u b c"))
            yield from (v for v in found if v.default or dtype == "float32")
    for reverse, states in ((False, 16), (True, TILE)):
        constants = {"REVERSE": reverse, **blocks(states)}
        found = carries_kernel.variants("float32", constants, pointer_kind())
        yield from (v for v in found if v.default or states == 16)
