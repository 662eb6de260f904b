"""The linear recurrent unit: a complex diagonal recurrence that trains as well as a state space."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.diagonal_scan import diagonal_scan
from models.card import Card
from models.complex_linear import into_states, real_part_out
from models.mixer import Mixer
from models.own_rate import own_rate
from models.padding import zero_padding

TINY = 1e-6  # keeps |lambda| off 0 and 1, where its logarithms have no value


class LRU(Mixer):
    """x_t = lambda x_{t-1} + exp(gamma) B u_t, y_t = Re(C x_t) + D u_t; out = GLU(gelu(y)).

    Orvieto et al. 2023, section 3: lambda = exp(-exp(nu) + i exp(theta)), |lambda|^2 uniform on
    [r_min^2, r_max^2], phase uniform on [0, max_phase], gamma = log sqrt(1 - |lambda|^2) at first.

    Args:
        r_min, r_max: ring of |lambda| at the start.
        max_phase: largest phase at the start, in radians.
        state: number of complex states.
        lr_factor: learning rate of lambda, gamma and B, in the model's (in the paper 0.25 or 0.5,
            by task); they have no weight decay.
    """

    card = Card(
        title="Resurrecting Recurrent Neural Networks for Long Sequences",
        authors="Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu, De",
        year=2023,
        link="https://arxiv.org/abs/2303.06349",
        family="recurrent",
        time="N d n",
        memory="N n",
        causality="native",
        bidirectional=False,
        recurrent=True,
        ops=("diagonal_scan",),
        deviations=("the paper's layer has no feed-forward network; here the block adds one",),
    )

    def __init__(
        self,
        dim: int,
        *,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 6.28,
        state: int = 128,
        lr_factor: float = 0.5,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(f"LRU: need 0 <= r_min < r_max <= 1, got {r_min} and {r_max}")
        if state < 1 or max_phase <= 0 or lr_factor <= 0:
            raise ValueError("LRU: state must be at least 1, max_phase and lr_factor more than 0")
        self.state = state
        squared = torch.rand(state) * (r_max**2 - r_min**2) + r_min**2
        radius = squared.clamp(TINY, 1 - TINY).sqrt()
        phase = (torch.rand(state) * max_phase).clamp(min=TINY)
        self.nu = nn.Parameter((-radius.log()).log())
        self.theta = nn.Parameter(phase.log())
        self.gamma = nn.Parameter((1 - radius.square()).sqrt().log())
        # real and imaginary parts interleaved, as complex tensors hold them
        self.b = nn.Parameter(torch.randn(state, 2, dim) / math.sqrt(2 * dim))
        own_rate(self.nu, self.theta, self.gamma, self.b, lr_factor=lr_factor)
        self.c = nn.Parameter(torch.randn(dim, state, 2) / math.sqrt(state))
        self.d = nn.Parameter(torch.randn(dim))
        self.gate = nn.Linear(dim, 2 * dim)

    def coefficients(self) -> Tensor:
        """lambda, complex, (state,)."""
        return torch.complex(-self.nu.exp(), self.theta.exp()).exp()

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
        hidden = diagonal_scan(self.coefficients(), self._drive(u), initial=state)
        y = self._read(hidden, u)
        return y if state is None else (y, hidden[:, -1])

    def _drive(self, u: Float[Tensor, "*B D"]) -> Tensor:
        """exp(gamma) B u, complex; never in half precision."""
        with torch.autocast(u.device.type, enabled=False):
            return into_states(u.to(self.b.dtype), self.b * self.gamma.exp()[:, None, None])

    def _read(self, hidden: Tensor, u: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        with torch.autocast(u.device.type, enabled=False):
            y = real_part_out(hidden, self.c) + self.d * u.to(self.d.dtype)
        y = F.dropout(F.gelu(y), self.dropout, self.training)
        return F.glu(self.gate(y), dim=-1)

    def init_state(self, batch: int) -> Tensor:
        return torch.view_as_complex(self.b.new_zeros(batch, self.state, 2))

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        hidden = self.coefficients() * state + self._drive(x_t)
        return self._read(hidden, x_t), hidden
