"""The recurrence as it is written: one token after the other."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu, softplus


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
    batch, channels, length = u.shape
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = softplus(delta)
    # of every channel, (B, D, S, N)
    b, c = (x.repeat_interleave(channels // x.shape[1], dim=1) for x in (b, c))
    h = a.new_zeros(batch, *a.shape) if initial_state is None else initial_state
    outputs = []
    for t in range(length):
        step = delta[:, :, t, None]
        h = torch.exp(step * a) * h + step * b[..., t] * u[:, :, t, None]
        outputs.append((c[..., t] * h).sum(dim=-1))
    y = torch.stack(outputs, dim=-1)
    if d is not None:
        y = y + d[:, None] * u
    if z is not None:
        y = y * silu(z)
    return y.to(u.dtype), h.to(torch.promote_types(h.dtype, torch.float32))
