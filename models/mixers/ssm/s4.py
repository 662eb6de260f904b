"""S4: a state space whose matrix is diagonal plus rank one, trained as a convolution."""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from kernels.cauchy_kernel import cauchy_kernel
from models.card import Card
from models.hippo import legs_low_rank, legs_matrix, legs_normal
from models.mixers.ssm.convolution import ConvolutionalSSM
from models.own_rate import own_rate


class S4(ConvolutionalSSM):
    """K_l = C Abar^l Bbar, y = K * u + D u; out = GLU(W gelu(y)). A = diag(Lambda) - P P^*.

    Gu et al. 2022, theorem 3 and algorithm 1, bilinear discretisation. With C~ = C (I - Abar^L)
    and z_k = exp(-2 pi i k / L) the spectrum of the kernel is

        2 / (1 + z) (k(C~, B) - k(C~, P) k(P, B) / (1 + k(P, P))),
        k(x, y) = sum_n conj-paired x_n y_n / (2 (1 - z) / (dt (1 + z)) - Lambda_n)

    C~ is the parameter, for L = ``max_len``; a shorter sequence uses the first taps, a longer one
    has C~ computed for it. A, B and P start as HiPPO-LegS. Not causal: a second C~ reads the
    future, from lag -1 on.

    Args:
        d_state: real states n of a channel, in n/2 conjugate pairs.
        n_ssm: independent sets of A, B and P, each for dim / n_ssm channels.
        dt_min, dt_max: steps at the start, log-uniform over channels.
        lr_ssm: learning rate of dt, A, B and P, without weight decay; None: as all others.
    """

    card = Card(
        title="Efficiently Modeling Long Sequences with Structured State Spaces",
        authors="Gu, Goel, Re",
        year=2022,
        link="https://arxiv.org/abs/2111.00396",
        family="ssm",
        time="N log N d + N n d",
        memory="N d",
        causality="native",
        bidirectional=True,
        recurrent=True,
        ops=("cauchy_kernel", "long_conv"),
        deviations=("the paper's layer has no feed-forward network; here the block adds one",),
    )

    def __init__(
        self,
        dim: int,
        *,
        d_state: int = 64,
        n_ssm: int = 1,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        lr_ssm: float | None = 1e-3,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if d_state < 2 or d_state % 2:
            raise ValueError(f"S4: d_state must be even and at least 2, got {d_state}")
        if n_ssm < 1 or dim % n_ssm:
            raise ValueError(f"S4: n_ssm={n_ssm} must divide the width {dim}")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"S4: need 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")
        pairs, self.copies = d_state // 2, dim // n_ssm
        a, vectors = legs_normal(d_state)
        span = math.log(dt_max) - math.log(dt_min)
        self.log_dt = nn.Parameter(torch.rand(dim) * span + math.log(dt_min))
        self.log_a_real = nn.Parameter((-a.real).log().float().repeat(n_ssm, 1))
        self.a_imag = nn.Parameter(a.imag.float().repeat(n_ssm, 1))
        b, p = (
            torch.view_as_real(vectors.mH @ vector.to(vectors.dtype)).float().repeat(n_ssm, 1, 1)
            for vector in (legs_matrix(d_state)[1], legs_low_rank(d_state))
        )
        self.b, self.p = nn.Parameter(b), nn.Parameter(p)
        own_rate(self.log_dt, self.log_a_real, self.a_imag, self.b, self.p, lr=lr_ssm)
        # real and imaginary part each of variance 1/2
        c = torch.randn(self.directions, dim, pairs, 2) * 0.5**0.5
        with torch.no_grad():
            c = self._truncated(torch.view_as_complex(c).to(torch.complex128), self.max_len)
        self.c = nn.Parameter(torch.view_as_real(c).float())
        self._stepping: Stepping | None = None

    def system(
        self,
    ) -> tuple[Complex[Tensor, "D J"], Complex[Tensor, "D J"], Complex[Tensor, "D J"]]:
        """Lambda, B and P of every channel, one of each pair."""
        a = torch.complex(-self.log_a_real.exp(), self.a_imag)
        b, p = torch.view_as_complex(self.b), torch.view_as_complex(self.p)
        a, b, p = (x.repeat_interleave(self.copies, 0) for x in (a, b, p))
        return a, b, p

    def discretised(self) -> tuple[Complex[Tensor, "D n n"], Complex[Tensor, "D n"]]:
        """Abar and Bbar of every channel, all pairs written out, in complex128."""
        a, b, p = (torch.cat([x, x.conj()], dim=-1).to(torch.complex128) for x in self.system())
        half = 0.5 * self.log_dt.exp().double()[:, None, None]
        matrix = half * (torch.diag_embed(a) - p[:, :, None] * p.conj()[:, None])
        eye = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        inverse = torch.linalg.inv(eye - matrix)
        return inverse @ (eye + matrix), (inverse @ (2 * half * b[:, :, None]))[..., 0]

    def _truncated(
        self, c: Complex[Tensor, "directions D J"], length: int, *, undo: bool = False
    ) -> Complex[Tensor, "directions D J"]:
        """C~ = C (I - Abar^L) from C, or C from C~."""
        a, _ = self.discretised()
        eye = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
        factor = eye - torch.linalg.matrix_power(a, length)
        rows = torch.cat([c, c.conj()], dim=-1)[..., None, :]
        found = torch.linalg.solve(factor, rows, left=False) if undo else rows @ factor
        return found[..., 0, : c.shape[-1]]

    def kernels(self, length: int) -> Float[Tensor, "directions D L"]:
        size = max(length, self.max_len)
        a, b, p = self.system()
        c, dt = torch.view_as_complex(self.c), self.log_dt.exp()[:, None]
        if length > self.max_len:
            whole = self._truncated(c.to(torch.complex128), self.max_len, undo=True)
            c = self._truncated(whole, length).to(c.dtype)
        # z = -1, the last node of an even length, is infinitely far out
        angle = torch.arange((size + 1) // 2, device=dt.device).to(torch.float64) * (math.pi / size)
        tangent = angle.tan().to(dt.dtype)
        nodes = torch.complex(torch.zeros_like(tangent), 2 * tangent)
        residues = torch.stack([*(c * b), *(c * p), p.conj() * b, p.conj() * p])
        sums = cauchy_kernel(residues * dt, nodes, a * dt)
        ways = self.directions
        through = sums[ways : 2 * ways] * (sums[-2] / (1 + sums[-1]))
        spectrum = (sums[:ways] - through) * torch.complex(torch.ones_like(tangent), tangent)
        if size % 2 == 0:
            end = (dt * (c * b)).sum(-1, keepdim=True).real
            spectrum = torch.cat([spectrum, end.to(spectrum.dtype)], dim=-1)
        return torch.fft.irfft(spectrum, n=size)[..., :length]

    def init_state(self, batch: int) -> Complex[Tensor, "B D J"]:
        """Zeros; what the steps need of the parameters is computed here and kept by the layer."""
        if not self.causal:
            return super().init_state(batch)
        self._stepping = self.stepping()
        return torch.complex(*self.d.new_zeros(2, batch, *self._stepping.ahead.shape))

    @torch.no_grad()
    def stepping(self) -> "Stepping":
        """What a step needs of the parameters as they are."""
        c = torch.view_as_complex(self.c).to(torch.complex128)
        c = self._truncated(c, self.max_len, undo=True)[0]
        a, b, p = (x.to(torch.complex128) for x in self.system())
        half = 0.5 * self.log_dt.exp().double()[:, None]
        ahead, gain = 1 + half * a, 1 / (1 - half * a)
        # sums over conjugate pairs are twice the real part
        low_rank = half * gain * p / (1 + half * 2 * (gain * p.abs().square()).real.sum(-1, True))
        kind = self.d.dtype.to_complex()
        fields = (ahead, gain, 2 * half * b, half * p, low_rank, p.conj(), 2 * c)
        return Stepping(*(x.to(kind) for x in fields))

    def step(self, x_t: Float[Tensor, "B D"], state: Any) -> tuple[Float[Tensor, "B D"], Any]:
        of = self._stepping = self._stepping or self.stepping()
        # (1 + dt A / 2) h + dt B u, A = diag - p p^*
        driven = of.ahead * state - of.half_p * _paired(of.p_conj, state) + of.b * x_t[..., None]
        # (1 - dt A / 2)^-1 of it, by the Woodbury identity
        state = of.gain * driven
        state = state - of.low_rank * _paired(of.p_conj, state)
        y = (of.c * state).sum(-1).real + self.d * x_t
        return self.gated(y), state


class Stepping(NamedTuple):
    """Of every channel, one of each conjugate pair: the factors of a step in O(n)."""

    ahead: Complex[Tensor, "D J"]
    gain: Complex[Tensor, "D J"]
    b: Complex[Tensor, "D J"]
    half_p: Complex[Tensor, "D J"]
    low_rank: Complex[Tensor, "D J"]
    p_conj: Complex[Tensor, "D J"]
    c: Complex[Tensor, "D J"]


def _paired(a: Complex[Tensor, "D J"], b: Complex[Tensor, "B D J"]) -> Float[Tensor, "B D 1"]:
    """The sum of products over both of each conjugate pair, a real number."""
    return 2 * (a * b).sum(-1, keepdim=True).real
