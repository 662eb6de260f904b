"""torch's fused attention, and only where it is fused: its fallback would fill N x M matrices."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.cuda import (
    SDPAParams,
    can_use_cudnn_attention,
    can_use_efficient_attention,
    can_use_flash_attention,
)
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.attention.score import Score, repeat_heads

FUSED = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
]


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
    """Why torch has no fused kernel for this call, or None."""
    if return_lse:
        return "it returns no differentiable log-sum-exp"
    if window is not None:
        return "it has no window"
    if any(x is not None for x in (score.bias, score.relative, score.alibi)):
        return "a bias would have to be an N x M tensor without a gradient"
    if score.soft_cap is not None or score.activation != "softmax":
        return "it has no soft cap and no weights but the softmax"
    if causal and q.shape[2] not in (1, k.shape[2]):
        return "its causal mask is aligned top-left where queries and keys differ in number"
    if causal and key_mask is not None and q.shape[2] > 1:
        return "it takes a causal mask or a key mask, not both"
    if q.device.type == "cpu" and dropout_p:
        return "its CPU kernel has no dropout"
    if q.device.type == "cpu" and q.shape[-1] != v.shape[-1]:
        return "its CPU kernel needs keys and values of one width"
    if q.device.type == "cuda" and not has_cuda_kernel(q, k, v, key_mask, dropout_p, causal):
        return "it has no fused CUDA kernel for these shapes and this dtype"
    return None


def has_cuda_kernel(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, dropout_p: float, causal: bool
) -> bool:
    """Whether torch says that one of its fused CUDA kernels takes the call."""
    q, k, v = map(side_by_side, (q, k, v))
    k, v = (x[:, :1].expand(-1, q.shape[1], -1, -1) for x in (k, v))
    mask = None if key_mask is None else key_mask[:, None, None, :]
    call = SDPAParams(q, k, v, mask, dropout_p, causal and q.shape[2] > 1, False)
    kernels = (can_use_flash_attention, can_use_efficient_attention, can_use_cudnn_attention)
    return any(can_use(call) for can_use in kernels)


def side_by_side(x: Tensor) -> Tensor:
    """With the channels of a head side by side in memory, as the fused kernels want them."""
    return x if x.stride(-1) == 1 else x.contiguous()


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
    q, k, v = map(side_by_side, (q, k, v))
    k, v = repeat_heads(k, q), repeat_heads(v, q)
    mask = nothing = None
    if key_mask is not None:
        mask = key_mask[:, None, None, :]
        if q.device.type != "cpu":
            # torch's CPU kernel gives zeros to rows without a key by itself, others may give NaN
            nothing = ~mask.any(-1, keepdim=True)
            mask = mask | nothing
    with sdpa_kernel(FUSED):
        out = F.scaled_dot_product_attention(
            q, k, v, mask, dropout_p=dropout_p, is_causal=causal and q.shape[2] > 1, scale=scale
        )
    return out if nothing is None else torch.where(nothing, 0, out)
