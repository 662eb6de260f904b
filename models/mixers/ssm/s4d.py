"""S4D: a state space with a diagonal matrix, trained as a convolution, decoded as a recurrence."""

import math
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from kernels.vandermonde_kernel import vandermonde_kernel
from models.card import Card
from models.hippo import legs_matrix, legs_normal
from models.mixers.ssm.convolution import ConvolutionalSSM
from models.own_rate import own_rate


class S4D(ConvolutionalSSM):
    """K_l = 2 Re sum_j C_j Bbar_j Abar_j^l, y = K * u + D u; out = GLU(W gelu(y)).

    Gu et al. 2022, eq. 5 and section 4: A = -exp(a) + i w; zero-order hold Abar = exp(A dt),
    Bbar = B (Abar - 1) / A, or bilinear Abar = (1 + A dt/2) / (1 - A dt/2), Bbar = B dt /
    (1 - A dt/2). Not causal: a second kernel C' reads the future, from lag -1 on.

    Args:
        d_state: real states n of a channel, in n/2 conjugate pairs.
        init: of A: ``legs`` | ``lin`` | ``inv`` | ``real``.
        disc: ``zoh`` | ``bilinear``.
        dt_min, dt_max: steps at the start, log-uniform over channels.
        lr_ssm: learning rate of dt, A and B, without weight decay; None: as all others.
        n_ssm: independent sets of A and B, tied over the channels of a set; None: one a channel.
    """

    card = Card(
        title="On the Parameterization and Initialization of Diagonal State Space Models",
        authors="Gu, Gupta, Goel, Re",
        year=2022,
        link="https://arxiv.org/abs/2206.11893",
        family="ssm",
        time="N log N d + N n d",
        memory="N d",
        causality="native",
        bidirectional=True,
        recurrent=True,
        ops=("vandermonde_kernel", "long_conv"),
        deviations=(
            "the paper's layer has no feed-forward network; here the block adds one",
            "legs: |B| is clipped at 2, where the public code clips Im B (of arbitrary phase)",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        d_state: int = 64,
        init: str = "legs",
        disc: str = "zoh",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        lr_ssm: float | None = 1e-3,
        n_ssm: int | None = None,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if disc not in ("zoh", "bilinear"):
            raise ValueError(f"S4D: disc must be zoh or bilinear, got '{disc}'")
        if d_state < 2 or d_state % 2:
            raise ValueError(f"S4D: d_state must be even and at least 2, got {d_state}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"S4D: need 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")
        sets = dim if n_ssm is None else n_ssm
        if sets < 1 or dim % sets:
            raise ValueError(f"S4D: n_ssm={sets} must divide the width {dim}")
        self.disc, self.pairs = disc, d_state // 2
        a, b = self._poles(init)
        self.log_dt = nn.Parameter(
            torch.rand(dim) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min)
        )
        self.log_a_real = nn.Parameter((-a.real).log().float().repeat(sets, 1))
        self.a_imag = nn.Parameter(a.imag.float().repeat(sets, 1))
        self.b = nn.Parameter(torch.view_as_real(b).float().repeat(sets, 1, 1))
        own_rate(self.log_dt, self.log_a_real, self.a_imag, self.b, lr=lr_ssm)
        # real and imaginary part each of variance 1/2
        self.c = nn.Parameter(torch.randn(self.directions, dim, self.pairs, 2) * 0.5**0.5)

    def _poles(self, init: str) -> tuple[Tensor, Tensor]:
        """A and B at the start, one for each pair, in fp64."""
        j, n = torch.arange(self.pairs, dtype=torch.float64), 2 * self.pairs
        ones = torch.ones(self.pairs, dtype=torch.complex128)
        half = torch.full_like(j, -0.5)
        if init == "legs":
            a, vectors = legs_normal(n)
            b = vectors.mH @ legs_matrix(n)[1].to(vectors.dtype)
            # the large ones would make single channels dominate
            return a, b / (b.abs() / 2).clamp(min=1)
        if init == "lin":
            return torch.complex(half, math.pi * j), ones
        if init == "inv":
            return torch.complex(half, n / math.pi * (n / (2 * j + 1) - 1)), ones
        if init == "real":
            return torch.complex(-(j + 1), torch.zeros_like(j)), ones
        raise ValueError(f"S4D: init must be legs, lin, inv or real, got '{init}'")

    def discretised(self) -> tuple[Complex[Tensor, "D J"], Complex[Tensor, "D J"]]:
        """log Abar and Bbar of every channel."""
        share = self.dim // len(self.log_a_real)
        a = torch.complex(-self.log_a_real.exp(), self.a_imag).repeat_interleave(share, 0)
        b = torch.view_as_complex(self.b).repeat_interleave(share, 0)
        dt = self.log_dt.exp()[:, None]
        if self.disc == "zoh":
            # Abar - 1 without cancellation where A dt is small
            return a * dt, b * torch.expm1(a * dt) / a
        # log((1 + z) / (1 - z)) = 2 atanh z, right where A dt is small too
        return 2 * torch.atanh(a * dt / 2), b * dt / (1 - a * dt / 2)

    def kernels(self, length: int) -> Float[Tensor, "directions D L"]:
        """The convolution kernel of each direction."""
        log_a, b = self.discretised()
        return vandermonde_kernel(torch.view_as_complex(self.c) * b, log_a, length)

    def init_state(self, batch: int) -> Tensor:
        if not self.causal:
            return super().init_state(batch)
        return torch.complex(*self.c.new_zeros(2, batch, self.dim, self.pairs))

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        log_a, b = self.discretised()
        state = log_a.exp() * state + b * x_t[..., None]
        y = 2 * (torch.view_as_complex(self.c)[0] * state).sum(-1).real + self.d * x_t
        return self.gated(y), state
