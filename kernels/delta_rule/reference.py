"""The delta rule as it is written: one token after the other."""

import torch
from jaxtyping import Float
from torch import Tensor


def run(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B H N K"],
    v: Float[Tensor, "B H N V"],
    beta: Float[Tensor, "B H N"],
    *,
    log_decay: Float[Tensor, "B H N"] | None,
    initial_state: Float[Tensor, "B H K V"] | None,
) -> tuple[Float[Tensor, "B H N V"], Float[Tensor, "B H K V"]]:
    state = k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3])
    if initial_state is not None:
        state = initial_state
    outputs = []
    for t in range(q.shape[2]):
        if log_decay is not None:
            state = state * log_decay[:, :, t, None, None].exp()
        k_t = k[:, :, t, :, None]
        found = (state * k_t).sum(dim=2)
        new = beta[:, :, t, None] * (v[:, :, t] - found)
        state = state + k_t * new[:, :, None]
        outputs.append((state * q[:, :, t, :, None]).sum(dim=2))
    return torch.stack(outputs, dim=2), state
