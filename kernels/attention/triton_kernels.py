"""Attention's Triton kernels with their configurations, by width and kind of a head.

Wide rows and split fp32 products need small tiles: what a program holds must fit into its
registers. Kernels that walk lists of key blocks take tiles that are no larger than a block.
"""

import functools
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from kernels.attention.triton_backward import (
    attention_delta,
    attention_key_grad,
    attention_query_grad,
)
from kernels.attention.triton_forward import attention_forward
from kernels.triton_tools import Tuned, Variant, interpreted

FUNCTIONS = {
    "forward": attention_forward,
    "query_grad": attention_query_grad,
    "key_grad": attention_key_grad,
}
# the widest head of each row of the table
WIDTHS = (64, 128)
# (queries, keys, warps, stages) of (bytes of a number, width); the first spills on no target
CONFIGS: dict[str, dict[tuple[int, int], tuple[tuple[int, int, int, int], ...]]] = {
    "forward": {
        (2, 64): ((64, 32, 4, 2), (64, 64, 4, 1), (128, 64, 8, 2)),
        (2, 128): ((32, 32, 4, 2), (64, 32, 8, 2), (128, 64, 8, 2)),
        (4, 64): ((64, 32, 8, 1), (32, 32, 4, 1), (64, 64, 8, 1)),
        (4, 128): ((16, 32, 4, 1), (32, 32, 4, 1), (64, 32, 8, 1)),
    },
    "query_grad": {
        (2, 64): ((64, 64, 4, 2), (64, 32, 4, 2), (128, 64, 8, 2)),
        (2, 128): ((32, 32, 4, 1), (64, 32, 4, 2), (64, 64, 8, 2)),
        (4, 64): ((32, 32, 4, 1), (32, 32, 8, 1), (64, 32, 8, 1)),
        (4, 128): ((16, 16, 8, 1), (16, 32, 8, 1), (32, 32, 8, 1)),
    },
    "key_grad": {
        (2, 64): ((32, 64, 4, 1), (32, 32, 4, 2), (64, 64, 8, 2)),
        (2, 128): ((32, 32, 8, 1), (32, 64, 8, 2), (64, 64, 8, 1)),
        (4, 64): ((16, 32, 4, 1), (32, 16, 4, 1), (32, 32, 8, 1)),
        (4, 128): ((16, 16, 4, 1), (16, 32, 8, 1), (32, 32, 8, 1)),
    },
}
# what may change which configuration is fastest
KEY = ("PADDED_K", "PADDED_V", "LEFT", "RIGHT")
DELTA = Tuned(
    attention_delta, tuple(triton.Config({"BM": m}, num_warps=4) for m in (32, 64)), ("PADDED_V",)
)
TYPES = {
    **dict.fromkeys(("lse_ptr", "d_lse_ptr", "delta_ptr", "alibi_ptr", "scale", "cap"), "fp32"),
    **dict.fromkeys(("offsets_ptr", "indices_ptr", "mask_ids_ptr"), "i32"),
    **dict.fromkeys(("key_mask_ptr", "masks_ptr"), "u8"),
}


@functools.cache
def tuned(name: str, dtype: torch.dtype, width: int, block: int) -> Tuned:
    """A kernel for heads of a padded width, with lists of blocks of that size (0: none)."""
    row = (dtype.itemsize, min(w for w in WIDTHS if width <= w))
    tiles = [(*(min(t, block or t) for t in c[:2]), *c[2:]) for c in CONFIGS[name][row]]
    configs = [
        triton.Config({"BM": m, "BN": n}, num_warps=warps, num_stages=stages)
        for m, n, warps, stages in dict.fromkeys(tiles)
    ]
    return Tuned(FUNCTIONS[name], tuple(configs), KEY)


def padded(width: int) -> int:
    """Columns of a tile: products of matrices want a power of two, at least 16."""
    return max(16, triton.next_power_of_2(width))


def arithmetic(dtype: torch.dtype) -> dict[str, Any]:
    """The dtype of the operands of products, and whether they are split to keep all their bits.

    The interpreter multiplies the bit patterns of bf16: there it becomes fp32.
    """
    dot = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[dtype]
    if interpreted() and dtype == torch.bfloat16:
        dot = tl.float32
    return {"DOT": dot, "SPLIT": dtype == torch.float32}


def kind_of(argument: str) -> str:
    """Triton's type of an argument that is no constant."""
    pointer = argument.endswith("_ptr")
    return f"*{TYPES.get(argument, '')}" if pointer else TYPES.get(argument, "i32")


def variants() -> Iterator[Variant]:
    """What the compile gate compiles of dense attention."""
    yield from variants_of(0)
    constants = {"V": 64, "PADDED_V": 64, "D_LSE": True}
    yield from DELTA.variants("float16", constants, kind_of)


def variants_of(block: int) -> Iterator[Variant]:
    """Every default in each row of the tables, all configurations of fp16 at width 64; with all
    that changes and hides scores, and lists of blocks of that size (0: none)."""
    for dtype, width in (
        (torch.float16, 64), (torch.bfloat16, 128), (torch.float32, 64), (torch.float32, 128),
    ):  # fmt: skip
        constants = {
            **{"K": width, "V": width, "PADDED_K": width, "PADDED_V": width, "BLOCK": block},
            **dict.fromkeys(("LEFT", "RIGHT", "ALIBI", "CAP"), not block),
            **{"MASKED": True, **arithmetic(dtype)},
        }
        kind = "block_sparse" if block else "attention"
        for name in FUNCTIONS:
            found = tuned(name, dtype, width, block).variants(
                str(dtype).removeprefix("torch."), constants, kind_of, name=f"{kind}_{name}-{width}"
            )
            yield from (v for v in found if v.default or dtype == torch.float16)
