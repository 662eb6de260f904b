"""Selective scan: a diagonal state space whose step, input and output change from token to token.

The core of Mamba (Gu & Dao 2023, arXiv 2312.00752, algorithm 2). Legend: B batch, D channels, N
length, S states of a channel, G groups of channels that share their input and output vectors.
"""

from jaxtyping import Float
from torch import Tensor

from kernels.dispatch import Op

OP = Op(
    "selective_scan",
    backends=("reference", "eager", "compile", "triton", "cuda", "mamba_ssm"),
    auto={"cpu": ("eager",), "cuda": ("cuda", "triton", "eager")},
)


def selective_scan(
    u: Float[Tensor, "B D N"],
    delta: Float[Tensor, "B D N"],
    a: Float[Tensor, "D S"],
    b: Float[Tensor, "B *G S N"],
    c: Float[Tensor, "B *G S N"],
    d: Float[Tensor, " D"] | None = None,
    *,
    z: Float[Tensor, "B D N"] | None = None,
    delta_bias: Float[Tensor, " D"] | None = None,
    delta_softplus: bool = False,
    initial_state: Float[Tensor, "B D S"] | None = None,
    backend: str = "auto",
) -> tuple[Float[Tensor, "B D N"], Float[Tensor, "B D S"]]:
    """``h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t``, ``y_t = (C_t . h_t + D u_t) silu(z_t)``.

    A is discretised exactly, B by Euler's rule, as Mamba's code does. The arguments a, b, c, d are
    the paper's A, B, C, D. A token with ``delta_t = 0`` leaves the state as it is: that is how to
    hide padding (set delta to 0 there and leave ``delta_softplus`` off, or make it -inf with it).

    Args:
        u: inputs; delta, b, c and z are of its dtype, parameters and states of any.
        delta: step sizes, >= 0 after bias and softplus.
        a: diagonal of A, < 0 for a stable system.
        b, c: input and output vectors, (B, S, N) or (B, G, S, N): group g belongs to the g-th D / G
            channels.
        d: weight of the input itself; none if None.
        z: gate; none if None.
        delta_bias: added to delta first.
        delta_softplus: then apply softplus to delta.
        initial_state: h before the first token; zeros if None.
        backend: ``auto``, ``reference``, ``eager``, ``compile``, ``triton``, ``cuda`` or
            ``mamba_ssm``.

    Returns:
        y, of u's dtype, and h after the last token, in at least fp32.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    _check(u, delta, a, b, c, d, z, delta_bias, initial_state)
    return OP(
        backend,
        u,
        delta,
        a,
        b if b.ndim == 4 else b[:, None],
        c if c.ndim == 4 else c[:, None],
        d,
        z=z,
        delta_bias=delta_bias,
        delta_softplus=delta_softplus,
        initial_state=initial_state,
    )


def _check(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(f"selective_scan: u must be (B, D, N), none of them 0, got {_shape(u)}")
    batch, channels, length = u.shape
    if a.ndim != 2 or a.shape[0] != channels or a.shape[1] == 0:
        raise ValueError(f"selective_scan: a must be (D, S) with D = {channels}, got {_shape(a)}")
    states = a.shape[1]
    for name, x in (("b", b), ("c", c)):
        groups = x.shape[1] if x.ndim == 4 else 1
        fits = x.ndim in (3, 4) and (x.shape[0], *x.shape[-2:]) == (batch, states, length)
        if not fits or groups == 0 or channels % groups:
            raise ValueError(
                f"selective_scan: {name} must be (B, S, N) = {(batch, states, length)} or "
                f"(B, G, S, N) with G dividing D = {channels}, got {_shape(x)}"
            )
    if b.shape != c.shape:
        raise ValueError(f"selective_scan: b is {_shape(b)}, c is {_shape(c)}")
    wanted = {
        "u": (u, tuple(u.shape)),
        "delta": (delta, tuple(u.shape)),
        "a": (a, tuple(a.shape)),
        "b": (b, tuple(b.shape)),
        "c": (c, tuple(c.shape)),
        "d": (d, (channels,)),
        "z": (z, tuple(u.shape)),
        "delta_bias": (delta_bias, (channels,)),
        "initial_state": (initial_state, (batch, channels, states)),
    }
    for name, (argument, shape) in wanted.items():
        if argument is None:
            continue
        if tuple(argument.shape) != shape:
            raise ValueError(f"selective_scan: {name} must be {shape}, got {_shape(argument)}")
        if not argument.is_floating_point():
            raise ValueError(f"selective_scan: {name} must be real, got {argument.dtype}")
        if argument.device != u.device:
            raise ValueError(f"selective_scan: {name} is on {argument.device}, u on {u.device}")
        # what each position brings; parameters and states may be wider
        if name in ("delta", "b", "c", "z") and argument.dtype != u.dtype:
            raise ValueError(f"selective_scan: {name} is {argument.dtype}, u is {u.dtype}")


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
