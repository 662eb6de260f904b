"""Pooling and heads."""

import pytest
import torch

from models.head import ClassifyHead, MatchHead, TokenHead, pool

X = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.arange(5) < torch.tensor([5, 2, 1, 0])[:, None]


def test_masked_mean():
    pooled = pool(X, MASK, "mean")
    torch.testing.assert_close(pooled[0], X[0].mean(0))
    torch.testing.assert_close(pooled[1], X[1, :2].mean(0))
    torch.testing.assert_close(pooled[2], X[2, 0])
    assert (pooled[3] == 0).all()


def test_masked_mean_does_not_see_padding():
    dirty = X.masked_fill(~MASK[..., None], float("nan"))
    assert torch.equal(pool(dirty, MASK, "mean"), pool(X, MASK, "mean"))


def test_mean_over_padding_is_the_plain_mean():
    torch.testing.assert_close(pool(X, MASK, "mean_all"), X.mean(1))


def test_mean_of_zeroed_padding_divides_by_the_padded_length():
    pooled = pool(X, MASK, "mean_zero")
    torch.testing.assert_close(pooled[0], X[0].mean(0))
    torch.testing.assert_close(pooled[1], X[1, :2].sum(0) / 5)
    assert (pooled[3] == 0).all()
    dirty = X.masked_fill(~MASK[..., None], float("nan"))
    assert torch.equal(pool(dirty, MASK, "mean_zero"), pooled)


@pytest.mark.parametrize("kind", ["cls", "first"])
def test_first_position(kind):
    assert torch.equal(pool(X, MASK, kind), X[:, 0])


def test_unknown_pooling_lists_the_known_ones():
    with pytest.raises(ValueError, match="mean, mean_all, mean_zero, cls, first, got 'max'"):
        pool(X, MASK, "max")


def test_classify_mlp_is_two_layers_with_relu():
    head = ClassifyHead(8, classes=3, kind="mlp", hidden=16, pooling="mean")
    first, _, last = head.network
    expected = last(first(pool(X, MASK, "mean")).clamp(min=0))
    torch.testing.assert_close(head(X, MASK), expected)
    assert first.out_features == 16 and last.out_features == 3


def test_mlp3_has_one_more_layer_of_half_the_width():
    head = MatchHead(8, classes=2, kind="mlp3", hidden=16, pooling="first", pairing="concat")
    first, _, second, _, last = head.network
    assert [layer.out_features for layer in (first, second, last)] == [16, 8, 2]
    pair = torch.cat([X[[0, 2], 0], X[[1, 3], 0]], 1)
    expected = last(second(first(pair).clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(head(X, MASK), expected)


def test_match_pairs_rows_2b_and_2b_plus_1():
    head = MatchHead(8, classes=2, kind="linear", hidden=1, pooling="mean", pairing="nli")
    pooled = pool(X, MASK, "mean")
    a, b = pooled[[0, 2]], pooled[[1, 3]]
    expected = head.network(torch.cat([a, b, a * b, a - b], 1))
    torch.testing.assert_close(head(X, MASK), expected)


def test_match_concat():
    head = MatchHead(8, classes=2, kind="linear", hidden=1, pooling="first", pairing="concat")
    expected = head.network(torch.cat([X[[0, 2], 0], X[[1, 3], 0]], 1))
    torch.testing.assert_close(head(X, MASK), expected)


def test_token_head_labels_each_position():
    head = TokenHead(8, classes=6)
    torch.testing.assert_close(head(X, MASK), head.network(X))
    assert head(X, MASK).shape == (4, 5, 6)


def test_unknown_head_and_pairing_list_the_known_ones():
    with pytest.raises(ValueError, match="linear, mlp, mlp3, got 'deep'"):
        ClassifyHead(8, classes=3, kind="deep", hidden=1, pooling="mean")
    with pytest.raises(ValueError, match="nli, concat, got 'sum'"):
        MatchHead(8, classes=2, kind="mlp", hidden=1, pooling="mean", pairing="sum")
