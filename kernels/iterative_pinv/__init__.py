"""Pseudo-inverse of small matrices by matrix products alone."""

from jaxtyping import Float
from torch import Tensor

from kernels.dispatch import Op

OP = Op("iterative_pinv", backends=("reference", "eager", "compile"), auto={"cpu": ("eager",)})


def iterative_pinv(
    a: Float[Tensor, "*B M L"], *, iterations: int = 6, backend: str = "auto"
) -> Float[Tensor, "*B L M"]:
    """Moore-Penrose inverse of each matrix (Xiong et al. 2021, arXiv 2102.03902, eq. 11 and 12).

        Z_0 = A^T / (|A|_1 |A|_inf)
        Z  <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4

    The norms are of each matrix alone, so that the matrices of a batch do not influence each other.
    Each iteration lifts what is small in A Z by 13 / 4 and cubes an error that is small: six are
    enough for softmax matrices whose smallest singular value is above about 0.1. A row and a column
    of zeros are zero in the inverse too and change nothing else, so that is what a landmark without
    tokens should hold.

    Args:
        a: matrices.
        iterations: how often to refine, >= 0.
        backend: ``auto``, ``reference``, ``eager`` (in fp32 or wider) or ``compile``.

    Returns:
        The inverses, of a's dtype.

    Raises:
        ValueError: names the argument and its shape.
    """
    if a.ndim < 2 or 0 in a.shape or not a.is_floating_point():
        raise ValueError(f"a must be floating matrices (..., M, L), got {a.dtype} {tuple(a.shape)}")
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, got {iterations}")
    return OP(backend, a, iterations=iterations)
