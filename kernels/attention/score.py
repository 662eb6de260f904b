"""What happens between the dot product and the weight: cap, bias, and the function itself.

    s = scale q.k,   s = c tanh(s / c),   u = s + bias + relative[j - i] - slope |i - j|,
    weight = f(u)

f is the softmax over visible keys, or acts on each score alone (and is not normalised): the squared
ReLU of Primer and GAU, or the Laplace function of Mega (arXiv 2209.10655, eq. 17), a bounded and
smoother stand-in for it. Those two usually want ``scale=1/n`` with n visible keys.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Activation = Literal["softmax", "relu2", "laplace"]
ACTIVATIONS: tuple[str, ...] = Activation.__args__  # type: ignore[attr-defined]

# with these, value and slope meet those of the squared ReLU at sqrt(1/2)
LAPLACE_MEAN = math.sqrt(0.5)
LAPLACE_DEVIATION = math.sqrt(0.25 / math.pi)


@dataclass(frozen=True, eq=False)
class Score:
    """How scores become weights.

    Attributes:
        bias: added to the scores; each dimension full or 1; -inf hides a key. Has a gradient.
        relative: a table of what is added at each distance j - i, in each head or the same in all,
            for R = 2 L - 1 distances: entry ``L - 1 + clamp(j - i, -(L - 1), L - 1)``. Distances
            beyond the table have its end entries (Shaw et al. 2018, arXiv 1803.02155, section
            3.2). Finite; has a gradient.
        alibi: slope of each head on the distance |i - j| (arXiv 2108.12409); gets a gradient.
        soft_cap: bounds scores smoothly by +- this, before the bias (Gemma 2, arXiv 2408.00118).
        activation: ``softmax``, ``relu2`` or ``laplace``.
    """

    bias: Float[Tensor, "#B #H #N #M"] | None = None
    relative: Float[Tensor, "#H R"] | None = None
    alibi: Float[Tensor, " H"] | None = None
    soft_cap: float | None = None
    activation: Activation = "softmax"


def repeat_heads(
    x: Float[Tensor, "B J M K"], q: Float[Tensor, "B H N Q"]
) -> Float[Tensor, "B H M K"]:
    """Keys or values with a head for each head of q: each serves H / J successive ones."""
    times = q.shape[1] // x.shape[1]
    return x if times == 1 else x.repeat_interleave(times, dim=1)


def elementwise(u: Float[Tensor, "*S"], activation: Activation) -> Float[Tensor, "*S"]:
    """The weight of each score alone, for the activations that are not the softmax."""
    if activation == "relu2":
        return u.relu().square()
    assert activation == "laplace", activation
    return 0.5 + 0.5 * torch.erf((u - LAPLACE_MEAN) / (LAPLACE_DEVIATION * math.sqrt(2)))


def elementwise_slope(u: Float[Tensor, "*S"], activation: Activation) -> Float[Tensor, "*S"]:
    """The derivative of ``elementwise``."""
    if activation == "relu2":
        return 2 * u.relu()
    assert activation == "laplace", activation
    z = (u - LAPLACE_MEAN) / LAPLACE_DEVIATION
    return torch.exp(-0.5 * z.square()) / (LAPLACE_DEVIATION * math.sqrt(2 * math.pi))
