"""Mamba's own CUDA kernel, from the package mamba-ssm: same layout, parameters in fp32.

It takes no initial state, and its last state comes without a gradient: asking for one is an error
here, not a silent zero.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.libraries import why_not

# its kernels keep a state in registers
MOST_STATES = 256


def available() -> str | None:
    """Why it does not run here, or None."""
    return why_not("mamba_ssm.ops.selective_scan_interface")


def supports(
    u: Float[Tensor, "B D N"],
    delta: Float[Tensor, "B D N"],
    a: Float[Tensor, "D S"],
    *tensors: Tensor | None,
    delta_softplus: bool,
    initial_state: Float[Tensor, "B D S"] | None,
    **more: Tensor | None,
) -> str | None:
    given = [x for x in (u, delta, a, *tensors, *more.values()) if x is not None]
    if not u.is_cuda:
        return "its tensors must be on a GPU"
    if any(x.dtype == torch.float64 for x in given):
        return "it has no fp64"
    if initial_state is not None:
        return "it takes no initial_state"
    if a.shape[1] > MOST_STATES:
        return f"it has at most {MOST_STATES} states, a has {a.shape[1]}"
    return None


def run(
    u: Float[Tensor, "B D N"],
    delta: Float[Tensor, "B D N"],
    a: Float[Tensor, "D S"],
    b: Float[Tensor, "B G S N"],
    c: Float[Tensor, "B G S N"],
    d: Float[Tensor, " D"] | None = None,
    *,
    z: Float[Tensor, "B D N"] | None = None,
    delta_bias: Float[Tensor, " D"] | None = None,
    delta_softplus: bool = False,
    initial_state: Float[Tensor, "B D S"] | None = None,
) -> tuple[Float[Tensor, "B D N"], Float[Tensor, "B D S"]]:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    # it wants parameters in fp32
    y, state = selective_scan_fn(
        u,
        delta,
        a.float(),
        b,
        c,
        D=None if d is None else d.float(),
        z=z,
        delta_bias=None if delta_bias is None else delta_bias.float(),
        delta_softplus=delta_softplus,
        return_last_state=True,
    )
    return y, _NoGradient.apply(state.float(), y)


class _NoGradient(torch.autograd.Function):
    """The state, tied to the graph of y: its gradient is refused, not forgotten."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, y: Tensor) -> Tensor:
        return state.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        raise ValueError(
            "selective_scan: backend 'mamba_ssm' has no gradient through the final state: "
            "detach it, or take another backend"
        )
