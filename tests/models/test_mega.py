"""Mega: the moving average by its loop, the gated attention by its equations."""

import math

import pytest
import torch
from torch.nn import functional as F

from kernels.errors import Unsupported
from models.blocks.mega import Mega, MegaChunk
from models.moving_average import MovingAverage
from models.spec import LayerSpec

DIM, MAX_LEN = 6, 24


def made(kind=Mega, causal=False, norm_position="pre", **knobs):
    torch.manual_seed(0)
    spec = LayerSpec(
        dim=DIM, heads=1, max_len=MAX_LEN, causal=causal, ffn_dim=10, norm_position=norm_position
    )
    block = kind(spec, lambda s: None, **{"n_dim": 3, "z_dim": 4} | knobs).double().eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return block


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def average_loop(ema, x, way=0):
    alpha, delta = ema.alpha[way].sigmoid(), ema.delta[way].sigmoid()
    h, outputs = torch.zeros(len(x), *alpha.shape, dtype=x.dtype), []
    for x_t in x.unbind(1):
        h = alpha * ema.beta[way] * x_t[..., None] + (1 - alpha * delta) * h
        outputs.append((ema.eta[way] * h).sum(-1) / math.sqrt(alpha.shape[-1]))
    return torch.stack(outputs, 1)


def block_by_hand(block, x, length=None):
    """Equations 6-14 of one unpadded batch."""
    n, pre = x.shape[1], block.spec.norm_position == "pre"
    inner = block.norm(x) if pre else x
    y = average_loop(block.average, inner) + block.average.omega * inner
    if not block.spec.causal:
        y = y + average_loop(block.average, inner.flip(1), 1).flip(1)
    y = F.silu(y)
    z, gamma, own, phi = block.into(y).split(block.sizes, -1)
    z, v = F.silu(z), F.silu(block.value(inner))
    q, k = z * block.scale[0] + block.shift[0], z * block.scale[1] + block.shift[1]
    if block.rotary is not None:
        q, k = (block.rotary(y[:, None])[:, 0] for y in (q, k))
    i = torch.arange(n)
    chunk = block.chunk or n
    seen = i[:, None] // chunk == i // chunk
    seen = seen.tril() if block.spec.causal else seen
    bias = torch.zeros(n, n, dtype=x.dtype)
    if block.bias is not None:
        inside = i % chunk if block.chunk else i
        bias = block.bias[(inside - inside[:, None]) + block.reach - 1]
    if block.function == "softmax":
        scores = q @ k.mT / math.sqrt(q.shape[-1]) + bias
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
    else:
        scores = q @ k.mT / seen.sum(-1, keepdim=True) + bias
        deviation = math.sqrt(1 / (4 * math.pi))
        weights = 0.5 * (1 + torch.erf((scores - math.sqrt(0.5)) / (deviation * math.sqrt(2))))
        weights = weights.masked_fill(~seen, 0)
    hidden = F.silu(own + block.out(F.silu(gamma) * (weights @ v)))
    x = x + phi.sigmoid() * (hidden - x)
    if pre:
        return x + block.ffn(block.ffn_norm(x))
    x = block.norm(x)
    return block.ffn_norm(x + block.ffn(x))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 2, 24])
def test_average_by_convolution_is_the_loop(causal, n):
    torch.manual_seed(0)
    ema, x = MovingAverage(DIM, states=3, causal=causal).double(), inputs(n)
    wanted = average_loop(ema, x) + ema.omega * x
    if not causal:
        wanted = wanted + average_loop(ema, x.flip(1), 1).flip(1)
    torch.testing.assert_close(ema(x, None), wanted)


def test_the_average_step_by_step():
    torch.manual_seed(0)
    ema, x = MovingAverage(DIM, states=3, causal=True).double(), inputs(12)
    wanted, h = ema(x, None), ema.init_state(2)
    for t, x_t in enumerate(x.unbind(1)):
        y_t, h = ema.step(x_t, h)
        torch.testing.assert_close(y_t, wanted[:, t])


def test_limits_of_the_average():
    """delta = 0 sums up; alpha = delta = 1 looks at nothing but the present."""
    torch.manual_seed(0)
    ema, x = MovingAverage(DIM, states=3, causal=True).double(), inputs(10)
    with torch.no_grad():
        ema.delta.fill_(-1e3)
    weight = (ema.eta * ema.alpha.sigmoid() * ema.beta)[0].sum(-1) / math.sqrt(3)
    torch.testing.assert_close(ema(x, None), weight * x.cumsum(1) + ema.omega * x)
    with torch.no_grad():
        ema.delta.fill_(1e3), ema.alpha.fill_(1e3)
    weight = (ema.eta * ema.beta)[0].sum(-1) / math.sqrt(3)
    torch.testing.assert_close(ema(x, None), (weight + ema.omega) * x)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize("chunk", [None, 5])
def test_equals_its_equations(causal, norm_position, function, chunk):
    kind, knobs = (Mega, {}) if chunk is None else (MegaChunk, {"chunk": chunk})
    block = made(kind, causal, norm_position, attention_function=function, **knobs)
    for n in (1, 4, 13):
        x = inputs(n)
        torch.testing.assert_close(block(x, None)[0], block_by_hand(block, x))


@pytest.mark.parametrize("chunk", [None, 5])
def test_positions_turn_by_their_distance(chunk):
    """Those of a chunk count from its beginning, by hand from the sequence's."""
    kind, knobs = (Mega, {}) if chunk is None else (MegaChunk, {"chunk": chunk})
    block, x = made(kind, True, rel_bias="rotary", **knobs), inputs(13)
    # angles are of single precision
    torch.testing.assert_close(block(x, None)[0], block_by_hand(block, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize("causal", [False, True])
def test_padding_does_not_matter(function, causal):
    for kind, knobs in ((Mega, {}), (MegaChunk, {"chunk": 5})):
        block, x = made(kind, causal, attention_function=function, **knobs), inputs(13)
        mask = torch.arange(13) < torch.tensor([[13], [7]])
        y, _ = block(x.masked_fill(~mask[..., None], torch.nan), mask)
        torch.testing.assert_close(y[1:, :7], block(x[1:, :7], None)[0])
        torch.testing.assert_close(y[:1], block(x[:1], None)[0])


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("function", ["softmax", "laplace"])
@pytest.mark.parametrize("rel_bias", ["simple", "rotary"])
@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_steps_are_the_causal_forward(norm_position, function, rel_bias, chunk):
    kind, knobs = (Mega, {}) if chunk is None else (MegaChunk, {"chunk": chunk})
    knobs |= {"attention_function": function, "rel_bias": rel_bias}
    block, x = made(kind, True, norm_position, **knobs), inputs(16)
    wanted, state, held = block(x, None)[0], block.init_state(2), []
    for t, x_t in enumerate(x.unbind(1)):
        y_t, after = block.step(x_t, state)
        # a benchmark takes the same step again and again
        torch.testing.assert_close(block.step(x_t, state)[0], y_t, rtol=0, atol=0)
        torch.testing.assert_close(y_t, wanted[:, t])
        state = after
        held.append(state[1].keys.shape[2])
    assert held == [t % (chunk or 16) + 1 for t in range(16)]


def test_a_chunk_as_long_as_the_sequence_is_the_whole():
    whole, x = made(causal=True), inputs(MAX_LEN)
    chunked = made(MegaChunk, causal=True, chunk=MAX_LEN)
    chunked.load_state_dict(whole.state_dict())
    torch.testing.assert_close(chunked(x, None)[0], whole(x, None)[0])


def test_rotary_positions_have_no_length():
    block = made(rel_bias="rotary")
    x = inputs(MAX_LEN + 5)
    assert block.bias is None and torch.isfinite(block(x, None)[0]).all()


def test_refusals():
    with pytest.raises(Unsupported, match="at most 24 positions, got 25"):
        made()(inputs(25), None)
    block = made(causal=True)
    state = block.init_state(2)
    with pytest.raises(Unsupported, match="at most 24 positions, got 25"):
        for x_t in inputs(25).unbind(1):
            _, state = block.step(x_t, state)
    assert state[1].count == 24
    for kind in (Mega, MegaChunk):
        with pytest.raises(Unsupported, match=f"{kind.__name__} decodes .* only with causal=true"):
            made(kind).init_state(1)
    for knobs, message in (
        ({"attention_function": "relu2"}, "attention_function must be"),
        ({"rel_bias": "none"}, "rel_bias must be simple or rotary"),
        ({"z_dim": 0}, "z_dim and h_dim"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**knobs)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        made(MegaChunk, chunk=0)
