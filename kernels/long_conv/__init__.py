"""Convolution of every channel with a kernel as long as the sequence, of one side or of both.

The core of S4, S4D, DSS, Hyena, H3, SGConv. Legend: B batch, D channels, N length, L, M taps.
"""

from jaxtyping import Float
from torch import Tensor

from kernels.dispatch import Op

OP = Op(
    "long_conv",
    backends=("reference", "eager", "compile", "monarch"),
    auto={"cpu": ("eager",)},
)


def long_conv(
    u: Float[Tensor, "B D N"],
    kernel: Float[Tensor, "D L"],
    skip: Float[Tensor, " D"] | None = None,
    *,
    kernel_reverse: Float[Tensor, "D M"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "B D N"]:
    """``y[t] = sum_{s <= t} k0[t-s] u[s] + sum_{s > t} k1[s-t-1] u[s] + skip u[t]``.

    The convolution that a state space is (S4, Gu et al. 2022, arXiv 2111.00396, section 2.4) and,
    with a second kernel for what follows, what S4's code calls bidirectional. Linear, not circular:
    nothing wraps around. Taps beyond the sequence do nothing. Half precision is computed in fp32.

    Args:
        u: inputs.
        kernel: k0, on the present and the past.
        skip: weight of the input itself; none if None.
        kernel_reverse: k1, on the future; its tap 0 acts on the next position, so that the present
            comes from k0 only. None: causal.
        backend: ``auto``, ``reference``, ``eager``, ``compile`` or ``monarch``.

    Returns:
        y, of u's dtype.

    Raises:
        ValueError: shapes or devices do not fit.
    """
    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(f"long_conv: u must be (B, D, N), none of them 0, got {tuple(u.shape)}")
    channels = u.shape[1]
    for name, k in (("kernel", kernel), ("kernel_reverse", kernel_reverse)):
        if k is not None and (k.ndim != 2 or k.shape[0] != channels or k.shape[1] == 0):
            raise ValueError(
                f"long_conv: {name} must be (D, L) with D = {channels}, got {tuple(k.shape)}"
            )
    if skip is not None and tuple(skip.shape) != (channels,):
        raise ValueError(f"long_conv: skip must be (D,) = ({channels},), got {tuple(skip.shape)}")
    every = {"u": u, "kernel": kernel, "kernel_reverse": kernel_reverse, "skip": skip}
    for name, x in every.items():
        if x is not None and not x.is_floating_point():
            raise ValueError(f"long_conv: {name} {tuple(x.shape)} must be floating, got {x.dtype}")
        if x is not None and x.device != u.device:
            raise ValueError(f"long_conv: {name} is on {x.device}, u on {u.device}")
    return OP(backend, u, kernel, skip, kernel_reverse=kernel_reverse)
