"""LRU: scan, recurrence and loop are one system; the ring of its first poles; S5 as its twin."""

import math

import pytest
import torch
from torch.nn import functional as F

from kernels.errors import Unsupported
from models.mixers.recurrent.lru import LRU
from models.mixers.ssm.s5 import S5

DIM = 6


def made(**knobs):
    torch.manual_seed(0)
    return LRU(DIM, heads=1, max_len=64, causal=True, **{"state": 5} | knobs).double()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def matrices(mixer):
    """lambda, exp(gamma) and complex B and C from the parameters."""
    lam = torch.exp(torch.complex(-mixer.nu.exp(), mixer.theta.exp()))
    b = torch.complex(mixer.b[:, 0], mixer.b[:, 1])
    return lam, mixer.gamma.exp(), b, torch.view_as_complex(mixer.c)


def finished(mixer, y):
    value, gate = (F.gelu(y) @ mixer.gate.weight.T + mixer.gate.bias).chunk(2, -1)
    return value * torch.sigmoid(gate)


@pytest.mark.parametrize("n", [1, 2, 63, 100])
def test_equals_the_loop(n):
    mixer, u = made(), inputs(n)
    lam, gamma, b, c = matrices(mixer)
    x, outputs = torch.zeros(2, 5, dtype=torch.complex128), []
    for u_t in u.unbind(1):
        x = lam * x + gamma * (u_t.to(b.dtype) @ b.T)
        outputs.append((x @ c.T).real + mixer.d * u_t)
    torch.testing.assert_close(mixer(u), finished(mixer, torch.stack(outputs, 1)))


def test_equals_s5_with_a_step_of_one():
    """Zero-order hold of A = log lambda, B and C to match; S5 counts C twice, for conjugates."""
    mixer, u = made(), inputs(40)
    lam, gamma, b, c = matrices(mixer)
    s5 = S5(
        DIM, heads=1, max_len=64, causal=True, state=10, blocks=1, activation="full_glu"
    ).double()  # fmt: skip
    continuous = lam.log()
    b = (gamma * continuous / (lam - 1))[:, None] * b
    with torch.no_grad():
        s5.a.copy_(torch.view_as_real(continuous))
        s5.b.copy_(torch.stack([b.real, b.imag], dim=1))
        s5.c.copy_(torch.view_as_real(c / 2))
        s5.log_dt.zero_()
        s5.d.copy_(mixer.d)
        s5.gate.load_state_dict(mixer.gate.state_dict())
    torch.testing.assert_close(mixer(u), s5(u))


def test_steps_and_segments_are_the_whole():
    mixer, u = made(), inputs(70)
    whole = mixer(u)
    state, outputs = mixer.init_state(2), []
    for u_t in u.unbind(1):
        y, state = mixer.step(u_t, state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole)
    segment, outputs = mixer.init_state(2), []
    for part in u.split([1, 33, 36], 1):
        y, segment = mixer(part, state=segment)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole)
    torch.testing.assert_close(segment, state)


@pytest.mark.parametrize("ring", [(0.0, 1.0), (0.9, 0.999)])
def test_poles_fill_a_ring_evenly(ring):
    r_min, r_max = ring
    mixer = made(state=20000, r_min=r_min, r_max=r_max, max_phase=math.pi / 10)
    lam = mixer.coefficients().detach()
    radius, phase = lam.abs(), lam.angle()
    assert radius.min() >= r_min and radius.max() <= r_max
    assert phase.min() >= 0 and phase.max() <= math.pi / 10 + 1e-6
    # |lambda|^2 and the phase are uniform: the quartiles say so
    quarters = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    squared = radius.square().quantile(quarters)
    expected = r_min**2 + quarters * (r_max**2 - r_min**2)
    torch.testing.assert_close(squared, expected, rtol=0, atol=0.02 * (r_max**2 - r_min**2))
    torch.testing.assert_close(phase.quantile(quarters), quarters * math.pi / 10, rtol=0, atol=0.01)


def test_states_start_with_unit_variance():
    """White noise of unit variance in: gamma makes E|x|^2 = E|B u|^2 at every pole."""
    mixer = made(r_min=0.5, r_max=0.9)
    generator = torch.Generator().manual_seed(2)
    u = torch.randn(8, 4000, DIM, generator=generator, dtype=torch.float64)
    _, state = mixer(u[:, :1], state=mixer.init_state(8))
    lam, gamma, b, _ = matrices(mixer)
    drive = gamma * (u.to(b.dtype) @ b.T)
    x, total = torch.zeros_like(state), 0.0
    for t, drive_t in enumerate(drive.unbind(1)):
        x = lam * x + drive_t
        total = total + (x.abs().square().mean(0) if t >= 100 else 0.0)
    variance = total / 3900 / b.abs().square().sum(1)
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0, atol=0.15)


def test_matrices_start_as_published():
    mixer = made(state=400)
    assert mixer.b.std().item() == pytest.approx(1 / math.sqrt(2 * DIM), rel=0.05)
    assert mixer.c.std().item() == pytest.approx(1 / math.sqrt(400), rel=0.05)
    own = {name for name, p in mixer.named_parameters() if hasattr(p, "_optim")}
    assert own == {"nu", "theta", "gamma", "b"}
    assert made(lr_factor=0.25).b._optim == {"lr_factor": 0.25, "weight_decay": 0.0}


def test_refusals():
    with pytest.raises(Unsupported, match="causal only"):
        LRU(DIM, heads=1, max_len=8, causal=False)
    for knobs, message in (
        ({"r_min": 0.9, "r_max": 0.5}, "r_min < r_max"),
        ({"r_max": 1.5}, "r_max <= 1"),
        ({"state": 0}, "state must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**knobs)
