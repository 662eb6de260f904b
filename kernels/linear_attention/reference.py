"""Linear attention as it is defined: the recurrence when causal, the N x N matrix when not."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.linear_attention.feature_map import FeatureMap


def run(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B H M K"],
    v: Float[Tensor, "B H M V"],
    *,
    causal: bool,
    feature_map: FeatureMap,
    log_decay: Float[Tensor, "B H M *K"] | None,
    key_mask: Bool[Tensor, "B M"] | None,
    initial_state: tuple[Tensor, Tensor | None] | None,
    normalise: bool,
    eps: float,
) -> tuple[Float[Tensor, "B H N V"], tuple[Tensor, Tensor | None]]:
    if key_mask is not None:
        hidden = ~key_mask[:, None, :, None]
        k, v = k.masked_fill(hidden, 0), v.masked_fill(hidden, 0)
    q, k = feature_map(q, keys=False), feature_map(k, keys=True)
    if key_mask is not None:
        k = k.masked_fill(hidden, 0)
    s, z = k.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1]), k.new_zeros(k[:, :, 0].shape)
    if initial_state is not None:
        s, z = initial_state[0], z if initial_state[1] is None else initial_state[1]
    if causal:
        numerator, denominator, s, z = _recurrence(q, k, v, log_decay, s, z)
    else:
        weights = q @ k.transpose(-1, -2)
        numerator = weights @ v + q @ s
        denominator = weights.sum(dim=-1) + (q * z[:, :, None]).sum(dim=-1)
        s, z = s + k.transpose(-1, -2) @ v, z + k.sum(dim=2)
    if not normalise:
        return numerator, (s, None)
    denominator = (denominator + eps)[..., None]
    return numerator / torch.where(denominator == 0, 1, denominator), (s, z)


def _recurrence(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, s: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``S_t = a_t S_{t-1} + k_t v_t^T``, ``z_t = a_t z_{t-1} + k_t``, read by q_t."""
    numerators, denominators = [], []
    steps = zip(q.unbind(2), k.unbind(2), v.unbind(2), strict=True)
    for t, (q_t, k_t, v_t) in enumerate(steps):
        if log_decay is not None:
            a = log_decay[:, :, t].exp()
            a = a[..., None] if log_decay.ndim == 3 else a
            s, z = a[..., None] * s, a * z
        s, z = s + k_t[..., None] * v_t[:, :, None], z + k_t
        numerators.append((q_t[:, :, None] @ s)[:, :, 0])
        denominators.append((q_t * z).sum(dim=-1))
    return torch.stack(numerators, dim=2), torch.stack(denominators, dim=2), s, z
