"""Plain CUDA: tiles of 16 tokens side by side, the stable sums carried from tile to tile.

Computes in fp32, exponents in fp64; keeps the sums at the start of every tile and nothing else, so
memory is that of the inputs. Differentiates once.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import cuda_tools
from kernels.cuda_tools import DTYPES, available, dense

__all__ = ["available", "run", "supports"]

SOURCE = Path(__file__).with_name("wkv.cu")
TILE = 16


def supports(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, *, initial_state: Tensor | None = None
) -> str | None:
    every = (w, u, k, v, initial_state)
    reasons = (cuda_tools.supports_device(x) for x in every if x is not None)
    return next(filter(None, reasons), None)


def run(
    w: Float[Tensor, " D"],
    u: Float[Tensor, " D"],
    k: Float[Tensor, "B N D"],
    v: Float[Tensor, "B N D"],
    *,
    initial_state: Float[Tensor, "B 3 D"] | None = None,
) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B 3 D"]]:
    shared = torch.promote_types(k.dtype, v.dtype)
    if initial_state is None:
        initial_state = k.new_zeros(k.shape[0], 3, k.shape[2], dtype=torch.float32)
        initial_state[:, 2] = -torch.inf
    y, state = _WKV.apply(w.float(), u.float(), k.to(shared), v.to(shared), initial_state.float())
    return y.to(v.dtype), state


class _WKV(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, w: Tensor, u: Tensor, k: Tensor, v: Tensor, initial: Tensor
    ) -> tuple[Tensor, Tensor]:
        w, u, k, v, initial = (dense(x, x.dtype) for x in (w, u, k, v, initial))
        batch, length, channels = k.shape
        begin = initial.double()
        states = begin.new_empty(batch, -(-length // TILE), 3, channels)
        final, y = torch.empty_like(begin), torch.empty_like(v)
        cuda_tools.launch(
            SOURCE, "wkv_forward", DTYPES[k.dtype], w, u, k, v, begin, states, final, y, *k.shape
        )
        ctx.save_for_backward(w, u, k, v, initial, states, final)
        return y, final.to(initial.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_final: Tensor) -> tuple[Tensor | None, ...]:
        w, u, k, v, initial, states, final = ctx.saved_tensors
        # gradients of the sums themselves: scaled by e^-p, none where nothing was seen
        unseen = final[:, 2:] == -torch.inf
        own = grad_final[:, :2].double().masked_fill(unseen, 0)
        begin = torch.cat([own, -final[:, 2:]], dim=1)
        begin[:, 2:].masked_fill_(unseen, -torch.inf)
        adjoints, end = torch.empty_like(states), torch.empty_like(begin)
        grad_w = w.new_empty(*states.shape[:2], states.shape[3])
        grad_u, grad_k, grad_v = (torch.empty_like(x) for x in (grad_w, k, v))
        cuda_tools.launch(
            SOURCE, "wkv_backward", DTYPES[k.dtype], w, u, k, v, states, dense(grad, v.dtype),
            dense(begin, torch.float64), adjoints, end, grad_w, grad_u, grad_k, grad_v, *k.shape,
        )  # fmt: skip
        of_sums = end[:, :2] * torch.exp(end[:, 2:] + initial[:, 2:])
        of_scale = (of_sums * initial[:, :2]).sum(1, keepdim=True)
        grad_initial = torch.cat([of_sums, of_scale], dim=1).to(initial.dtype)
        return grad_w.sum((0, 1)), grad_u.sum((0, 1)), grad_k, grad_v, grad_initial
