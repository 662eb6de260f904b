"""Reformer's buckets: their number, and that hashing long sequences stays cheap."""

import pytest
import torch

from kernels.flops import count_flops
from models.mixers.hashed.reformer import Reformer

HEADS = 2


def build(max_len, **knobs):
    torch.manual_seed(0)
    sizes = {"n_hashes": 2, "bucket_size": 4} | knobs
    return Reformer(8, heads=HEADS, max_len=max_len, causal=False, **sizes).double().eval()


def buckets_of(mixer, lengths):
    n = max(lengths)
    q = torch.randn(len(lengths), HEADS, n, 4, dtype=torch.float64)
    real = torch.arange(n) < torch.tensor(lengths)[:, None]
    return mixer.hash(q, real), q, real


@pytest.mark.parametrize(
    ("n", "digits", "values"),
    [(4, 1, 1), (5, 1, 2), (8, 1, 2), (32, 1, 8), (33, 2, 16), (64, 2, 16), (65, 2, 36),
     (256, 2, 64), (257, 3, 216), (864, 3, 216), (2048, 3, 512)],
)  # fmt: skip
def test_about_one_bucket_for_each_chunk(n, digits, values):
    """One digit up to 2 bucket_size buckets; further ones have equally many even values each."""
    mixer = build(2048)
    found, pairs = mixer._base(torch.tensor([n]))
    assert found.item() == digits
    assert n <= 4 or (2 * pairs.item()) ** digits == values
    for bucket in buckets_of(mixer, [n])[0]:
        assert bucket.min() >= 0 and bucket.max() < values


def test_digits_are_drawn_apart():
    mixer = build(512, qkv_dim=128)
    q = torch.randn(1, HEADS, 512, 64, dtype=torch.float64)
    (first, second) = mixer.hash(q, torch.ones(1, 512).bool())
    # 216 buckets; 512 tokens thrown at random leave 20 of them empty
    assert min(len(of.unique()) for head in (first, second) for of in head[0]) > 170
    assert not torch.equal(first, second)


@pytest.mark.parametrize("max_len", [40, 300])
def test_a_padded_sequence_and_a_scaled_one_have_the_same_buckets(max_len):
    mixer = build(max_len)
    found, q, real = buckets_of(mixer, [max_len, 33, 30, 3])
    for row, n in enumerate((max_len, 33, 30, 3)):
        alone = mixer.hash(q[row : row + 1, :, :n], real[row : row + 1, :n])
        scaled = mixer.hash(7 * q, real)
        for first, second, third in zip(found, alone, scaled, strict=True):
            assert torch.equal(first[row, :, :n], second[0])
            assert torch.equal(first, third)


def test_each_digit_is_the_argmax_of_its_rotation():
    mixer = build(64)
    (first, _), q, _ = buckets_of(mixer, [64])
    parts = mixer.rotations[0].double().chunk(2, dim=-1)
    digits = [torch.cat([q @ part[:, :2], -(q @ part[:, :2])], -1).argmax(-1) for part in parts]
    assert torch.equal(first, digits[0] + 4 * digits[1])


def test_hashing_grows_no_faster_than_n_log_n():
    def operations(n):
        mixer = build(n, bucket_size=8)
        q, real = torch.randn(1, HEADS, n, 4, dtype=torch.float64), torch.ones(1, n).bool()
        return count_flops(lambda: mixer.hash(q, real)).total_gflop

    # 4 values of each of 4, then of 5 digits would be 16 times as many as at an eighth: N^2
    assert operations(8192) <= 16 * operations(1024)
