"""Block-sparse attention as its definition: dense attention with the other pairs hidden."""

import torch
from torch import Tensor

from kernels.attention import reference
from kernels.attention.score import Score
from kernels.block_sparse_attention.layout import Layout


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
    batch, heads = q.shape[:2]
    seen = layout.matrix()
    seen = seen.unflatten(0, (-1, heads)) if layout.heads == batch * heads else seen[None]
    hidden = torch.zeros(seen.shape, dtype=q.dtype, device=q.device)
    return reference.run(
        q,
        k,
        v,
        causal=False,
        window=None,
        key_mask=key_mask,
        score=Score(bias=hidden.masked_fill(~seen, -torch.inf), alibi=alibi),
        scale=scale,
        dropout_p=0.0,
        return_lse=return_lse,
    )
