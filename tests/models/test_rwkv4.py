"""RWKV-4: the running average is the paper's double sum; steps and segments are the whole."""

import math

import pytest
import torch

from lra.conformance.checks import run
from lra.conformance.subject import Subject
from models.blocks.rwkv import ChannelMixing, RWKVBlock
from models.mixers.recurrent.rwkv4 import RWKV4
from models.spec import LayerSpec
from models.wake import wake

DIM = 6


def made(**standard):
    torch.manual_seed(0)
    mixer = RWKV4(DIM, heads=1, max_len=64, causal=True, **{"layer": 1, "depth": 3} | standard)
    wake(mixer)
    return mixer.double()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def double_sum(mixer, x):
    """Equations 11-17, each sum written out."""
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    r, k, v = (
        linear(mix * x + (1 - mix) * before)
        for linear, mix in (
            (mixer.receptance, mixer.mix_receptance), (mixer.key, mixer.mix_key),
            (mixer.value, mixer.mix_value),
        )
    )  # fmt: skip
    w, outputs = mixer.decay.exp(), []
    for t in range(x.shape[1]):
        top = torch.exp(mixer.bonus + k[:, t]) * v[:, t]
        bottom = torch.exp(mixer.bonus + k[:, t])
        for i in range(t):
            weight = torch.exp(-(t - 1 - i) * w + k[:, i])
            top, bottom = top + weight * v[:, i], bottom + weight
        outputs.append(top / bottom)
    return mixer.output(r.sigmoid() * torch.stack(outputs, 1))


@pytest.mark.parametrize("n", [1, 2, 30])
def test_equals_the_double_sum(n):
    mixer, x = made(), inputs(n)
    torch.testing.assert_close(mixer(x), double_sum(mixer, x))


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


def test_a_hidden_token_has_no_weight():
    """Beside the token shift, which is silenced here, the rest is what it would be without it."""
    mixer, x = made(), inputs(8)
    with torch.no_grad():
        for mix in (mixer.mix_key, mixer.mix_value, mixer.mix_receptance):
            mix.fill_(1.0)
        mixer.decay.fill_(-math.inf)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[:, 3] = False
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    shorter = mixer(torch.cat([x[:, :3], x[:, 4:]], 1))
    torch.testing.assert_close(torch.cat([y[:, :3], y[:, 4:]], 1), shorter)


def test_starts_as_published():
    """Appendix E: log decays from -5 to 3 over channels, shares from 0 to 1, bonus near log 0.3"""
    first, last = made(layer=0), made(layer=2)
    for mixer in (first, last):
        assert mixer.decay[0].item() == pytest.approx(-5)
        assert mixer.decay[-1].item() == pytest.approx(3)
        assert mixer.bonus.mean().item() == pytest.approx(math.log(0.3))
    assert first.decay[3] > last.decay[3]
    torch.testing.assert_close(first.mix_key, torch.arange(DIM).double() / DIM)


def test_maps_start_at_zero_or_orthogonal():
    """As RWKV_Init of the authors' code does for v4: a block first hands on its input."""
    mixer = RWKV4(DIM, heads=1, max_len=8, causal=True)
    for linear in (mixer.key, mixer.receptance, mixer.output):
        assert not linear.weight.any()
    torch.testing.assert_close(mixer.value.weight @ mixer.value.weight.T, torch.eye(DIM))
    spec = LayerSpec(dim=DIM, heads=1, max_len=8, causal=True, ffn_dim=4 * DIM)
    mixing = ChannelMixing(spec)
    assert not mixing.receptance.weight.any() and not mixing.value.weight.any()
    torch.testing.assert_close(mixing.key.weight.T @ mixing.key.weight, 4 * torch.eye(DIM))


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_steps_of_the_block_are_the_whole(norm_position):
    """Its state is constant: of the mixer, and the last token that channel mixing has seen."""
    torch.manual_seed(0)
    spec = LayerSpec(
        dim=DIM, heads=1, max_len=16, causal=True, ffn_dim=10, layer=1, depth=3,
        norm_position=norm_position,
    )  # fmt: skip
    block, x = RWKVBlock(spec, lambda s: made()).double(), inputs(9)
    wake(block)
    whole, _ = block(x, None)
    state, outputs = block.init_state(2), []
    for x_t in x.unbind(1):
        y, state = block.step(x_t, state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole)
    assert state[1].shape == (2, DIM)


class ForgetsTheTokenBefore(RWKVBlock):
    def ffn_step(self, x, state):
        return super().ffn_step(x, self.ffn_state(len(x)))


def test_conformance_decodes_with_the_block():
    def outcome(block):
        mixer = {"_target_": "models.mixers.recurrent.rwkv4.RWKV4"}
        return run("recurrent", Subject("rwkv4", mixer, {"_target_": block}))

    assert outcome("models.blocks.rwkv.RWKVBlock").status == "pass"
    assert "steps of the block" in outcome(f"{__name__}.ForgetsTheTokenBefore").reason


def test_channel_mixing():
    torch.manual_seed(0)
    spec = LayerSpec(dim=DIM, heads=1, max_len=16, causal=True, ffn_dim=10, layer=1, depth=3)
    mixing, x = ChannelMixing(spec).double(), inputs(7)
    wake(mixing)
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    k, r = (m * x + (1 - m) * before for m in (mixing.mix_key, mixing.mix_receptance))
    wanted = mixing.receptance(r).sigmoid() * mixing.value(mixing.key(k).relu() ** 2)
    torch.testing.assert_close(mixing(x), wanted)
    block = RWKVBlock(spec, lambda s: RWKV4(DIM, heads=1, max_len=16, causal=True))
    assert isinstance(block.ffn, ChannelMixing)
    wake(block)
    y, _ = block.double()(x, None)
    changed = x.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(block(changed, None)[0][:, :4], y[:, :4])
