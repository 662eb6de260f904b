"""Every query sees every key: ``y = phi(q) S`` with ``S = sum_j phi(k_j) v_j^T``. Two products."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.linear_attention.plan import Plan
from kernels.linear_attention.slices import hide


class Bidirectional(torch.autograd.Function):
    """Keeps its arguments, the output, its normaliser and S; features are made again."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None,
        state: Tensor,
        plan: Plan,
    ) -> tuple[Tensor, Tensor]:
        y, normaliser = plan.outputs(q, v)
        with torch.autocast(q.device.type, enabled=False):
            for at in plan.slices(k):
                _, keys = plan.keys(k, key_mask, at)
                added = keys.mT @ plan.values(v, key_mask, at)
                if plan.normalise:
                    added = torch.cat([added, keys.sum(dim=2)[..., None]], dim=-1)
                state = state + added
            for at in plan.slices(q):
                _, queries = plan.queries(q, at)
                y[:, :, at], normaliser[:, :, at] = plan.read(queries @ state)
        ctx.save_for_backward(q, k, v, key_mask, y, normaliser, state)
        ctx.plan = plan
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, key_mask, y, normaliser, state = ctx.saved_tensors
        plan: Plan = ctx.plan
        grad_y, grad_state = grads
        width = v.shape[-1]
        grad_q, grad_k, grad_v = (torch.empty_like(x) for x in (q, k, v))
        with torch.autocast(q.device.type, enabled=False):
            for at in plan.slices(q):
                x, queries = plan.queries(q, at)
                grad = plan.grad_sums(grad_y, y, normaliser, at)
                grad_state = grad_state + queries.mT @ grad
                grad = grad @ state.mT
                grad_q[:, :, at] = plan.feature_map.pull_back(x, queries, grad)
                del x, queries, grad  # before those of the next slice are made
            for at in plan.slices(k):
                x, keys = plan.keys(k, key_mask, at)
                grad_v[:, :, at] = keys @ grad_state[..., :width]
                grad = plan.values(v, key_mask, at) @ grad_state[..., :width].mT
                if plan.normalise:
                    grad += grad_state[..., width][:, :, None]
                grad_k[:, :, at] = hide(plan.feature_map.pull_back(x, keys, grad), key_mask, at)
                del x, keys, grad
        return grad_q, grad_k, grad_v, None, grad_state, None
