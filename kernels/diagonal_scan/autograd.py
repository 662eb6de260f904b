"""The gradient of a diagonal scan is a scan in the other direction, whoever does the scanning.

Keeps a and h. It can be differentiated once.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor
from torch.autograd.function import once_differentiable

# (a, b, initial, reverse) -> every state, new, in at least fp32; a is (1 or B, 1 or N, 1 or D)
Scan = Callable[[Tensor, Tensor, Tensor | None, bool], Tensor]


def differentiable(
    scan: Scan,
    a: Inexact[Tensor, "*A #D"],
    b: Inexact[Tensor, "B N D"],
    initial: Inexact[Tensor, "B D"] | None,
    reverse: bool,
) -> Inexact[Tensor, "B N D"]:
    """The op, by a backend's scan. If any argument is complex, all are for the scan."""
    out = torch.promote_types(a.dtype, b.dtype)
    if initial is not None:
        out = torch.promote_types(out, initial.dtype)
    wide = torch.promote_types(out, torch.float32)
    a = a.reshape((1,) * (3 - a.ndim) + a.shape)
    if out.is_complex:
        a, b = a.to(wide), b.to(wide)
    initial = None if initial is None else initial.to(wide)
    return _Scan.apply(a, b, initial, reverse, scan).to(out)


def at(x: Tensor, i: int, dim: int = 1) -> Tensor:
    """Entry i along a dimension that may be broadcast."""
    return x.select(dim, i if x.shape[dim] > 1 else 0)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, initial: Tensor | None, reverse: bool, scan: Scan
    ) -> Tensor:
        h = scan(a, b, initial, reverse)
        ctx.save_for_backward(a, h, initial)
        ctx.reverse, ctx.scan = reverse, scan
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, h, initial = ctx.saved_tensors
        reverse = ctx.reverse
        a = a.conj().resolve_conj()
        # the coefficient between two states belongs to the later one
        between = a if a.shape[1] == 1 else a.roll(1 if reverse else -1, dims=1)
        grad_b = ctx.scan(between, grad, None, not reverse)
        first = -1 if reverse else 0
        grad_a = grad_initial = None
        if ctx.needs_input_grad[0]:
            grad_a = torch.empty_like(h)
            later, earlier = (slice(None, -1), slice(1, None))[:: 1 if reverse else -1]
            torch.mul(grad_b[:, later], h[:, earlier].conj(), out=grad_a[:, later])
            grad_a[:, first] = 0 if initial is None else grad_b[:, first] * initial.conj()
            grad_a = grad_a.sum_to_size(a.shape)
        if initial is not None:
            grad_initial = at(a, first) * grad_b[:, first]
        return grad_a, grad_b, grad_initial, None, None
