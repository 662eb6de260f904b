"""Retention: parallel, recurrent and segment-wise forms are one; no decay is linear attention."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from lra.conformance.subject import load
from models.block import Block
from models.build import make, make_mixer
from models.mixers.linear.retnet import RetNet
from models.rotary import Rotary
from models.spec import LayerSpec


def made(**knobs):
    torch.manual_seed(0)
    return RetNet(12, heads=3, max_len=64, causal=True, **knobs).double()


def parallel(mixer, x, gamma):
    """Equation 5 with the whole matrix, and the row scaling that the paper adds for precision."""
    n = x.shape[1]
    q, k, v = (
        f(x).unflatten(-1, (3, -1)).transpose(1, 2) for f in (mixer.query, mixer.key, mixer.value)
    )
    q, k = mixer.rotary(q), mixer.rotary(k)
    i = torch.arange(n, dtype=x.dtype)
    d = (gamma[:, None, None] ** (i[:, None] - i).clamp(min=0)).tril()
    scores = q @ k.mT / math.sqrt(q.shape[-1]) * (d / d.sum(-1, keepdim=True).sqrt())
    y = scores / scores.sum(-1, keepdim=True).abs().clamp(min=1) @ v
    y = F.normalize(y, dim=-1, eps=1e-30) * math.sqrt(y.shape[-1])
    return mixer.output(F.silu(mixer.gate(x)) * y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("n", [1, 2, 40])
def test_equals_the_parallel_form_with_its_row_scaling(n):
    mixer, x = made(), torch.randn(2, n, 12, dtype=torch.float64) * 10
    gamma = 1 - 2.0 ** (-5 - torch.arange(3, dtype=torch.float64))
    # the one difference is the eps of the normalisation
    torch.testing.assert_close(mixer(x), parallel(mixer, x, gamma), rtol=1e-4, atol=1e-4)


def test_steps_and_segments_are_the_whole():
    mixer, x = made(), torch.randn(2, 37, 12, dtype=torch.float64)
    whole = mixer(x)
    state, outputs = mixer.init_state(2), []
    for x_t in x.unbind(1):
        y, state = mixer.step(x_t, state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), whole, rtol=1e-6, atol=1e-7)
    segment, outputs = mixer.init_state(2), []
    for part in x.split([1, 17, 19], 1):
        y, segment = mixer(part, state=segment)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, rtol=1e-6, atol=1e-7)
    assert segment[0] == state[0] == 37


def test_without_decay_it_is_linear_attention():
    mixer, x = made(gamma_first=60.0), torch.randn(2, 20, 12, dtype=torch.float64)
    assert (mixer.log_gamma.abs() < 1e-15).all()
    q, k, v = (
        f(x).unflatten(-1, (3, -1)).transpose(1, 2) for f in (mixer.query, mixer.key, mixer.value)
    )
    rotary = Rotary(4).double()
    y = (rotary(q) @ rotary(k).mT / 2).tril() @ v
    y = F.rms_norm(y, y.shape[-1:], eps=1e-6).transpose(1, 2).flatten(2)
    wanted = mixer.output(F.silu(mixer.gate(x)) * y)
    torch.testing.assert_close(mixer(x), wanted, rtol=1e-6, atol=1e-8)


def test_heads_forget_as_published():
    gamma = made().log_gamma.exp()
    wanted = torch.tensor([1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128], dtype=torch.float64)
    torch.testing.assert_close(gamma, wanted, rtol=1e-6, atol=0)


def test_refusals():
    with pytest.raises(ValueError, match="value_factor must be at least 1"):
        made(value_factor=0)
    with pytest.raises(ValueError, match="gamma_first must be more than 0"):
        made(gamma_first=0.0)


def test_a_layer_of_the_preset_holds_what_a_transformers_does():
    """Section 3.1: 8 d^2 in retention, 4 d^2 behind it; 4 d^2 and 8 d^2 in a transformer."""
    d = 16
    spec = LayerSpec(dim=d, heads=2, max_len=8, causal=True, ffn_dim=4 * d)

    def matrices(name):
        subject = load(name)
        block = make(subject.block, Block, spec, partial(make_mixer, subject.mixer))
        return sum(p.numel() for p in block.parameters() if p.ndim == 2), block

    count, block = matrices("retnet")
    assert sum(p.numel() for p in block.ffn.parameters() if p.ndim == 2) == 4 * d**2
    assert count == matrices("transformer")[0] == 12 * d**2
