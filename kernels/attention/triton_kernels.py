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
from kernels.triton_tools import DTYPES, Tuned, Variant

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
        (2, 64): ((64, 32, 4, 1), (64, 64, 4, 1), (128, 64, 8, 2)),
        (2, 128): ((32, 32, 4, 1), (64, 32, 8, 2), (128, 64, 8, 2)),
        (4, 64): ((64, 32, 8, 1), (32, 32, 4, 1), (64, 64, 8, 1)),
        (4, 128): ((16, 32, 4, 1), (32, 32, 4, 1), (64, 32, 8, 1)),
    },
    "query_grad": {
        (2, 64): ((64, 32, 4, 2), (64, 64, 4, 2), (128, 64, 8, 2)),
        (2, 128): ((32, 32, 4, 1), (64, 32, 4, 2), (64, 64, 8, 2)),
        (4, 64): ((32, 16, 4, 1), (32, 32, 8, 1), (64, 32, 8, 1)),
        (4, 128): ((16, 16, 8, 1), (16, 32, 8, 1), (32, 32, 8, 1)),
    },
    "key_grad": {
        (2, 64): ((16, 64, 4, 1), (32, 32, 4, 2), (64, 64, 8, 2)),
        (2, 128): ((16, 32, 8, 1), (32, 32, 8, 1), (32, 64, 8, 2), (64, 64, 8, 1)),
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
    **dict.fromkeys(("lse_ptr", "d_lse_ptr", "delta_ptr", "scale", "cap"), "fp32"),
    **dict.fromkeys(("relative_ptr", "alibi_ptr"), "fp32"),
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


def filled(width: int, dtype: torch.dtype) -> int:
    """Columns of the matrices that kernels read: loads of single numbers, and with fp32 whatever
    does not fill a tile, would take more registers than there are."""
    return padded(width) if dtype == torch.float32 else -(-width // 8) * 8


def arithmetic(dtype: torch.dtype) -> dict[str, Any]:
    """The dtype of the operands of products, and whether they are split to keep all their bits."""
    dot = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[dtype]
    return {"DOT": dot, "SPLIT": dtype == torch.float32}


def kind_of(argument: str) -> str:
    """Triton's type of an argument that is no constant."""
    pointer = argument.endswith("_ptr")
    return f"*{TYPES.get(argument, '')}" if pointer else TYPES.get(argument, "i32")


def variants() -> Iterator[Variant]:
    """What the compile gate compiles of dense attention: with all that changes and hides scores in
    heads that do not fill their tiles, and whole tiles without any of it; all configurations of
    fp16 at width 64."""
    for dtype, width, full in (
        (torch.float16, 64, True), (torch.float16, 128, False),
        (torch.bfloat16, 64, False), (torch.bfloat16, 128, True),
        (torch.float32, 64, False), (torch.float32, 128, True),
    ):  # fmt: skip
        own = filled(width - 8 if full else width, dtype)
        constants = {
            **{"K": own, "V": own, "PADDED_K": width, "PADDED_V": width, "BLOCK": 0},
            **dict.fromkeys(("LEFT", "RIGHT", "MASKED", "RELATIVE", "ALIBI", "CAP"), full),
            **arithmetic(dtype),
        }
        form = "full" if full else "plain"
        for name in FUNCTIONS:
            found = tuned(name, dtype, width, 0).variants(
                str(dtype).removeprefix("torch."),
                constants,
                kind_of,
                name=f"attention_{name}-{width}-{form}",
            )
            yield from (v for v in found if v.default or (dtype, width) == (torch.float16, 64))
    for name, given in (*((name, True) for name in DTYPES), ("float16", False)):
        constants = {"V": 127, "PADDED_V": 128, "D_LSE": given}
        found = DELTA.variants(name, constants, kind_of)
        yield from (v for v in found if v.default or name == "float32")
