"""Selective scan in torch, slab by slab: all states of a slab at once, by the two-level scan.

A batch goes a few sequences at a time, as many as fit the cache with a slab of each. Only the state
before each slab is kept; the backward pass goes through the slabs from the last to the first and
makes their states again. Memory beyond arguments and gradients is that of a slab. A long sequence
has longer slabs, not more: Python's work stops growing. It can be differentiated once.

Legend: X batch times groups, T positions of a slab, S states, D channels of a group. Channels are
last, so that every elementwise pass runs along whole rows.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.diagonal_scan.eager import scan_
from kernels.selective_scan.call import around

# states of a slab (they should fit the cache), the fewest positions it may have, the most slabs
STATES, SHORTEST, SLABS = 1 << 20, 64, 64


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
    return around(_Scan.apply, u, delta, a, b, c, d, z, delta_bias, delta_softplus, initial_state)


class _Scan(torch.autograd.Function):
    """y and the last state, from u, delta ``(X, D, N)``, a, h ``(X, S, D)``, b, c ``(X, S, N)``."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        y, last = delta.new_empty(u.shape), torch.empty_like(h)
        slabs, few = _cut(u, a)
        before = h.new_empty(len(slabs), *h.shape)
        room = _room(2, slabs, few, a)
        with torch.autocast(u.device.type, enabled=False):
            for some in few:
                h_t = h[some]
                for i, part in enumerate(slabs):
                    before[i, some] = h_t
                    u_t, step, b_t, c_t = (_rows(x[some], part, a.dtype) for x in (u, delta, b, c))
                    states, _ = _states(u_t, step, a[some], b_t, h_t, room)
                    y[some, :, part] = (c_t[:, :, None] @ states)[:, :, 0].mT
                    h_t = states[:, -1].clone()
                last[some] = h_t
        ctx.save_for_backward(u, delta, a, b, c, before)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_h: Tensor) -> tuple[Tensor, ...]:
        u, delta, a, b, c, before = ctx.saved_tensors
        grads = [torch.empty_like(x) for x in (u, delta, b, c)]
        grad_a, grad_first = torch.zeros_like(a), torch.empty_like(grad_h)
        slabs, few = _cut(u, a)
        room = _room(3, slabs, few, a)
        with torch.autocast(u.device.type, enabled=False):
            for some in few:
                grad_h_t = grad_h[some]
                for part, h in reversed(list(zip(slabs, before[:, some].unbind(), strict=True))):
                    arguments = [_rows(x[some], part, a.dtype) for x in (u, delta, b, c, grad_y)]
                    *found, share, grad_h_t = _slab_backward(
                        a[some], h, grad_h_t, *arguments, room=room
                    )
                    for whole, x in zip(grads, found, strict=True):
                        whole[some, :, part] = x.mT
                    grad_a[some] += share
                grad_first[some] = grad_h_t
        grad_u, grad_delta, grad_b, grad_c = grads
        return grad_u, grad_delta, grad_a, grad_b, grad_c, grad_first


def _cut(u: Tensor, a: Tensor) -> tuple[list[slice], list[slice]]:
    """Slabs of positions, and the sequences that go together."""
    many, n = u.shape[0], u.shape[2]
    size = min(n, max(SHORTEST, STATES // a.numel(), -(-n // SLABS)))
    few = max(1, STATES // (a[0].numel() * size))
    return _slices(n, size), _slices(many, few)


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _room(
    count: int, slabs: list[slice], few: list[slice], a: Float[Tensor, "X S D"]
) -> Float[Tensor, "count K"]:
    """Memory for all states of a slab, used again by every slab: fresh pages cost more than what
    is written to them."""
    return a.new_empty(count, few[0].stop * (slabs[0].stop + 1) * a[0].numel())


def _shaped(room: Float[Tensor, " K"], *shape: int) -> Tensor:
    """Contiguous: a product would copy a part of something larger."""
    return room[: math.prod(shape)].view(shape)


def _rows(x: Float[Tensor, "X K N"], part: slice, dtype: torch.dtype) -> Float[Tensor, "X T K"]:
    return x[:, :, part].mT.to(dtype).contiguous()


def _states(
    u: Float[Tensor, "X T D"],
    delta: Float[Tensor, "X T D"],
    a: Float[Tensor, "X S D"],
    b: Float[Tensor, "X T S"],
    h: Float[Tensor, "X S D"],
    room: Float[Tensor, "2 K"],
) -> tuple[Float[Tensor, "X T S D"], Float[Tensor, "X T+1 S D"]]:
    """Every state, and what each position keeps of the state before, with a 1 after the last."""
    (x, t, _), (_, s, d) = u.shape, a.shape
    states, decay = _shaped(room[0], x, t, s, d), _shaped(room[1], x, t + 1, s, d)
    torch.mul(delta[:, :, None], a[:, None], out=decay[:, :-1]).exp_()
    decay[:, -1] = 1
    torch.mul((delta * u)[:, :, None], b[..., None], out=states)
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
    *,
    room: Float[Tensor, "3 K"],
) -> tuple[Tensor, ...]:
    """Gradients in u, delta, b, c, a and in the state before, from that in the state after."""
    states, decay = _states(u, delta, a, b, h, room[:2])
    # a row times a matrix: several times faster than the matrix times a column
    grad_c = (grad_y[:, :, None] @ states.mT)[:, :, 0]
    grad = torch.mul(grad_y[:, :, None], c[..., None], out=_shaped(room[2], *states.shape))
    grad[:, -1] += grad_h
    scan_(grad, decay[:, 1:], reverse=True)
    grad_b = ((delta * u)[:, :, None] @ grad.mT)[:, :, 0]
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
