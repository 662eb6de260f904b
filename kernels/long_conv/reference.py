"""The convolution as the N x N Toeplitz matrix that it is."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


def run(
    u: Float[Tensor, "B D N"],
    kernel: Float[Tensor, "D L"],
    skip: Float[Tensor, " D"] | None = None,
    *,
    kernel_reverse: Float[Tensor, "D M"] | None = None,
) -> Float[Tensor, "B D N"]:
    n = u.shape[2]
    past = pad(kernel, (0, max(n - kernel.shape[1], 0)))[:, :n]
    future = past.new_zeros(past.shape[0], n - 1)
    if kernel_reverse is not None:
        future = pad(kernel_reverse, (0, max(n - 1 - kernel_reverse.shape[1], 0)))[:, : n - 1]
    # taps from lag -(N-1) to lag N-1
    taps = torch.cat([future.flip(1), past], dim=1)
    position = torch.arange(n, device=u.device)
    toeplitz = taps[:, n - 1 + position[:, None] - position]
    y = torch.einsum("dts,bds->bdt", toeplitz, u.to(taps.dtype))
    return (y if skip is None else y + skip[:, None] * u).to(u.dtype)
