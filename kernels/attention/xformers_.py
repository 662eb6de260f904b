"""xFormers' memory-efficient attention (https://github.com/facebookresearch/xformers).

It has sequences before heads. Its masks named "from bottom right" align causal masks and windows as
here, both ends of a window included.
"""

from typing import Any

import torch
from torch import Tensor

from kernels.attention.score import Score, repeat_heads
from kernels.attention.sdpa import side_by_side
from kernels.libraries import why_not

# heads of its kernel with windows, which is FlashAttention's
WIDEST = 256
# what it reads at once
ALIGNED_BYTES = 16


def available() -> str | None:
    """Why it does not run here, or None."""
    return why_not("xformers.ops")


def supports(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    window: tuple[int, int] | None,
    key_mask: Tensor | None,
    score: Score,
    scale: float,
    dropout_p: float,
    return_lse: bool,
) -> str | None:
    """Why it cannot do this call, or None."""
    if return_lse:
        return "its log-sum-exp has no gradient"
    if key_mask is not None:
        return "a key mask would have to be an N x M tensor"
    if any(x is not None for x in (score.bias, score.relative, score.alibi)):
        return "a bias would have to be an N x M tensor"
    if score.soft_cap is not None or score.activation != "softmax":
        return "it has no soft cap and no weights but the softmax"
    if (causal or window is not None) and q.shape[2] > k.shape[2]:
        return "it does not say what queries without keys get"
    if q.dtype == torch.float64:
        return "it has no fp64"
    if any(x.shape[-1] * x.element_size() % ALIGNED_BYTES for x in (q, v)):
        return f"it needs heads of multiples of {ALIGNED_BYTES} bytes"
    if window is not None:
        if q.dtype == torch.float32:
            return "it has windows in fp16 and bf16 only"
        if q.shape[-1] != v.shape[-1] or q.shape[-1] > WIDEST:
            return f"its windows need keys and values of one width, at most {WIDEST}"
    return "its tensors must be on a GPU" if q.device.type != "cuda" else None


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    window: tuple[int, int] | None,
    key_mask: Tensor | None,
    score: Score,
    scale: float,
    dropout_p: float,
    return_lse: bool,
) -> Tensor:
    from xformers.ops import fmha, memory_efficient_attention

    masks: Any = fmha.attn_bias
    mask = None
    if window is not None:
        right = 0 if causal else window[1]
        mask = masks.LocalAttentionFromBottomRightMask(window_left=window[0], window_right=right)
    elif causal:
        mask = masks.LowerTriangularFromBottomRightMask()
    q, k, v = map(side_by_side, (q, k, v))
    k, v = repeat_heads(k, q), repeat_heads(v, q)
    out = memory_efficient_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), attn_bias=mask, p=dropout_p, scale=scale
    )
    return out.transpose(1, 2)
