"""Slices of a sequence, which the eager backends work through, and the chunks of a slice."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

# so many slices at most, however long the sequence is, and none shorter than so many positions
SLICES, SHORTEST = 32, 128
# features of a slice; a causal one, with chunk matrices and states beside them, takes a quarter
FEATURES = 1 << 19


def slices(x: Float[Tensor, "B H N K"], features: int, chunk: int = 1) -> list[slice]:
    """Slices of whole chunks, few, and short beside the sequence: what is made again is small."""
    batch, heads, n, _ = x.shape
    room = FEATURES if chunk == 1 else -(-FEATURES // 4)
    count = min(SLICES, -(-batch * heads * n * features // room), -(-n // SHORTEST))
    size = -(-n // (count * chunk)) * chunk
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def in_chunks(x: Float[Tensor, "B H n K"], chunk: int) -> Float[Tensor, "X c C K"]:
    """As chunks ``(B H, n / C, C, K)``; zeros fill the last one."""
    x = x.flatten(0, 1)
    missing = -x.shape[1] % chunk
    x = pad(x, (0, 0, 0, missing)) if missing else x.contiguous()
    return x.unflatten(1, (-1, chunk))


def joined(x: Float[Tensor, "X c C K"], like: Float[Tensor, "B H n _"]) -> Float[Tensor, "B H n K"]:
    """Back to ``(B, H, n, K)``, with what filled the last chunk cut off."""
    return x.flatten(1, 2)[:, : like.shape[2]].unflatten(0, like.shape[:2])


def wide(x: Tensor) -> Tensor:
    """x in the precision that sums are taken in."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def hide(
    x: Float[Tensor, "B H n K"], key_mask: Bool[Tensor, "B N"] | None, at: slice
) -> Float[Tensor, "B H n K"]:
    """x with zeros at hidden keys, whatever was there."""
    if key_mask is None:
        return x
    # by its bits: on a CPU masked_fill with a mask of whole rows takes as long as a product
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize]
    kept = key_mask[:, None, at, None].to(bits).neg_()
    return (x.view(bits) & kept).view(x.dtype)
