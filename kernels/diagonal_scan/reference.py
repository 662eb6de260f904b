"""The recurrence as it is written: one step after the other."""

import torch
from jaxtyping import Inexact
from torch import Tensor


def run(
    a: Inexact[Tensor, "*A #D"],
    b: Inexact[Tensor, "B N D"],
    *,
    reverse: bool = False,
    initial: Inexact[Tensor, "B D"] | None = None,
) -> Inexact[Tensor, "B N D"]:
    h = torch.zeros_like(b[:, 0]) if initial is None else initial
    steps = list(zip(a.expand(b.shape).unbind(1), b.unbind(1), strict=True))
    states = []
    for a_t, b_t in reversed(steps) if reverse else steps:
        h = a_t * h + b_t
        states.append(h)
    return torch.stack(states[::-1] if reverse else states, dim=1)
