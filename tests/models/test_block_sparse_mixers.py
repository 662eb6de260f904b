"""Sparse Transformer, BigBird and Longformer: their patterns, pair by pair, and dense limits."""

import math

import pytest
import torch

from kernels.errors import Unsupported
from kernels.flops import count_flops
from models.mixers.exact.transformer import Transformer
from models.mixers.sparse.bigbird import BigBird
from models.mixers.sparse.longformer import Longformer
from models.mixers.sparse.sparse_transformer import SparseTransformer

DIM, HEADS = 12, 3


def build(kind, causal=False, **knobs):
    torch.manual_seed(0)
    return kind(DIM, heads=HEADS, max_len=64, causal=causal, **knobs).double().eval()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def by_matrix(mixer, x, mask=None):
    v = mixer.project(x, mask)[2]
    y = mixer.reference_matrix(x, mask) @ v
    return mixer.output(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mode", ["fixed", "strided"])
@pytest.mark.parametrize("n", [1, 2, 13, 40])
def test_sparse_transformer_is_the_union_of_both_patterns(causal, mode, n):
    mixer, x = build(SparseTransformer, causal, stride=6, c=2, mode=mode), inputs(n)
    seen = torch.zeros(n, n, dtype=torch.bool)
    for i in range(n):
        for j in range(n):
            near, far = (abs(i - j) < 6, abs(i - j) % 6 == 0)
            if mode == "fixed":
                near, far = i // 6 == j // 6, j % 6 >= 4
            seen[i, j] = (near or far) and (j <= i or not causal)
    assert torch.equal(mixer.reference_matrix(x) > 0, seen.expand(2, HEADS, n, n))
    mask = torch.rand(2, n) > 0.3
    for m in (None, mask):
        torch.testing.assert_close(mixer(x, m), by_matrix(mixer, x, m), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_sparse_transformer_of_a_stride_of_sqrt_n_costs_n_sqrt_n(causal):
    """Counted, of the fixed pattern with c as it is: c keys of sqrt(N) stretches, and sqrt(N)."""

    def counted(n):
        mixer = SparseTransformer(DIM, heads=1, max_len=n, causal=causal, stride=math.isqrt(n), c=8)
        found = count_flops(lambda: mixer(torch.randn(1, n, DIM)))
        assert not found.unknown
        return found.total_gflop

    assert math.log(counted(4096) / counted(1024), 4) == pytest.approx(1.5, abs=0.1)


def test_bigbird_sees_the_blocks_of_its_plan():
    n, block = 61, 5
    mixer, x = build(BigBird, block_size=block, num_rand_blocks=2), inputs(n)
    seen = mixer.reference_matrix(x)[0] > 0
    count = -(-n // block)
    plans = set()
    for head in range(HEADS):
        blocks = torch.zeros(count, count, dtype=torch.bool)
        for r in range(count):
            for c in range(count):
                part = seen[head, r * block : (r + 1) * block, c * block : (c + 1) * block]
                assert part.all() or not part.any()
                blocks[r, c] = part.all()
        ends = torch.tensor([0, count - 1])
        assert blocks[ends].all() and blocks[:, ends].all()
        for r in range(1, count - 1):
            assert blocks[r, r - 1 : r + 2].all()
            others = blocks[r].clone()
            others[[0, count - 1]], others[r - 1 : r + 2] = False, False
            assert others.sum() == 2
        plans.add(tuple(blocks.flatten().tolist()))
    assert len(plans) == HEADS
    torch.testing.assert_close(mixer(x), by_matrix(mixer, x), rtol=1e-12, atol=1e-12)


def test_bigbirds_random_blocks_are_drawn_once_and_saved():
    torch.manual_seed(0)
    first, second = (
        BigBird(DIM, heads=HEADS, max_len=64, causal=False, block_size=4).double() for _ in range(2)
    )
    pattern = first.plan(61).matrix()
    # not the layer but the generator of the run decides
    assert not torch.equal(second.plan(61).matrix(), pattern)
    assert torch.equal(build(BigBird, block_size=4, layer=1, depth=2).plan(61).matrix(), pattern)
    first.train()(inputs(61))
    assert torch.equal(first.plan(61).matrix(), pattern)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.plan(61).matrix(), pattern)


def test_bigbird_of_a_padded_example_is_that_of_the_example():
    mixer, x = build(BigBird, block_size=4), inputs(50)
    mask = torch.arange(50) < torch.tensor([[50], [33]])
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    torch.testing.assert_close(y[1:, :33], mixer(x[1:, :33]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y[:1], mixer(x[:1]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y[mask], by_matrix(mixer, x, mask)[mask], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("n", [1, 2, 17, 40])
def test_longformer_is_a_band_and_global_tokens(causal, dilation, n):
    knobs = {"window": 6, "dilation": dilation, "global_tokens": 2}
    mixer, x = build(Longformer, causal, separate_global_proj=False, **knobs), inputs(n)
    i = torch.arange(n)
    apart = i[:, None] - i
    seen = (apart.abs() <= 3 * dilation) & (apart % dilation == 0)
    seen = seen | (i < 2) | (i < 2)[:, None]
    seen = seen.tril() if causal else seen
    assert torch.equal(mixer.reference_matrix(x) > 0, seen.expand(2, HEADS, n, n))
    torch.testing.assert_close(mixer(x), by_matrix(mixer, x), rtol=1e-12, atol=1e-12)


def test_global_queries_have_projections_of_their_own():
    mixer, x = build(Longformer, window=4, global_tokens=2), inputs(20)
    tied = build(Longformer, window=4, global_tokens=2, separate_global_proj=False)
    assert not build(Longformer, True).own
    tied.load_state_dict(mixer.state_dict(), strict=False)
    # they start as copies
    torch.testing.assert_close(mixer(x), tied(x), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        for linear in (mixer.global_query, mixer.global_key, mixer.global_value):
            linear.weight.normal_()
    y = mixer(x)
    torch.testing.assert_close(y[:, 2:], tied(x)[:, 2:], rtol=1e-12, atol=1e-12)
    q, k, v = (
        mixer.heads_of(f(x)) for f in (mixer.global_query, mixer.global_key, mixer.global_value)
    )
    weights = (q @ k.mT / 2).softmax(-1)
    rows = mixer.output((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(y[:, :2], rows[:, :2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "knobs", "n"),
    [
        (SparseTransformer, {"stride": 17}, 17),
        (BigBird, {"block_size": 3}, 17),
        (Longformer, {"window": 34, "separate_global_proj": False}, 17),
    ],
)
def test_dense_limits(kind, knobs, n):
    """BigBird: five blocks and as many random ones as are left."""
    for causal in (False,) if kind is BigBird else (False, True):
        mixer, dense = build(kind, causal, **knobs), build(Transformer, causal)
        kept = {name: value for name, value in mixer.state_dict().items() if name != "seed"}
        dense.load_state_dict(kept)
        x, mask = inputs(n), torch.rand(2, n) > 0.3
        torch.testing.assert_close(mixer(x), dense(x), rtol=1e-12, atol=1e-12)
        if kind is not BigBird:
            torch.testing.assert_close(mixer(x, mask), dense(x, mask), rtol=1e-12, atol=1e-12)
        assert mixer.dense_at(n) and not mixer.dense_at(64)


def test_refusals():
    with pytest.raises(Unsupported, match="cannot be causal"):
        build(BigBird, True)
    for kind, knobs, message in (
        (SparseTransformer, {"mode": "random"}, "mode must be fixed or strided"),
        (SparseTransformer, {"stride": 4, "c": 5}, "1 <= c <= stride"),
        (BigBird, {"window_blocks": 2}, "window_blocks must be odd"),
        (Longformer, {"window": 0}, "window and dilation"),
    ):
        with pytest.raises(ValueError, match=message):
            build(kind, **knobs)
