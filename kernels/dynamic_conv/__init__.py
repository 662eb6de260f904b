"""Convolution whose weights every position brings along: lightweight and dynamic convolution.

Wu et al. 2019, arXiv 1901.10430. Legend: B batch, H heads, N length, K head width, W taps.
"""

from jaxtyping import Float
from torch import Tensor

from kernels.dispatch import Op

OP = Op(
    "dynamic_conv",
    backends=("reference", "eager", "compile", "triton"),
    auto={"cpu": ("eager",), "cuda": ("triton", "eager")},
)


def dynamic_conv(
    v: Float[Tensor, "B H N K"],
    weights: Float[Tensor, "B H N W"],
    *,
    causal: bool = True,
    backend: str = "auto",
) -> Float[Tensor, "B H N K"]:
    """``y[t] = sum_w weights[t, w] v[t + w - left]``, with zeros outside (section 3 and 4).

    ``left`` is W - 1 when causal, so that the last tap meets the present, else (W - 1) / 2. All
    channels of a head share the weights, which are used as they are: a softmax over the taps is
    the caller's. Half precision is computed in fp32. There is no mask: padding must be zero in v.

    Args:
        v: values.
        weights: of each position, in the order of time, of v's dtype.
        causal: position t sees positions <= t only; otherwise W must be odd.
        backend: ``auto``, ``reference``, ``eager``, ``compile`` or ``triton``.

    Returns:
        y, of v's dtype.

    Raises:
        ValueError: shapes, dtypes or devices do not fit; an even W without ``causal``.
    """
    if v.ndim != 4 or 0 in v.shape:
        raise ValueError(
            f"dynamic_conv: v must be (B, H, N, K), none of them 0, got {tuple(v.shape)}"
        )
    lead = tuple(v.shape[:3])
    if weights.ndim != 4 or tuple(weights.shape[:3]) != lead or weights.shape[3] == 0:
        raise ValueError(
            f"dynamic_conv: weights must be (B, H, N, W) with (B, H, N) = {lead}, "
            f"got {tuple(weights.shape)}"
        )
    if not causal and weights.shape[3] % 2 == 0:
        raise ValueError(
            f"dynamic_conv: weights have {weights.shape[3]} taps, an even number has no centre: "
            "take an odd one or causal=True"
        )
    for name, x in (("v", v), ("weights", weights)):
        if not x.is_floating_point():
            raise ValueError(
                f"dynamic_conv: {name} {tuple(x.shape)} must be floating, got {x.dtype}"
            )
    if (weights.dtype, weights.device) != (v.dtype, v.device):
        raise ValueError(
            f"dynamic_conv: weights are {weights.dtype} on {weights.device}, "
            f"v is {v.dtype} on {v.device}"
        )
    return OP(backend, v, weights, causal=causal)
