"""Block-sparse attention in plain torch: gather the listed blocks, multiply, and forget.

Only the inputs are kept for the backward pass, which gathers and computes once more. A tile holds
every key that its queries see, so no running maximum is needed. It can be differentiated once.

Legend: Z = B H heads, L list heads, S = Z / L heads that share lists, R query blocks, C key blocks,
b positions of a block, G lists of a tile with W key blocks each.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.attention.eager import BUDGET, BUDGET_ELSEWHERE
from kernels.attention.score import repeat_heads
from kernels.block_sparse_attention.layout import Layout
from kernels.block_sparse_attention.tiles import Tile, masks_with_nothing, tiles


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
    k, v = repeat_heads(k, q), repeat_heads(v, q)
    out, lse = ListedAttention.apply(q, k, v, key_mask, alibi, layout, scale, return_lse)
    return (out, lse) if return_lse else out


class ListedAttention(torch.autograd.Function):
    """Output and log-sum-exp (None if not wanted)."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor | None]:
        q, k, v, key_mask, alibi, *plan = args
        ctx.save_for_backward(q, k, v, key_mask, alibi)
        ctx.plan = plan
        with torch.autocast(q.device.type, enabled=False):
            call = Call(q, k, v, key_mask, alibi, *plan)
            out = call.q.new_zeros(*call.q.shape[:3], v.shape[-1])
            lse = call.q.new_full(call.q.shape[:3], -torch.inf, dtype=call.wide)
            for tile, some in call.work():
                y, tile_lse = call.attend(tile, some)
                out[some].index_copy_(1, tile.lists, y.to(out.dtype))
                if tile_lse is not None:
                    lse[some].index_copy_(1, tile.lists, tile_lse)
            return unblocked(out, q), unblocked(lse, q) if call.return_lse else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, key_mask, alibi = ctx.saved_tensors
        with torch.autocast(q.device.type, enabled=False):
            call = Call(q, k, v, key_mask, alibi, *ctx.plan)
            d_out = call.blocked(d_out)
            d_lse = call.blocked(d_lse) if call.return_lse and d_lse is not None else None
            d_q = torch.zeros_like(call.q)
            d_k, d_v = (torch.zeros_like(x, dtype=call.wide) for x in (call.k, call.v))
            for tile, some in call.work():
                grads = call.attend_backward(tile, some, d_out, d_lse)
                d_q[some].index_copy_(1, tile.lists, grads.q.to(d_q.dtype))
                d_k[some].index_add_(1, tile.keys, grads.k)
                d_v[some].index_add_(1, tile.keys, grads.v)
            found = (unblocked(g, x).to(x.dtype) for g, x in ((d_q, q), (d_k, k), (d_v, v)))
            return *found, None, None, None, None, None


class Gradients(NamedTuple):
    """Of a tile: ``(S, G, b, K)`` for the queries, ``(S, G W, b, K)`` for keys and values."""

    q: Tensor
    k: Tensor
    v: Tensor


class Call:
    """The tensors of one call in blocks, ``(S, L R, b, K)``; computes any tile of it."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None,
        alibi: Tensor | None,
        layout: Layout,
        scale: float,
        return_lse: bool,
    ):
        self.layout, self.scale, self.return_lse = layout, scale, return_lse
        self.wide = torch.promote_types(q.dtype, torch.float32)
        self.q, self.k, self.v = (self.blocked(x) for x in (q, k, v))
        self.key_mask: Tensor | None = None
        if key_mask is not None:
            self.key_mask = self.blocked(key_mask[:, None].expand(*k.shape[:3]))
        self.slopes: Tensor | None = None
        if alibi is not None:
            self.slopes = alibi.to(self.wide).repeat(q.shape[0]).view(-1, layout.heads)

    def blocked(self, x: Tensor) -> Tensor:
        """``(B, H, N, ...)`` as ``(S, L R, b, ...)``; what fills up the last block is zero."""
        fill = -x.shape[2] % self.layout.block
        if fill:
            x = F.pad(x, (*(0, 0) * (x.ndim - 3), 0, fill))
        x = x.flatten(0, 1).unflatten(1, (-1, self.layout.block))
        return x.unflatten(0, (-1, self.layout.heads)).flatten(1, 2).contiguous()

    def work(self) -> list[tuple[Tile, slice]]:
        """Every tile, for as many heads at once as the budget holds."""
        budget = BUDGET.get(self.q.device.type, BUDGET_ELSEWHERE)
        share, block = self.q.shape[0], self.layout.block
        work = []
        for tile in tiles(self.layout, share, budget):
            at_once = max(1, budget // (len(tile.keys) * block**2))
            work += [(tile, slice(s, s + at_once)) for s in range(0, share, at_once)]
        return work

    def attend(self, tile: Tile, some: slice) -> tuple[Tensor, Tensor | None]:
        """Output ``(S, G, b, V)`` and log-sum-exp ``(S, G, b)`` of a tile."""
        u, nothing = self.scores(tile, some)
        out = torch.softmax(u, dim=-1) @ self.keys_of(self.v, tile, some)
        lse = u.logsumexp(-1) if self.return_lse else None
        if nothing is not None:
            out = out.masked_fill_(nothing, 0)
        if nothing is not None and lse is not None:
            lse = lse.masked_fill_(nothing.squeeze(-1), -torch.inf)
        return out, lse

    def attend_backward(
        self, tile: Tile, some: slice, d_out: Tensor, d_lse: Tensor | None
    ) -> Gradients:
        """Gradients of a tile, from those of output and log-sum-exp ``(S, L R, b, ...)``."""
        u, nothing = self.scores(tile, some)
        p = torch.softmax(u, dim=-1)
        del u
        d_y = self.queries_of(d_out, tile, some)
        if nothing is not None:
            d_y = d_y.masked_fill(nothing, 0)
        d_v = p.transpose(-1, -2) @ d_y
        d_p = d_y @ self.keys_of(self.v, tile, some).transpose(-1, -2)
        d_u = torch._softmax_backward_data(d_p, p, -1, p.dtype)
        if d_lse is not None:
            d_l = self.queries_of(d_lse, tile, some)[..., None]
            d_u.addcmul_(p, d_l if nothing is None else d_l.masked_fill(nothing, 0))
        d_u.mul_(self.scale)
        d_q = d_u @ self.keys_of(self.k, tile, some)
        d_k = d_u.transpose(-1, -2) @ self.queries_of(self.q, tile, some)
        # (S, G, W b, K) -> (S, G W, b, K)
        d_k, d_v = (x.unflatten(2, (-1, self.layout.block)).flatten(1, 2) for x in (d_k, d_v))
        return Gradients(d_q, d_k, d_v)

    def scores(self, tile: Tile, some: slice) -> tuple[Tensor, Tensor | None]:
        """Masked scores ``(S, G, b, W b)`` and the rows without a key, which hold zeros.

        None in place of the latter where the tile can have no such row.
        """
        q = self.queries_of(self.q, tile, some) * self.scale
        u = q @ self.keys_of(self.k, tile, some).transpose(-1, -2)
        if self.slopes is not None:
            slope = self.slopes[some][:, tile.lists // self.layout.rows]
            u.addcmul_(slope[..., None, None], self.distances(tile), value=-1)
        if tile.masks is not None:
            # (G, W, b, b) -> (G, b, W b)
            ceiling = masks_with_nothing(self.layout, self.wide)[tile.masks]
            torch.minimum(u, ceiling.transpose(1, 2).flatten(2), out=u)
        if self.key_mask is not None:
            hidden = ~self.keys_of(self.key_mask[..., None], tile, some).squeeze(-1)
            u.masked_fill_(hidden[:, :, None], -torch.inf)
        if not tile.may_be_empty and self.key_mask is None:
            return u, None
        nothing = u.amax(-1, keepdim=True) == -torch.inf
        return u.masked_fill_(nothing, 0), nothing

    def distances(self, tile: Tile) -> Tensor:
        """|i - j| ``(G, b, W b)``, the last query beside the last key."""
        at = torch.arange(self.layout.block, device=tile.lists.device)
        i = (tile.lists % self.layout.rows)[:, None] * len(at) + at
        j = (tile.keys % self.layout.columns)[:, None] * len(at) + at
        j = j.view(len(i), 1, -1) - (self.layout.n_keys - self.layout.n_queries)
        return (j - i[..., None]).abs().to(self.wide)

    def queries_of(self, x: Tensor, tile: Tile, some: slice) -> Tensor:
        return self._widened(x[some].index_select(1, tile.lists))

    def keys_of(self, x: Tensor, tile: Tile, some: slice) -> Tensor:
        """``(S, L C, b, K)`` -> ``(S, G, W b, K)``."""
        part = x[some].index_select(1, tile.keys)
        return self._widened(part.unflatten(1, (len(tile.lists), -1)).flatten(2, 3))

    def _widened(self, x: Tensor) -> Tensor:
        return x.to(self.wide) if x.is_floating_point() else x


def unblocked(x: Tensor, like: Tensor) -> Tensor:
    """``(S, L R, b, ...)`` as ``(B, H, N, ...)``."""
    batch, heads, n = like.shape[:3]
    whole = x.flatten(0, 2).unflatten(0, (batch, heads, -1))
    return whole[:, :, :n] if whole.shape[2] == n else whole[:, :, :n].contiguous()
