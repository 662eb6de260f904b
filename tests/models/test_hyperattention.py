"""HyperAttention: exact limits, and an estimate that is right on average."""

import math

import pytest
import torch

from kernels.errors import Unsupported
from models.mixers.exact.transformer import Transformer
from models.mixers.hashed.hyperattention import HyperAttention

DIM, HEADS = 12, 3


def build(kind=HyperAttention, causal=False, **knobs):
    torch.manual_seed(0)
    if kind is HyperAttention:
        knobs = {"block_size": 4, "sample_size": 3, "min_seq_len": 0} | knobs
    return kind(DIM, heads=HEADS, max_len=64, causal=causal, **knobs).double().eval()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def by_hand(mixer, x):
    """Each query against its block and against the drawn keys outside it, in one sum."""
    n, size, m = x.shape[1], mixer.block_size, mixer.sample_size
    q, k, v, _ = mixer.project(x)
    weights = torch.zeros(2, HEADS, n, n, dtype=torch.float64)
    places = (mixer.luck.double() * n).long().tolist()
    for b in range(2):
        for h in range(HEADS):
            rank = [
                sorted(range(n), key=lambda i, y=y: (int(mixer.hash(y)[b, h, i]), i))
                for y in (q, k)
            ]
            for place, i in enumerate(rank[0]):
                scores = q[b, h, i] @ k[b, h].T / math.sqrt(4)
                block = place // size
                for j in rank[1][block * size : (block + 1) * size]:
                    weights[b, h, i, j] += scores[j].exp()
                for drawn in places if n > m else range(n):
                    j = rank[1][drawn]
                    if drawn // size != block:
                        weights[b, h, i, j] += scores[j].exp() * max(n / m, 1)
    weights = weights / weights.sum(-1, keepdim=True)
    return mixer.output((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("n", [1, 2, 5, 13])
@pytest.mark.parametrize("sample_size", [3, 6])
def test_equals_blocks_and_drawn_keys_by_hand(n, sample_size):
    mixer, x = build(sample_size=sample_size), inputs(n)
    torch.testing.assert_close(mixer(x), by_hand(mixer, x))


@pytest.mark.parametrize("knobs", [{"block_size": 17}, {"sample_size": 17}, {"min_seq_len": 17}])
def test_exact_limits(knobs):
    mixer, dense = build(**knobs), build(Transformer)
    dense.load_state_dict(mixer.state_dict(), strict=False)
    x, mask = inputs(17), torch.rand(2, 17) > 0.3
    torch.testing.assert_close(mixer(x), dense(x))
    torch.testing.assert_close(mixer(x, mask)[mask], dense(x, mask)[mask])
    assert mixer.dense_at(17) and not mixer.dense_at(18)


def test_sums_are_right_on_average():
    """Numerator and denominator of what is drawn have the mean of what they stand for."""
    mixer, n = build(sample_size=8), 40
    held = torch.tensor([n])
    value = torch.rand(n, dtype=torch.float64)
    mixer.train()
    total = [
        (value[drawn[0]].sum() * weight.exp()).item()
        for drawn, _, weight in (mixer._draw(held) for _ in range(4000))
    ]
    error = torch.tensor(total).std() / math.sqrt(len(total))
    assert abs(sum(total) / len(total) - value.sum()) < 4 * error


def test_neighbours_in_the_order_differ_in_one_sign():
    mixer = build(lsh_num_projs=5)
    codes = torch.arange(32)
    signs = (codes[:, None] >> torch.arange(5)) & 1
    with torch.no_grad():
        mixer.projections = torch.eye(5, dtype=torch.float64)
    place = mixer.hash((2.0 * signs - 1).double()[None, None])[0, 0]
    assert sorted(place.tolist()) == list(range(32))
    ordered = signs[place.argsort()]
    assert ((ordered[1:] != ordered[:-1]).sum(1) == 1).all()


@pytest.mark.parametrize("min_seq_len", [0, 12])
def test_padding_does_not_matter(min_seq_len):
    mixer, x = build(min_seq_len=min_seq_len), inputs(30)
    mask = torch.arange(30) < torch.tensor([[30], [11]])
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    torch.testing.assert_close(y[1:, :11], mixer(x[1:, :11]))
    torch.testing.assert_close(y[:1], mixer(x[:1]))


def test_draws_are_fixed_in_evaluation_and_saved():
    mixer, x = build(), inputs(30)
    assert {"luck", "projections"} <= set(mixer.state_dict()) and torch.equal(mixer(x), mixer(x))
    mixer.train()
    assert not torch.equal(mixer(x), mixer(x))


def test_refusals():
    with pytest.raises(Unsupported, match="cannot be causal"):
        build(causal=True)
    with pytest.raises(ValueError, match="must be at least 1"):
        build(sample_size=0)
