"""RWKV-4's time mixing: a gated running average with a decay of each channel."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.wkv import wkv
from models.card import Card
from models.mixer import Mixer
from models.own_rate import own_rate
from models.padding import zero_padding
from models.token_shift import token_before


class RWKV4(Mixer):
    """wkv_t = (sum_{i<t} e^{k_i - (t-1-i) w} v_i + e^{u + k_t} v_t) / (the same without v);
    out = W (sigmoid(r) * wkv); r, k, v are linear in mu x_t + (1 - mu) x_{t-1}.

    Peng et al. 2023, eq. 11-17. The preset's block is the paper's channel mixing. A hidden token
    has no weight; time passes over it.

    w = exp(decay). At the start decays spread over channels, faster in later layers, and mu over
    channels too (appendix E); maps start at zero, but the one to v, which starts orthogonal.
    """

    card = Card(
        title="RWKV: Reinventing RNNs for the Transformer Era",
        authors="Peng, Alcaide, Anthony, Albalak, Arcadinho, Biderman, et al.",
        year=2023,
        link="https://arxiv.org/abs/2305.13048",
        family="recurrent",
        time="N d^2",
        memory="N d",
        causality="native",
        bidirectional=False,
        recurrent=True,
        ops=("wkv",),
        deviations=("the embedding has no norm of its own (LN0 of the authors' code)",),
    )

    def __init__(self, dim: int, **standard: Any):
        super().__init__(dim, **standard)
        late = self.layer / max(self.depth - 1, 1)
        early = 1 - self.layer / self.depth
        channel = torch.arange(dim) / max(dim - 1, 1)
        self.decay = nn.Parameter(-5 + 8 * channel ** (0.7 + 1.3 * late))
        zigzag = ((torch.arange(dim) + 1) % 3 - 1) * 0.5
        self.bonus = nn.Parameter(math.log(0.3) + zigzag)
        share = torch.arange(dim) / dim
        self.mix_key = nn.Parameter(share**early)
        self.mix_value = nn.Parameter(share**early + 0.3 * late)
        self.mix_receptance = nn.Parameter(share ** (0.5 * early))
        own_rate(self.decay, self.bonus)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.receptance = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        nn.init.orthogonal_(self.value.weight)
        for linear in (self.key, self.receptance, self.output):
            nn.init.zeros_(linear.weight)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
        state: tuple[Tensor, Tensor] | None = None,
    ) -> Any:
        """y; with ``state`` (of ``init_state``, or of the segment before) also the next one."""
        self.check(x, mask, context)
        x = zero_padding(x, mask)
        last, sums = (None, None) if state is None else state
        before = token_before(x, last)
        r, k, v = (
            linear(before.lerp(x, mix.to(x.dtype)))
            for linear, mix in (
                (self.receptance, self.mix_receptance), (self.key, self.mix_key),
                (self.value, self.mix_value),
            )
        )  # fmt: skip
        if mask is not None:
            k = k.masked_fill(~mask[..., None], -math.inf)
        with torch.autocast(x.device.type, enabled=False):
            kind = self.decay.dtype
            y, sums = wkv(self.decay.exp(), self.bonus, k.to(kind), v.to(kind), initial_state=sums)
        y = self.output(F.dropout(r.sigmoid() * y.to(r.dtype), self.dropout, self.training))
        return y if state is None else (y, (x[:, -1], sums))

    def init_state(self, batch: int) -> tuple[Tensor, Tensor]:
        sums = self.decay.new_zeros(batch, 3, self.dim)
        sums[:, 2] = -math.inf
        return self.decay.new_zeros(batch, self.dim), sums

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        y, state = self.forward(x_t[:, None], state=state)
        return y[:, 0], state
