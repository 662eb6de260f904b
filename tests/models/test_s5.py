"""S5: scan, steps and loop are one system; a block structure that makes it S4D; its start."""

import math

import pytest
import torch
from torch.nn import functional as F

from models.hippo import legs_low_rank, legs_matrix
from models.mixers.ssm.s4d import S4D
from models.mixers.ssm.s5 import S5

DIM = 6


def made(causal=True, **knobs):
    torch.manual_seed(0)
    knobs = {"state": 16, "blocks": 2, "dt_max": 0.5} | knobs
    return S5(DIM, heads=1, max_len=64, causal=causal, **knobs).double()


def inputs(n, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, n, DIM, generator=generator, dtype=torch.float64)


def full_system(mixer):
    """Discretised A, B and C of all states, conjugates written out."""
    a = torch.complex(mixer.a[:, 0], mixer.a[:, 1])
    b = torch.complex(mixer.b[:, 0], mixer.b[:, 1])
    c = torch.view_as_complex(mixer.c)
    dt = mixer.log_dt.exp()
    a_bar = torch.exp(a * dt)
    b_bar = ((a_bar - 1) / a)[:, None] * b
    return torch.cat([a_bar, a_bar.conj()]), torch.cat([b_bar, b_bar.conj()]), c


def loop(mixer, u, c):
    a, b, _ = full_system(mixer)
    x, outputs = torch.zeros(len(u), len(a), dtype=a.dtype), []
    for u_t in u.unbind(1):
        x = a * x + u_t.to(b.dtype) @ b.T
        y = x @ torch.cat([c, c.conj()], dim=1).T
        assert y.imag.abs().max() < 1e-12
        outputs.append(y.real)
    return torch.stack(outputs, 1)


def gated(mixer, y):
    g = F.gelu(y)
    return g * torch.sigmoid(g @ mixer.gate.weight.T + mixer.gate.bias)


@pytest.mark.parametrize("n", [1, 2, 63, 100])
def test_equals_the_loop_over_all_conjugates(n):
    mixer, u = made(), inputs(n)
    _, _, c = full_system(mixer)
    torch.testing.assert_close(mixer(u), gated(mixer, loop(mixer, u, c) + mixer.d * u))


def test_two_directions_share_a_and_b_and_both_hold_the_present():
    mixer, u = made(causal=False), inputs(21)
    forward, backward = full_system(mixer)[2].chunk(2, dim=1)
    y = loop(mixer, u, forward) + loop(mixer, u.flip(1), backward).flip(1) + mixer.d * u
    torch.testing.assert_close(mixer(u), gated(mixer, y))


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


def test_a_block_for_each_channel_is_s4d():
    """State group h sees channel h alone and is read by it alone, one step a group."""
    pairs = 3
    mixer = made(state=2 * pairs * DIM, blocks=DIM)
    torch.manual_seed(1)
    s4d = S4D(DIM, heads=1, max_len=64, causal=True, d_state=2 * pairs).double()
    own = torch.eye(DIM).double()
    with torch.no_grad():
        a = torch.complex(-s4d.log_a_real.exp(), s4d.a_imag)
        mixer.a.copy_(torch.view_as_real(a.flatten()))
        b = torch.view_as_complex(s4d.b)[:, :, None] * own[:, None]  # (D, pairs, D)
        mixer.b.copy_(torch.view_as_real(b.flatten(0, 1)).transpose(1, 2))
        c = torch.view_as_complex(s4d.c)[0][:, None] * own[:, :, None]  # (D, D, pairs)
        mixer.c.copy_(torch.view_as_real(c.flatten(1)))
        mixer.log_dt.copy_(s4d.log_dt.repeat_interleave(pairs))
        mixer.d.copy_(s4d.d)
        kernel = s4d.kernels(40)[0]
    u = inputs(40)
    toeplitz = torch.stack([
        torch.stack([kernel[:, t - s] if t >= s else torch.zeros(DIM).double() for s in range(40)])
        for t in range(40)
    ])  # fmt: skip
    y = torch.einsum("tsd,bsd->btd", toeplitz, u) + mixer.d * u
    torch.testing.assert_close(mixer(u), gated(mixer, y))


def test_starts_at_hippo():
    """Conjugated back, the first A is HiPPO-LegS's normal part, so its real parts are -1/2."""
    matrix, _ = legs_matrix(8)
    low_rank = legs_low_rank(8)
    wanted = torch.linalg.eigvals(matrix + low_rank[:, None] * low_rank)
    wanted = wanted[wanted.imag > 0]
    wanted = wanted[wanted.imag.argsort()]
    found = torch.view_as_complex(made().a.detach())
    torch.testing.assert_close(found, wanted.repeat(2), rtol=1e-6, atol=1e-6)
    assert (found.real + 0.5).abs().max() < 1e-6
    mixer = made(state=512, blocks=2)
    # V^H keeps the length of B's random columns; half of the states are there
    assert mixer.b.square().sum((0, 1)).mean().item() == pytest.approx(512 / 2 / DIM, rel=0.1)
    dt = mixer.log_dt.exp()
    assert dt.min() >= 0.001 and dt.max() <= 0.5
    assert dt.log().mean().item() == pytest.approx(math.log(0.001 * 0.5) / 2, rel=0.1)
    own = {name for name, p in mixer.named_parameters() if hasattr(p, "_optim")}
    assert own == {"a", "b", "log_dt"}


@pytest.mark.parametrize("activation", ["half_glu1", "half_glu2", "full_glu"])
def test_gates(activation):
    mixer, u = made(activation=activation), inputs(5)
    y = loop(mixer, u, full_system(mixer)[2]) + mixer.d * u
    g = F.gelu(y)
    w = g @ mixer.gate.weight.T + mixer.gate.bias
    wanted = {
        "half_glu1": lambda: g * w.sigmoid(),
        "half_glu2": lambda: y * w.sigmoid(),
        "full_glu": lambda: F.glu(w, dim=-1),
    }[activation]()
    torch.testing.assert_close(mixer(u), wanted)


def test_clipped_eigenvalues_never_grow():
    mixer = made(clip_eigs=True)
    with torch.no_grad():
        mixer.a[:, 0] = 1.0
    assert mixer.discretised()[0].abs().max() < 1


def test_refusals():
    for knobs, message in (
        ({"state": 15}, "multiple of 2 \\* blocks"),
        ({"dt_min": 0.5, "dt_max": 0.1}, "dt_min <= dt_max"),
        ({"activation": "glu"}, "activation must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**knobs)
