"""Transformer-XL: segments with a memory are one causal pass, with u and v in every score."""

from functools import partial

import pytest
import torch

from kernels.errors import Unsupported
from models.backbones.encoder import Encoder
from models.backbones.transformer_xl import TransformerXL
from models.blocks.residual import ResidualBlock
from models.build import make_mixer
from models.spec import LayerSpec

DIM = 8
DENSE = {"_target_": "models.mixers.exact.transformer.Transformer"}
RELATIVE = {"_target_": "models.mixers.exact.relative_attention.RelativeAttention"}
PERFORMER = {"_target_": "models.mixers.linear.performer.Performer", "nb_features": 16}


def made(kind=TransformerXL, mixer=RELATIVE, *, causal=True, depth=2, **knobs):
    torch.manual_seed(0)
    spec = LayerSpec(dim=DIM, heads=2, max_len=32, causal=causal, depth=depth, ffn_dim=16)
    model = kind(spec, lambda s: ResidualBlock(s, partial(make_mixer, mixer)), **knobs)
    with torch.no_grad():
        # u and v start as zeros: nobody would miss them
        for name, parameter in model.named_parameters():
            if name.endswith(("content_bias", "distance_bias")):
                parameter.normal_()
    return model.double().eval()


def encoder_of(model, mixer):
    encoder = made(Encoder, mixer)
    names = {k.replace("layers.", "blocks."): v for k, v in model.state_dict().items()}
    encoder.load_state_dict(names)
    return encoder


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def real(x):
    return torch.ones(x.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("mixer", [RELATIVE, DENSE, PERFORMER])
@pytest.mark.parametrize(("seg_len", "mem_len"), [(20, 0), (4, 12), (5, 10)])
def test_one_segment_or_a_memory_of_all_is_the_causal_encoder(mixer, seg_len, mem_len):
    """Whatever mixer it hosts: it must look from the end of what it is given."""
    model, x = made(mixer=mixer, seg_len=seg_len, mem_len=mem_len), inputs(13)
    mask = torch.rand(2, 13, generator=torch.Generator().manual_seed(2)) > 0.3
    for m in (real(x), mask):
        expected = encoder_of(model, mixer)(x, m)[0]
        torch.testing.assert_close(model(x, m)[0][m], expected[m])


@pytest.mark.parametrize(("seg_len", "mem_len"), [(4, 32), (5, 3), (1, 6)])
def test_segments_are_one_long_pass_under_a_mask(seg_len, mem_len):
    """Each query sees its own segment so far and the memory before it; forward there is no more."""
    model, x = made(seg_len=seg_len, mem_len=mem_len), inputs(17)
    i = torch.arange(17)
    start = i // seg_len * seg_len
    seen = (i <= i[:, None]) & (i >= (start - mem_len)[:, None])
    h = x
    for layer in model.layers:
        mixer, inner = layer.mixer, layer.mixer_norm(h)
        q, k, v, _ = mixer.project(inner)
        scores = (q + mixer.content_bias) @ k.mT / 2 + mixer.distances(q, 17)
        y = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v
        h = h + mixer.output(y.transpose(1, 2).flatten(2))
        h = h + layer.ffn(layer.ffn_norm(h))
    torch.testing.assert_close(model(x, real(x))[0], model.norm(h))


def test_distances_equal_the_definition():
    mixer = made().layers[0].mixer
    q = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    found = mixer.distances(q, 5)
    frequency = 10000.0 ** (-torch.arange(0, DIM, 2, dtype=torch.float64) / DIM)
    for i in range(3):
        for j in range(5):
            angle = (i + 2 - j) * frequency
            row = torch.stack([angle.sin(), angle.cos()], -1).flatten()
            key = mixer.distance(row).unflatten(-1, (2, 4))
            wanted = ((q[:, :, i] + mixer.distance_bias[:, 0]) * key).sum(-1) / 2
            torch.testing.assert_close(found[:, :, i, j], wanted, rtol=1e-5, atol=1e-6)


def test_all_layers_share_u_and_v():
    model, x = made(seg_len=4, mem_len=4), inputs(9)
    first, second = (layer.mixer for layer in model.layers)
    assert first.content_bias is second.content_bias
    assert first.distance_bias is second.distance_bias
    assert first.query.weight is not second.query.weight
    model(x, real(x))[0].sum().backward()
    for bias in (first.content_bias, first.distance_bias):
        assert bias.abs().max() > 0 and bias.grad.abs().max() > 0


def test_no_gradient_enters_the_memory():
    model = made(depth=1, seg_len=4, mem_len=4)
    x = inputs(8).requires_grad_()
    model(x, real(x))[0][:, 4:].sum().backward()
    assert x.grad[:, :4].abs().max() == 0 and x.grad[:, 4:].abs().max() > 0


def test_refusals():
    with pytest.raises(Unsupported, match="TransformerXL is causal only; build it with causal="):
        made(causal=False)
    for knobs in ({"seg_len": 0}, {"mem_len": -1}):
        with pytest.raises(ValueError, match="seg_len must be at least 1, mem_len at least 0"):
            made(**knobs)
