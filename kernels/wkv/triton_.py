"""WKV in Triton: launches its kernels. It computes in fp32. It can be differentiated once."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import triton_tools
from kernels.triton_tools import available

__all__ = ["available", "run", "supports"]


def supports(*tensors: Tensor, initial_state: Tensor | None) -> str | None:
    given = tensors if initial_state is None else (*tensors, initial_state)
    return next(filter(None, map(triton_tools.supports_device, given)), None)


def run(
    w: Float[Tensor, " D"],
    u: Float[Tensor, " D"],
    k: Float[Tensor, "B N D"],
    v: Float[Tensor, "B N D"],
    *,
    initial_state: Float[Tensor, "B 3 D"] | None = None,
) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B 3 D"]]:
    if initial_state is None:
        initial_state = k.new_zeros(k.shape[0], 3, k.shape[2], dtype=torch.float32)
        initial_state[:, 2] = -torch.inf
    y, state = _Wkv.apply(w.float(), u.float(), k, v, initial_state.float())
    return y.to(v.dtype), state


class _Wkv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        from kernels.wkv.triton_kernels import forward_kernel

        arguments = [x.contiguous() for x in (w, u, k, v, state)]
        y = torch.empty(k.shape, dtype=torch.float32, device=k.device)
        last = torch.empty_like(arguments[-1])
        forward_kernel[_grid(k)](*arguments, y, last, *k.shape[1:])
        ctx.save_for_backward(*arguments)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_state: Tensor) -> tuple[Tensor, ...]:
        from kernels.wkv.triton_kernels import backward_kernel

        arguments = ctx.saved_tensors
        k, state = arguments[2], arguments[4]
        batch, n, d = k.shape
        before = state.new_empty(batch, n, 2, d)
        exponents = state.new_empty(k.shape, dtype=torch.float64)
        # w and u, of each sequence
        grads = [state.new_empty(batch, d), state.new_empty(batch, d)]
        grads += [state.new_empty(k.shape), state.new_empty(k.shape), torch.empty_like(state)]
        backward_kernel[_grid(k)](
            *arguments,
            grad_y.contiguous(),
            grad_state.contiguous(),
            before,
            exponents,
            *grads,
            n,
            d,
        )
        return grads[0].sum(dim=0), grads[1].sum(dim=0), *grads[2:]


def _grid(k: Tensor) -> Any:
    return lambda meta: (k.shape[0], -(-k.shape[2] // meta["BLOCK"]))
