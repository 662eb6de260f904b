"""xFormers' memory-efficient attention (https://github.com/facebookresearch/xformers).

It has sequences before heads. Its masks named "from bottom right" align causal masks and windows as
here, both ends of a window included.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from kernels.attention.score import Score, repeat_heads


def available() -> str | None:
    """Why it does not run here, or None."""
    if find_spec("xformers") is None:
        return "xformers is not installed (extra `gpu`)"
    return None if torch.cuda.is_available() else "it needs a GPU"


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
    if score.bias is not None or score.alibi is not None:
        return "a bias would have to be an N x M tensor"
    if score.soft_cap is not None or score.activation != "softmax":
        return "it has no soft cap and no weights but the softmax"
    if (causal or window is not None) and q.shape[2] > k.shape[2]:
        return "it does not say what queries without keys get"
    if q.dtype == torch.float64:
        return "it has no fp64"
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
    k, v = repeat_heads(k, q), repeat_heads(v, q)
    out = memory_efficient_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), attn_bias=mask, p=dropout_p, scale=scale
    )
    return out.transpose(1, 2)
