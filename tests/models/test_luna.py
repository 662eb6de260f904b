"""Luna: two dense attentions, one after the other; its causal form by running means."""

import math

import pytest
import torch
from torch.nn import functional as F

from kernels.errors import Unsupported
from models.blocks.luna import Luna
from models.spec import LayerSpec

DIM, HEADS = 6, 2


def made(causal=False, layer=0, norm_position="pre", **knobs):
    torch.manual_seed(layer)
    spec = LayerSpec(
        dim=DIM, heads=HEADS, max_len=32, causal=causal, ffn_dim=10, layer=layer, depth=2,
        norm_position=norm_position,
    )  # fmt: skip
    return Luna(spec, lambda s: None, **{"projection_length": 3} | knobs).double().eval()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def dense(q, k, v):
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    y = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
    return y.transpose(1, 2).flatten(2)


def around(block, x, y):
    """The residual branches of a pre-norm block."""
    x = x + y
    return x + block.ffn(block.ffn_norm(x))


@pytest.mark.parametrize("tie_kv", [True, False])
def test_equals_two_dense_attentions(tie_kv):
    first, second, x = made(tie_kv=tie_kv), made(layer=1, tie_kv=tie_kv), inputs(9)
    wanted, p = x, first.first.expand(2, -1, -1)
    for block in (first, second):
        p = p if block is first else block.pack_norm(p)
        inner, maps = block.norm(wanted), block.attention.maps
        packed = dense(
            maps["pack_query"](p), maps["pack_key"](inner),
            maps["pack_key" if tie_kv else "pack_value"](inner),
        )  # fmt: skip
        y = dense(
            maps["query"](inner), maps["key"](packed), maps["key" if tie_kv else "value"](packed)
        )
        wanted, p = around(block, wanted, maps["output"](y)), p + packed
    y, carry = first(x, None)
    y, carry = second(y, None, carry)
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(carry, p)


@pytest.mark.parametrize("tie_kv", [True, False])
def test_causal_equals_the_running_means(tie_kv):
    block, x = made(causal=True, tie_kv=tie_kv), inputs(9)
    inner, maps = block.norm(x), block.attention.maps
    split = lambda y: y.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # noqa: E731
    q, k = split(maps["query"](inner)), split(maps["key"](inner))
    v = k if tie_kv else split(maps["value"](inner))
    p = split(maps["pack_query"](block.first.expand(2, -1, -1)))
    scores = split(maps["pack_key"](inner)) @ p.mT / math.sqrt(3)
    # softplus of base 2: log2(1 + 2^s)
    w = torch.log2(1 + 2**scores)
    outputs = []
    for t in range(9):
        seen = slice(0, t + 1)
        keys = torch.einsum("bhjk,bhjl->bhkl", k[:, :, seen], w[:, :, seen]) / (t + 1)
        weights = (torch.einsum("bhk,bhkl->bhl", q[:, :, t], keys) / math.sqrt(3)).softmax(-1)
        values = torch.einsum("bhjl,bhjk->bhlk", w[:, :, seen], v[:, :, seen]) / (t + 1)
        outputs.append(torch.einsum("bhl,bhlk->bhk", weights, values))
    y = maps["output"](torch.stack(outputs, 2).transpose(1, 2).flatten(2))
    got, carry = block(x, None)
    torch.testing.assert_close(got, around(block, x, y))
    torch.testing.assert_close(carry, block.first.expand(2, -1, -1))


@pytest.mark.parametrize("tie_kv", [True, False])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_steps_of_two_layers_are_the_causal_forward(tie_kv, norm_position):
    first, second = (made(True, layer, norm_position, tie_kv=tie_kv) for layer in (0, 1))
    x = inputs(9)
    wanted, carry = first(x, None)
    wanted, _ = second(wanted, None, carry)
    states = [first.init_state(2), second.init_state(2, first.pack(None))]
    for t, x_t in enumerate(x.unbind(1)):
        y_t, states[0] = first.step(x_t, states[0])
        y_t, states[1] = second.step(y_t, states[1])
        torch.testing.assert_close(y_t, wanted[:, t])
    other, _ = second.step(x[:, 0], second.init_state(2, first.pack(None).flip(-1)))
    own, _ = second.step(x[:, 0], second.init_state(2, first.pack(None)))
    assert not torch.allclose(other, own), "P of the layer before changes nothing"


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_padding_does_not_matter(causal, norm_position):
    block, x = made(causal, norm_position=norm_position), inputs(9)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    y, carry = block(x.masked_fill(~mask[..., None], torch.nan), mask)
    alone, own = block(x[1:, :4], None)
    torch.testing.assert_close(y[1:, :4], alone)
    torch.testing.assert_close(carry[1:], own)


def test_post_norm_is_the_papers_order():
    block, x = made(norm_position="post"), inputs(5)
    y, _ = block.attention(x, block.first.expand(2, -1, -1), None)
    hidden = block.norm(x + y)
    torch.testing.assert_close(block(x, None)[0], block.ffn_norm(hidden + block.ffn(hidden)))


def test_a_score_of_zero_weighs_one():
    assert F.softplus(torch.zeros(()), beta=math.log(2)).item() == pytest.approx(1)


def test_refusals():
    with pytest.raises(Unsupported, match="P comes from the layer before"):
        made(layer=1)(inputs(3), None)
    with pytest.raises(Unsupported, match="P comes from the layer before"):
        made(True, layer=1).init_state(1)
    with pytest.raises(Unsupported, match="only with causal=true"):
        made().init_state(1)
    with pytest.raises(ValueError, match="projection_length must be at least 1"):
        made(projection_length=0)
