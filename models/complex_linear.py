"""Complex matrices at the two ends of a real system, as real products."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn.functional import linear


def into_states(x: Float[Tensor, "*B D"], b: Float[Tensor, "P 2 D"]) -> Complex[Tensor, "*B P"]:
    """``B x`` for a complex B ``(P, D)``, given as real and imaginary rows."""
    return torch.view_as_complex(linear(x, b.flatten(0, 1)).unflatten(-1, (-1, 2)))


def real_part_out(
    states: Complex[Tensor, "*B P"], c: Float[Tensor, "D P 2"]
) -> Float[Tensor, "*B D"]:
    """``Re(C x)`` for a complex C ``(D, P)``, real and imaginary parts last."""
    # Re(C x) = Re C Re x - Im C Im x
    signed = torch.stack([c[..., 0], -c[..., 1]], dim=-1)
    return linear(torch.view_as_real(states).flatten(-2), signed.flatten(-2))
