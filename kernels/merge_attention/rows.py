"""Rows sorted, gathered, scattered and cut into chunks, for hashed and clustered attention.

Legend: B batch, H heads (or heads times rounds of hashing), N rows, M chosen rows, K width.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64, Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

Order = Int64[Tensor, "B H N"]


def sort_by_bucket(
    buckets: Int[Tensor, "B H N"], mask: Bool[Tensor, "B N"] | None = None
) -> tuple[Order, Order]:
    """The stable order of rows by bucket, and its inverse.

    Rows of a bucket stay in the order of their positions (Reformer, arXiv 2001.04451, section 2).
    Rows that the mask calls padding come last, whatever their bucket: the others lie as they would
    without them.

    Returns:
        Sorted row s is row ``order[s]``, and row i is sorted row ``inverse[i]``.
    """
    if mask is not None:
        buckets = torch.where(mask[:, None], buckets, torch.iinfo(buckets.dtype).max)
    order = torch.sort(buckets, dim=-1, stable=True).indices
    return order, inverse_of(order)


def inverse_of(order: Order) -> Order:
    """The inverse of permutations of the last axis."""
    at = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, at)


def permute_rows(
    x: Float[Tensor, "B H N K"],
    order: Int64[Tensor, "*R B H N"],
    inverse: Int64[Tensor, "*R B H N"],
) -> Float[Tensor, "*R B H N K"]:
    """``y[b, h, s] = x[b, h, order[b, h, s]]``, by one order or several; the gradient is gathered
    too, by the inverse."""
    return _Permuted.apply(x, order, inverse)


def take_rows(
    x: Shaped[Tensor, "B H N *K"], index: Int64[Tensor, "*R B H M"]
) -> Shaped[Tensor, "..."]:
    """``y[b, h, m] = x[b, h, index[b, h, m]]`` (*R B H M *K), rows repeated or left out."""
    flat = _flat(index, x.shape[2])
    return x.flatten(0, 2).index_select(0, flat).unflatten(0, index.shape)


def add_rows(
    x: Shaped[Tensor, "B H M *K"], index: Int64[Tensor, "B H M"], n: int
) -> Shaped[Tensor, "B H N *K"]:
    """``y[b, h, i] = sum of x[b, h, m] with index[b, h, m] = i``: the adjoint of ``take_rows``."""
    empty = x.new_zeros(index[..., 0].numel() * n, *x.shape[3:])
    summed = empty.index_add(0, _flat(index, n), x.flatten(0, 2))
    return summed.unflatten(0, (*index.shape[:2], n))


def look_around(
    x: Shaped[Tensor, "B H C c *K"], before: int = 1, after: int = 0, *, wrap: bool = False
) -> Shaped[Tensor, "B H C L *K"]:
    """Each chunk behind the ``before`` chunks before it and ahead of the ``after`` ones after it.

    Args:
        x: C chunks of c rows: ``x.unflatten(2, (-1, c))``.
        before, after: neighbours; L = (before + 1 + after) c.
        wrap: the neighbours of the first and last chunk are those at the other end (as in
            Reformer's code); otherwise zeros (False for a mask): hide those by a mask of ones.
    """
    count = x.shape[2]
    if wrap:
        at = torch.arange(count, device=x.device)
        parts = [x[:, :, (at + shift) % count] for shift in range(-before, after + 1)]
        return torch.cat(parts, dim=3)
    ends = [x.new_zeros(*x.shape[:2], side, *x.shape[3:]) for side in (before, after)]
    wide = torch.cat([ends[0], x, ends[1]], dim=2)
    return torch.cat([wide[:, :, s : s + count] for s in range(before + 1 + after)], dim=3)


def _flat(index: Int64[Tensor, "*R B H M"], n: int) -> Int64[Tensor, " RBHM"]:
    """Rows of ``(B, H, n)`` counted through."""
    batch, heads = index.shape[-3:-1]
    first = torch.arange(batch * heads, device=index.device).view(batch, heads, 1)
    return (first * n + index).flatten()


class _Permuted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return take_rows(x, order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        batch, heads, n = inverse.shape[-3:]
        grad, inverse = grad.reshape(-1, heads, n, grad.shape[-1]), inverse.reshape(-1, heads, n)
        return take_rows(grad, inverse).unflatten(0, (-1, batch)).sum(0), None, None
