"""S5: one state space over all channels, with a diagonal matrix, run as a scan."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.diagonal_scan import diagonal_scan
from models.card import Card
from models.complex_linear import into_states, real_part_out
from models.hippo import legs_normal
from models.mixer import Mixer
from models.own_rate import own_rate
from models.padding import zero_padding

GATES = ("half_glu1", "half_glu2", "full_glu")


class S5(Mixer):
    """x_t = Abar x_{t-1} + Bbar u_t, y_t = 2 Re(C x_t) + D u_t, Abar = exp(A dt); out = gate(y).

    Smith et al. 2023, eq. 3-6 and section 3.2: zero-order hold, Bbar = (Abar - 1) / A B, one dt a
    state. A starts as the eigenvalues of HiPPO-LegS's normal part, ``blocks`` times; B = V^H B',
    C = C' V with their vectors V. Not causal: a second scan from the end shares A and B and has
    its own C; the present is in both.

    half_glu1: g * sigmoid(W g), g = gelu(y). half_glu2: y * sigmoid(W gelu(y)). full_glu: GLU(W g).

    Args:
        state: real states P, in P/2 conjugate pairs.
        blocks: HiPPO matrices on the diagonal of A.
        dt_min, dt_max: steps at the start, log-uniform over states.
        activation: ``half_glu1`` | ``half_glu2`` | ``full_glu``.
        clip_eigs: keep Re A at most -1e-4.
        lr_ssm: learning rate of A, B and dt, without weight decay; None: as all others.
    """

    card = Card(
        title="Simplified State Space Layers for Sequence Modeling",
        authors="Smith, Warrington, Linderman",
        year=2023,
        link="https://arxiv.org/abs/2208.04933",
        family="ssm",
        time="N d state",
        memory="N state",
        causality="native",
        bidirectional=True,
        recurrent=True,
        ops=("diagonal_scan",),
        deviations=("the paper's layer has no feed-forward network; here the block adds one",),
    )

    def __init__(
        self,
        dim: int,
        *,
        state: int = 256,
        blocks: int = 8,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        activation: str = "half_glu1",
        clip_eigs: bool = False,
        lr_ssm: float | None = 1e-3,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if blocks < 1 or state < 1 or state % (2 * blocks):
            raise ValueError(f"S5: state={state} must be a multiple of 2 * blocks = {2 * blocks}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"S5: need 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")
        if activation not in GATES:
            raise ValueError(
                f"S5: activation must be one of {', '.join(GATES)}, got '{activation}'"
            )
        self.activation, self.clip_eigs, pairs = activation, clip_eigs, state // 2
        a, vectors = legs_normal(state // blocks)
        basis = torch.block_diag(*[vectors] * blocks)
        self.a = nn.Parameter(torch.view_as_real(a.repeat(blocks)).float())
        b = basis.mH @ torch.randn(state, dim, dtype=basis.real.dtype).to(basis) / math.sqrt(dim)
        self.b = nn.Parameter(torch.stack([b.real, b.imag], dim=1).float())
        span = math.log(dt_max) - math.log(dt_min)
        self.log_dt = nn.Parameter(torch.rand(pairs) * span + math.log(dt_min))
        own_rate(self.a, self.b, self.log_dt, lr=lr_ssm)
        ways = 1 if self.causal else 2
        # complex, of variance 1 / P
        drawn = torch.randn(ways, dim, state, dtype=basis.dtype) / math.sqrt(state)
        c = torch.cat(list(drawn @ basis), dim=-1)
        self.c = nn.Parameter(torch.view_as_real(c).float())
        self.d = nn.Parameter(torch.randn(dim))
        self.gate = nn.Linear(dim, 2 * dim if activation == "full_glu" else dim)

    def discretised(self) -> tuple[Complex[Tensor, " J"], Complex[Tensor, " J"]]:
        """Abar, and the factor of B."""
        real = self.a[..., 0].clamp(max=-1e-4) if self.clip_eigs else self.a[..., 0]
        a = torch.complex(real, self.a[..., 1])
        step = a * self.log_dt.exp()
        # Abar - 1 without cancellation where A dt is small
        return step.exp(), torch.expm1(step) / a

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
        u = zero_padding(x, mask)
        with torch.autocast(x.device.type, enabled=False):
            a, drive = self._drive(u)
            states = [diagonal_scan(a, drive, initial=state)]
            if not self.causal:
                states.append(diagonal_scan(a, drive, reverse=True))
        y = self._read(torch.cat(states, dim=-1), u)
        return y if state is None else (y, states[0][:, -1])

    def _drive(self, u: Float[Tensor, "*B D"]) -> tuple[Tensor, Tensor]:
        """Abar and Bbar u; never in half precision."""
        a, factor = self.discretised()
        return a, factor * into_states(u.to(self.b.dtype), self.b)

    def _read(self, states: Tensor, u: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        with torch.autocast(u.device.type, enabled=False):
            y = 2 * real_part_out(states, self.c) + self.d * u.to(self.d.dtype)
        g = F.dropout(F.gelu(y), self.dropout, self.training)
        if self.activation == "full_glu":
            return F.glu(self.gate(g), dim=-1)
        return (g if self.activation == "half_glu1" else y) * self.gate(g).sigmoid()

    def init_state(self, batch: int) -> Tensor:
        if not self.causal:
            return super().init_state(batch)
        return torch.view_as_complex(self.a.new_zeros(batch, len(self.a), 2))

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        with torch.autocast(x_t.device.type, enabled=False):
            a, drive = self._drive(x_t)
            state = a * state + drive
        return self._read(state, x_t), state
