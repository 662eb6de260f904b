"""Diagonal linear recurrence ``h_t = a_t * h_{t-1} + b_t``, real or complex, in either direction.

The core of S5, LRU, HiPPO, Mega's moving average and every other recurrence whose channels do not
mix. Legend: B batch, N length, D channels.
"""

from jaxtyping import Inexact
from torch import Tensor

from kernels.dispatch import Op

OP = Op(
    "diagonal_scan",
    backends=("reference", "eager", "compile", "triton"),
    auto={"cpu": ("eager",), "cuda": ("triton", "eager")},
)


def diagonal_scan(
    a: Inexact[Tensor, "*A #D"],
    b: Inexact[Tensor, "B N D"],
    *,
    reverse: bool = False,
    initial: Inexact[Tensor, "B D"] | None = None,
    backend: str = "auto",
) -> Inexact[Tensor, "B N D"]:
    """Every state of the recurrence (S5, Smith et al. 2023, arXiv 2208.04933, section 2.2).

    ``h_t = a_t * h_{t-1} + b_t`` from t = 0 on, with ``h_{-1} = initial``; reversed,
    ``h_t = a_t * h_{t+1} + b_t`` from t = N-1 down, with ``h_N = initial``. Any a is safe: 0, 1,
    complex, growing (then h grows as the recurrence does).

    Args:
        a: coefficients, (D,), (N, D) or (B, N, D) and whatever broadcasts to that.
        b: inputs.
        reverse: run from the end.
        initial: state before the first step; zeros if None.
        backend: ``auto``, ``reference``, ``eager``, ``compile`` or ``triton``.

    Returns:
        h, complex if any argument is.

    Raises:
        ValueError: shapes or devices do not fit.
    """
    if b.ndim != 3 or 0 in b.shape:
        raise ValueError(f"diagonal_scan: b must be (B, N, D), none of them 0, got {_shape(b)}")
    wanted = tuple(b.shape)
    fits = a.ndim <= 3 and all(
        have in (1, want) for have, want in zip(reversed(a.shape), reversed(wanted), strict=False)
    )
    if not fits:
        raise ValueError(
            f"diagonal_scan: a must broadcast to the shape {wanted} of b, got {_shape(a)}"
        )
    if initial is not None and tuple(initial.shape) != (wanted[0], wanted[2]):
        raise ValueError(
            f"diagonal_scan: initial must be (B, D) = {(wanted[0], wanted[2])}, "
            f"got {_shape(initial)}"
        )
    for name, x in (("a", a), ("b", b), ("initial", initial)):
        if x is not None and not (x.is_floating_point() or x.is_complex()):
            raise ValueError(
                f"diagonal_scan: {name} {_shape(x)} must be floating or complex, got {x.dtype}"
            )
        if x is not None and x.device != b.device:
            raise ValueError(f"diagonal_scan: {name} is on {x.device}, b on {b.device}")
    return OP(backend, a, b, reverse=reverse, initial=initial)


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
