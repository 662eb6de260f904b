"""RWKV's token shift: each channel a mixture of the present token and the one before."""

import torch
from jaxtyping import Float
from torch import Tensor


def token_before(
    x: Float[Tensor, "B N D"], last: Float[Tensor, "B D"] | None = None
) -> Float[Tensor, "B N D"]:
    """``x_{t-1}``; before the first token ``last``, zeros if None."""
    first = x.new_zeros(x[:, 0].shape) if last is None else last
    return torch.cat([first[:, None], x[:, :-1]], dim=1)
