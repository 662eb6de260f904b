"""Masks ``(B, N)``, True = real token. Geometry comes from the true length, never from N."""

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


def true_lengths(mask: Bool[Tensor, "B N"]) -> Int[Tensor, " B"]:
    """Index of the last real token plus one; 0 for an empty row. Holes do not shorten it."""
    n = mask.shape[1]
    position = torch.arange(1, n + 1, device=mask.device)
    return (mask * position).amax(dim=1)


def zero_padding(x: Shaped[Tensor, "B N *D"], mask: Bool[Tensor, "B N"] | None) -> Tensor:
    """x with its padded positions set to 0, whatever they held (NaN included)."""
    if mask is None:
        return x
    return x.masked_fill(~mask.reshape(*mask.shape, *[1] * (x.ndim - 2)), 0)


def flip_inside(x: Shaped[Tensor, "B N *D"], mask: Bool[Tensor, "B N"] | None) -> Tensor:
    """x reversed inside each example's true length; the padding stays at the end. An involution."""
    if mask is None:
        return x.flip(1)
    n = x.shape[1]
    position = torch.arange(n, device=x.device)
    length = true_lengths(mask)[:, None]
    index = torch.where(position < length, length - 1 - position, position)
    return x.gather(1, index.reshape(*index.shape, *[1] * (x.ndim - 2)).expand_as(x))
