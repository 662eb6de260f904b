"""Mamba: scan, steps and loop are one; a token-independent step makes it a convolution."""

import math

import pytest
import torch
from torch.nn import functional as F

from models.mixers.ssm.mamba import Mamba, inverse_softplus_steps

DIM = 6


def made(**knobs):
    torch.manual_seed(0)
    return Mamba(DIM, heads=1, max_len=64, causal=True, **{"d_state": 3} | knobs).double()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def loop(mixer, x):
    """Algorithm 2, token by token."""
    u, z = mixer.into(x).chunk(2, -1)
    width = mixer.conv.weight.shape[1]
    padded = torch.cat([u.new_zeros(len(u), width - 1, u.shape[-1]), u], 1)
    u = torch.stack([
        (padded[:, t : t + width] * mixer.conv.weight.T).sum(1) + mixer.conv.bias
        for t in range(x.shape[1])
    ], 1)  # fmt: skip
    u = u * u.sigmoid()
    rank, b, c = mixer.select(u).split(mixer.sizes, -1)
    dt = F.softplus(mixer.step_size(rank))
    a = -mixer.log_a.exp()
    h, outputs = torch.zeros(len(x), *a.shape, dtype=x.dtype), []
    for t in range(x.shape[1]):
        fed = (dt[:, t] * u[:, t])[..., None] * b[:, t, None]
        h = torch.exp(dt[:, t, :, None] * a) * h + fed
        outputs.append((h * c[:, t, None]).sum(-1) + mixer.d * u[:, t])
    return mixer.out(torch.stack(outputs, 1) * F.silu(z))


@pytest.mark.parametrize("n", [1, 2, 3, 63])
def test_equals_the_loop(n):
    mixer, x = made(), inputs(n)
    torch.testing.assert_close(mixer(x), loop(mixer, x))


def test_steps_and_segments_are_the_whole():
    mixer, x = made(), inputs(40)
    whole = mixer(x)
    state, outputs = mixer.init_state(2), []
    for x_t in x.unbind(1):
        y, state = mixer.step(x_t, state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole)
    segment, outputs = mixer.init_state(2), []
    for part in x.split([1, 2, 37], 1):
        y, segment = mixer(part, state=segment)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole)
    assert all(a.shape == b.shape for a, b in zip(segment, state, strict=True))


def test_constant_selection_is_a_time_invariant_convolution():
    """With dt, B and C constant the layer is S4D's kernel (Euler's B) between conv and gate."""
    mixer, x = made(), inputs(30)
    with torch.no_grad():
        mixer.select.weight.zero_()
        mixer.log_a.add_(0.1 * torch.randn_like(mixer.log_a))
    # B and C come from the token alone: stand in constants through the rank columns
    b, c = torch.randn(2, 3, dtype=torch.float64)
    original = F.linear

    def constant(x, weight, bias=None):
        y = original(x, weight, bias)
        if weight is mixer.select.weight:
            y = torch.cat([y[..., :1], b.expand(*y.shape[:-1], 3), c.expand(*y.shape[:-1], 3)], -1)
        return y

    F.linear = constant
    try:
        y = mixer(x)
    finally:
        F.linear = original
    u, z = mixer.into(x).chunk(2, -1)
    u, _ = mixer.conv(u)
    u = F.silu(u)
    dt = F.softplus(mixer.step_size.bias)
    lags = torch.arange(30, dtype=torch.float64)
    decay = torch.exp(-mixer.log_a.exp() * dt[:, None])
    kernel = (c * b * dt[:, None] * decay ** lags[:, None, None]).sum(-1)  # (N, inner)
    mixed = torch.stack([
        sum(kernel[t - s] * u[:, s] for s in range(t + 1)) + mixer.d * u[:, t] for t in range(30)
    ], 1)  # fmt: skip
    torch.testing.assert_close(y, mixer.out(mixed * F.silu(z)))


def test_a_hidden_token_adds_nothing():
    mixer, x = made(d_conv=1), inputs(9)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 4] = False
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    other = mixer(x, mask)
    torch.testing.assert_close(y, other)
    assert torch.isfinite(y).all()


def test_starts_as_published():
    torch.manual_seed(0)
    bias = inverse_softplus_steps(4000, 1e-3, 0.1)
    dt = F.softplus(bias)
    assert dt.min() >= 0.999e-3 and dt.max() <= 0.1001
    assert dt.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.05)
    mixer = made(d_state=16)
    torch.testing.assert_close(mixer.log_a[0].exp(), torch.arange(1.0, 17).double())
    assert mixer.step_size.in_features == 1 and made(dt_rank=5).step_size.in_features == 5
    assert {n for n, p in mixer.named_parameters() if hasattr(p, "_optim")} == {"log_a", "d"}
    # 16 layers that add up start with maps out of a quarter
    bound = mixer.out.in_features**-0.5
    for depth in (1, 16):
        largest = made(depth=depth).out.weight.abs().max().item()
        assert largest == pytest.approx(bound * depth**-0.5, rel=0.05)


def test_refusals():
    with pytest.raises(ValueError, match="must be at least 1"):
        made(d_state=0)
    with pytest.raises(ValueError, match="dt_min <= dt_max"):
        made(dt_min=0.2, dt_max=0.1)
