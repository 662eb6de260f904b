"""The Vandermonde matrix itself, ``n x L``, and its product with the weights."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def run(
    c: Complex[Tensor, "*C n"], log_a: Complex[Tensor, "*A n"], length: int
) -> Float[Tensor, "*K L"]:
    power = torch.arange(length, device=c.device, dtype=c.real.dtype)
    # a^0 = 1 for a = 0 too
    size = torch.where(power == 0, 0, log_a.real[..., None] * power)
    powers = torch.polar(size.exp(), log_a.imag[..., None] * power)
    return 2 * (c[..., None] * powers).sum(dim=-2).real
