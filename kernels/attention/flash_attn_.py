"""The flash-attn library (Dao, https://github.com/Dao-AILab/flash-attention), version 2.

It has sequences before heads, aligns causal masks and windows bottom-right and includes both ends
of a window, as here; its -1 is no bound. Its log-sum-exp carries no gradient.
"""

import torch
from torch import Tensor

from kernels.attention.score import Score
from kernels.libraries import why_not

WIDEST = 256


def available() -> str | None:
    """Why it does not run here, or None."""
    return why_not("flash_attn", capability=(8, 0))


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
        return "it has no key mask"
    if score.bias is not None or score.relative is not None:
        return "it has no bias but ALiBi's slopes"
    if score.activation != "softmax":
        return f"it has the softmax only, not '{score.activation}'"
    if score.alibi is not None and score.alibi.requires_grad and torch.is_grad_enabled():
        return "it gives no gradient to score.alibi"
    if score.soft_cap is not None and dropout_p:
        return "it has no dropout beside a soft cap"
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"it has fp16 and bf16 only, not {q.dtype}"
    if q.shape[-1] != v.shape[-1] or q.shape[-1] > WIDEST:
        return f"it needs keys and values of one width, at most {WIDEST}"
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
    from flash_attn import flash_attn_func

    out = flash_attn_func(
        *(x.transpose(1, 2) for x in (q, k, v)),
        dropout_p=dropout_p,
        softmax_scale=scale,
        causal=causal,
        window_size=window or (-1, -1),
        softcap=score.soft_cap or 0.0,
        alibi_slopes=None if score.alibi is None else score.alibi.float(),
    )
    return out.transpose(1, 2)
