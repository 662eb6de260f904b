"""S4: the kernel from its generating function is C Abar^l Bbar of the dense HiPPO system."""

import math

import pytest
import torch

from models.hippo import legs_low_rank, legs_matrix
from models.mixers.ssm.s4 import S4

DIM = 4


def made(causal=True, max_len=40, **knobs):
    torch.manual_seed(0)
    return S4(DIM, heads=1, max_len=max_len, causal=causal, **{"d_state": 8} | knobs).double()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def power_kernel(mixer, length=None):
    """C Abar^l Bbar, tap by tap, of every direction."""
    a, b = mixer.discretised()
    c = mixer._truncated(torch.view_as_complex(mixer.c), mixer.max_len, undo=True)
    c = torch.cat([c, c.conj()], dim=-1)
    taps, x = [], b
    for _ in range(length or mixer.max_len):
        taps.append((c * x).sum(-1).real)
        x = (a @ x[..., None])[..., 0]
    return torch.stack(taps, dim=-1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("max_len", [1, 2, 7, 64])
@pytest.mark.parametrize("n_ssm", [1, 2])
def test_kernel_equals_powers_of_the_discretised_matrix(causal, max_len, n_ssm):
    mixer = made(causal, max_len, n_ssm=n_ssm)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    wanted = power_kernel(mixer)
    torch.testing.assert_close(mixer.kernels(max_len), wanted, rtol=1e-8, atol=1e-9)
    longer = mixer.kernels(2 * max_len + 1)
    torch.testing.assert_close(longer, power_kernel(mixer, 2 * max_len + 1), rtol=1e-7, atol=1e-8)
    short = mixer.kernels((max_len + 1) // 2)
    torch.testing.assert_close(short, wanted[..., : (max_len + 1) // 2], rtol=1e-8, atol=1e-9)


def test_starts_at_the_dense_hippo_system():
    """Markov parameters B^T Abar^l B of the system in its own basis are HiPPO-LegS's."""
    mixer = made()
    matrix, b = legs_matrix(8)
    a_bar, b_bar = mixer.discretised()
    first = torch.cat([torch.view_as_complex(mixer.b)[0], torch.view_as_complex(mixer.b)[0].conj()])
    for channel in range(DIM):
        dt = mixer.log_dt[channel].exp()
        inverse = torch.linalg.inv(torch.eye(8) - dt / 2 * matrix)
        dense, x = inverse @ (torch.eye(8) + dt / 2 * matrix), inverse @ (dt * b)
        y = b_bar[channel]
        for _ in range(20):
            found = (first.conj() * y).sum()
            torch.testing.assert_close(found.real, (b * x).sum(), rtol=1e-5, atol=1e-5)
            assert found.imag.abs() < 1e-5
            x, y = dense @ x, a_bar[channel] @ y


def test_hippo_is_normal_plus_rank_one():
    matrix, _ = legs_matrix(16)
    low_rank = legs_low_rank(16)
    normal = matrix + low_rank[:, None] * low_rank
    torch.testing.assert_close(normal @ normal.T, normal.T @ normal)


def test_convolution_steps_and_direct_sum_are_one():
    mixer, u = made(), inputs(33)
    kernel = power_kernel(mixer)[0]
    y = torch.stack([
        sum(kernel[:, t - s] * u[:, s] for s in range(t + 1)) + mixer.d * u[:, t] for t in range(33)
    ], dim=1)  # fmt: skip
    torch.testing.assert_close(mixer(u), mixer.gated(y), rtol=1e-8, atol=1e-9)
    state, outputs = mixer.init_state(2), []
    for u_t in u.unbind(1):
        y_t, state = mixer.step(u_t, state)
        outputs.append(y_t)
    torch.testing.assert_close(torch.stack(outputs, 1), mixer(u), rtol=1e-8, atol=1e-9)


def test_both_ways_the_second_kernel_starts_behind_the_present():
    mixer, u = made(causal=False), inputs(20)
    past, future = power_kernel(mixer)
    y = torch.stack([
        sum(past[:, t - s] * u[:, s] for s in range(t + 1))
        + sum((future[:, s - t - 1] * u[:, s] for s in range(t + 1, 20)), torch.zeros(()))
        + mixer.d * u[:, t]
        for t in range(20)
    ], dim=1)  # fmt: skip
    torch.testing.assert_close(mixer(u), mixer.gated(y), rtol=1e-8, atol=1e-9)


def test_single_precision_is_enough_for_long_kernels():
    torch.manual_seed(0)
    mixer = S4(DIM, heads=1, max_len=4096, causal=True, d_state=64)
    single, double = mixer.kernels(4096), mixer.double().kernels(4096)
    error = (single - double).abs().max() / double.abs().max()
    assert error < 2e-4, error.item()


def test_steps_start_log_uniform_and_parameters_learn_slowly():
    torch.manual_seed(0)
    mixer = S4(1000, heads=1, max_len=8, causal=True, d_state=2)
    assert math.log(1e-3) <= mixer.log_dt.min() and mixer.log_dt.max() <= math.log(0.1)
    own = {name for name, p in mixer.named_parameters() if hasattr(p, "_optim")}
    assert own == {"log_dt", "log_a_real", "a_imag", "b", "p"}


def test_refusals():
    for knobs, message in (
        ({"d_state": 3}, "even and at least 2"),
        ({"n_ssm": 3}, "must divide the width"),
        ({"dt_min": 1.0, "dt_max": 0.1}, "dt_min <= dt_max"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**knobs)
