"""ALiBi (Press et al. 2022, arXiv 2108.12409, section 3): instead of positions, a penalty on the
score of a query and a key that grows with their distance, by a slope of its own in each head."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def alibi_slopes(heads: int) -> Float[Tensor, " H"]:
    """The slopes of the heads: ``2^(-8 h / H)`` for h = 1 .. H.

    Where H is no power of two (footnote of section 3 and the authors' code): those of the next
    lower power of two P, then every other one of those of 2 P, from the steepest on.
    """
    below = 1 << int(math.log2(heads))
    exponents = _geometric(below)
    if heads > below:
        exponents = torch.cat([exponents, _geometric(2 * below)[::2][: heads - below]])
    return torch.exp2(exponents).float()


def _geometric(heads: int) -> Float[Tensor, " H"]:
    return -8 * torch.arange(1, heads + 1, dtype=torch.float64) / heads
