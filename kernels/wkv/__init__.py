"""WKV of RWKV-4: a running average of values, weighted by e^key and by a decay of each channel.

Peng et al. 2023, arXiv 2305.13048, eq. 16 and, for the stable recurrence, appendix D. Legend: B
batch, N length, D channels.
"""

from jaxtyping import Float
from torch import Tensor

from kernels.dispatch import Op

OP = Op(
    "wkv",
    backends=("reference", "eager", "compile", "triton", "cuda"),
    auto={"cpu": ("eager",), "cuda": ("cuda", "triton", "eager")},
)


def wkv(
    w: Float[Tensor, " D"],
    u: Float[Tensor, " D"],
    k: Float[Tensor, "B N D"],
    v: Float[Tensor, "B N D"],
    *,
    initial_state: Float[Tensor, "B 3 D"] | None = None,
    backend: str = "auto",
) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B 3 D"]]:
    """``y_t = (sum_{i<t} e^{k_i - (t-1-i) w} v_i + e^{u + k_t} v_t) / (the same without v)``.

    Sums are kept relative to the largest exponent so far: no key is too large or too small. A key
    of -inf hides its token (its value must still be finite), so that is what padding should have;
    time passes there: the state decays. Where no key is visible y is 0.

    The state holds numerator a, denominator b and exponent p, and means the sums ``a e^p`` and
    ``b e^p``: after t tokens

        p_t = max(p_{t-1} - w, k_t)
        a_t = e^{p_{t-1} - w - p_t} a_{t-1} + e^{k_t - p_t} v_t,  b_t likewise with v = 1

    p is a choice of scale and counts as constant: no gradient passes through the p of the returned
    state (none is missing, if a and b are only used together with it).

    Args:
        w: decay rate of each channel, >= 0 (0 forgets nothing); RWKV's code holds log w.
        u: bonus of the present token.
        k: keys.
        v: values, of k's dtype; w, u and the state may have another.
        initial_state: the state before the first token, as returned for the segment before; nothing
            seen (0, 0, -inf) if None.
        backend: ``auto``, ``reference``, ``eager``, ``compile``, ``triton`` or ``cuda``.

    Returns:
        y, of v's dtype, and the state after the last token, in at least fp32.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    if k.ndim != 3 or 0 in k.shape:
        raise ValueError(f"wkv: k must be (B, N, D), none of them 0, got {_shape(k)}")
    batch, _, channels = k.shape
    wanted = {
        "w": (w, (channels,)),
        "u": (u, (channels,)),
        "k": (k, _shape(k)),
        "v": (v, _shape(k)),
        "initial_state": (initial_state, (batch, 3, channels)),
    }
    for name, (argument, shape) in wanted.items():
        if argument is None:
            continue
        if _shape(argument) != shape:
            raise ValueError(f"wkv: {name} must be {shape}, got {_shape(argument)}")
        if not argument.is_floating_point():
            raise ValueError(f"wkv: {name} must be real, got {argument.dtype}")
        if argument.device != k.device:
            raise ValueError(f"wkv: {name} is on {argument.device}, k on {k.device}")
    if v.dtype != k.dtype:
        raise ValueError(f"wkv: v is {v.dtype}, k is {k.dtype}")
    return OP(backend, w, u, k, v, initial_state=initial_state)


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
