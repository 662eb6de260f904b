"""Dropout on attention weights from O(N) random numbers, so that a backward pass can repeat it.

Each query and each key of a head draws 32 random bits; weight (i, j) is kept or dropped by a hash
of the pair (xor, then multiply, xorshift, multiply). Nothing of size N x N is stored, the mask does
not depend on how the work is cut, and one seed of torch's global generator fixes it.
"""

import torch
from jaxtyping import Bool, Int32
from torch import Tensor

# odd multipliers of a 32-bit finaliser with low bias
FIRST, SHIFT, SECOND = 0x2C1B3C6D, 15, 0x297A2D39
LOWEST, SPAN = -(2**31), 2**32


def draw(shape: tuple[int, ...], device: torch.device) -> Int32[Tensor, "..."]:
    """Random bits, from torch's global generator."""
    return torch.randint(LOWEST, 2**31, shape, dtype=torch.int32, device=device)


def kept(
    queries: Int32[Tensor, "*N"], keys: Int32[Tensor, "*M"], probability: float
) -> Bool[Tensor, "..."]:
    """True where the weight of a (query, key) pair stays.

    Args:
        queries, keys: bits of ``draw``, shaped to broadcast to the weights.
        probability: share of the weights that is dropped, in [0, 1).
    """
    x = (queries ^ keys).mul_(FIRST)
    x = x.bitwise_xor_(x >> SHIFT).mul_(SECOND)
    return x >= LOWEST + int(probability * SPAN)
