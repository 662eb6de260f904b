"""Selective scan in torch, slab by slab: all states of a slab at once, by the two-level scan.

A batch goes a few sequences at a time, as many as fit the cache with a slab of each. Only the state
before each slab is kept; the backward pass goes through the slabs from the last to the first and
makes their states again. Memory beyond arguments and gradients is that of a slab. A long sequence
has longer slabs, not more: Python's work stops growing. It can be differentiated once.

Legend: X batch times groups, T positions of a slab, S states, D channels of a group. Channels are
last, so that every elementwise pass runs along whole rows.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from kernels.diagonal_scan.eager import scan_
from kernels.selective_scan.call import around

# states of a slab (they should fit the cache), the fewest positions it may have, the most slabs
STATES, SHORTEST, SLABS = 1 << 19, 64, 64


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
    return around(_few, u, delta, a, b, c, d, z, delta_bias, delta_softplus, initial_state)


def _few(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence, a few sequences at a time."""
    n = u.shape[2]
    positions = min(n, max(SHORTEST, -(-n // SLABS)))
    few = max(1, STATES // (a[0].numel() * positions))
    parts = zip(*(x.split(few) for x in (u, delta, a, b, c, h)), strict=True)
    y, h = (torch.cat(x) for x in zip(*(_Scan.apply(*part) for part in parts), strict=True))
    return y, h


class _Scan(torch.autograd.Function):
    """y and the last state, from u, delta ``(X, D, N)``, a, h ``(X, S, D)``, b, c ``(X, S, N)``."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        y = delta.new_empty(u.shape)
        before = []
        with torch.autocast(u.device.type, enabled=False):
            for part in _slabs(u, a):
                before.append(h)
                u_t, step, b_t, c_t = (_rows(x, part, a.dtype) for x in (u, delta, b, c))
                h_t, _ = _states(u_t, step, a, b_t, h)
                y[:, :, part] = (c_t[:, :, None] @ h_t)[:, :, 0].mT
                h = h_t[:, -1].clone()
        ctx.save_for_backward(u, delta, a, b, c, torch.stack(before))
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_h: Tensor) -> tuple[Tensor, ...]:
        u, delta, a, b, c, before = ctx.saved_tensors
        grads = [torch.empty_like(x) for x in (u, delta, b, c)]
        grad_a = torch.zeros_like(a)
        parts = _slabs(u, a)
        with torch.autocast(u.device.type, enabled=False):
            for part, h in reversed(list(zip(parts, before.unbind(), strict=True))):
                arguments = [_rows(x, part, a.dtype) for x in (u, delta, b, c, grad_y)]
                *found, share, grad_h = _slab_backward(a, h, grad_h, *arguments)
                for whole, x in zip(grads, found, strict=True):
                    whole[:, :, part] = x.mT
                grad_a += share
        grad_u, grad_delta, grad_b, grad_c = grads
        return grad_u, grad_delta, grad_a, grad_b, grad_c, grad_h


def _slabs(u: Tensor, a: Tensor) -> list[slice]:
    n = u.shape[2]
    size = max(SHORTEST, STATES // a.numel(), -(-n // SLABS))
    return [slice(start, start + size) for start in range(0, n, size)]


def _rows(x: Float[Tensor, "X K N"], part: slice, dtype: torch.dtype) -> Float[Tensor, "X T K"]:
    return x[:, :, part].mT.to(dtype).contiguous()


def _states(
    u: Float[Tensor, "X T D"],
    delta: Float[Tensor, "X T D"],
    a: Float[Tensor, "X S D"],
    b: Float[Tensor, "X T S"],
    h: Float[Tensor, "X S D"],
) -> tuple[Float[Tensor, "X T S D"], Float[Tensor, "X T+1 S D"]]:
    """Every state, and what each position keeps of the state before, with a 1 after the last."""
    decay = (pad(delta, (0, 0, 0, 1))[:, :, None] * a[:, None]).exp_()
    states = (delta * u)[:, :, None] * b[..., None]
    states[:, 0].addcmul_(decay[:, 0], h)
    return scan_(states, decay[:, :-1]), decay


def _slab_backward(
    a: Float[Tensor, "X S D"],
    h: Float[Tensor, "X S D"],
    grad_h: Float[Tensor, "X S D"],
    u: Float[Tensor, "X T D"],
    delta: Float[Tensor, "X T D"],
    b: Float[Tensor, "X T S"],
    c: Float[Tensor, "X T S"],
    grad_y: Float[Tensor, "X T D"],
) -> tuple[Tensor, ...]:
    """Gradients in u, delta, b, c, a and in the state before, from that in the state after."""
    states, decay = _states(u, delta, a, b, h)
    grad_c = (states @ grad_y[..., None])[..., 0]
    grad = grad_y[:, :, None] * c[..., None]
    grad[:, -1] += grad_h
    scan_(grad, decay[:, 1:], reverse=True)
    grad_b = (grad @ (delta * u)[..., None])[..., 0]
    through = (b[:, :, None] @ grad)[:, :, 0]
    grad_h = grad[:, 0] * decay[:, 0]
    # of delta a, the logarithm of the decay
    grad *= decay[:, :-1]
    grad[:, 1:] *= states[:, :-1]
    grad[:, 0] *= h
    grad_delta = u * through
    for of_state, rate in zip(grad.unbind(2), a.unbind(1), strict=True):
        grad_delta.addcmul_(of_state, rate[:, None])
    grad_a = grad.mul_(delta[:, :, None]).sum(dim=1)
    return delta * through, grad_delta, grad_b, grad_c, grad_a, grad_h
