"""The stable recurrence as it is written: one token after the other."""

import torch
from jaxtyping import Float
from torch import Tensor


def run(
    w: Float[Tensor, " D"],
    u: Float[Tensor, " D"],
    k: Float[Tensor, "B N D"],
    v: Float[Tensor, "B N D"],
    *,
    initial_state: Float[Tensor, "B 3 D"] | None = None,
) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B 3 D"]]:
    if initial_state is None:
        a = b = torch.zeros_like(v[:, 0])
        p = torch.full_like(k[:, 0], -torch.inf)
    else:
        a, b, p = initial_state.unbind(1)
    outputs = []
    for k_t, v_t in zip(k.unbind(1), v.unbind(1), strict=True):
        scale = _finite_maximum(p, u + k_t)
        past, present = torch.exp(p - scale), torch.exp(u + k_t - scale)
        total = past * b + present
        y = (past * a + present * v_t) / total.masked_fill(total == 0, 1)
        outputs.append(y)
        scale = _finite_maximum(p - w, k_t)
        past, present = torch.exp(p - w - scale), torch.exp(k_t - scale)
        a, b = past * a + present * v_t, past * b + present
        p = torch.maximum(p - w, k_t).detach()
    state = torch.stack([x.to(torch.promote_types(p.dtype, torch.float32)) for x in (a, b, p)], 1)
    return torch.stack(outputs, dim=1).to(v.dtype), state


def _finite_maximum(x: Tensor, y: Tensor) -> Tensor:
    """The larger, as a constant; 0 where both are -inf."""
    larger = torch.maximum(x, y).detach()
    return larger.masked_fill(larger == -torch.inf, 0)
