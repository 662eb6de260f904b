"""Adapter of ``fla`` (flash-linear-attention): causal sums with or without a decay, on a GPU.

Features are made by torch. The library's normaliser is another one (no state, an eps of its own),
so normalised calls are refused; it lays tensors out as ``(B, N, H, K)``.
"""

from importlib import import_module
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.libraries import why_not
from kernels.linear_attention.feature_map import FeatureMap
from kernels.linear_attention.slices import wide

# a difference of two running sums of less would be lost, and e^-100 is 0
FLOOR = -100.0


def available() -> str | None:
    """Why the library does not run here, or None."""
    return why_not("fla.ops.gla")


def supports(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> str | None:
    """Why the library cannot do this call, or None."""
    if not rest["causal"]:
        return "it has causal linear attention only"
    if rest["normalise"]:
        return "its normaliser is another one: normalise=False"
    if rest["key_mask"] is not None:
        return "it has no key_mask"
    if q.dtype == torch.float64:
        return "it has no fp64"
    if q.device.type != "cuda":
        return f"its tensors must be on a GPU, q is on {q.device}"
    return None


def run(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B H M K"],
    v: Float[Tensor, "B H M V"],
    *,
    causal: bool,
    feature_map: FeatureMap,
    log_decay: Float[Tensor, "B H M *K"] | None,
    key_mask: Bool[Tensor, "B M"] | None,
    initial_state: tuple[Tensor, Tensor | None] | None,
    normalise: bool,
    eps: float,
) -> tuple[Float[Tensor, "B H N V"], tuple[Tensor, Tensor | None]]:
    dtype = v.dtype
    q = feature_map(wide(q), keys=False).to(dtype)
    k = feature_map(wide(k), keys=True).to(dtype)
    rest: dict[str, Any] = {"scale": 1.0, "output_final_state": True}
    if initial_state is not None:
        rest["initial_state"] = initial_state[0].float()
    if log_decay is not None:
        rest["g"] = log_decay.float().clamp(min=FLOOR).transpose(1, 2).contiguous()
    if log_decay is not None and log_decay.ndim == 4:
        attend = import_module("fla.ops.gla").chunk_gla
    else:
        attend = import_module("fla.ops.simple_gla").chunk_simple_gla
    y, state = attend(*(x.transpose(1, 2).contiguous() for x in (q, k, v)), **rest)
    return y.transpose(1, 2).to(dtype), (state, None)
