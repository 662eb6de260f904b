"""Block-sparse attention has the kernels of attention, made to walk lists of key blocks."""

import functools
from collections.abc import Iterator

import torch
import triton

from kernels.attention import triton_kernels as dense
from kernels.triton_tools import Tuned, Variant

# (queries, keys, warps, stages) that come first where dense attention's first would spill
FIRST = {("forward", 2, 64): (64, 32, 4, 2), ("key_grad", 2, 64): (32, 64, 4, 1)}


@functools.cache
def tuned(name: str, dtype: torch.dtype, width: int, block: int) -> Tuned:
    """A kernel for heads of a padded width and lists of blocks of that size."""
    found = dense.tuned(name, dtype, width, block)
    first = FIRST.get((name, dtype.itemsize, width))
    if first is None or block < 64:
        return found
    m, n, warps, stages = first
    config = triton.Config({"BM": m, "BN": n}, num_warps=warps, num_stages=stages)
    return Tuned(found.fn, (config, *found.configs), found.key)


def filled(width: int, dtype: torch.dtype) -> int:
    """Columns of the matrices that kernels read: narrow heads fill their tiles."""
    return dense.filled(width, dtype) if width > 64 else dense.padded(width)


def variants() -> Iterator[Variant]:
    """Every size of blocks, every dtype, every width: the first configurations."""
    for dtype, width, block, masked in (
        (torch.float16, 64, 64, True), (torch.float16, 128, 16, True),
        (torch.bfloat16, 64, 32, False), (torch.bfloat16, 128, 128, True),
        (torch.float32, 64, 256, True), (torch.float32, 128, 64, True),
    ):  # fmt: skip
        own = filled(width - 8, dtype)
        constants = {
            **{"K": own, "V": own, "PADDED_K": width, "PADDED_V": width, "BLOCK": block},
            **dict.fromkeys(("LEFT", "RIGHT", "RELATIVE", "ALIBI", "CAP"), False),
            **{"MASKED": masked, **dense.arithmetic(dtype)},
        }
        for name in dense.FUNCTIONS:
            found = tuned(name, dtype, width, block).variants(
                str(dtype).removeprefix("torch."),
                constants,
                dense.kind_of,
                name=f"block_sparse_{name}-{width}-b{block}",
            )
            yield from (v for v in found if v.default)
