"""What every backend of ours does around the recurrence: steps before it, skip and gate after it,
and groups folded into the batch."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu, softplus

# y and the last state in fp32 or wider, from u, delta (X, D, N), a (X, S, D), b, c (X, S, N) and
# the state before (X, S, D): X batch times groups, D channels of a group. Delta, a and the state
# are fp32 or wider, u, b and c as they came.
Recurrence = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def around(
    recurrence: Recurrence,
    u: Float[Tensor, "B D N"],
    delta: Float[Tensor, "B D N"],
    a: Float[Tensor, "D S"],
    b: Float[Tensor, "B G S N"],
    c: Float[Tensor, "B G S N"],
    d: Float[Tensor, " D"] | None,
    z: Float[Tensor, "B D N"] | None,
    delta_bias: Float[Tensor, " D"] | None,
    delta_softplus: bool,
    initial_state: Float[Tensor, "B D S"] | None,
) -> tuple[Float[Tensor, "B D N"], Float[Tensor, "B D S"]]:
    """The op, by a backend's recurrence."""
    wide = torch.float32
    for x in (u, delta, a, b, c, d, z, delta_bias, initial_state):
        wide = wide if x is None else torch.promote_types(wide, x.dtype)
    batch, groups, states = b.shape[:3]
    delta = delta.to(wide)
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = softplus(delta)
    h = a.new_zeros(batch, *a.shape) if initial_state is None else initial_state
    y, h = recurrence(
        u.unflatten(1, (groups, -1)).flatten(0, 1),
        delta.unflatten(1, (groups, -1)).flatten(0, 1),
        a.to(wide).unflatten(0, (groups, -1)).mT.repeat(batch, 1, 1),
        b.flatten(0, 1),
        c.flatten(0, 1),
        h.to(wide).unflatten(1, (groups, -1)).flatten(0, 1).mT,
    )
    y = y.unflatten(0, (batch, groups)).flatten(1, 2)
    if d is not None:
        y = torch.addcmul(y, d.to(wide)[:, None], u.to(wide))
    if z is not None:
        y = y * silu(z.to(wide))
    return y.to(u.dtype), h.mT.unflatten(0, (batch, groups)).flatten(1, 2)
