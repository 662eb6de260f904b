"""Attention tile by tile in plain torch: memory O(N), and O(N w) time under a window.

Only the inputs are kept for the backward pass, which computes the scores of each tile once more
(Rabe and Staats 2021, arXiv 2112.05682; gradients as in FlashAttention, arXiv 2205.14135, appendix
B). A tile holds every key that its queries see, so no running maximum is needed.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.attention.call import Call, Gradients, Plan
from kernels.attention.dropout import draw
from kernels.attention.score import Score, repeat_heads
from kernels.attention.tiles import At, Band, Tile, groups, put

# scores held at once: what fits in a CPU's cache, what fills another device
BUDGET = {"cpu": 1 << 19}
BUDGET_ELSEWHERE = 1 << 24


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
    k, v = repeat_heads(k, q), repeat_heads(v, q)
    left, right = window or (None, None)
    band = Band(q.shape[2], k.shape[2], left, 0 if causal else right)
    plan = Plan(band, scale, score.soft_cap, score.activation, dropout_p, return_lse)
    bits: tuple[Tensor | None, Tensor | None] = (None, None)
    if dropout_p:
        bits = (draw((*q.shape[:3], 1), q.device), draw((*k.shape[:3], 1), k.device))
    table = None if score.relative is None else score.relative.expand(q.shape[1], -1)
    scores = (score.bias, table, score.alibi)
    out, lse = TiledAttention.apply(q, k, v, *scores, key_mask, *bits, plan)
    return (out, lse) if return_lse else out


class TiledAttention(torch.autograd.Function):
    """Output and log-sum-exp (None if not wanted); queries, keys and values have H heads each."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor | None]:
        *tensors, plan = args
        ctx.save_for_backward(*tensors)
        ctx.plan = plan
        call = Call(tensors, plan)
        out = call.q.new_empty((*call.q.shape[:3], call.v.shape[-1]))
        lse = call.q.new_empty(call.q.shape[:3], dtype=call.wide) if plan.return_lse else None
        with torch.autocast(out.device.type, enabled=False):
            for at, tile in work(call):
                y, tile_lse = call.attend(at, tile)
                put(out, y, at, tile)
                if lse is not None and tile_lse is not None:
                    put(lse, tile_lse, at, tile)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        call = Call(ctx.saved_tensors, ctx.plan)
        grads = Gradients(call, ctx.needs_input_grad)
        if not call.plan.return_lse:
            d_lse = None
        with torch.autocast(d_out.device.type, enabled=False):
            for at, tile in work(call):
                call.attend_backward(at, tile, d_out, d_lse, grads)
        biases = (grads.bias, grads.relative, grads.alibi)
        found = (grads.q.mul_(call.plan.scale), grads.k, grads.v, *biases)
        inputs = (call.q, call.k, call.v, call.bias, call.relative, call.alibi)
        cast = (None if g is None else g.to(x.dtype) for g, x in zip(found, inputs, strict=True))
        return *cast, None, None, None, None


def work(call: Call) -> Iterator[tuple[At, Tile]]:
    """Every tile, for as many heads at once as the budget holds."""
    budget = BUDGET.get(call.q.device.type, BUDGET_ELSEWHERE)
    batch, heads = call.q.shape[:2]
    for tile in call.plan.band.tiles(budget, blocked=call.bias is None):
        for at in groups(batch, heads, budget // tile.scores):
            yield at, tile
