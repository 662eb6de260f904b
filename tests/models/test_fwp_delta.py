"""Fast weights: the chunked memory is the loop's; exact recall, and what a rate of zero writes."""

import pytest
import torch
from torch.nn import functional as F

from models.mixers.linear.fwp_delta import EPS, FWPDelta, dpfp

DIM = 6


def made(dim=DIM, heads=2, **knobs):
    torch.manual_seed(0)
    return FWPDelta(dim, heads=heads, max_len=64, causal=True, **knobs).double()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def loop(mixer, x):
    q, k, v = (
        f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (mixer.query, mixer.key, mixer.value)
    )
    q, k = mixer.features(q), mixer.features(k)
    beta = mixer.rate(x).sigmoid().mT
    w, outputs = torch.zeros(2, 2, v.shape[-1], k.shape[-1], dtype=x.dtype), []
    for t in range(x.shape[1]):
        known = (w @ k[:, :, t, :, None])[..., 0]
        wrong = beta[:, :, t, None] * (v[:, :, t] - known)
        w = w + wrong[..., None] * k[:, :, t, None]
        outputs.append((w @ q[:, :, t, :, None])[..., 0])
    return mixer.output(torch.stack(outputs, 2).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("n", [1, 2, 63, 130])
@pytest.mark.parametrize("knobs", [{}, {"nu": 3}, {"phi": "elu+1"}])
def test_equals_the_loop(n, knobs):
    mixer, x = made(**knobs), inputs(n)
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
    torch.testing.assert_close(segment, state)


def test_dpfp_is_the_papers():
    """Equation 37: relu(x), relu(-x) side by side, each product with a neighbour further on."""
    x = torch.tensor([1.0, -2.0, 3.0])
    # r = 1, 0, 3, 0, 2, 0; rolled by one: 0, 1, 0, 3, 0, 2
    torch.testing.assert_close(dpfp(x, 1), torch.zeros(6))
    # by two: 2, 0, 1, 0, 3, 0
    wanted = torch.tensor([2.0, 0, 3, 0, 6, 0])
    torch.testing.assert_close(dpfp(x, 2), torch.cat([torch.zeros(6), wanted]))


@pytest.mark.parametrize("phi", ["dpfp", "elu+1"])
def test_features_sum_to_one(phi):
    mixer = made(phi=phi)
    x = torch.randn(100, 3, dtype=torch.float64)
    total = mixer.features(x).sum(-1)
    raw = dpfp(x, 1).sum(-1) if phi == "dpfp" else (F.elu(x) + 1).sum(-1)
    torch.testing.assert_close(total, raw / (raw + EPS))


@pytest.mark.parametrize("phi", ["dpfp", "elu+1"])
def test_a_rate_of_zero_writes_nothing(phi):
    """The memory is read as it is, and stays."""
    mixer, x = made(phi=phi), inputs(5)
    memory = torch.randn_like(mixer.init_state(2))
    assert not torch.allclose(mixer(x, state=memory)[1], memory)
    # the rate has no bias: a channel of ones drives it
    x[..., 0] = 1
    with torch.no_grad():
        mixer.rate.weight.zero_()[:, 0] = -1e4
    y, after = mixer(x, state=memory)
    assert torch.equal(after, memory)
    q = mixer.features(mixer.query(x).unflatten(-1, (2, -1)).transpose(1, 2))
    torch.testing.assert_close(y, mixer.output((q @ memory).transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("phi", ["dpfp", "elu+1"])
def test_a_hidden_token_changes_neither_the_memory_nor_what_is_read_later(phi):
    """The features of a zeroed token are zeros for dpfp alone: with elu + 1 its rate must be."""
    mixer, x = made(phi=phi), inputs(7)
    memory = torch.randn_like(mixer.init_state(2))
    real = torch.tensor([1, 1, 0, 1, 0, 0, 1]).bool()
    y, after = mixer(x, real.expand(2, -1), state=memory)
    wanted, without = mixer(x[:, real], state=memory)
    torch.testing.assert_close(y[:, real], wanted)
    torch.testing.assert_close(after, without)
    _, after = mixer(x[:, :1], torch.zeros(2, 1, dtype=torch.bool), state=memory)
    assert torch.equal(after, memory)


ADDRESSES = 3  # width of a head in the tests below


def remembering(phi):
    """A mixer that reads tokens (address, value, +1 to write or -1 to read) as they say."""
    mixer = made(2 * ADDRESSES + 1, heads=1, qkv_dim=ADDRESSES, phi=phi)
    address, value = torch.eye(2 * ADDRESSES + 1).split([ADDRESSES, ADDRESSES + 1])
    with torch.no_grad():
        mixer.query.weight.copy_(1e3 * address)
        mixer.key.weight.copy_(1e3 * address)
        mixer.value.weight.copy_(value[:-1])
        mixer.output.weight.copy_(value[:-1].T)
        mixer.rate.weight.copy_(100 * value[-1:])
    return mixer


def one_hot(phi):
    """Addresses (M, ADDRESSES) whose features are the M unit vectors."""
    if phi == "elu+1":
        return 2.0 * torch.eye(ADDRESSES) - 1
    # dpfp's products of neighbours among relu(x), relu(-x): two positive ones give one feature
    pairs = torch.eye(2 * ADDRESSES) + torch.eye(2 * ADDRESSES).roll(1, 1)
    return pairs[:, :ADDRESSES] - pairs[:, ADDRESSES:]


@pytest.mark.parametrize("phi", ["elu+1", "dpfp"])
def test_orthonormal_keys_are_recalled_exactly_and_overwritten(phi):
    """With beta = 1: as many values as there are features, one of them written twice."""
    mixer, addresses = remembering(phi), one_hot(phi)
    count = len(addresses)
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(count + 1, ADDRESSES, generator=generator)
    where = torch.tensor([*range(count), 1, *range(count)])
    what = torch.cat([values, torch.zeros(count, ADDRESSES)])
    flag = torch.where(torch.arange(len(where)) <= count, 1.0, -1.0)
    x = torch.cat([addresses[where], what, flag[:, None]], dim=1)[None].double()
    read = mixer(x)[0, count + 1 :, ADDRESSES:-1]
    wanted = values[[0, count, *range(2, count)]].double()
    torch.testing.assert_close(read, wanted, rtol=0, atol=1e-8)


def test_refusals():
    with pytest.raises(ValueError, match="phi must be dpfp or elu"):
        made(phi="relu")
    with pytest.raises(ValueError, match="nu must be at least 1"):
        made(nu=0)
