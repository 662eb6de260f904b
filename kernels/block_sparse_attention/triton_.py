"""Block-sparse attention in Triton: attention's kernels along the lists of a layout; compiled and
emulated so far."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.attention.triton_ import FlashAttention, Lists, Plan, supports_tensors
from kernels.block_sparse_attention.layout import Layout
from kernels.block_sparse_attention.triton_kernels import filled, tuned
from kernels.triton_tools import available as available

# of which the kernels can take whole tiles
BLOCKS = (16, 32, 64, 128, 256)


def supports(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layout: Layout,
    key_mask: Tensor | None,
    alibi: Tensor | None,
    scale: float,
    return_lse: bool,
) -> str | None:
    """Why the kernels cannot do this call, or None."""
    if alibi is not None:
        return "it has no alibi"
    if layout.block not in BLOCKS:
        sizes = ", ".join(map(str, BLOCKS))
        return f"its blocks have {sizes} positions, not {layout.block}"
    return supports_tensors(q, v)


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    layout: Layout,
    key_mask: Tensor | None,
    alibi: Tensor | None,
    scale: float,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    lists = Lists(
        layout.block,
        layout.heads,
        (layout.offsets, layout.indices, layout.mask_ids),
        layout.transposed(),
        layout.masks.view(torch.uint8),
        tuned,
    )
    plan = Plan(scale, key_mask=key_mask, lists=lists)
    out, lse = FlashAttention.apply(*(_filled(x) for x in (q, k, v)), plan)
    out = out[..., : v.shape[-1]]
    return (out, lse) if return_lse else out


def _filled(x: Tensor) -> Tensor:
    """Rows with zeros behind them, in the width that the kernels take."""
    missing = filled(x.shape[-1], x.dtype) - x.shape[-1]
    return pad(x, (0, missing)) if missing else x
