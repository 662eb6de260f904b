"""WKV in torch: first the running exponents, then everything else relative to them.

The exponents are a scan in (max, +), numerator and denominator one in (+, *) whose coefficients are
at most 1: both in two levels, chunks side by side. The backward pass makes them again. Exponents
are fp64: in fp32, 100 - 1e-6 is 100, however many tokens the decay goes on. It can be
differentiated once.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from kernels.diagonal_scan.eager import CHUNK, LOOP, scan_


def run(
    w: Float[Tensor, " D"],
    u: Float[Tensor, " D"],
    k: Float[Tensor, "B N D"],
    v: Float[Tensor, "B N D"],
    *,
    initial_state: Float[Tensor, "B 3 D"] | None = None,
) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B 3 D"]]:
    if initial_state is None:
        initial_state = k.new_zeros(k.shape[0], 3, k.shape[2])
        initial_state[:, 2] = -torch.inf
    wide = torch.float32
    for x in (w, u, k, v, initial_state):
        wide = torch.promote_types(wide, x.dtype)
    y, state = _Wkv.apply(*(x.to(wide) for x in (w, u, k, v, initial_state)))
    return y.to(v.dtype), state


def running_exponent(k: Float[Tensor, "B N D"], w: Float[Tensor, " D"]) -> Float[Tensor, "B N D"]:
    """``p_t = max(p_{t-1} - w, k_t)``."""
    n = k.shape[1]
    if n <= LOOP:
        p = [k[:, 0]]
        for k_t in k.unbind(1)[1:]:
            p.append(torch.maximum(p[-1] - w, k_t))
        return torch.stack(p, dim=1)
    c = min(CHUNK, math.isqrt(n - 1) + 1)
    chunks = pad(k, (0, 0, 0, -n % c), value=-torch.inf).unflatten(1, (-1, c)).clone()
    for i in range(1, c):
        torch.maximum(chunks[:, :, i - 1] - w, chunks[:, :, i], out=chunks[:, :, i])
    before = running_exponent(chunks[:, :-1, -1], c * w)
    age = torch.arange(1, c + 1, device=k.device, dtype=k.dtype)[:, None] * w
    torch.maximum(chunks[:, 1:], before[:, :, None] - age, out=chunks[:, 1:])
    return chunks.flatten(1, 2)[:, :n]


class _Terms(NamedTuple):
    """What both passes need, ``(B, N, D)`` each.

    Attributes:
        decay: what a position keeps of the sums before it, in their scales.
        add: weight of its own value in the sums.
        sums: numerator and denominator after each position, (B, N, 2, D).
        before: the same before it.
        past, present: weights of sums and own value in the output.
        total: sum of all weights in the output, 1 where there is none.
        p: exponent after the last position (B, D).
    """

    decay: Tensor
    add: Tensor
    sums: Tensor
    before: Tensor
    past: Tensor
    present: Tensor
    total: Tensor
    p: Tensor


def _terms(w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor) -> _Terms:
    dtype, exponents, rate = k.dtype, k.double(), w.double()
    p_before = state[:, 2:].double()
    first = torch.maximum(p_before - rate, exponents[:, :1])
    p = running_exponent(torch.cat([first, exponents[:, 1:]], dim=1), rate)
    p_before = torch.cat([p_before, p[:, :-1]], dim=1)
    scale = _finite(p)
    decay = (p_before - rate).sub_(scale).clamp_(max=0).to(dtype).exp_()
    add = (exponents - scale).to(dtype).exp_()
    sums = torch.stack([add * v, add], dim=2)
    sums[:, 0].addcmul_(decay[:, 0, None], state[:, :2])
    scan_(sums, decay[:, :, None])
    before = torch.cat([state[:, None, :2], sums[:, :-1]], dim=1)
    own = exponents + u
    scale = _finite(torch.maximum(p_before, own))
    past, present = ((x - scale).to(dtype).exp_() for x in (p_before, own))
    total = torch.addcmul(present, past, before[:, :, 1])
    total.masked_fill_(total == 0, 1)
    return _Terms(decay, add, sums, before, past, present, total, p[:, -1].to(dtype))


def _finite(x: Tensor) -> Tensor:
    """A scale to subtract: 0 where nothing has been seen."""
    return x.masked_fill(x == -torch.inf, 0)


class _Wkv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, w: Tensor, u: Tensor, k: Tensor, v: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        x = _terms(w, u, k, v, state)
        y = torch.addcmul(x.past * x.before[:, :, 0], x.present, v).div_(x.total)
        ctx.save_for_backward(w, u, k, v, state)
        return y, torch.cat([x.sums[:, -1], x.p[:, None]], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_state: Tensor) -> tuple[Tensor, ...]:
        w, u, k, v, state = ctx.saved_tensors
        x = _terms(w, u, k, v, state)
        y = torch.addcmul(x.past * x.before[:, :, 0], x.present, v).div_(x.total)
        # in numerator and denominator of y
        top = grad_y / x.total
        both = torch.stack([top, -top * y], dim=2)
        own = x.present * torch.addcmul(both[:, :, 1], top, v)
        # in the sums after each position: what later outputs and the last state take of them
        read = x.past[:, :, None] * both
        grad = torch.cat([read[:, 1:], grad_state[:, None, :2]], dim=1)
        scan_(grad, x.decay.roll(-1, dims=1)[:, :, None], reverse=True)
        grad_v = torch.addcmul(x.present * top, x.add, grad[:, :, 0])
        grad_k = torch.addcmul(own, x.add, torch.addcmul(grad[:, :, 1], grad[:, :, 0], v))
        kept = x.decay[:, :, None] * grad
        grad_w = -(kept * x.before).sum(dim=(0, 1, 2))
        grad_sums = read[:, 0] + kept[:, 0]
        grad_p = (grad_sums * state[:, :2]).sum(dim=1, keepdim=True)
        return grad_w, own.sum(dim=(0, 1)), grad_k, grad_v, torch.cat([grad_sums, grad_p], dim=1)
