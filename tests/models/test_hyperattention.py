"""HyperAttention: exact limits, and an estimate that is right on average."""

import itertools
import math
from operator import eq, lt

import pytest
import torch

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


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("knobs", [{"block_size": 17}, {"sample_size": 17}, {"min_seq_len": 17}])
def test_exact_limits(knobs, causal):
    mixer, dense = build(causal=causal, **knobs), build(Transformer, causal)
    dense.load_state_dict(mixer.state_dict(), strict=False)
    longest = max(n for n in range(1, 64) if mixer.dense_at(n))
    assert longest >= 17 if causal else longest == 17
    for n in (17, longest):
        x, mask = inputs(n), torch.rand(2, n) > 0.3
        torch.testing.assert_close(mixer(x), dense(x))
        torch.testing.assert_close(mixer(x, mask)[mask], dense(x, mask)[mask])
    x = inputs(longest + 1)
    assert not torch.allclose(mixer(x), dense(x))


def shown_by_hand(mixer, q, k, real):
    """How often each causal query counts each key (2, H, N, N): once in its leaf and in its block
    of the half before its own, by the weight of a draw outside it."""
    n, size, m = q.shape[2], mixer.block_size, mixer.sample_size
    leaf = max(mixer.min_seq_len, size)
    query_codes, key_codes = mixer.hash(q).tolist(), mixer.hash(k).tolist()
    shown = torch.zeros(2, HEADS, n, n, dtype=torch.float64)
    for b, h, i in itertools.product(range(2), range(HEADS), range(n)):
        own, codes, count = query_codes[b][h][i], key_codes[b][h], shown[b, h, i]
        for j in range(i - i % leaf, i + 1):
            count[j] += real[b, j]
        half = leaf
        while half <= i:
            end = i // half * half
            drawable = [j for j in range(end - half, end) if real[b, j] and i // half % 2]
            keys = sorted(drawable, key=lambda j, codes=codes: (codes[j], j))
            held = len(keys)
            below, equal = (sum(f(codes[j], own) for j in keys) for f in (lt, eq))
            block = min(below + equal // 2, max(held - 1, 0)) // size
            for j in keys[block * size : (block + 1) * size]:
                count[j] += 1
            drawn = (mixer.luck.double() * held).long().tolist() if held > m else range(held)
            for place in drawn:
                key = drawable[place]
                if keys.index(key) // size != block:
                    count[key] += max(held / m, 1)
            half *= 2
    return shown


def causal_by_hand(mixer, x, mask):
    q, k, v, _ = mixer.project(x, mask)
    real = torch.ones(x.shape[:2]) if mask is None else mask
    weights = shown_by_hand(mixer, q, k, real) * (q @ k.mT / math.sqrt(4)).exp()
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)
    return mixer.output((weights @ v).transpose(1, 2).flatten(2))


CAUSAL = [
    {"sample_size": 3},
    {"sample_size": 6},
    {"block_size": 3, "sample_size": 2, "min_seq_len": 5},
    {"block_size": 2, "sample_size": 1, "lsh_num_projs": 1},
    {"block_size": 1, "sample_size": 1},
]


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5, 13, 30, 33])
@pytest.mark.parametrize("knobs", CAUSAL)
def test_causal_equals_leaves_blocks_and_drawn_keys_by_hand(knobs, n, holes):
    mixer, x = build(causal=True, **knobs), inputs(n).requires_grad_()
    # one half and more of the second example is hidden
    mask = torch.arange(n) % torch.tensor([[3], [7]]) != 1 if holes else None
    if mask is not None:
        mask[1, 8:16] = False
    real = slice(None) if mask is None else mask
    y, expected = mixer(x, mask)[real], causal_by_hand(mixer, x, mask)[real]
    torch.testing.assert_close(y, expected)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    leaves = [x, mixer.query.weight, mixer.key.weight, mixer.value.weight]
    grads, wanted = (torch.autograd.grad((z * weight).sum(), leaves) for z in (y, expected))
    for grad, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad, other)


@pytest.mark.parametrize("knobs", CAUSAL)
def test_causal_prefix_is_what_it_is_alone(knobs):
    mixer, x = build(causal=True, **knobs), inputs(33)
    y = mixer(x)
    other = mixer(torch.cat([x[:, :19], 5 - 3 * x[:, 19:]], dim=1))
    torch.testing.assert_close(other[:, :19], y[:, :19])
    assert not torch.allclose(other[:, 19:], y[:, 19:])
    for n in (1, 2, 5, 8, 13, 16, 17, 30, 32):
        torch.testing.assert_close(mixer(x[:, :n]), y[:, :n])


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


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("min_seq_len", [0, 12])
def test_padding_does_not_matter(min_seq_len, causal):
    mixer, x = build(causal=causal, min_seq_len=min_seq_len), inputs(30)
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
    with pytest.raises(ValueError, match="must be at least 1"):
        build(sample_size=0)
