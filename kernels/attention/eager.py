"""Attention tile by tile in plain torch: memory O(N), and O(N w) time under a window.

Only the inputs are kept for the backward pass, which computes the scores of each tile once more
(Rabe and Staats 2021, arXiv 2112.05682; gradients as in FlashAttention, arXiv 2205.14135, appendix
B). A tile holds every key that its queries see, so no running maximum is needed.

Legend: Z heads taken at once, G blocks, b queries of a block, L keys of a block.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.attention.dropout import draw
from kernels.attention.heads import Heads, Plan
from kernels.attention.score import Score
from kernels.attention.tiles import Band, Tile, add_cut, cut

# scores held at once: what fits in a CPU's cache, what fills another device
BUDGET = {"cpu": 1 << 18}
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
    n, m = q.shape[2], k.shape[2]
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    left, right = window or (None, None)
    band = Band(n, m, left, 0 if causal else right)
    plan = Plan(band, scale, score.soft_cap, score.activation, dropout_p, return_lse)
    bits: tuple[Tensor | None, Tensor | None] = (None, None)
    if dropout_p:
        bits = (draw((*q.shape[:3], 1), q.device), draw((*k.shape[:3], 1), q.device))
    out, lse = TiledAttention.apply(q, k, v, score.bias, score.alibi, key_mask, *bits, plan)
    return (out, lse) if return_lse else out


class TiledAttention(torch.autograd.Function):
    """Output and log-sum-exp (None if not wanted); queries, keys and values have H heads each."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor | None]:
        *tensors, plan = args
        ctx.save_for_backward(*tensors)
        ctx.plan = plan
        q, _, v = tensors[:3]
        out = q.new_empty((*q.shape[:3], v.shape[-1]))
        lse = q.new_empty(q.shape[:3], dtype=wide(q)) if plan.return_lse else None
        with torch.autocast(q.device.type, enabled=False):
            for heads, tile in work(tensors, plan):
                y, tile_lse = heads.attend(tile)
                put(out, y, heads, tile)
                if lse is not None and tile_lse is not None:
                    put(lse, tile_lse, heads, tile)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, bias, alibi = (tensors := ctx.saved_tensors)[:5]
        plan = ctx.plan
        d_q, d_k = torch.empty_like(q, memory_format=torch.contiguous_format), zeros(k)
        d_v = zeros(v)
        d_bias = zeros(bias) if ctx.needs_input_grad[3] else None
        d_alibi = zeros(alibi) if ctx.needs_input_grad[4] else None
        with torch.autocast(d_out.device.type, enabled=False):
            for heads, tile in work(tensors, plan):
                at = heads.at
                d_y = cut(d_out[at].flatten(0, 1), tile.query, tile.blocks, tile.rows, tile.rows)
                d_l = None
                if plan.return_lse and d_lse is not None:
                    d_l = cut(
                        d_lse[at].flatten(0, 1), tile.query, tile.blocks, tile.rows, tile.rows
                    )
                grads = heads.attend_backward(tile, d_y, d_l)
                put(d_q, grads.q, heads, tile)
                add_cut(d_k[at].flatten(0, 1), grads.k, tile.key, tile.rows)
                add_cut(d_v[at].flatten(0, 1), grads.v, tile.key, tile.rows)
                if d_bias is not None:
                    heads.add_bias_gradient(d_bias, grads.scores, tile)
                if d_alibi is not None:
                    heads.add_alibi_gradient(d_alibi, grads.scores, tile)
        inputs = (d_q.mul_(plan.scale), d_k.to(k.dtype), d_v.to(v.dtype))
        biases = (
            None if g is None else g.to(x.dtype) for g, x in ((d_bias, bias), (d_alibi, alibi))
        )
        return *inputs, *biases, None, None, None, None


def work(tensors: Sequence[Any], plan: Plan) -> Iterator[tuple[Heads, Tile]]:
    """Every tile of every group of heads: whole examples at once if small, else a few heads."""
    q, bias = tensors[0], tensors[3]
    budget = BUDGET.get(q.device.type, BUDGET_ELSEWHERE)
    tiles, at_once = plan.band.tiles(budget, one_block=bias is not None)
    batch, heads = q.shape[:2]
    examples, wide = (max(1, at_once // heads), min(at_once, heads))
    common: dict[tuple[int, ...], Tensor] = {}
    for b in range(0, batch, examples):
        for h in range(0, heads, wide):
            group = Heads(tensors, (slice(b, b + examples), slice(h, h + wide)), plan, common)
            for tile in tiles:
                yield group, tile


def put(whole: Tensor, part: Tensor, heads: Heads, tile: Tile) -> None:
    """Writes the rows of a tile ``(Z, G, b, ...)`` where they belong in ``(B, H, N, ...)``."""
    stop = min(tile.query + tile.blocks * tile.rows, whole.shape[2])
    rows = part.flatten(1, 2)[:, : stop - tile.query]
    whole[heads.at].flatten(0, 1)[:, tile.query : stop] = rows


def wide(x: Tensor) -> torch.dtype:
    """The dtype that sums are held in."""
    return torch.promote_types(x.dtype, torch.float32)


def zeros(x: Tensor) -> Tensor:
    return torch.zeros(x.shape, dtype=wide(x), device=x.device)
