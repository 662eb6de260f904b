"""Adapter of the ``causal_conv1d`` package (Dao-AILab): causal, 2 to 4 taps, on a GPU."""

from importlib import import_module

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.libraries import why_not

TAPS = (2, 3, 4)


def available() -> str | None:
    """Why the library does not run here, or None."""
    return why_not("causal_conv1d")


def supports(
    u: Tensor, weight: Tensor, bias: Tensor | None = None, *, causal: bool = True
) -> str | None:
    """Why the library cannot do this call, or None."""
    if not causal:
        return "it has causal convolutions only"
    if weight.shape[1] not in TAPS:
        return f"it has 2 to 4 taps, not {weight.shape[1]}"
    if torch.float64 in (u.dtype, weight.dtype):
        return "it has no fp64"
    if bias is not None and bias.dtype != weight.dtype:
        return f"its bias is of the weight's dtype: {weight.dtype}, not {bias.dtype}"
    if u.device.type != "cuda":
        return f"its tensors must be on a GPU, u is on {u.device}"
    return None


def run(
    u: Float[Tensor, "B D N"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None = None,
    *,
    causal: bool = True,
) -> Float[Tensor, "B D N"]:
    convolve = import_module("causal_conv1d").causal_conv1d_fn
    # contiguous: its other layout, channels last, wants strides that are multiples of 8
    return convolve(u.contiguous(), weight, None if bias is None else bias.contiguous())
