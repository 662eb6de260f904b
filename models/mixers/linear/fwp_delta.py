"""Fast weights with the delta rule: a memory that corrects what it would have answered."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.delta_rule import delta_rule
from models.card import Card
from models.mixer import Mixer
from models.padding import zero_padding

EPS = 1e-6  # keeps the sum of features off zero


def dpfp(x: Float[Tensor, "*B K"], nu: int) -> Float[Tensor, "*B F"]:
    """Products of relu(x) and relu(-x) with themselves, rolled by 1 .. nu: 2 nu K features
    (Schlag et al. 2021, eq. 37-38)."""
    halves = torch.cat([x.relu(), (-x).relu()], dim=-1)
    return torch.cat([halves * halves.roll(j, dims=-1) for j in range(1, nu + 1)], dim=-1)


class FWPDelta(Mixer):
    """W_t = W_{t-1} + beta_t (v_t - W_{t-1} k_t) k_t^T, y_t = W_t q_t, k = phi(k') / sum phi(k').

    Schlag et al. 2021, eq. 23-25 and 27-28: queries and keys are features that sum to one,
    beta = sigmoid(w x) of each head. A hidden token writes nothing.

    Args:
        phi: ``dpfp`` | ``elu+1``.
        nu: features of dpfp, in twice the width of a head.
    """

    card = Card(
        title="Linear Transformers Are Secretly Fast Weight Programmers",
        authors="Schlag, Irie, Schmidhuber",
        year=2021,
        link="https://arxiv.org/abs/2102.11174",
        family="linear",
        time="N d^2",
        memory="N d",
        causality="native",
        bidirectional=False,
        recurrent=True,
        ops=("delta_rule",),
        deviations=("dropout acts on the mixed features: there are no attention weights",),
    )

    def __init__(self, dim: int, *, phi: str = "dpfp", nu: int = 1, **standard: Any):
        super().__init__(dim, **standard)
        if phi not in ("dpfp", "elu+1"):
            raise ValueError(f"FWPDelta: phi must be dpfp or elu+1, got '{phi}'")
        if nu < 1:
            raise ValueError(f"FWPDelta: nu must be at least 1, got {nu}")
        self.phi, self.nu, self.head_dim = phi, nu, self.qkv_dim // self.heads
        self.query = nn.Linear(dim, self.qkv_dim, bias=False)
        self.key = nn.Linear(dim, self.qkv_dim, bias=False)
        self.value = nn.Linear(dim, self.qkv_dim, bias=False)
        self.output = nn.Linear(self.qkv_dim, dim, bias=False)
        for linear in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
        self.rate = nn.Linear(dim, self.heads, bias=False)

    def features(self, x: Float[Tensor, "*B K"]) -> Float[Tensor, "*B F"]:
        """phi(x), divided by its sum."""
        y = dpfp(x, self.nu) if self.phi == "dpfp" else F.elu(x) + 1
        return y / (y.sum(dim=-1, keepdim=True) + EPS)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
        state: Tensor | None = None,
    ) -> Any:
        """y; with ``state`` (of ``init_state``, or of the segment before) also the next one."""
        self.check(x, mask, context)
        x = zero_padding(x, mask)
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        beta = zero_padding(self.rate(x).sigmoid(), mask).mT
        y, memory = delta_rule(self.features(q), self.features(k), v, beta, initial_state=state)
        y = F.dropout(y.transpose(1, 2).flatten(2), self.dropout, self.training)
        y = self.output(y)
        return y if state is None else (y, memory)

    def init_state(self, batch: int) -> Tensor:
        width = 2 * self.nu * self.head_dim if self.phi == "dpfp" else self.head_dim
        return self.rate.weight.new_zeros(batch, self.heads, width, self.head_dim)

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        y, state = self.forward(x_t[:, None], state=state)
        return y[:, 0], state
