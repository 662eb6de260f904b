"""Attention as its definition: one N x M matrix. Any dtype, autograd, memory O(N M)."""

import torch
from torch import Tensor

from kernels.attention.dropout import draw, kept
from kernels.attention.relative import entry
from kernels.attention.score import Score, elementwise, repeat_heads


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
) -> Tensor | tuple[Tensor, Tensor]:
    n, m = q.shape[2], k.shape[2]
    k, v = repeat_heads(k, q), repeat_heads(v, q)
    # the last query sits beside the last key
    relative = torch.arange(m, device=q.device) - torch.arange(m - n, m, device=q.device)[:, None]
    s = scores(q, k, score, scale, relative)
    visible = torch.ones_like(relative, dtype=torch.bool)
    if causal:
        visible = visible & (relative <= 0)
    if window is not None:
        visible = visible & (relative >= -window[0]) & (relative <= window[1])
    if key_mask is not None:
        visible = visible & key_mask[:, None, None, :]
    if score.bias is not None:
        visible = visible & (score.bias != -torch.inf)
    nothing = ~visible.any(-1, keepdim=True)
    # a row without any key: scores that have a softmax, and then weights of zero
    s = s.masked_fill(~visible, -torch.inf).masked_fill(nothing, 0)
    if score.activation == "softmax":
        p = torch.softmax(s, dim=-1)
    else:
        p = elementwise(s, score.activation)
    p = p.masked_fill(~visible, 0)
    if dropout_p:
        queries, keys = (draw((*x.shape[:3], 1), x.device) for x in (q, k))
        p = p * kept(queries, keys.transpose(-1, -2), dropout_p) / (1 - dropout_p)
    if not return_lse:
        return p @ v
    lse = s.logsumexp(-1).masked_fill(nothing.squeeze(-1), -torch.inf)
    return p @ v, lse.to(torch.promote_types(lse.dtype, torch.float32))


def scores(q: Tensor, k: Tensor, score: Score, scale: float, relative: Tensor) -> Tensor:
    """Scores of every pair, whether visible or not; ``relative`` is key minus query position."""
    s = q @ k.transpose(-1, -2) * scale
    if score.soft_cap is not None:
        s = score.soft_cap * torch.tanh(s / score.soft_cap)
    if score.bias is not None:
        s = s + score.bias
    if score.relative is not None:
        s = s + score.relative[:, entry(score.relative, relative)]
    if score.alibi is not None:
        s = s - score.alibi[:, None, None] * relative.abs().to(s.dtype)
    return s
