"""Two-level scan in torch: chunks side by side, then the chunks' ends, then the carries.

All chunks advance one position at a time together, twice: first to find the state each would end
with if it began at zero, then, begun with what the chunks before it hand over, to write the states.
Python takes about 2 * 64 steps on each level and log_64(N) levels, and every step is a plain
multiply-add, so it is as safe as the loop: no logarithm, no division, no power of a. It can be
differentiated once.
"""

import math
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor
from torch.autograd.function import once_differentiable

# positions a plain loop covers, and the longest chunk
LOOP, CHUNK = 12, 64


def run(
    a: Inexact[Tensor, "*A #D"],
    b: Inexact[Tensor, "B N D"],
    *,
    reverse: bool = False,
    initial: Inexact[Tensor, "B D"] | None = None,
) -> Inexact[Tensor, "B N D"]:
    out = torch.promote_types(a.dtype, b.dtype)
    if initial is not None:
        out = torch.promote_types(out, initial.dtype)
        initial = initial.to(_computed_in(out))
    a = a.reshape((1,) * (3 - a.ndim) + a.shape).to(_computed_in(out))
    return _Scan.apply(a, b.to(_computed_in(out)), initial, reverse).to(out)


def scan_(
    h: Inexact[Tensor, "B N *R"], a: Inexact[Tensor, "#B #N *R2"], *, reverse: bool = False
) -> Inexact[Tensor, "B N *R"]:
    """In place ``h_t += a_t * h_{t-1}`` (``h_{t+1}`` reversed), t from the second position on.

    ``a`` broadcasts to h; its entry at the first position is not used.
    """
    n = h.shape[1]
    if n <= LOOP:
        _sweep_(h, a, reverse)
        return h
    c = min(CHUNK, math.isqrt(n - 1) + 1)
    whole = n // c * c
    blocks, rest = _split(h, whole, reverse)
    a_blocks, a_rest = (a, a) if a.shape[1] == 1 else _split(a, whole, reverse)
    _scan_blocks_(
        blocks.unflatten(1, (-1, c)),
        a_blocks[:, :, None] if a.shape[1] == 1 else a_blocks.unflatten(1, (-1, c)),
        reverse,
    )
    if n > whole:
        edge = (0, -1) if reverse else (-1, 0)
        _at(rest, edge[1]).addcmul_(_at(a_rest, edge[1]), _at(blocks, edge[0]))
        _sweep_(rest, a_rest, reverse)
    return h


def _scan_blocks_(h: Tensor, a: Tensor, reverse: bool) -> None:
    """The same for h ``(B, chunks, C, *R)``, whole chunks only."""
    c = h.shape[2]
    order = range(c - 1, -1, -1) if reverse else range(c)
    first = order[0]
    end = h[:, :, first].clone()
    decay = _at(a, first, 2).expand_as(_at(a, first, 2)).clone()
    for i in order[1:]:
        end = torch.addcmul(h[:, :, i], _at(a, i, 2), end)
        decay = decay * _at(a, i, 2)
    scan_(end, decay, reverse=reverse)
    into, source = (
        (slice(None, -1), slice(1, None)) if reverse else (slice(1, None), slice(None, -1))
    )
    a_first = _at(a, first, 2)
    h[:, into, first].addcmul_(a_first if a.shape[1] == 1 else a_first[:, into], end[:, source])
    for before, i in zip(order, order[1:], strict=False):
        h[:, :, i].addcmul_(_at(a, i, 2), h[:, :, before])


def _sweep_(h: Tensor, a: Tensor, reverse: bool) -> None:
    """Position by position."""
    n = h.shape[1]
    order = range(n - 1, -1, -1) if reverse else range(n)
    for before, i in zip(order, order[1:], strict=False):
        h[:, i].addcmul_(_at(a, i), h[:, before])


def _at(x: Tensor, i: int, dim: int = 1) -> Tensor:
    """Entry i along a dimension that may be broadcast."""
    return x.select(dim, i if x.shape[dim] > 1 else 0)


def _split(x: Tensor, whole: int, reverse: bool) -> tuple[Tensor, Tensor]:
    """The part in whole chunks, and the few positions that come after it in scan order."""
    n = x.shape[1]
    if reverse:
        return x[:, n - whole :], x[:, : n - whole]
    return x[:, :whole], x[:, whole:]


def _computed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


class _Scan(torch.autograd.Function):
    """Keeps a and h; the gradient is a scan in the other direction."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, initial: Tensor | None, reverse: bool) -> Tensor:
        h = b.clone(memory_format=torch.contiguous_format)
        if initial is not None:
            first = -1 if reverse else 0
            h[:, first].addcmul_(_at(a, first), initial)
        scan_(h, a, reverse=reverse)
        ctx.save_for_backward(a, h, initial)
        ctx.reverse = reverse
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, h, initial = ctx.saved_tensors
        reverse = ctx.reverse
        a = a.conj().resolve_conj()
        # the coefficient between two states belongs to the later one
        between = a if a.shape[1] == 1 else a.roll(1 if reverse else -1, dims=1)
        grad_b = scan_(
            grad.clone(memory_format=torch.contiguous_format), between, reverse=not reverse
        )
        first = -1 if reverse else 0
        grad_a = grad_initial = None
        if ctx.needs_input_grad[0]:
            grad_a = torch.empty_like(h)
            later, earlier = (slice(None, -1), slice(1, None))[:: 1 if reverse else -1]
            torch.mul(grad_b[:, later], h[:, earlier].conj(), out=grad_a[:, later])
            grad_a[:, first] = 0 if initial is None else grad_b[:, first] * initial.conj()
            grad_a = grad_a.sum_to_size(a.shape)
        if initial is not None:
            grad_initial = _at(a, first) * grad_b[:, first]
        return grad_a, grad_b, grad_initial, None
