"""Two-level scan in torch: chunks side by side, then the chunks' ends, then the carries.

All chunks advance one position at a time together, twice: first to find the state each would end
with if it began at zero, then, begun with what the chunks before it hand over, to write the states.
Python takes about 2 * 64 steps on each level and log_64(N) levels, and every step is a plain
multiply-add, so it is as safe as the loop: no logarithm, no division. Where a is the same at every
position, so is the error of its power that carries from chunk to chunk, and adds up: those carries
are in double precision. It can be differentiated once.
"""

import math

import torch
from jaxtyping import Inexact
from torch import Tensor

from kernels.diagonal_scan.autograd import at, differentiable

# positions a plain loop covers, and the longest chunk
LOOP, CHUNK = 12, 64


def run(
    a: Inexact[Tensor, "*A #D"],
    b: Inexact[Tensor, "B N D"],
    *,
    reverse: bool = False,
    initial: Inexact[Tensor, "B D"] | None = None,
) -> Inexact[Tensor, "B N D"]:
    return differentiable(_scan, a, b, initial, reverse)


def _scan(a: Tensor, b: Tensor, initial: Tensor | None, reverse: bool) -> Tensor:
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    wide = wide if initial is None else initial.dtype
    a = a.to(wide)
    h = b.to(wide, copy=True, memory_format=torch.contiguous_format)
    if initial is not None:
        first = -1 if reverse else 0
        h[:, first].addcmul_(at(a, first), initial)
    return scan_(h, a, reverse=reverse)


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
        at(rest, edge[1]).addcmul_(at(a_rest, edge[1]), at(blocks, edge[0]))
        _sweep_(rest, a_rest, reverse)
    return h


def _scan_blocks_(h: Tensor, a: Tensor, reverse: bool) -> None:
    """The same for h ``(B, chunks, C, *R)``, whole chunks only."""
    c = h.shape[2]
    order = range(c - 1, -1, -1) if reverse else range(c)
    first = order[0]
    states, decays = h.unbind(2), a.expand(-1, -1, c, *a.shape[3:]).unbind(2)
    end, decay = states[first].clone(), decays[first].clone()
    if a.shape[1] == 1:
        decay = decay.to(torch.promote_types(decay.dtype, torch.float64))
    for i in order[1:]:
        torch.addcmul(states[i], decays[i], end, out=end)
        decay *= decays[i]
    end = scan_(end.to(decay.dtype), decay, reverse=reverse).to(end.dtype)
    into, source = (
        (slice(None, -1), slice(1, None)) if reverse else (slice(1, None), slice(None, -1))
    )
    into_decay = decays[first] if a.shape[1] == 1 else decays[first][:, into]
    states[first][:, into].addcmul_(into_decay, end[:, source])
    for before, i in zip(order, order[1:], strict=False):
        states[i].addcmul_(decays[i], states[before])


def _sweep_(h: Tensor, a: Tensor, reverse: bool) -> None:
    """Position by position."""
    n = h.shape[1]
    order = range(n - 1, -1, -1) if reverse else range(n)
    states, decays = h.unbind(1), a.expand(-1, n, *a.shape[2:]).unbind(1)
    for before, i in zip(order, order[1:], strict=False):
        states[i].addcmul_(decays[i], states[before])


def _split(x: Tensor, whole: int, reverse: bool) -> tuple[Tensor, Tensor]:
    """The part in whole chunks, and the few positions that come after it in scan order."""
    n = x.shape[1]
    if reverse:
        return x[:, n - whole :], x[:, : n - whole]
    return x[:, :whole], x[:, whole:]
