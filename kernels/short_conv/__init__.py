"""Convolution of every channel with a few taps of its own, causal or centred.

The short convolution before Mamba, H3, Hyena, GLA and DeltaNet, and LightConv's with its weights
expanded to channels. Legend: B batch, D channels, N length, W taps.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.dispatch import Op

OP = Op(
    "short_conv",
    backends=("reference", "eager", "compile", "triton", "causal_conv1d"),
    auto={"cpu": ("eager",), "cuda": ("triton", "eager")},
)


def short_conv(
    u: Float[Tensor, "B D N"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None = None,
    *,
    causal: bool = True,
    initial: Float[Tensor, "B D Wb"] | None = None,
    backend: str = "auto",
) -> Float[Tensor, "B D N"]:
    """``y[t] = sum_w weight[w] u[t + w - left] + bias``: depthwise, with zeros outside.

    The depthwise convolution of Wu et al. 2019, arXiv 1901.10430, section 2; ``left`` is W - 1 when
    causal, so that the last tap meets the present, else (W - 1) / 2. Half precision is computed in
    fp32. There is no mask: padding must be zero in u, and comes out as whatever its neighbours make
    of it.

    Args:
        u: inputs.
        weight: the taps of each channel, in the order of time (a cross-correlation, as torch's).
        bias: added to every position; none if None.
        causal: position t sees positions <= t only; otherwise W must be odd.
        initial: the W - 1 inputs before the first, (B, D, W - 1); zeros if None. Causal only.
        backend: ``auto``, ``reference``, ``eager``, ``compile``, ``triton`` or ``causal_conv1d``.

    Returns:
        y, of u's dtype.

    Raises:
        ValueError: shapes or devices do not fit; an even W without ``causal``.
    """
    _check(u, weight, bias, causal)
    if initial is None:
        return OP(backend, u, weight, bias, causal=causal)
    before = weight.shape[1] - 1
    wanted = (*u.shape[:2], before)
    if not causal:
        raise ValueError("short_conv: initial comes before the sequence, it needs causal=True")
    if tuple(initial.shape) != wanted:
        raise ValueError(
            f"short_conv: initial must be (B, D, W - 1) = {wanted}, got {tuple(initial.shape)}"
        )
    _check_kind("initial", initial, u)
    longer = torch.cat([initial.to(u.dtype), u], dim=2)
    return OP(backend, longer, weight, bias, causal=True)[..., before:]


def short_conv_step(
    u_t: Float[Tensor, "B D"],
    window: Float[Tensor, "B D Wb"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None = None,
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "B D Wb"]]:
    """One position of the causal ``short_conv``, for decoding.

    Args:
        u_t: the input of this position.
        window: the W - 1 inputs before it, the oldest first; zeros at the start.
        weight, bias: as in ``short_conv``.

    Returns:
        y_t, and the window of the next position.
    """
    seen = torch.cat([window, u_t[..., None].to(window.dtype)], dim=2)
    y = (seen * weight).sum(dim=2)
    return (y if bias is None else y + bias).to(u_t.dtype), seen[..., 1:]


def _check(u: Tensor, weight: Tensor, bias: Tensor | None, causal: bool) -> None:
    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(f"short_conv: u must be (B, D, N), none of them 0, got {tuple(u.shape)}")
    channels = u.shape[1]
    if weight.ndim != 2 or weight.shape[0] != channels or weight.shape[1] == 0:
        raise ValueError(
            f"short_conv: weight must be (D, W) with D = {channels}, got {tuple(weight.shape)}"
        )
    if not causal and weight.shape[1] % 2 == 0:
        raise ValueError(
            f"short_conv: weight has {weight.shape[1]} taps, an even number has no centre: "
            "take an odd one or causal=True"
        )
    if bias is not None and tuple(bias.shape) != (channels,):
        raise ValueError(f"short_conv: bias must be (D,) = ({channels},), got {tuple(bias.shape)}")
    for name, x in (("u", u), ("weight", weight), ("bias", bias)):
        if x is not None:
            _check_kind(name, x, u)


def _check_kind(name: str, x: Tensor, u: Tensor) -> None:
    if not x.is_floating_point():
        raise ValueError(f"short_conv: {name} {tuple(x.shape)} must be floating, got {x.dtype}")
    if x.device != u.device:
        raise ValueError(f"short_conv: {name} is on {x.device}, u on {u.device}")
