"""Local convolution: a control that sees its neighbours and nothing else."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.short_conv import short_conv, short_conv_step
from models.card import Card
from models.mixer import Mixer
from models.padding import zero_padding


class LocalConv(Mixer):
    """y_i = W_o (silu(g_i) * sum_j w_j * u_{i+j}), |j| <= r, with u and g linear in x.

    One depthwise kernel of ``2r + 1`` positions, centred; where causal it ends at its own position.
    A stack of L layers sees ``L (kernel_size - 1) + 1`` positions, and a pooling head adds up what
    such windows say: a score that this reaches needs no long range.

    Args:
        kernel_size: positions of the kernel, odd.
    """

    card = Card(
        title="On the locality bias and results in the Long Range Arena",
        authors="Miralles-Gonzalez, Huertas-Tato, Martin, Camacho",
        year=2025,
        link="https://arxiv.org/abs/2501.14850",
        family="conv",
        time="N kernel_size d + N d^2",
        memory="N d",
        causality="native",
        bidirectional=True,
        recurrent=True,
        ops=("short_conv",),
        deviations=(
            "a control, no model of the paper: it asks how much of a score is local",
            "L layers see L (kernel_size - 1) + 1 positions: 9 with two layers and the default",
        ),
    )

    def __init__(self, dim: int, *, kernel_size: int = 5, **standard: Any):
        super().__init__(dim, **standard)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"LocalConv: kernel_size must be odd and positive, got {kernel_size}")
        self.input = nn.Linear(dim, 2 * dim)
        bound = kernel_size**-0.5
        self.weight = nn.Parameter(torch.empty(dim, kernel_size).uniform_(-bound, bound))
        self.output = nn.Linear(dim, dim)

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
        u, gate = self.input(zero_padding(x, mask)).chunk(2, dim=-1)
        u = zero_padding(u, mask).mT
        y = self._read(short_conv(u, self.weight, causal=self.causal, initial=state).mT, gate)
        if state is None:
            return y
        longer = torch.cat([state.to(u.dtype), u], dim=-1)
        return y, longer[..., u.shape[-1] :]

    def _read(self, mixed: Float[Tensor, "*B D"], gate: Float[Tensor, "*B D"]) -> Tensor:
        return self.output(F.dropout(F.silu(gate) * mixed, self.dropout, self.training))

    def init_state(self, batch: int) -> Tensor:
        """The last ``kernel_size - 1`` of u, (B, D, W - 1): zeros before the first token."""
        return self.weight.new_zeros(batch, self.dim, self.weight.shape[1] - 1)

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        u, gate = self.input(x_t).chunk(2, dim=-1)
        mixed, state = short_conv_step(u, state, self.weight)
        return self._read(mixed, gate), state
