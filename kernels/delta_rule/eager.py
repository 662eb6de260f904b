"""The delta rule in torch: slice after slice of chunks, the state handed on.

Only the states before the slices are kept; systems, states and pairs inside are made again in the
backward pass. Half precision is computed in fp32. It can be differentiated once.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.delta_rule import wy
from kernels.linear_attention.causal import chunk_length
from kernels.linear_attention.decay import Decay, NoDecay, ScalarDecay
from kernels.linear_attention.slices import in_chunks, joined, slices, wide


def run(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B H N K"],
    v: Float[Tensor, "B H N V"],
    beta: Float[Tensor, "B H N"],
    *,
    log_decay: Float[Tensor, "B H N"] | None,
    initial_state: Float[Tensor, "B H K V"] | None,
) -> tuple[Float[Tensor, "B H N V"], Float[Tensor, "B H K V"]]:
    if initial_state is None:
        initial_state = wide(v[:0]).new_zeros(*k.shape[:2], k.shape[3], v.shape[3])
    return _Delta.apply(q, k, v, beta, log_decay, initial_state.to(wide(v[:0])))


class _Delta(torch.autograd.Function):
    """Keeps its arguments and the states before the slices."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        log_decay: Tensor | None,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        chunk, every = _slices(q)
        batch, heads, n, _ = q.shape
        # heads inside positions: joining them copies nothing
        y = v.new_empty(batch, n, heads, v.shape[-1]).transpose(1, 2)
        shape, state = state.shape, state.flatten(0, 1)
        states = []
        with torch.autocast(q.device.type, enabled=False):
            for at in every:
                states.append(state)
                part, state = wy.forward(_chunks(q, k, v, beta, log_decay, at, chunk), state)
                y[:, :, at] = joined(part, q[:, :, at])
        ctx.save_for_backward(q, k, v, beta, log_decay, *states)
        return y, state.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, beta, log_decay, *states = ctx.saved_tensors
        chunk, every = _slices(q)
        grad_q, grad_k, grad_v, grad_beta = (torch.empty_like(x) for x in (q, k, v, beta))
        grad_decay = torch.empty_like(log_decay) if ctx.needs_input_grad[4] else None
        grad_state = grad_state.flatten(0, 1)
        with torch.autocast(q.device.type, enabled=False):
            for at, state in zip(reversed(every), reversed(states), strict=True):
                x = _chunks(q, k, v, beta, log_decay, at, chunk)
                grad = in_chunks(wide(grad_y[:, :, at]), chunk)
                found = wy.backward(x, state, grad, grad_state, of_decay=grad_decay is not None)
                grad_state, like = found.state, q[:, :, at]
                grad_q[:, :, at] = joined(found.q, like)
                grad_k[:, :, at] = joined(found.k, like)
                grad_v[:, :, at] = joined(found.v, like)
                grad_beta[:, :, at] = joined(found.beta, like)[..., 0]
                if grad_decay is not None and found.log_decay is not None:
                    grad_decay[:, :, at] = joined(found.log_decay, like)[..., 0]
        grad_state = grad_state.unflatten(0, q.shape[:2])
        return grad_q, grad_k, grad_v, grad_beta, grad_decay, grad_state


def _slices(q: Tensor) -> tuple[int, list[slice]]:
    """The length of a chunk, and slices of whole ones."""
    chunk = chunk_length(q.shape[2], None)
    # twice the features of linear attention: systems and their solutions are beside the pairs
    return chunk, slices(q, 2 * q.shape[3], chunk)


def _chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    at: slice,
    chunk: int,
) -> wy.Chunks:
    q, k, v = (in_chunks(wide(x[:, :, at]), chunk) for x in (q, k, v))
    beta = in_chunks(beta[:, :, at, None].to(q.dtype), chunk)
    decay: Decay = NoDecay(chunk, like=k)
    if log_decay is not None:
        decay = ScalarDecay(in_chunks(wide(log_decay[:, :, at, None]), chunk)[..., 0], like=k)
    return wy.Chunks(q, k, v, beta, decay)
