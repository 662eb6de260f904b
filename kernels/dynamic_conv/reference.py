"""The convolution as it is defined: every position's window, weighed and summed."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


def run(
    v: Float[Tensor, "B H N K"], weights: Float[Tensor, "B H N W"], *, causal: bool = True
) -> Float[Tensor, "B H N K"]:
    taps = weights.shape[3]
    left = taps - 1 if causal else taps // 2
    windows = pad(v, (0, 0, left, taps - 1 - left)).unfold(2, taps, 1)
    return torch.einsum("bhnkw,bhnw->bhnk", windows, weights.to(v.dtype))
