"""S4D: a state space with a diagonal matrix, trained as a convolution, decoded as a recurrence."""

import math
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.long_conv import long_conv
from kernels.vandermonde_kernel import vandermonde_kernel
from models.card import Card
from models.mixer import Mixer
from models.padding import zero_padding


def legs_normal_part(n: int) -> tuple[Complex[Tensor, " J"], Complex[Tensor, " J"]]:
    """Eigenvalues with positive imaginary part of HiPPO-LegS's normal part, and B in their basis.

    A_ij = -sqrt((2i+1)(2j+1)) below the diagonal and -(i+1) on it, plus P P^T with
    P_i = sqrt(i + 1/2), is -1/2 plus a skew-symmetric matrix (Gu et al. 2022, appendix).
    """
    order = torch.arange(n, dtype=torch.float64)
    root = (2 * order + 1).sqrt()
    a = -(root[:, None] * root).tril(-1) - torch.diag(order + 1)
    p = (order + 0.5).sqrt()
    normal = a + p[:, None] * p
    # -i times the skew part is Hermitian: real eigenvalues, orthonormal vectors
    w, v = torch.linalg.eigh(-1j * (normal + 0.5 * torch.eye(n)))
    # ascending, and symmetric about 0
    w, b = w[n // 2 :], (v.mH @ root.to(v.dtype))[n // 2 :]
    return torch.complex(torch.full_like(w, -0.5), w), b


class S4D(Mixer):
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
        for parameter in (self.log_dt, self.log_a_real, self.a_imag, self.b):
            own = {"weight_decay": 0.0} if lr_ssm is None else {"lr": lr_ssm, "weight_decay": 0.0}
            parameter._optim = own  # type: ignore[attr-defined]
        directions = 1 if self.causal else 2
        # real and imaginary part each of variance 1/2
        self.c = nn.Parameter(torch.randn(directions, dim, self.pairs, 2) * 0.5**0.5)
        self.d = nn.Parameter(torch.randn(dim))
        self.gate = nn.Linear(dim, 2 * dim)

    def _poles(self, init: str) -> tuple[Tensor, Tensor]:
        """A and B at the start, one for each pair, in fp64."""
        j, n = torch.arange(self.pairs, dtype=torch.float64), 2 * self.pairs
        ones = torch.ones(self.pairs, dtype=torch.complex128)
        half = torch.full_like(j, -0.5)
        if init == "legs":
            a, b = legs_normal_part(n)
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

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        self.check(x, mask, context)
        with torch.autocast(x.device.type, enabled=False):
            u = zero_padding(x, mask).mT.to(self.d.dtype)
            kernels = self.kernels(x.shape[1])
            future = None if self.causal else kernels[1]
            y = long_conv(u, kernels[0], self.d, kernel_reverse=future).mT
        return self._out(y)

    def _out(self, y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        y = F.dropout(F.gelu(y), self.dropout, self.training)
        return F.glu(self.gate(y), dim=-1)

    def init_state(self, batch: int) -> Tensor:
        if not self.causal:
            return super().init_state(batch)
        return torch.complex(*self.c.new_zeros(2, batch, self.dim, self.pairs))

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        log_a, b = self.discretised()
        state = log_a.exp() * state + b * x_t[..., None]
        y = 2 * (torch.view_as_complex(self.c)[0] * state).sum(-1).real + self.d * x_t
        return self._out(y), state
