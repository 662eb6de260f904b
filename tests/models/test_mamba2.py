"""Mamba-2: chunked, quadratic and recurrent forms are one; no decay is linear attention."""

import pytest
import torch
from torch.nn import functional as F

from models.mixers.ssm.mamba2 import Mamba2

DIM = 6


def made(**knobs):
    torch.manual_seed(0)
    sizes = {"d_state": 3, "headdim": 4, "ngroups": 1} | knobs
    return Mamba2(DIM, heads=1, max_len=64, causal=True, **sizes).double()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def quadratic(mixer, x):
    """Y = (L * C B^T) X with the whole matrix, head by head."""
    inner, channels = mixer.sizes[0], sum(mixer.sizes)
    z, u, dt = mixer.into(x).split([inner, channels, mixer.own_heads], -1)
    u, _ = mixer.conv(u)
    v, b, c = F.silu(u).split(mixer.sizes, -1)
    dt = F.softplus(dt + mixer.dt_bias)
    log_a = -mixer.log_a.exp() * dt
    total = log_a.cumsum(1)
    n, width, outputs = x.shape[1], mixer.width, []
    for head in range(mixer.own_heads):
        group = head // (mixer.own_heads // mixer.groups)
        states = slice(group * mixer.d_state, (group + 1) * mixer.d_state)
        decay = torch.exp(total[:, :, None, head] - total[:, None, :, head])
        matrix = (c[..., states] @ b[..., states].mT * decay).tril()
        own = v[..., head * width : (head + 1) * width]
        outputs.append(matrix @ (dt[..., head, None] * own) + mixer.d[head] * own)
    assert matrix.shape[-1] == n
    return mixer.out(mixer.norm(torch.cat(outputs, -1) * F.silu(z)))


@pytest.mark.parametrize("n", [1, 2, 63])
@pytest.mark.parametrize("groups", [1, 3])
def test_equals_the_quadratic_form(n, groups):
    mixer, x = made(ngroups=groups), inputs(n)
    assert mixer.own_heads == 3
    torch.testing.assert_close(mixer(x), quadratic(mixer, x))


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
    torch.testing.assert_close(segment, state)


def test_without_decay_it_is_linear_attention():
    mixer, x = made(), inputs(12)
    with torch.no_grad():
        mixer.log_a.fill_(-80.0)
    inner, channels = mixer.sizes[0], sum(mixer.sizes)
    z, u, dt = mixer.into(x).split([inner, channels, 3], -1)
    v, b, c = F.silu(mixer.conv(u)[0]).split(mixer.sizes, -1)
    scaled = v.unflatten(-1, (3, 4)) * F.softplus(dt + mixer.dt_bias)[..., None]
    mixed = torch.einsum("btn,bsn,bshp,ts->bthp", c, b, scaled, torch.ones(12, 12).double().tril())
    y = (mixed + mixer.d[:, None] * v.unflatten(-1, (3, 4))).flatten(2)
    torch.testing.assert_close(mixer(x), mixer.out(mixer.norm(y * F.silu(z))))


def test_starts_as_published():
    torch.manual_seed(0)
    mixer = Mamba2(64, heads=1, max_len=8, causal=True, headdim=1)
    assert mixer.log_a.exp().min() >= 1 and mixer.log_a.exp().max() <= 16
    dt = F.softplus(mixer.dt_bias)
    assert dt.min() >= 0.999e-3 and dt.max() <= 0.1001
    own = {n for n, p in mixer.named_parameters() if hasattr(p, "_optim")}
    assert own == {"dt_bias", "log_a", "d"}
    assert Mamba2(16, heads=1, max_len=8, causal=True).own_heads == 1


def test_refusals():
    with pytest.raises(ValueError, match="headdim=5 must divide the inner width 12"):
        made(headdim=5)
    with pytest.raises(ValueError, match="must be at least 1"):
        made(ngroups=0)
