"""Pseudo-inverse by matrix products alone. Legend: M rows and columns."""

from jaxtyping import Float
from torch import Tensor

from kernels.dispatch import Op

OP = Op("iterative_pinv", backends=("reference", "eager", "compile"), auto={"cpu": ("eager",)})


def iterative_pinv(
    a: Float[Tensor, "*batch M M"], *, iterations: int = 6, backend: str = "auto"
) -> Float[Tensor, "*batch M M"]:
    """Newton-Schulz iteration of third order towards the pseudo-inverse.

    Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4 from Z = A^T / (|A|_1 |A|_inf), both norms of
    each matrix alone, so that no matrix of a batch changes another (Xiong et al. 2021, arXiv
    2102.03902, eq. 11 and appendix, after Razavi et al. 2014).

    Args:
        a: square matrices. Independent diagonal blocks stay independent: a row and column of the
            identity in place of a masked one change nothing else but the norms at the start.
        iterations: the error falls with its third power at each.
        backend: ``auto``, ``reference``, ``eager`` or ``compile``.

    Raises:
        ValueError: a is not square, or ``iterations`` below 1.
    """
    if a.ndim < 2 or a.shape[-1] != a.shape[-2] or 0 in a.shape:
        raise ValueError(f"iterative_pinv: a must be (..., M, M), M >= 1, got {tuple(a.shape)}")
    if iterations < 1:
        raise ValueError(f"iterative_pinv: iterations must be at least 1, got {iterations}")
    return OP(backend, a, iterations=iterations)
