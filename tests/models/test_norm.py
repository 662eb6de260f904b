"""Normalisations: their equations, and padding that enters no statistic."""

import pytest
import torch

from models.norm import NORMS, make_norm

X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MASK = torch.arange(5) < torch.tensor([5, 2, 1])[:, None]


def norm(kind):
    return make_norm(kind, 8).double()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("layer", (X - X.mean(-1, keepdim=True)) / (X.var(-1, keepdim=True, correction=0)).sqrt()),
        ("rms", X / X.square().mean(-1, keepdim=True).sqrt()),
        ("scale", 8**0.5 * X / X.norm(dim=-1, keepdim=True)),
    ],
)
def test_equation(kind, expected):
    torch.testing.assert_close(norm(kind)(X, MASK), expected, rtol=1e-4, atol=1e-4)


def test_scale_norm_survives_a_zero_vector():
    assert (norm("scale")(torch.zeros(1, 2, 8, dtype=torch.float64)) == 0).all()


def test_batch_norm_sees_real_tokens_only():
    layer = norm("batch").train()
    y = layer(X, MASK)
    real = X[MASK]
    expected = (real - real.mean(0)) / (real.var(0, correction=0) + layer.eps).sqrt()
    torch.testing.assert_close(y[MASK], expected)
    dirty = torch.where(MASK[..., None], X, 1e6)
    torch.testing.assert_close(norm("batch").train()(dirty, MASK)[MASK], expected)


def test_batch_norm_agrees_with_torch_without_padding():
    ours, theirs = norm("batch").train(), torch.nn.BatchNorm1d(8).double().train()
    for step in range(4):
        x, mask = X + step, None if step % 2 else torch.ones(3, 5, dtype=torch.bool)
        expected = theirs(x.flatten(0, 1)).view_as(x)
        torch.testing.assert_close(ours(x, mask), expected)
    torch.testing.assert_close(ours.eval()(X), theirs.eval()(X.flatten(0, 1)).view_as(X))


def test_batch_norm_statistics_are_torchs():
    ours, theirs = norm("batch").train(), torch.nn.BatchNorm1d(8).double().train()
    ours(X, MASK)
    theirs(X[MASK])
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_batch_norm_in_evaluation_does_not_look_at_the_batch():
    layer = norm("batch").train()
    layer(X, MASK)
    layer.eval()
    torch.testing.assert_close(layer(X, MASK)[:1], layer(X[:1], MASK[:1]))


def test_batch_norm_of_one_token_is_finite():
    layer = norm("batch").train()
    y = layer(X[:1], torch.tensor([[True, False, False, False, False]]))
    assert torch.isfinite(y[0, 0]).all() and torch.isfinite(layer.running_var).all()


@pytest.mark.parametrize("kind", NORMS)
def test_gradients_are_right(kind):
    layer = norm(kind).train()
    assert torch.autograd.gradcheck(
        lambda x: layer(x, MASK)[MASK], X.clone().requires_grad_(), fast_mode=True
    )


def test_unknown_norm_lists_the_known_ones():
    with pytest.raises(ValueError, match="layer, rms, scale, batch, got 'group'"):
        make_norm("group", 8)
