"""Linear attention in Triton: chunked, forward and backward; compiled and emulated so far.

The identity, elu + 1 and relu are applied inside the kernels. Features of maps with a projection
are made by torch, before the forward and again before the backward kernels; they are not kept.
Everything is computed in fp32 (products of fp16 and bf16 tensors in TF32, which holds their
numbers exactly). Inputs that are not contiguous are copied. It can be differentiated once.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.linear_attention import triton_launch as launch
from kernels.linear_attention.feature_map import EluPlusOne, FeatureMap, Identity, Relu
from kernels.linear_attention.slices import hide, wide
from kernels.linear_attention.triton_kernels import WIDEST
from kernels.linear_attention.triton_parts import chunk_length
from kernels.triton_tools import available as available
from kernels.triton_tools import supports_device


def supports(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> str | None:
    """Why this call cannot run here, or None."""
    features = rest["feature_map"].width(q.shape[-1])
    if max(features, v.shape[-1]) > WIDEST:
        return f"heads are wider than {WIDEST}"
    state = rest["initial_state"] or ()
    every = (q, k, v, rest["log_decay"], *state)
    return next(filter(None, (supports_device(x) for x in every if x is not None)), None)


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
    plan = _Plan(feature_map, causal, normalise, eps)
    s, z = initial_state or (None, None)
    width = feature_map.width(k.shape[-1])
    if s is None:
        s = k.new_zeros(*k.shape[:2], width, v.shape[-1], dtype=torch.float32)
    if z is None:
        z = s.new_zeros(*k.shape[:2], width)
    y, s, z = _Linear.apply(q, k, v, log_decay, key_mask, s.float(), z.float(), plan)
    return y, (s, z if normalise else None)


@dataclass(frozen=True)
class _Plan:
    """What is not a tensor, and how features come to the kernels."""

    phi: FeatureMap
    causal: bool
    normalise: bool
    eps: float

    def inside(self) -> tuple[int, float] | None:
        """The kernels' number of phi and its constant, if they know it."""
        if isinstance(self.phi, Identity):
            return 0, 0.0
        if isinstance(self.phi, EluPlusOne):
            return 1, 0.0
        if isinstance(self.phi, Relu) and self.phi.projection is None:
            return 2, self.phi.eps
        return None

    def setting(self, q: Tensor, log_decay: Tensor | None) -> launch.Setting:
        phi, shift = self.inside() or (0, 0.0)
        decay = 0 if log_decay is None else log_decay.ndim - 2
        chunk = chunk_length(q.dtype, decay)
        return launch.Setting(
            q.shape[1], q.dtype, phi, shift, decay, self.normalise, self.causal, chunk
        )

    def read(self, x: Tensor, *, keys: bool, mask: Tensor | None = None) -> Tensor:
        """``(X, N, K)`` for the kernels: x itself, or its features."""
        if self.inside() is None:
            x = self.phi(wide(x), keys=keys)
            x = hide(x, mask, slice(None))
        return _flat(x)

    def pull_back(self, x: Tensor, features: Tensor, grad: Tensor, mask: Tensor | None) -> Tensor:
        """Gradient in x from the kernels'."""
        grad = grad.view(*x.shape[:3], -1)
        if self.inside() is None:
            grad = self.phi.pull_back(wide(x), features.view(grad.shape), grad)
            grad = hide(grad, mask, slice(None))
        return grad.to(x.dtype)


class _Linear(torch.autograd.Function):
    """Keeps its arguments, the output, its normaliser and one state."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor | None,
        key_mask: Tensor | None,
        s: Tensor,
        z: Tensor,
        plan: _Plan,
    ) -> tuple[Tensor, Tensor, Tensor]:
        it = plan.setting(q, log_decay)
        with torch.autocast(q.device.type, enabled=False):
            queries, keys = plan.read(q, keys=False), plan.read(k, keys=True, mask=key_mask)
            values, g, mask = _flat(v), _flat(log_decay), _bytes(key_mask)
            begin = (_flat(s), _flat(z))
            if plan.causal:
                *states, last, last_sum = launch.each_state(it, keys, values, g, mask, begin)
            else:
                added = launch.one_state(it, keys, values, mask)
                last, last_sum = (a + b for a, b in zip(begin, added, strict=True))
                states = [last, last_sum]
            y, normaliser = launch.outputs(
                it, queries, keys, values, g, mask, (states[0], states[1]), eps=plan.eps
            )
        kept = begin if plan.causal else (last, last_sum)
        ctx.save_for_backward(q, k, v, log_decay, key_mask, y, normaliser, *kept)
        ctx.plan = plan
        return y.view(*q.shape[:3], -1), last.view(s.shape), last_sum.view(z.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, log_decay, key_mask, y, normaliser, *kept = ctx.saved_tensors
        plan: _Plan = ctx.plan
        it = plan.setting(q, log_decay)
        with torch.autocast(q.device.type, enabled=False):
            queries, keys = plan.read(q, keys=False), plan.read(k, keys=True, mask=key_mask)
            qkv = (queries, keys, _flat(v))
            g, mask = _flat(log_decay), _bytes(key_mask)
            grad = _flat(grads[0]).float()
            grad_sum = normaliser
            if plan.normalise:
                grad = grad / normaliser[..., None]
                grad_sum = -(grad * y).sum(dim=-1)
            ends = (_flat(grads[1]).float(), _flat(grads[2]).float())
            if plan.causal:
                found = _causal(it, qkv, (grad, grad_sum), g, mask, (kept[0], kept[1]), ends)
            else:
                found = _both_ways(it, qkv, (grad, grad_sum), mask, (kept[0], kept[1]), ends)
        grad_q = plan.pull_back(q, queries, found[0], None)
        grad_k = plan.pull_back(k, keys, found[1], key_mask)
        grad_g = None if found[3] is None else found[3].view_as(log_decay).to(log_decay.dtype)
        shapes = (grads[1].shape, grads[2].shape)
        grad_s, grad_z = (x.view(shape) for x, shape in zip(found[4:], shapes, strict=True))
        grad_v = found[2].view(v.shape).to(v.dtype)
        return grad_q, grad_k, grad_v, grad_g, None, grad_s, grad_z, None


def _causal(
    it: launch.Setting,
    qkv: tuple[Tensor, Tensor, Tensor],
    grad: tuple[Tensor, Tensor],
    g: Tensor | None,
    mask: Tensor | None,
    begin: tuple[Tensor, Tensor],
    ends: tuple[Tensor, Tensor],
) -> tuple[Any, ...]:
    """Gradients in q, k, v, the log-decays and the state before all."""
    q, k, v = qkv
    states, sums, _, _ = launch.each_state(it, k, v, g, mask, begin)
    past, past_sum, *first = launch.each_state(
        it, q, grad[0], g, None, ends, reverse=True, weights=grad[1] if it.total else None
    )
    grad_q, of_query = launch.query_grad(it, qkv, grad, g, mask, (states, sums))
    grad_k, grad_v, *of_keys = launch.key_grad(it, qkv, grad, g, mask, (past, past_sum))
    grad_g = None
    if g is not None:
        through = torch.einsum("xnkv,xnkv->xnk", states, past) + sums * past_sum
        of_pairs, of_end = of_keys
        grad_g = launch.decay_grad(it, g, of_query, of_pairs, of_end, through)
    return grad_q, grad_k, grad_v, grad_g, *first


def _both_ways(
    it: launch.Setting,
    qkv: tuple[Tensor, Tensor, Tensor],
    grad: tuple[Tensor, Tensor],
    mask: Tensor | None,
    state: tuple[Tensor, Tensor],
    ends: tuple[Tensor, Tensor],
) -> tuple[Any, ...]:
    """The same where every query reads one state."""
    added = launch.one_state(it, qkv[0], grad[0], None, grad[1] if it.total else None)
    past = (ends[0] + added[0], ends[1] + added[1])
    grad_q, _ = launch.query_grad(it, qkv, grad, None, mask, state)
    grad_k, grad_v, _, _ = launch.key_grad(it, qkv, grad, None, mask, past)
    return grad_q, grad_k, grad_v, None, *past


def _flat(x: Any) -> Any:
    """Heads and examples in one axis, contiguous; None stays None."""
    return None if x is None else x.contiguous().flatten(0, 1)


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.to(torch.int8).contiguous()
