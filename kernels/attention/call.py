"""The mathematics of one tile of attention, forward and backward, for the eager backend.

Legend: B batch, H heads, Z heads taken at once, G blocks, b queries of a block, L keys of a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.attention.dropout import kept
from kernels.attention.relative import entry, from_diagonals, onto_diagonals
from kernels.attention.score import Activation, elementwise, elementwise_slope
from kernels.attention.tiles import At, Band, Tile, add_cut, cut, put


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


class Call:
    """The tensors of one call and its plan; computes any tile of it."""

    def __init__(self, tensors: Sequence[Any], plan: Plan):
        self.q, self.k, self.v, self.bias, self.relative, self.alibi, *rest = tensors
        self.key_mask, *self.bits = rest
        self.plan = plan
        self.wide = torch.promote_types(self.q.dtype, torch.float32)
        self._ceiling: tuple[tuple[int, ...], Tensor] | None = None

    def attend(self, at: At, tile: Tile) -> tuple[Tensor, Tensor | None]:
        """Output ``(Z, G, b, V)`` and log-sum-exp ``(Z, G, b)`` of a tile."""
        u, _, nothing = self.scores(at, tile)
        p = self.weights(u)
        drop = self.dropout(at, tile)
        p = p if drop is None else p.mul_(drop)
        out = p.to(self.v.dtype) @ self.keys_of(self.v, at, tile)
        lse = u.logsumexp(-1) if self.plan.return_lse else None
        if nothing is not None:
            out = out.masked_fill_(nothing, 0)
        if nothing is not None and lse is not None:
            lse = lse.masked_fill_(nothing.squeeze(-1), -torch.inf)
        return out, lse

    def attend_backward(
        self, at: At, tile: Tile, d_out: Tensor, d_lse: Tensor | None, grads: "Gradients"
    ) -> None:
        """Adds the gradients of a tile, from those of output and log-sum-exp ``(B, H, N, ...)``."""
        u, tanh, nothing = self.scores(at, tile)
        p = self.weights(u)
        slope = None
        if self.plan.activation != "softmax":
            slope = elementwise_slope(u, self.plan.activation)
        # what is no longer wanted is freed at once: a tile is all the memory there is beside O(N)
        del u
        d_out = self.queries_of(d_out, at, tile)
        if nothing is not None:
            d_out = d_out.masked_fill(nothing, 0)
        drop = self.dropout(at, tile)
        dropped = (p if drop is None else p * drop).to(d_out.dtype)
        add_cut(grads.v, at, tile.key, tile.rows, dropped.transpose(-1, -2) @ d_out)
        del dropped
        d_p = (d_out @ self.keys_of(self.v, at, tile).transpose(-1, -2)).to(self.wide)
        if drop is not None:
            d_p.mul_(drop)
        if slope is None:
            # p (d_p - sum p d_p): the sum over the tile's own keys, which are all of them
            d_u = torch._softmax_backward_data(d_p, p, -1, p.dtype)
        else:
            d_u = d_p.mul_(slope)
        if d_lse is not None:
            d_l = self.queries_of(d_lse, at, tile)[..., None]
            d_u.addcmul_(p, d_l if nothing is None else d_l.masked_fill(nothing, 0))
        del p, d_p, drop, slope
        self.add_bias_gradients(grads, d_u, at, tile)
        d_s = (d_u if tanh is None else d_u * (1 - tanh.square())).to(self.q.dtype)
        put(grads.q, d_s @ self.keys_of(self.k, at, tile), at, tile)
        q = self.queries_of(self.q, at, tile) * self.plan.scale
        add_cut(grads.k, at, tile.key, tile.rows, d_s.transpose(-1, -2) @ q)

    def scores(self, at: At, tile: Tile) -> Scores:
        """Scores of a tile, computed and masked."""
        band, tanh = self.plan.band, None
        q = self.queries_of(self.q, at, tile) * self.plan.scale
        u = (q @ self.keys_of(self.k, at, tile).transpose(-1, -2)).to(self.wide)
        if self.plan.soft_cap is not None:
            tanh = u.div_(self.plan.soft_cap).tanh_()
            u = tanh * self.plan.soft_cap
        if self.bias is not None:
            part = self.bias[self.bias_index(at, tile)]
            u.add_(part.expand(*self.q[at].shape[:2], *u.shape[2:]).reshape(u.shape))
        if self.relative is not None:
            table = self.relative[at[1]].to(self.wide)
            part = from_diagonals(table[:, self.entries(tile)], tile.rows)
            u.unflatten(0, self.q[at].shape[:2]).add_(part[:, None])
        if self.alibi is not None:
            slopes = self.alibi[at[1]].repeat(self.q[at].shape[0])[:, None, None, None]
            u.sub_(slopes.to(self.wide) * band.relative(tile, u.device).abs())
        self.mask(u, at, tile)
        nothing = None
        if self.key_mask is not None or self.bias is not None or band.may_be_empty(tile):
            nothing = u.amax(-1, keepdim=True) == -torch.inf
            if self.plan.activation == "softmax":
                torch.maximum(u, self.ceiling_of(~nothing).clamp_(max=0), out=u)
        return Scores(u, tanh, nothing)

    def mask(self, u: Tensor, at: At, tile: Tile) -> None:
        """Sets hidden scores to -inf in place."""
        band = self.plan.band
        if band.hides(tile):
            columns = band.columns_with_hidden(tile)
            # the tiles of a window, and of all heads, hide the same pairs
            shape = (tile.key - tile.query, tile.rows, tile.keys)
            if self._ceiling is None or self._ceiling[0] != shape:
                hidden = band.hidden(tile, u.device)[:, columns]
                self._ceiling = (shape, self.ceiling_of(hidden))
            late = u[..., columns]
            torch.minimum(late, self._ceiling[1], out=late)
        if self.key_mask is not None:
            mask = self.key_mask[:, None].expand(*self.k.shape[:3])
            hidden = ~self.keys_of(mask, at, tile)
            torch.minimum(u, self.ceiling_of(hidden)[:, :, None], out=u)

    def ceiling_of(self, hidden: Tensor) -> Tensor:
        """-inf where hidden, else +inf: the minimum with it masks, keeps NaN, and is vectorised."""
        full = torch.full(hidden.shape, torch.inf, dtype=self.wide, device=hidden.device)
        return full.masked_fill_(hidden, -torch.inf)

    def weights(self, u: Tensor) -> Tensor:
        if self.plan.activation == "softmax":
            return torch.softmax(u, dim=-1)
        return elementwise(u, self.plan.activation)

    def dropout(self, at: At, tile: Tile) -> Tensor | None:
        """What dropout multiplies the weights of a tile by."""
        queries, keys = self.bits
        if queries is None:
            return None
        keys = self.keys_of(keys, at, tile).transpose(-1, -2)
        keep = kept(self.queries_of(queries, at, tile), keys, self.plan.dropout_p)
        return keep.to(self.wide).div_(1 - self.plan.dropout_p)

    def keys_of(self, x: Tensor, at: At, tile: Tile) -> Tensor:
        return cut(x, at, tile.key, tile.blocks, tile.rows, tile.keys)

    def queries_of(self, x: Tensor, at: At, tile: Tile) -> Tensor:
        return cut(x, at, tile.query, tile.blocks, tile.rows, tile.rows)

    def bias_index(self, at: At, tile: Tile) -> tuple[slice, ...]:
        """Where a tile of one block lies in the bias; dimensions of size 1 broadcast."""
        rows = slice(tile.query, tile.query + tile.rows)
        where = (*at, rows, slice(tile.key, tile.key + tile.keys))
        sizes = self.bias.shape
        return tuple(slice(None) if n == 1 else s for n, s in zip(sizes, where, strict=True))

    def entries(self, tile: Tile) -> Tensor:
        """The entry of each diagonal of a block in the table of relative positions."""
        return entry(self.relative, self.plan.band.diagonals(tile, self.q.device))

    def add_bias_gradients(self, grads: "Gradients", d_u: Tensor, at: At, tile: Tile) -> None:
        """Adds what a tile gives to the gradients of biases and slopes, where those are wanted."""
        groups = self.q[at].shape[:2]
        if grads.bias is not None:
            part = grads.bias[self.bias_index(at, tile)]
            part += d_u.reshape(*groups, *d_u.shape[2:]).sum_to_size(part.shape)
        if grads.relative is not None:
            each = onto_diagonals(d_u.unflatten(0, groups).sum((0, 2)))
            grads.relative[at[1]].scatter_add_(1, self.entries(tile).expand_as(each), each)
        if grads.alibi is not None:
            distance = self.plan.band.relative(tile, d_u.device).abs()
            each = (d_u * distance).sum((1, 2, 3))
            grads.alibi[at[1]] -= each.unflatten(0, groups).sum(0)


class Gradients:
    """Sums of the gradients, in fp32 or wider; that of the queries still wants the scale."""

    def __init__(self, call: Call, wanted: Sequence[bool]):
        def zeros(x: Tensor) -> Tensor:
            return torch.zeros(x.shape, dtype=call.wide, device=x.device)

        # each query belongs to one tile only, which writes its gradient
        self.q = torch.empty_like(call.q, memory_format=torch.contiguous_format)
        self.k, self.v = zeros(call.k), zeros(call.v)
        self.bias = zeros(call.bias) if wanted[3] else None
        self.relative = zeros(call.relative) if wanted[4] else None
        self.alibi = zeros(call.alibi) if wanted[5] else None
