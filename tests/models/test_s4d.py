"""S4D: kernel, convolution and recurrence are one system; initialisations; both directions."""

import math

import pytest
import torch
from torch.nn import functional as F

from kernels.errors import Unsupported
from models.hippo import legs_normal
from models.mixers.ssm.s4d import S4D

DIM = 6


def made(causal=True, **knobs):
    torch.manual_seed(0)
    knobs = {"d_state": 8} | knobs
    return S4D(DIM, heads=1, max_len=64, causal=causal, **knobs).double()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def system(mixer):
    """Abar and Bbar from the parameters, as the paper writes them; C."""
    sets = len(mixer.log_a_real)
    a = torch.complex(-mixer.log_a_real.exp(), mixer.a_imag)
    a, b = (x.repeat_interleave(DIM // sets, 0) for x in (a, torch.view_as_complex(mixer.b)))
    dt = mixer.log_dt.exp()[:, None]
    if mixer.disc == "zoh":
        return (a * dt).exp(), b * ((a * dt).exp() - 1) / a, torch.view_as_complex(mixer.c)
    return (
        (1 + a * dt / 2) / (1 - a * dt / 2),
        b * dt / (1 - a * dt / 2),
        torch.view_as_complex(mixer.c),
    )


@pytest.mark.parametrize("n_ssm", [None, 1, 3])
@pytest.mark.parametrize("disc", ["zoh", "bilinear"])
@pytest.mark.parametrize("init", ["legs", "lin", "inv", "real"])
def test_kernel_is_the_loop(init, disc, n_ssm):
    mixer = made(causal=False, init=init, disc=disc, n_ssm=n_ssm)
    a, b, c = system(mixer)
    power, taps = torch.ones_like(a), []
    for _ in range(50):
        taps.append(2 * (c * b * power).sum(-1).real)
        power = power * a
    torch.testing.assert_close(mixer.kernels(50), torch.stack(taps, -1))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n", [1, 2, 63, 100])
def test_layer_is_the_direct_sum(n, causal):
    """y[t] = sum_{s<=t} k0[t-s] u[s] + sum_{s>t} k1[s-t-1] u[s] + D u[t], then GELU and GLU."""
    mixer, u = made(causal), inputs(n)
    kernels = mixer.kernels(n)
    y = mixer.d * u
    for t in range(n):
        for s in range(n):
            if s <= t:
                y[:, t] += kernels[0, :, t - s] * u[:, s]
            elif not causal:
                y[:, t] += kernels[1, :, s - t - 1] * u[:, s]
    value, gate = (F.gelu(y) @ mixer.gate.weight.T + mixer.gate.bias).chunk(2, -1)
    torch.testing.assert_close(mixer(u), value * torch.sigmoid(gate))


@pytest.mark.parametrize("disc", ["zoh", "bilinear"])
def test_recurrence_is_the_convolution(disc):
    mixer, u = made(disc=disc), inputs(80)
    state, outputs = mixer.init_state(2), []
    for u_t in u.unbind(1):
        y, state = mixer.step(u_t, state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), mixer(u))


def test_legs_diagonalises_the_normal_part():
    n = 16
    order = torch.arange(n, dtype=torch.float64)
    root = (2 * order + 1).sqrt()
    hippo = -(torch.outer(root, root).tril(-1) + torch.diag(order + 1))
    normal = hippo + 0.5 * torch.outer(root, root)
    # normal, and all real parts are -1/2
    torch.testing.assert_close(normal @ normal.T, normal.T @ normal)
    a, vectors = legs_normal(n)
    b = vectors.mH @ root.to(vectors.dtype)
    eigenvalues = torch.linalg.eigvals(normal)
    expected = eigenvalues.imag[eigenvalues.imag > 0].sort().values
    torch.testing.assert_close(a, torch.complex(torch.full_like(expected, -0.5), expected))
    # the pairs together carry all of B
    assert 2 * b.abs().square().sum().item() == pytest.approx(root.square().sum().item())


def test_initial_poles():
    """Published figures of each initialisation, at n = 64."""
    n, j = 64, torch.arange(32)
    imag = {
        "lin": math.pi * j,
        "inv": n / math.pi * (n / (2 * j + 1) - 1),
        "real": torch.zeros(32),
    }
    for init, expected in imag.items():
        mixer = made(init=init, d_state=n).float()
        torch.testing.assert_close(mixer.a_imag[0], expected.float())
        real = -(j + 1.0) if init == "real" else torch.full((32,), -0.5)
        torch.testing.assert_close(-mixer.log_a_real[0].exp(), real)
        assert torch.view_as_complex(mixer.b.detach()).eq(1).all()
    legs = made(init="legs", d_state=n)
    # inv approximates legs for large n
    largest = legs.a_imag[0].sort(descending=True).values[:3]
    torch.testing.assert_close(largest, imag["inv"][:3].double(), rtol=0.1, atol=0)
    assert torch.view_as_complex(legs.b.detach()).abs().max() <= 2 + 1e-6


def test_steps_are_log_uniform():
    torch.manual_seed(0)
    dt = S4D(2000, heads=1, max_len=8, causal=True, d_state=2, dt_min=1e-3, dt_max=0.1).log_dt
    assert math.log(1e-3) <= dt.min() and dt.max() <= math.log(0.1)
    assert dt.mean().item() == pytest.approx(math.log(1e-2), abs=0.1)


def test_own_learning_rate():
    mixer = made(lr_ssm=0.002)
    own = {name for name, p in mixer.named_parameters() if hasattr(p, "_optim")}
    assert own == {"log_dt", "log_a_real", "a_imag", "b"}
    assert mixer.log_dt._optim == {"lr": 0.002, "weight_decay": 0.0}
    assert made(lr_ssm=None).b._optim == {"weight_decay": 0.0}


def test_kernel_is_right_in_fp32_at_length_16384():
    torch.manual_seed(0)
    for disc in ("zoh", "bilinear"):
        mixer = S4D(4, heads=1, max_len=8, causal=True, init="lin", disc=disc, dt_min=1e-4)
        rough = mixer.kernels(16384)
        exact = mixer.double().kernels(16384)
        error = (rough.double() - exact).abs().max() / exact.abs().max()
        # what rounding of the parameters themselves allows
        assert error < 1e-3


def test_refusals():
    for knobs, message in (
        ({"init": "fourier"}, "init must be legs, lin, inv or real"),
        ({"disc": "euler"}, "disc must be zoh or bilinear"),
        ({"d_state": 7}, "d_state must be even"),
        ({"dt_min": 0.2}, "dt_min <= dt_max"),
        ({"n_ssm": 4}, "n_ssm=4 must divide the width 6"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**knobs)
    with pytest.raises(Unsupported):
        made(causal=False).init_state(2)
