"""The fractions themselves, ``J x L``, and their sum."""

from jaxtyping import Complex
from torch import Tensor


def run(
    v: Complex[Tensor, "*V J"], z: Complex[Tensor, " L"], w: Complex[Tensor, "*W J"]
) -> Complex[Tensor, "*K L"]:
    v, w = v[..., None], w[..., None]
    return (v / (z - w) + v.conj() / (z - w.conj())).sum(dim=-2)
