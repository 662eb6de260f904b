"""The convolution as it is defined: every position's window, weighed and summed."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad


def run(
    u: Float[Tensor, "B D N"],
    weight: Float[Tensor, "D W"],
    bias: Float[Tensor, " D"] | None = None,
    *,
    causal: bool = True,
) -> Float[Tensor, "B D N"]:
    taps = weight.shape[1]
    left = taps - 1 if causal else taps // 2
    windows = pad(u, (left, taps - 1 - left)).unfold(2, taps, 1)
    y = (windows * weight[:, None]).sum(dim=-1)
    return (y if bias is None else y + bias[:, None]).to(u.dtype)
