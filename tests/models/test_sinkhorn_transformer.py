"""Sinkhorn attention: S is doubly stochastic, towards a permutation; blocks by hand."""

import pytest
import torch

from models.mixers.exact.transformer import Transformer
from models.mixers.sparse.sinkhorn_transformer import SinkhornTransformer

DIM, HEADS = 12, 3


def build(kind=SinkhornTransformer, causal=False, **knobs):
    torch.manual_seed(0)
    return kind(DIM, heads=HEADS, max_len=64, causal=causal, **knobs).double().eval()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def blocks_of(n, block):
    real = torch.arange(-(-n // block) * block) < n
    return real.unflatten(0, (-1, block)).expand(2, -1, -1)


def by_hand(mixer, x, block):
    n = x.shape[1]
    q, k, v, _ = mixer.project(x)
    s = mixer.sorting(x, blocks_of(n, block))
    rows = []
    for i in range(n):
        b = i // block
        keys, values = [], []
        for h in range(HEADS):
            own_keys, own_values = [], []
            for c in range(block):
                places = [j * block + c for j in range(s.shape[-1]) if j * block + c < n]
                if not places or s[0, h, b].sum() == 0:
                    continue
                weights = s[:, h, b, [p // block for p in places]]
                own_keys.append((weights[..., None] * k[:, h, places]).sum(1))
                own_values.append((weights[..., None] * v[:, h, places]).sum(1))
            last = i + 1 if mixer.causal else min(n, (b + 1) * block)
            own_keys += list(k[:, h, b * block : last].unbind(1))
            own_values += list(v[:, h, b * block : last].unbind(1))
            keys.append(torch.stack(own_keys, 1)), values.append(torch.stack(own_values, 1))
        keys, values = torch.stack(keys, 1), torch.stack(values, 1)
        rows.append((q[:, :, i : i + 1] @ keys.mT / 2).softmax(-1) @ values)
    return mixer.output(torch.cat(rows, 2).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 4, 12, 13])
@pytest.mark.parametrize("activation", ["sinkhorn", "softmax"])
def test_equals_its_blocks_by_hand(causal, n, activation):
    mixer, x = build(causal=causal, block_size=4, sort_activation=activation), inputs(n)
    torch.testing.assert_close(mixer(x), by_hand(mixer, x, min(4, n)))


def test_sorting_becomes_doubly_stochastic():
    mixer, x = build(block_size=4, sinkhorn_iters=200), inputs(20)
    s = mixer.sorting(x * 3, blocks_of(20, 4))
    torch.testing.assert_close(s.sum(-1), torch.ones(2, HEADS, 5).double())
    torch.testing.assert_close(s.sum(-2), torch.ones(2, HEADS, 5).double())
    rows = build(block_size=4, sort_activation="softmax").sorting(x * 3, blocks_of(20, 4))
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, HEADS, 5).double())
    assert (rows.sum(-2) - 1).abs().max() > 0.05


def test_a_low_temperature_sorts_by_a_permutation():
    """Block i wants place i + 1: then K' is the next block, and that is what attention sees."""
    mixer = build(block_size=4, temperature=0.01)
    x = 0.1 * inputs(12)
    for block in range(3):
        x[:, 4 * block : 4 * block + 4, block] += 1
    with torch.no_grad():
        weight = torch.zeros(HEADS, mixer.blocks, DIM)
        for block in range(3):
            weight[:, (block + 1) % 3, block] = 1
        mixer.sort.weight.copy_(weight.flatten(0, 1))
    s = mixer.sorting(x, blocks_of(12, 4))
    wanted = torch.eye(3).double().roll(1, dims=1)
    torch.testing.assert_close(s, wanted.expand_as(s), rtol=0, atol=1e-9)
    q, k, v, _ = mixer.project(x)
    block = torch.arange(12) // 4
    seen = (block == block[:, None]) | (block == (block[:, None] + 1) % 3)
    y = (q @ k.mT / 2).masked_fill(~seen, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(mixer(x), mixer.output(y.transpose(1, 2).flatten(2)))


def test_causal_sorting_has_earlier_blocks_only_and_knows_nothing_later():
    mixer, x = build(causal=True, block_size=4), inputs(16)
    s = mixer.sorting(x, blocks_of(16, 4))
    assert torch.equal(s, s.tril(-1)) and (s[:, :, 1:].sum(-1) - 1).abs().max() < 1e-12
    changed = x.clone()
    changed[:, 9] += 1
    torch.testing.assert_close(mixer(changed)[:, :9], mixer(x)[:, :9])


@pytest.mark.parametrize("causal", [False, True])
def test_one_block_is_dense(causal):
    mixer, dense = build(causal=causal, block_size=17), build(Transformer, causal)
    dense.load_state_dict(mixer.state_dict(), strict=False)
    x, mask = inputs(17), torch.rand(2, 17) > 0.3
    torch.testing.assert_close(mixer(x, mask), dense(x, mask))


@pytest.mark.parametrize("causal", [False, True])
def test_padding_does_not_matter(causal):
    mixer, x = build(causal=causal, block_size=4), inputs(15)
    mask = torch.arange(15) < torch.tensor([[15], [6]])
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    torch.testing.assert_close(y[1:, :6], mixer(x[1:, :6]))
    torch.testing.assert_close(y[:1], mixer(x[:1]))


def test_gumbel_noise_in_training_only():
    mixer, x = build(block_size=4), inputs(12)
    assert torch.equal(mixer(x), mixer(x))
    mixer.train()
    assert not torch.equal(mixer(x), mixer(x))


def test_refusals():
    for knobs, message in (
        ({"block_size": 0}, "block_size and sinkhorn_iters"),
        ({"temperature": 0.0}, "temperature more than 0"),
        ({"sort_activation": "hard"}, "sort_activation must be"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**knobs)
