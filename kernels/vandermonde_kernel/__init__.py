"""Kernel of a diagonal state space, as the Vandermonde sum ``K_l = 2 Re sum_j c_j a_j^l``.

Serves S4D and DSS (Gu et al. 2022, arXiv 2206.11893, eq. 6). Legend: n states (conjugate pairs), L
length; leading dimensions (directions, channels) broadcast.
"""

from jaxtyping import Complex, Float
from torch import Tensor

from kernels.dispatch import Op

OP = Op(
    "vandermonde_kernel",
    backends=("reference", "eager", "compile", "cuda"),
    auto={"cpu": ("eager",), "cuda": ("cuda", "eager")},
)


def vandermonde_kernel(
    c: Complex[Tensor, "*C n"],
    log_a: Complex[Tensor, "*A n"],
    length: int,
    *,
    backend: str = "auto",
) -> Float[Tensor, "*K L"]:
    """``K_l = 2 Re sum_j c_j exp(l log_a_j)`` for l = 0 .. length - 1.

    Each state stands for itself and its conjugate. ``log_a`` is taken as exact: phases are right
    however long the kernel is.

    Args:
        c: weights of the states (output times discretised input matrix).
        log_a: logarithms of the discretised transition, real part <= 0 for a stable system (-inf
            for a = 0).
        length: L.
        backend: ``auto``, ``reference``, ``eager``, ``compile`` or ``cuda``.

    Returns:
        K, with the broadcast leading dimensions of c and log_a.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or length < 1.
    """
    name = "vandermonde_kernel"
    if length < 1:
        raise ValueError(f"{name}: length must be at least 1, got {length}")
    for label, x in (("c", c), ("log_a", log_a)):
        if not x.is_complex() or x.ndim < 1 or x.shape[-1] == 0:
            raise ValueError(
                f"{name}: {label} must be complex (..., n), got {x.dtype} {tuple(x.shape)}"
            )
    fits = c.shape[-1] == log_a.shape[-1] and all(
        i == j or 1 in (i, j) for i, j in zip(c.shape[::-1], log_a.shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(
            f"{name}: c {tuple(c.shape)} and log_a {tuple(log_a.shape)} do not broadcast"
        )
    if c.dtype != log_a.dtype or c.device != log_a.device:
        raise ValueError(
            f"{name}: c is {c.dtype} on {c.device}, log_a {log_a.dtype} on {log_a.device}"
        )
    return OP(backend, c, log_a, length)
