"""Cauchy kernel: ``K_l = sum_j v_j / (z_l - w_j)`` over poles that come in conjugate pairs.

The kernel generator of S4 (Gu et al. 2021, arXiv 2111.00396, appendix C.3): the transfer function
of a diagonal system at the nodes z. Legend: J states (conjugate pairs), L nodes; leading dimensions
(sums, channels) broadcast.
"""

from jaxtyping import Complex
from torch import Tensor

from kernels.dispatch import Op

OP = Op(
    "cauchy_kernel",
    backends=("reference", "eager", "compile", "cuda"),
    auto={"cpu": ("eager",), "cuda": ("cuda", "eager")},
)


def cauchy_kernel(
    v: Complex[Tensor, "*V J"],
    z: Complex[Tensor, " L"],
    w: Complex[Tensor, "*W J"],
    *,
    backend: str = "auto",
) -> Complex[Tensor, "*K L"]:
    """``K_l = sum_j v_j / (z_l - w_j) + conj(v_j) / (z_l - conj(w_j))``.

    Each state stands for itself and its conjugate. A step size of each channel belongs into v and w
    (``dt / (z - dt w)``), so that all share their nodes. Sums with the same poles (S4 needs four)
    belong into one call, v with a leading dimension more than w: the fractions are then computed
    once.

    Args:
        v: residues.
        z: nodes, finite and away from the poles.
        w: poles, real part < 0 for a stable system.
        backend: ``auto``, ``reference``, ``eager``, ``compile`` or ``cuda``.

    Returns:
        K, with the broadcast leading dimensions of v and w.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    name = "cauchy_kernel"
    for label, x in (("v", v), ("w", w)):
        if not x.is_complex() or x.ndim < 1 or 0 in x.shape:
            raise ValueError(
                f"{name}: {label} must be complex (..., J), got {x.dtype} {tuple(x.shape)}"
            )
    if not z.is_complex() or z.ndim != 1 or z.shape[0] == 0:
        raise ValueError(f"{name}: z must be complex (L,), got {z.dtype} {tuple(z.shape)}")
    fits = v.shape[-1] == w.shape[-1] and all(
        i == j or 1 in (i, j) for i, j in zip(v.shape[::-1], w.shape[::-1], strict=False)
    )
    if not fits:
        raise ValueError(f"{name}: v {tuple(v.shape)} and w {tuple(w.shape)} do not broadcast")
    for label, x in (("z", z), ("w", w)):
        if x.dtype != v.dtype or x.device != v.device:
            raise ValueError(
                f"{name}: {label} is {x.dtype} on {x.device}, v is {v.dtype} on {v.device}"
            )
    return OP(backend, v, z, w)
