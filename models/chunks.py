"""Sequences cut into chunks that do not see each other: chunks become examples of the batch."""

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor
from torch.nn.functional import pad


def into_chunks(x: Shaped[Tensor, "B H N K"], chunk: int) -> Shaped[Tensor, "C H c K"]:
    """(B, H, N, K) -> (B N/c, H, c, K), the last chunk of each example filled with zeros."""
    x = pad(x, (0, 0, 0, -x.shape[2] % chunk))
    return x.unflatten(2, (-1, chunk)).transpose(1, 2).flatten(0, 1)


def out_of_chunks(x: Shaped[Tensor, "C H c K"], batch: int, n: int) -> Shaped[Tensor, "B H N K"]:
    """The inverse: the first n positions of each of ``batch`` examples."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)[:, :, :n]


def mask_of_chunks(
    mask: Bool[Tensor, "B N"] | None, batch: int, n: int, chunk: int, device: torch.device
) -> Bool[Tensor, "C c"] | None:
    """The mask of all chunks; None where nothing is hidden."""
    fill = -n % chunk
    if mask is None:
        if not fill:
            return None
        mask = torch.ones(batch, n, dtype=torch.bool, device=device)
    return pad(mask, (0, fill)).reshape(-1, chunk)
