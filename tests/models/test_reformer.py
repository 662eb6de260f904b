"""Reformer: what each round shows, pair by pair, and the softmax over all of it."""

import math

import pytest
import torch
import torch.nn.functional as F

from kernels.errors import Unsupported
from models.mixers.hashed import reformer
from models.mixers.hashed.reformer import ONLY_SELF, Reformer

DIM, HEADS = 12, 3


def build(**knobs):
    torch.manual_seed(0)
    return Reformer(DIM, heads=HEADS, max_len=64, causal=False, **knobs).double().eval()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def by_hand(mixer, x):
    """Every pair that some round shows, with the score of the paper, in one softmax."""
    n, size = x.shape[1], mixer.bucket_size
    q, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (mixer.query, mixer.value))
    scores = q @ F.normalize(q, dim=-1).mT / math.sqrt(q.shape[-1])
    seen = torch.zeros(scores.shape, dtype=torch.bool)
    for bucket in mixer.hash(q, torch.ones(2, n, dtype=torch.bool)):
        for b in range(2):
            for h in range(HEADS):
                order = sorted(range(n), key=lambda i: (int(bucket[b, h, i]), i))
                chunk = {token: place // size for place, token in enumerate(order)}
                for i in range(n):
                    for j in range(n):
                        near = chunk[i] - chunk[j] in (0, 1)
                        same = bucket[b, h, i] == bucket[b, h, j]
                        seen[b, h, i, j] |= near and bool(same)
    assert seen.diagonal(dim1=-2, dim2=-1).all()
    scores = scores + ONLY_SELF * torch.eye(n).double()
    y = scores.masked_fill(~seen, -math.inf).softmax(-1) @ v
    return mixer.output(y.transpose(1, 2).flatten(2)), seen


@pytest.mark.parametrize("n", [1, 2, 4, 13, 30])
@pytest.mark.parametrize(("n_hashes", "pairs"), [(1, 1), (3, 1), (3, 3000), (3, 1 << 18)])
def test_equals_one_softmax_over_the_pairs_that_the_rounds_show(n, n_hashes, pairs, monkeypatch):
    monkeypatch.setattr(reformer, "PAIRS", pairs)  # rounds one by one, two and one, together
    mixer, x = build(bucket_size=4, n_hashes=n_hashes), inputs(n)
    wanted, seen = by_hand(mixer, x)
    torch.testing.assert_close(mixer(x), wanted)
    if n == 30:
        assert not seen.all()


def test_more_rounds_than_a_byte_counts():
    mixer, x = build(bucket_size=4, n_hashes=300), inputs(6)
    x[:, 1] = x[:, 0]  # in one bucket every time
    torch.testing.assert_close(mixer(x), by_hand(mixer, x)[0])


def test_numbers_that_32_bits_do_not_hold():
    """Bucket and chunk together, of a long sequence in tiny buckets."""
    mixer = Reformer(DIM, heads=HEADS, max_len=1 << 17, causal=False, bucket_size=1)
    last = torch.tensor([[[[0, 1]]]]), torch.tensor([[[[0, 1]]]])
    bucket, inverse = (x.expand(1, 1, 1, 2).repeat(1, 1, 1, 1 << 16) for x in last)
    cells = mixer._cells(bucket * (1 << 16), inverse)
    assert cells.max().item() == (1 << 16) * ((1 << 17) + 1) + 1


@pytest.mark.parametrize("bucket_size", [17, 40])
def test_one_bucket_is_dense_attention_that_avoids_itself(bucket_size):
    mixer, x = build(bucket_size=bucket_size, n_hashes=2), inputs(17)
    q, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (mixer.query, mixer.value))
    scores = q @ (q / q.norm(dim=-1, keepdim=True)).mT / math.sqrt(q.shape[-1])
    scores.diagonal(dim1=-2, dim2=-1).add_(ONLY_SELF)
    y = mixer.output((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixer(x), y)


def test_padding_does_not_matter():
    mixer, x = build(bucket_size=4), inputs(30)
    mask = torch.arange(30) < torch.tensor([[30], [11]])
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    torch.testing.assert_close(y[1:, :11], mixer(x[1:, :11]))
    torch.testing.assert_close(y[:1], mixer(x[:1]))


def test_buckets_do_not_depend_on_the_scale_and_their_number_follows_the_length():
    mixer = build(bucket_size=8)
    q = torch.randn(2, HEADS, 40, 4, dtype=torch.float64)
    real = torch.arange(40) < torch.tensor([[40], [10]])
    buckets = mixer.hash(q, real)
    for first, second in zip(buckets, mixer.hash(7 * q, real), strict=True):
        assert torch.equal(first, second)
    assert max(int(b[0].max()) for b in buckets) == 5
    assert max(int(b[1].max()) for b in buckets) == 1
    # opposite vectors land in opposite buckets
    opposite = mixer.hash(-q, real)
    assert torch.equal((buckets[0] + 3)[0] % 6, opposite[0][0])


def test_rotations_are_fixed_in_evaluation_saved_and_drawn_in_training():
    mixer, x = build(bucket_size=4), inputs(30)
    assert "rotations" in mixer.state_dict() and torch.equal(mixer(x), mixer(x))
    mixer.train()
    assert not torch.equal(mixer(x), mixer(x))


def test_refusals():
    with pytest.raises(Unsupported, match="cannot be causal"):
        Reformer(DIM, heads=HEADS, max_len=64, causal=True)
    with pytest.raises(ValueError, match="n_hashes and bucket_size"):
        build(n_hashes=0)
