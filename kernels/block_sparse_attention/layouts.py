"""Layouts of published patterns: their definition in index arithmetic, and the blocks it can touch.

Every function takes the length n and the block size, and gives one layout; equal calls give the
same object, so that what backends derive from it is made once. Unite layouts with ``|``, and make
them causal with ``.causal()``. Positions count from 0; i is a query and j a key.

The work is that of the touched blocks: a pattern that is finer than the block (stride 8 in blocks
of 64) touches all of them, and costs as much as dense attention. ``Layout.density`` tells.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from kernels.block_sparse_attention.layout import Layout, build
from kernels.geometry import geometry

P = ParamSpec("P")


def cached(function: Callable[P, Layout]) -> Callable[P, Layout]:
    """Keeps the last layouts, and makes them of real numbers whatever runs around."""
    return cast(Callable[P, Layout], functools.lru_cache(maxsize=32)(geometry(function)))


@cached
def band(n: int, block: int, left: int, right: int, dilation: int = 1) -> Layout:
    """``-left <= j - i <= right`` and ``(j - i) mod dilation = 0``.

    The window of Longformer (arXiv 2004.05150, section 3.1) with its dilation.
    """
    _at_least(0, left=left, right=right)
    _at_least(1, n=n, block=block, dilation=dilation)

    def near(d: Tensor) -> Tensor:
        return (d >= -left) & (d <= right) & (d % dilation == 0)

    return build(n, n, block, _by_difference(n, block, near)[None], lambda h, i, j: near(j - i))


@cached
def strided(n: int, block: int, stride: int, *, causal: bool = True, local: bool = True) -> Layout:
    """``i - j < stride`` or ``(i - j) mod stride = 0``, of the keys j <= i.

    Sparse Transformer, strided (Child et al. 2019, arXiv 1904.10509, section 4.3); ``local=False``
    leaves the second set only. Not causal: |i - j| in the place of i - j.
    """
    _at_least(1, n=n, block=block, stride=stride)

    def seen(d: Tensor) -> Tensor:
        far = d % stride == 0
        return ((far | (d.abs() < stride)) if local else far) & ((d <= 0) | (not causal))

    return build(n, n, block, _by_difference(n, block, seen)[None], lambda h, i, j: seen(j - i))


@cached
def fixed(
    n: int, block: int, stride: int, summary: int, *, causal: bool = True, local: bool = True
) -> Layout:
    """``floor(i / stride) = floor(j / stride)`` or ``j mod stride >= stride - summary``, j <= i.

    Sparse Transformer, fixed (Child et al. 2019, arXiv 1904.10509, section 4.3): the last
    ``summary`` positions of each stretch are seen by all; ``local=False`` leaves these only. Not
    causal: the same without j <= i.
    """
    _at_least(1, n=n, block=block, stride=stride, summary=summary)

    def told(j: Tensor) -> Tensor:
        return j % stride >= stride - summary

    def visible(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = told(j) | ((i // stride == j // stride) & local)
        return seen & (j <= i) if causal else seen

    blocks = _holding(told(torch.arange(n)), block)[None, :] | _same_stretch(n, block, stride)
    return build(n, n, block, (blocks.tril() if causal else blocks)[None], visible)


@cached
def bigbird(
    n: int,
    block: int,
    *,
    window_blocks: int = 3,
    global_blocks: int = 2,
    random_blocks: int = 3,
    heads: int = 1,
    seed: int = 0,
) -> Layout:
    """Blocks nearby, blocks that see and are seen by all, and random ones.

    BigBird (Zaheer et al. 2020, arXiv 2007.14062, section 2 and appendix D), internal global
    blocks: of ``global_blocks`` the first half lies at the beginning and the rest at the end.
    Each query block also sees the ``window_blocks`` around its own (odd), and ``random_blocks``
    others, drawn from ``seed`` for each head.
    """
    _at_least(1, n=n, block=block, heads=heads)
    _at_least(0, global_blocks=global_blocks, random_blocks=random_blocks)
    if window_blocks % 2 == 0:
        raise ValueError(f"window_blocks must be odd, got {window_blocks}")
    count = -(-n // block)
    at = torch.arange(count)
    blocks = (at[:, None] - at).abs() <= window_blocks // 2
    outer = (at < (global_blocks + 1) // 2) | (at >= count - global_blocks // 2)
    blocks = blocks | outer | outer[:, None]
    generator = torch.Generator().manual_seed(seed)
    luck = torch.rand(heads, count, count, generator=generator).masked_fill(blocks, -1)
    drawn = luck.topk(min(random_blocks, count), dim=-1)
    chosen = torch.zeros(luck.shape, dtype=torch.bool).scatter_(
        -1, drawn.indices, drawn.values >= 0
    )
    return build(n, n, block, blocks | chosen)


@cached
def axial(n: int, block: int, width: int, *, row: bool = True, column: bool = True) -> Layout:
    """``floor(i / width) = floor(j / width)`` (row) or ``i mod width = j mod width`` (column).

    Axial attention over an image of ``width`` columns, read row by row (Ho et al. 2019, arXiv
    1912.12180).
    """
    _at_least(1, n=n, block=block, width=width)
    if not (row or column):
        raise ValueError("axial needs row, column or both")

    def visible(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return ((i // width == j // width) & row) | (((j - i) % width == 0) & column)

    blocks = _same_stretch(n, block, width) & row
    blocks = blocks | (_by_difference(n, block, lambda d: d % width == 0) & column)
    return build(n, n, block, blocks[None], visible)


@cached
def global_tokens(n: int, block: int, tokens: tuple[int, ...]) -> Layout:
    """``i in tokens or j in tokens or i = j``: they see all and are seen by all (ETC, Longformer).

    The global part of arXiv 2004.08483 and 2004.05150; unite it with a ``band``.
    """
    _at_least(1, n=n, block=block)
    if not all(0 <= token < n for token in tokens):
        raise ValueError(f"tokens must be positions 0 .. {n - 1}, got {tokens}")
    count = -(-n // block)
    chosen = torch.zeros(count * block, dtype=torch.bool)
    chosen[list(tokens)] = True
    hubs = _holding(chosen, block)
    blocks = hubs | hubs[:, None] | torch.eye(count, dtype=torch.bool)
    return build(n, n, block, blocks[None], lambda h, i, j: chosen[i] | chosen[j] | (i == j))


@cached
def star(n: int, block: int, *, relays: int = 1, reach: int = 1) -> Layout:
    """``|i - j| <= reach``, and the first ``relays`` positions see all and are seen by all.

    Star-Transformer (Guo et al. 2019, arXiv 1902.09113), open at the ends; position 0 is the relay.
    """
    _at_least(1, n=n, block=block, relays=relays)
    ring = band(n, block, reach, reach)
    return ring | global_tokens(n, block, tuple(range(min(relays, n))))


@cached
def log_sparse(
    n: int,
    block: int,
    *,
    causal: bool = True,
    local: int = 1,
    restart: int | None = None,
    dense: int = 0,
) -> Layout:
    """``i - j = 0, 1, 2, 4, 8, ...``: of the order of log n keys a query.

    LogSparse Transformer (Li et al. 2019, arXiv 1907.00235, section 4.2). Its variants:

    Args:
        causal: False takes the same distances on both sides.
        local: this many nearest keys are all seen, and the powers of two count from the last one.
        restart: the pattern begins again every ``restart`` keys.
        dense: queries before this position see every key (every earlier one if causal).
    """
    _at_least(1, n=n, block=block, local=local, restart=restart or 1)

    def seen(d: Tensor) -> Tensor:
        far = d.abs() if restart is None else d.abs() % restart
        beyond = far - (local - 1)
        power = (beyond > 0) & (beyond & (beyond - 1) == 0)
        return (power | (far < local)) & ((d <= 0) | (not causal))

    def visible(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return seen(j - i) | ((i < dense) & ((j <= i) | (not causal)))

    early = _holding(torch.arange(n) < dense, block)
    blocks = _by_difference(n, block, seen) | early[:, None]
    return build(n, n, block, (blocks.tril() if causal else blocks)[None], visible)


@cached
def dilated(n: int, block: int, segment: int, dilation: int, heads: int = 1) -> Layout:
    """``floor(i / segment) = floor(j / segment)`` and ``i = j = head (mod dilation)``.

    One pattern of LongNet (Ding et al. 2023, arXiv 2307.02486, section 3.2), the offset counted
    inside the segment. The other queries see nothing, and have the log-sum-exp -inf: merge several
    patterns by ``kernels.merge_attention``.
    """
    _at_least(1, n=n, block=block, segment=segment, dilation=dilation, heads=heads)

    def kept(h: Tensor, i: Tensor) -> Tensor:
        return i % segment % dilation == h % dilation

    def visible(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i // segment == j // segment) & kept(h, i) & kept(h, j)

    blocks = _same_stretch(n, block, segment)
    return build(n, n, block, blocks.expand(heads, -1, -1), visible)


# -- which blocks a rule can touch ---------------------------------------------------------------


def _by_difference(n: int, block: int, seen: Callable[[Tensor], Tensor]) -> Bool[Tensor, "R R"]:
    """Blocks that hold a pair with a visible ``j - i``."""
    count = -(-n // block)
    distances = torch.arange(-count * block, count * block + 1)
    before = torch.cat([torch.zeros(1, dtype=torch.long), seen(distances).long().cumsum(0)])
    # of blocks that lie D apart, the pairs lie (D - 1) block + 1 .. (D + 1) block - 1 apart
    low = torch.arange(-(count - 1), count) * block - (block - 1) + count * block
    touched = before[low + 2 * block - 1] > before[low]
    return touched.unfold(0, count, 1).flip(0)


def _same_stretch(n: int, block: int, length: int) -> Bool[Tensor, "R R"]:
    """Blocks that share a stretch of ``length`` positions, counted from 0."""
    start = torch.arange(-(-n // block)) * block
    first, last = start // length, (start + block - 1) // length
    return (first[:, None] <= last) & (first <= last[:, None])


def _holding(chosen: Bool[Tensor, " n"], block: int) -> Bool[Tensor, " R"]:
    """Blocks that hold a chosen position."""
    places = chosen.nonzero().flatten() // block
    return torch.bincount(places, minlength=-(-len(chosen) // block)) > 0


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
