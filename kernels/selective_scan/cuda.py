"""Plain CUDA: tiles of 16 tokens side by side, the state carried from tile to tile.

Computes in fp32. Keeps the states at the start of every tile, B N D S / 16 numbers; those inside a
tile live in registers. Skip, gate, bias and softplus are torch's. Differentiates once.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu, softplus

from kernels import cuda_tools
from kernels.cuda_tools import DTYPES, available, dense

__all__ = ["available", "run", "supports"]

SOURCE = Path(__file__).with_name("selective_scan.cu")
TILE, MOST_STATES = 16, 32


def supports(
    u: Tensor,
    delta: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None = None,
    *,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
) -> str | None:
    if a.shape[1] > MOST_STATES:
        return f"it holds at most {MOST_STATES} states of a channel, got {a.shape[1]}"
    every = (u, delta, a, b, c, d, z, delta_bias, initial_state)
    reasons = (cuda_tools.supports_device(x) for x in every if x is not None)
    return next(filter(None, reasons), None)


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
    shared = torch.promote_types(u.dtype, torch.promote_types(b.dtype, c.dtype))
    delta = delta.float()
    if delta_bias is not None:
        delta = delta + delta_bias.float()[:, None]
    if delta_softplus:
        delta = softplus(delta)
    if initial_state is None:
        initial_state = a.new_zeros(u.shape[0], *a.shape)
    y, state = _SelectiveScan.apply(
        u.to(shared), delta, a.float(), b.to(shared), c.to(shared), initial_state.float()
    )
    if d is not None:
        y = y + d.float()[:, None] * u
    if z is not None:
        y = y * silu(z.float())
    return y.to(u.dtype), state


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, initial: Tensor
    ) -> tuple[Tensor, Tensor]:
        u, delta, a, b, c, initial = (dense(x, x.dtype) for x in (u, delta, a, b, c, initial))
        batch, channels, length = u.shape
        tiles = -(-length // TILE)
        states = a.new_empty(batch, tiles, *a.shape)
        totals = a.new_empty(batch, tiles, channels)
        final, y = torch.empty_like(initial), torch.empty_like(delta)
        sizes = (*u.shape, a.shape[1], b.shape[1])
        cuda_tools.launch(
            SOURCE, "selective_scan_forward", DTYPES[u.dtype], u, delta, a, b, c, initial, states,
            totals, final, y, *sizes,
        )  # fmt: skip
        ctx.save_for_backward(u, delta, a, b, c, states, totals)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
        u, delta, a, b, c, states, totals = ctx.saved_tensors
        grad, grad_final = dense(grad, torch.float32), dense(grad_final, torch.float32)
        adjoints, grad_initial = torch.empty_like(states), torch.empty_like(grad_final)
        grad_u, grad_delta, grad_b, grad_c = (torch.empty_like(x) for x in (u, delta, b, c))
        sizes = (*u.shape, a.shape[1], b.shape[1])
        cuda_tools.launch(
            SOURCE, "selective_scan_backward", DTYPES[u.dtype], u, delta, a, b, c, states, totals,
            grad, grad_final, adjoints, grad_initial, grad_u, grad_delta, grad_b, grad_c, *sizes,
        )  # fmt: skip
        # the last kernel leaves in adjoints what each tile adds to the gradient of a
        return grad_u, grad_delta, adjoints.sum((0, 1)), grad_b, grad_c, grad_initial
