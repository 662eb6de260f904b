"""One tile of attention, forward and backward: the mathematics of the eager backend.

Legend: B batch, H heads, Z heads taken at once, G blocks, b queries of a block, L keys of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.attention.dropout import kept
from kernels.attention.score import Activation, elementwise, elementwise_slope
from kernels.attention.tiles import Band, Tile, cut


@dataclass(frozen=True)
class Plan:
    """Everything about a call that is not a tensor."""

    band: Band
    scale: float
    soft_cap: float | None
    activation: Activation
    dropout_p: float
    return_lse: bool


class Scores(NamedTuple):
    """Scores of a tile ``(Z, G, b, L)``, -inf where hidden.

    ``tanh`` is the soft cap's. ``nothing`` marks rows without any key ``(Z, G, b, 1)``, which hold
    zeros for a softmax; None where the call can have no such row.
    """

    u: Tensor
    tanh: Tensor | None
    nothing: Tensor | None


class TileGradients(NamedTuple):
    """Gradients of a tile: queries ``(Z, G, b, K)``, still to be scaled, keys and values
    ``(Z, G, L, K)``, and the scores after cap and bias ``(Z, G, b, L)``."""

    q: Tensor
    k: Tensor
    v: Tensor
    scores: Tensor


class Heads:
    """A group of heads of a call, flattened to ``(Z, N, K)``; groups share what is in ``common``."""

    def __init__(
        self,
        tensors: Sequence[Any],
        at: tuple[slice, slice],
        plan: Plan,
        common: dict[tuple[int, ...], Tensor],
    ):
        q, k, v, self.bias, alibi, key_mask, query_bits, key_bits = tensors
        self.at, self.plan, self.common = at, plan, common
        self.shape = q[at].shape[:2]
        self.q, self.k, self.v = (x[at].flatten(0, 1) for x in (q, k, v))
        self.q = self.q * plan.scale
        self.wide = torch.promote_types(q.dtype, torch.float32)
        self.slopes = self.ceiling = self.bits = None
        if alibi is not None:
            self.slopes = alibi[at[1]].repeat(self.shape[0])[:, None, None, None].to(self.wide)
        if key_mask is not None:
            hidden = ~key_mask[at[0]].repeat_interleave(self.shape[1], dim=0)
            self.ceiling = self.ceiling_of(hidden)
        if query_bits is not None:
            self.bits = (query_bits[at].flatten(0, 1), key_bits[at].flatten(0, 1))

    def attend(self, tile: Tile) -> tuple[Tensor, Tensor | None]:
        """Output ``(Z, G, b, V)`` and log-sum-exp ``(Z, G, b)`` of a tile."""
        scores = self.scores(tile)
        p = self.weights(scores.u)
        drop = self.dropout(tile)
        p = p if drop is None else p.mul_(drop)
        out = p.to(self.v.dtype) @ self.keys_of(self.v, tile)
        if scores.nothing is not None:
            out = out.masked_fill_(scores.nothing, 0)
        lse = None
        if self.plan.return_lse:
            lse = scores.u.logsumexp(-1)
            if scores.nothing is not None:
                lse = lse.masked_fill_(scores.nothing.squeeze(-1), -torch.inf)
        return out, lse

    def attend_backward(self, tile: Tile, d_out: Tensor, d_lse: Tensor | None) -> TileGradients:
        """Gradients of a tile from those of its output and log-sum-exp."""
        u, tanh, nothing = self.scores(tile)
        p = self.weights(u)
        if nothing is not None:
            d_out = d_out.masked_fill(nothing, 0)
        if nothing is not None and d_lse is not None:
            d_lse = d_lse.masked_fill(nothing.squeeze(-1), 0)
        d_p = (d_out @ self.keys_of(self.v, tile).transpose(-1, -2)).to(self.wide)
        drop = self.dropout(tile)
        dropped = p
        if drop is not None:
            d_p.mul_(drop)
            dropped = p * drop
        d_v = dropped.to(d_out.dtype).transpose(-1, -2) @ d_out
        if self.plan.activation == "softmax":
            # p (d_p - sum p d_p): the sum over the tile's own keys, which are all of them
            d_u = torch._softmax_backward_data(d_p, p, -1, p.dtype)
        else:
            d_u = d_p.mul_(elementwise_slope(u, self.plan.activation))
        if d_lse is not None:
            d_u.addcmul_(p, d_lse[..., None])
        d_s = d_u if tanh is None else d_u * (1 - tanh.square())
        d_s = d_s.to(self.q.dtype)
        d_q = d_s @ self.keys_of(self.k, tile)
        d_k = d_s.transpose(-1, -2) @ self.queries_of(self.q, tile)
        return TileGradients(d_q, d_k, d_v, d_u)

    def scores(self, tile: Tile) -> Scores:
        """Scores of a tile, computed and masked."""
        plan, tanh = self.plan, None
        u = self.queries_of(self.q, tile) @ self.keys_of(self.k, tile).transpose(-1, -2)
        u = u.to(self.wide)
        if plan.soft_cap is not None:
            tanh = u.div_(plan.soft_cap).tanh_()
            u = tanh * plan.soft_cap
        if self.bias is not None:
            part = self.bias[self.bias_index(tile)]
            u.add_(part.expand(*self.shape, *u.shape[2:]).reshape(u.shape))
        if self.slopes is not None:
            u.sub_(self.slopes * plan.band.relative(tile, u.device).abs())
        self.mask(u, tile)
        nothing = None
        if self.ceiling is not None or self.bias is not None or plan.band.may_be_empty(tile):
            nothing = u.amax(-1, keepdim=True) == -torch.inf
            if plan.activation == "softmax":
                floor = self.ceiling_of(~nothing).clamp_(max=0)
                torch.maximum(u, floor, out=u)
        return Scores(u, tanh, nothing)

    def mask(self, u: Tensor, tile: Tile) -> None:
        """Sets hidden scores to -inf in place."""
        band = self.plan.band
        if band.hides(tile):
            columns = band.columns_with_hidden(tile)
            # every tile of a window hides the same pairs
            shape = (tile.key - tile.query, tile.rows, tile.keys)
            if shape not in self.common:
                hidden = band.hidden(tile, u.device)[:, columns]
                self.common.clear()
                self.common[shape] = self.ceiling_of(hidden)
            late = u[..., columns]
            torch.minimum(late, self.common[shape], out=late)
        if self.ceiling is not None or band.overhangs(tile):
            ceiling = self.ceiling
            if ceiling is None:
                ceiling = u.new_full((1, band.keys), torch.inf)
            keys = self.keys_of(ceiling, tile, fill=-torch.inf)
            torch.minimum(u, keys[:, :, None], out=u)

    def ceiling_of(self, hidden: Tensor) -> Tensor:
        """-inf where hidden, else +inf: the minimum with it masks, keeps NaN, and is vectorised."""
        full = torch.full(hidden.shape, torch.inf, dtype=self.wide, device=hidden.device)
        return full.masked_fill_(hidden, -torch.inf)

    def weights(self, u: Tensor) -> Tensor:
        if self.plan.activation == "softmax":
            return torch.softmax(u, dim=-1)
        return elementwise(u, self.plan.activation)

    def dropout(self, tile: Tile) -> Tensor | None:
        """What dropout multiplies the weights of a tile by."""
        if self.bits is None:
            return None
        queries = self.queries_of(self.bits[0], tile)
        keys = self.keys_of(self.bits[1], tile).transpose(-1, -2)
        keep = kept(queries, keys, self.plan.dropout_p)
        return keep.to(self.wide).div_(1 - self.plan.dropout_p)

    def keys_of(self, x: Tensor, tile: Tile, fill: float = 0.0) -> Tensor:
        return cut(x, tile.key, tile.blocks, tile.rows, tile.keys, fill)

    def queries_of(self, x: Tensor, tile: Tile) -> Tensor:
        return cut(x, tile.query, tile.blocks, tile.rows, tile.rows)

    def bias_index(self, tile: Tile) -> tuple[slice, ...]:
        """Where a tile of one block lies in the bias; dimensions of size 1 broadcast."""
        rows = slice(tile.query, tile.query + tile.rows)
        where = (*self.at, rows, slice(tile.key, tile.key + tile.keys))
        sizes = self.bias.shape
        return tuple(slice(None) if n == 1 else s for n, s in zip(sizes, where, strict=True))

    def add_bias_gradient(self, d_bias: Tensor, d_scores: Tensor, tile: Tile) -> None:
        part = d_bias[self.bias_index(tile)]
        part += d_scores.reshape(*self.shape, *d_scores.shape[2:]).sum_to_size(part.shape)

    def add_alibi_gradient(self, d_slopes: Tensor, d_scores: Tensor, tile: Tile) -> None:
        distance = self.plan.band.relative(tile, d_scores.device).abs()
        each = (d_scores * distance).sum((1, 2, 3)).unflatten(0, self.shape)
        d_slopes[self.at[1]] -= each.sum(0)
