"""Linear attention in torch: matrix products only, and nothing as long as the sequence kept but the
arguments, the output and its normaliser.

The sequence is worked through in a few slices, however long it is, so that features, chunk
matrices and states are there for one slice at a time; the backward pass makes them again. It can
be differentiated once.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.linear_attention.bidirectional import Bidirectional
from kernels.linear_attention.causal import Causal
from kernels.linear_attention.feature_map import FeatureMap
from kernels.linear_attention.plan import Plan
from kernels.linear_attention.slices import wide


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
    plan = Plan(feature_map, normalise, eps)
    if initial_state is None:
        features = feature_map.width(k.shape[-1])
        state = wide(v[:0]).new_zeros(*k.shape[:2], features, v.shape[-1] + normalise)
    else:
        state = wide(initial_state[0])
        if normalise:
            assert initial_state[1] is not None
            state = torch.cat([state, wide(initial_state[1])[..., None]], dim=-1)
    if causal:
        y, state = Causal.apply(q, k, v, log_decay, key_mask, state, plan)
    else:
        y, state = Bidirectional.apply(q, k, v, key_mask, state, plan)
    return y, (state[..., :-1], state[..., -1]) if normalise else (state, None)
