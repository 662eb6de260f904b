"""RetNet's retention: linear attention with a fixed decay in each head, gated and normalised."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.linear_attention import linear_attention
from models.card import Card
from models.mixer import Mixer
from models.padding import zero_padding
from models.rotary import Rotary

State = tuple[int, Float[Tensor, "B H K V"]]


class RetNet(Mixer):
    """Y = (Q K^T * D) V, D_ij = gamma^(i-j) for j <= i; out = W (silu(X G) * norm(Y)).

    Sun et al. 2023, eq. 5-8: queries and keys are rotated by their positions, gamma of head h is
    1 - 2^(-5-h), and every head's output is normalised by its root mean square.

    Args:
        value_factor: width of values, gate and output of all heads, in widths of queries.
        gamma_first: gamma of the first head is ``1 - 2^-gamma_first``.
    """

    card = Card(
        title="Retentive Network: A Successor to Transformer for Large Language Models",
        authors="Sun, Dong, Huang, Ma, Xia, Xue, Wang, Wei",
        year=2023,
        link="https://arxiv.org/abs/2307.08621",
        family="linear",
        time="N d^2",
        memory="N d",
        causality="native",
        bidirectional=False,
        recurrent=True,
        ops=("linear_attention",),
        deviations=(
            "the paper's scaling of D by its row sums is left out: the normalisation of each head "
            "cancels it",
            "heads come from the recipe, the paper has one for each 256 channels",
            "channels i and i + K/2 turn by 10000^(-2i/K), as rotary positions; in the authors' "
            "code neighbours do, and exponents go evenly from 0 to -1",
        ),
    )

    def __init__(
        self, dim: int, *, value_factor: int = 2, gamma_first: float = 5.0, **standard: Any
    ):
        super().__init__(dim, **standard)
        if value_factor < 1:
            raise ValueError(f"RetNet: value_factor must be at least 1, got {value_factor}")
        if gamma_first <= 0:
            raise ValueError(f"RetNet: gamma_first must be more than 0, got {gamma_first}")
        values = value_factor * self.qkv_dim
        self.query = nn.Linear(dim, self.qkv_dim, bias=False)
        self.key = nn.Linear(dim, self.qkv_dim, bias=False)
        self.value = nn.Linear(dim, values, bias=False)
        self.gate = nn.Linear(dim, values, bias=False)
        self.output = nn.Linear(values, dim, bias=False)
        # the gain of 2^-5/2 of the published code
        for linear in (self.query, self.key, self.value, self.gate):
            nn.init.xavier_uniform_(linear.weight, gain=2**-2.5)
        nn.init.xavier_uniform_(self.output.weight)
        self.rotary = Rotary(self.qkv_dim // self.heads)
        head = torch.arange(self.heads, dtype=torch.float64)
        self.log_gamma: Tensor
        log_gamma = torch.log1p(-(2.0 ** (-gamma_first - head))).float()
        self.register_buffer("log_gamma", log_gamma, persistent=False)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
        state: State | None = None,
    ) -> Any:
        """y; with ``state`` (of ``init_state``, or of the segment before) also the next one."""
        self.check(x, mask, context)
        x = zero_padding(x, mask)
        start, carried = (0, None) if state is None else state
        y, carried = self._retain(x, start, carried)
        return y if state is None else (y, (start + x.shape[1], carried))

    def _retain(
        self, x: Float[Tensor, "B N D"], start: int, carried: Tensor | None
    ) -> tuple[Float[Tensor, "B N D"], Tensor]:
        q, k, v = (
            f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        q, k = self.rotary(q, start=start), self.rotary(k, start=start) * k.shape[-1] ** -0.5
        # a scalar for every position of the chunked form
        decay = self.log_gamma.to(torch.float32)[:, None].expand(len(x), -1, x.shape[1])
        y, (carried, _) = linear_attention(
            q, k, v, causal=True, log_decay=decay.to(q.dtype), normalise=False,
            initial_state=None if carried is None else (carried, None),
        )  # fmt: skip
        y = F.rms_norm(y, y.shape[-1:], eps=1e-6).transpose(1, 2).flatten(2)
        y = F.dropout(y, self.dropout, self.training)
        return self.output(F.silu(self.gate(x)) * y), carried

    def init_state(self, batch: int) -> State:
        size = self.qkv_dim // self.heads, self.value.out_features // self.heads
        return 0, self.query.weight.new_zeros(batch, self.heads, *size)

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        y, state = self.forward(x_t[:, None], state=state)
        return y[:, 0], state
