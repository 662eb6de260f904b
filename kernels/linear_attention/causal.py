"""Position i sees j <= i: slice after slice of chunks, the state handed on."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from kernels.linear_attention import chunked
from kernels.linear_attention.decay import ChannelDecay, Decay, NoDecay, ScalarDecay
from kernels.linear_attention.plan import Plan
from kernels.linear_attention.slices import hide, in_chunks, joined, wide

CHUNK = 64


class Causal(torch.autograd.Function):
    """Keeps its arguments, the output, its normaliser and the states before the slices."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor | None,
        key_mask: Tensor | None,
        state: Tensor,
        plan: Plan,
    ) -> tuple[Tensor, Tensor]:
        chunk = chunk_length(q.shape[2], log_decay)
        y, normaliser = plan.outputs(q, v)
        shape, state = state.shape, state.flatten(0, 1)
        states = []
        with torch.autocast(q.device.type, enabled=False):
            for at in plan.slices(q, chunk):
                states.append(state)
                queries, keys = plan.queries(q, at)[1], plan.keys(k, key_mask, at)[1]
                values = _with_ones(plan.values(v, key_mask, at), plan.normalise)
                x = _chunks(queries, keys, values, log_decay, at, chunk)
                sums, state = chunked.forward(x, state)
                y[:, :, at], normaliser[:, :, at] = plan.read(joined(sums, queries))
        ctx.save_for_backward(q, k, v, log_decay, key_mask, y, normaliser, *states)
        ctx.plan = plan
        return y, state.view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, log_decay, key_mask, y, normaliser, *states = ctx.saved_tensors
        plan: Plan = ctx.plan
        pull_back = plan.feature_map.pull_back
        chunk = chunk_length(q.shape[2], log_decay)
        grad_y, grad_state = grads[0], grads[1].flatten(0, 1)
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        wanted = ctx.needs_input_grad[3]
        grad_decay = torch.empty_like(log_decay) if wanted else None
        with torch.autocast(q.device.type, enabled=False):
            slices = plan.slices(q, chunk)
            for at, state in zip(reversed(slices), reversed(states), strict=True):
                q_at, queries = plan.queries(q, at)
                k_at, keys = plan.keys(k, key_mask, at)
                values = _with_ones(plan.values(v, key_mask, at), plan.normalise)
                x = _chunks(queries, keys, values, log_decay, at, chunk)
                grad = in_chunks(plan.grad_sums(grad_y, y, normaliser, at), chunk)
                found = chunked.backward(
                    x, state, grad, grad_state, of_decay=grad_decay is not None
                )
                grad_state = found.state
                grad_q[:, :, at] = pull_back(q_at, queries, joined(found.q, queries))
                grad_keys = pull_back(k_at, keys, joined(found.k, keys))
                grad_k[:, :, at] = hide(grad_keys, key_mask, at)
                grad_v[:, :, at] = joined(found.v, queries)[..., : v.shape[-1]]
                if grad_decay is not None and found.log_decay is not None:
                    grad_g = joined(found.log_decay, queries)
                    grad_decay[:, :, at] = grad_g if log_decay.ndim == 4 else grad_g[..., 0]
        grad_state = grad_state.unflatten(0, q.shape[:2])
        return grad_q, grad_k, grad_v, grad_decay, None, grad_state, None


def chunk_length(n: int, log_decay: Tensor | None) -> int:
    """Chunks of at most ``CHUNK``, all of one length, with little left over at the end."""
    even = -(-n // -(-n // CHUNK))
    if log_decay is None or log_decay.ndim == 3:
        return even
    return 1 << (even - 1).bit_length()


def _chunks(
    queries: Tensor, keys: Tensor, values: Tensor, log_decay: Tensor | None, at: slice, chunk: int
) -> chunked.Chunks:
    q, k, v = (in_chunks(x, chunk) for x in (queries, keys, values))
    decay: Decay
    if log_decay is None:
        decay = NoDecay(chunk, like=k)
    elif log_decay.ndim == 3:
        g = in_chunks(wide(log_decay[:, :, at, None]), chunk)
        decay = ScalarDecay(g[..., 0], like=k)
    else:
        decay = ChannelDecay(in_chunks(wide(log_decay[:, :, at]), chunk))
    return chunked.Chunks(q, k, v, decay)


def _with_ones(values: Tensor, normalise: bool) -> Tensor:
    """Values and, to sum the normaliser with them, a column of ones."""
    return pad(values, (0, 1), value=1.0) if normalise else values
