"""Reformer: what each round shows, pair by pair, and the softmax over all of it."""

import math

import pytest
import torch
import torch.nn.functional as F

from models.mixers.hashed import reformer
from models.mixers.hashed.reformer import ONLY_SELF, Reformer

DIM, HEADS, MAX_LEN = 12, 3, 64
BOTH = pytest.mark.parametrize("causal", [False, True], ids=["both", "causal"])


def build(causal=False, **knobs):
    torch.manual_seed(0)
    return Reformer(DIM, heads=HEADS, max_len=MAX_LEN, causal=causal, **knobs).double().eval()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def by_hand(mixer, x):
    """Every pair that some round shows, with the score of the paper, in one softmax."""
    n, size = x.shape[1], mixer.bucket_size
    q, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (mixer.query, mixer.value))
    q = q if mixer.rotary is None else mixer.rotary(q)
    scores = q @ F.normalize(q, dim=-1).mT / math.sqrt(q.shape[-1])
    seen = torch.zeros(scores.shape, dtype=torch.bool)
    for bucket in mixer.hash(q, torch.ones(2, n, dtype=torch.bool)):
        for b in range(2):
            for h in range(HEADS):
                order = sorted(range(n), key=lambda i: (int(bucket[b, h, i]), i))
                place = {token: place for place, token in enumerate(order)}
                for i in range(n):
                    for j in range(n):
                        near = place[i] // size - place[j] // size in (0, 1)
                        if mixer.causal:
                            near = 0 <= place[i] - place[j] <= size
                        same = bucket[b, h, i] == bucket[b, h, j]
                        seen[b, h, i, j] |= near and bool(same)
    assert seen.diagonal(dim1=-2, dim2=-1).all()
    assert not (mixer.causal and seen.triu(1).any())
    scores = scores + ONLY_SELF * torch.eye(n).double()
    y = scores.masked_fill(~seen, -math.inf).softmax(-1) @ v
    return mixer.output(y.transpose(1, 2).flatten(2)), seen


@BOTH
@pytest.mark.parametrize("n", [1, 2, 4, 13, 30])
@pytest.mark.parametrize(("n_hashes", "pairs"), [(1, 1), (3, 1), (3, 3000), (3, 1 << 18)])
def test_equals_one_softmax_over_the_pairs_that_the_rounds_show(
    causal, n, n_hashes, pairs, monkeypatch
):
    monkeypatch.setattr(reformer, "PAIRS", pairs)  # rounds one by one, two and one, together
    mixer, x = build(causal, bucket_size=4, n_hashes=n_hashes), inputs(n)
    wanted, seen = by_hand(mixer, x)
    torch.testing.assert_close(mixer(x), wanted)
    if n == 30:
        assert not (seen | seen.mT).all()


@BOTH
def test_rotary_positions_turn_the_queries_before_they_are_hashed(causal):
    mixer, x = build(causal, bucket_size=4, n_hashes=2), inputs(30)
    plain = mixer(x)
    mixer.use_rotary()
    torch.testing.assert_close(mixer(x), by_hand(mixer, x)[0])
    assert not torch.allclose(mixer(x), plain)


@BOTH
def test_more_rounds_than_a_byte_counts(causal):
    mixer, x = build(causal, bucket_size=4, n_hashes=300), inputs(6)
    x[:, 1] = x[:, 0]  # in one bucket every time
    torch.testing.assert_close(mixer(x), by_hand(mixer, x)[0])


@BOTH
def test_numbers_that_32_bits_do_not_hold(causal):
    """Bucket and place together, of a long sequence in tiny buckets."""
    mixer = Reformer(DIM, heads=HEADS, max_len=1 << 17, causal=causal, bucket_size=1)
    last = torch.tensor([[[[0, 1]]]]), torch.tensor([[[[0, 1]]]])
    bucket, inverse = (x.expand(1, 1, 1, 2).repeat(1, 1, 1, 1 << 16) for x in last)
    cells = mixer._cells(bucket * (1 << 16), inverse)
    assert cells.max().item() == (1 << 16) * ((1 << 17) + 1) + 1


@BOTH
@pytest.mark.parametrize("bucket_size", [MAX_LEN, MAX_LEN + 7])
def test_one_bucket_is_dense_attention_that_avoids_itself(causal, bucket_size):
    mixer, x = build(causal, bucket_size=bucket_size, n_hashes=2), inputs(17)
    q, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (mixer.query, mixer.value))
    scores = q @ (q / q.norm(dim=-1, keepdim=True)).mT / math.sqrt(q.shape[-1])
    scores.diagonal(dim1=-2, dim2=-1).add_(ONLY_SELF)
    if causal:
        scores.masked_fill_(torch.ones(17, 17).triu(1).bool(), -math.inf)
    y = mixer.output((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixer(x), y)


def test_of_both_sides_the_true_length_alone_makes_it_one_bucket():
    short, x = build(bucket_size=17, n_hashes=2), inputs(17)
    torch.testing.assert_close(short(x), build(bucket_size=MAX_LEN, n_hashes=2)(x))


# -- causal --------------------------------------------------------------------------------------


def test_a_causal_window_is_as_many_tokens_of_the_bucket_as_it_says():
    """Equal tokens fall into one bucket, where the window is plain."""
    mixer, x = build(True, bucket_size=4, n_hashes=2), inputs(30)
    x = x[:, :1].expand(-1, 30, -1)
    wanted, seen = by_hand(mixer, x)
    distance = torch.arange(30)[:, None] - torch.arange(30)
    assert torch.equal(seen[0, 0], (distance >= 0) & (distance <= 4))
    torch.testing.assert_close(mixer(x), wanted)


@pytest.mark.parametrize("bucket_size", [4, 8, 40])
def test_a_prefix_gives_the_prefix(bucket_size):
    """At any length, shorter than a bucket too: chunks, ends and buckets are the same."""
    mixer, x = build(True, bucket_size=bucket_size, n_hashes=3), inputs(MAX_LEN)
    whole = mixer(x)
    for n in (1, 2, 3, 5, 8, 17, 31, 40, 41, 63):
        torch.testing.assert_close(mixer(x[:, :n]), whole[:, :n])


@pytest.mark.parametrize("training", [False, True])
def test_the_future_changes_nothing_whatever_the_mask_hides(training):
    """Not by its content, nor by its being there."""
    mixer, x = build(True, bucket_size=4, n_hashes=3).train(training), inputs(MAX_LEN)
    mask = torch.rand(2, MAX_LEN, generator=torch.Generator().manual_seed(2)) > 0.3

    def of(x, mask):
        torch.manual_seed(3)  # rotations
        return mixer(x, mask)

    y = of(x, mask)
    for t in (1, 2, 9, 30, 50):
        future = torch.arange(MAX_LEN) >= t
        past = mask & ~future
        for other, hidden in (
            (5 * inputs(MAX_LEN).flip(1), mask),
            (x[:, :1].expand_as(x), mask ^ future),
            (x, mask & ~future),
        ):
            changed = of(torch.where(future[:, None], other, x), hidden)
            torch.testing.assert_close(changed[past], y[past])


def test_causal_buckets_are_as_many_as_the_longest_sequence_has():
    mixer = build(True, bucket_size=4)
    q = torch.randn(2, HEADS, 40, 4, dtype=torch.float64)
    real = torch.arange(40) < torch.tensor([[40], [3]])
    long, short = mixer.hash(q, real), mixer.hash(q[:, :, :3], real[:, :3])
    assert torch.equal(long[..., :3], short)
    assert long.max() >= 12  # of 16; the true length has but 10


# -- padding, buckets and rotations --------------------------------------------------------------


@BOTH
def test_padding_does_not_matter(causal):
    mixer, x = build(causal, bucket_size=4), inputs(30)
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
    with pytest.raises(ValueError, match="n_hashes and bucket_size"):
        build(n_hashes=0)
