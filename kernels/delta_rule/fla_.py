"""Adapter of ``fla`` (flash-linear-attention): its chunked delta rules, in half precision on a GPU.

It lays tensors out as ``(B, N, H, K)`` and has one function with a decay and one without.
"""

from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.libraries import why_not

# heads of its kernels
WIDEST = 256
# a difference of two running sums of less would be lost, and e^-100 is 0
FLOOR = -100.0


def available() -> str | None:
    """Why the library does not run here, or None."""
    return why_not("fla.ops.delta_rule")


def supports(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, **rest: Any) -> str | None:
    """Why the library cannot do this call, or None."""
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"it has fp16 and bf16, not {q.dtype}"
    if q.shape[-1] > WIDEST:
        return f"its heads are {WIDEST} wide at most, not {q.shape[-1]}"
    if q.device.type != "cuda":
        return f"its tensors must be on a GPU, q is on {q.device}"
    return None


def run(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B H N K"],
    v: Float[Tensor, "B H N V"],
    beta: Float[Tensor, "B H N"],
    *,
    log_decay: Float[Tensor, "B H N"] | None,
    initial_state: Float[Tensor, "B H K V"] | None,
) -> tuple[Float[Tensor, "B H N V"], Float[Tensor, "B H K V"]]:
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    arguments: dict[str, Any] = {
        "q": q,
        "k": k,
        "v": v,
        "beta": beta.to(q.dtype).transpose(1, 2).contiguous(),
        "scale": 1.0,
        "initial_state": None if initial_state is None else initial_state.float(),
        "output_final_state": True,
    }
    if log_decay is None:
        y, state = import_module("fla.ops.delta_rule").chunk_delta_rule(**arguments)
    else:
        g = log_decay.float().clamp(min=FLOOR).transpose(1, 2).contiguous()
        gated = import_module("fla.ops.gated_delta_rule").chunk_gated_delta_rule
        y, state = gated(g=g, **arguments)
    return y.transpose(1, 2), state
