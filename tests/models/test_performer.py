"""Performer: an unbiased estimate of softmax attention, with less variance from orthogonal rows."""

import math

import pytest
import torch

from kernels.errors import Unsupported
from kernels.linear_attention.feature_map import PositiveRandom
from models.mixers.linear.performer import Performer, orthogonal_gaussian

DIM, HEADS = 12, 2


def made(causal=False, **knobs):
    torch.manual_seed(0)
    knobs = {"nb_features": 32} | knobs
    return Performer(DIM, heads=HEADS, max_len=64, causal=causal, **knobs).double()


def inputs(n, scale=1.0, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def softmax_matrix(mixer, x):
    q, k, _, _ = mixer.project(x)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if mixer.causal:
        scores = scores.masked_fill(scores.new_ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    return scores.softmax(-1)


@pytest.mark.parametrize("causal", [False, True])
def test_converges_to_softmax_attention(causal):
    """The error falls as m^-1/2; norms are small, for the variance grows exponentially in them."""
    mixer, x = made(causal, eps=0.0), inputs(16, 0.5)
    exact = softmax_matrix(mixer, x)
    errors = []
    for features in (64, 64 * 16):
        total = 0.0
        for _ in range(20):
            mixer.projection = orthogonal_gaussian(features, DIM // HEADS, 0.0).double()
            total += (mixer.reference_matrix(x) - exact).square().mean().item()
        errors.append(math.sqrt(total / 20))
    assert errors[1] < 0.02 * exact.max()
    # 4 in expectation
    assert 2.5 < errors[0] / errors[1] < 6


def test_features_are_unbiased_and_orthogonal_rows_vary_less():
    """Mean and variance of phi(q) . phi(k), a sum of one product a row of W.

    Products are heavy-tailed, so the variance of their sum is set against the sum of their own
    variances in the same draws: 1 for independent rows.
    """
    torch.manual_seed(0)
    width, draws = 16, 1500
    x = torch.full((1, 1, 1, width), 0.3, dtype=torch.float64)
    exact = x.square().sum().div(math.sqrt(width)).exp().item()

    def products(draw):
        found = []
        for _ in range(draws):
            phi = PositiveRandom(draw().double())
            # a query is relative to its largest exponent, which is given back
            largest = (x @ phi.projection.T * width**-0.25).max()
            found.append(phi(x, keys=False) * phi(x, keys=True) * largest.exp())
        return torch.stack(found).flatten(1)

    ratio = {}
    for name, draw in (
        ("orthogonal", lambda: orthogonal_gaussian(width, width, 0.0)),
        ("independent", lambda: torch.randn(width, width)),
    ):
        found = products(draw)
        total = found.sum(1)
        assert abs(total.mean() - exact) < 4 * total.std() / math.sqrt(draws)
        ratio[name] = (total.var() / found.var(0).sum()).item()
    assert ratio["orthogonal"] < 0.87 < 0.9 < ratio["independent"] < 1.1


@pytest.mark.parametrize("features", [4, 6, 15])
def test_rows_are_orthogonal_in_blocks(features):
    torch.manual_seed(0)
    for scaling in (0.0, 1.0):
        w = orthogonal_gaussian(features, 6, scaling)
        assert w.shape == (features, 6)
        for block in w.split(6):
            gram = block @ block.T
            torch.testing.assert_close(gram, torch.diag(gram.diagonal()), atol=1e-5, rtol=0)
        if scaling == 1:
            torch.testing.assert_close(w.norm(dim=1), torch.full((features,), math.sqrt(6)))
    lengths = torch.cat([orthogonal_gaussian(60, 6, 0.0) for _ in range(100)]).square().sum(1)
    assert lengths.mean().item() == pytest.approx(6, rel=0.05)
    assert lengths.var().item() == pytest.approx(12, rel=0.1)


@pytest.mark.parametrize("kernel", ["softmax", "relu"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_equals_the_matrix_of_its_features(kernel, causal, eps):
    mixer, x = made(causal, kernel=kernel, eps=eps), inputs(50)
    weights = mixer.reference_matrix(x)
    v = mixer.heads_of(mixer.value(x))
    expected = mixer.output((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixer(x), expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 50, dtype=x.dtype))


def test_matrix_from_the_formula():
    """Bidirectional, with the constant of the keys and eps inside, from the weights alone."""
    mixer, x = made(), inputs(30)
    q, k, _, _ = mixer.project(x)
    w, width = mixer.projection, DIM // HEADS

    def exponent(u):
        u = u / width**0.25
        return u @ w.T, u.square().sum(-1, keepdim=True) / 2

    (of_q, half_q), (of_k, half_k) = exponent(q), exponent(k)
    phi_q = (of_q - half_q - of_q.amax(-1, keepdim=True)).exp() + 1e-4
    phi_k = (of_k - half_k - of_k.amax((-1, -2), keepdim=True)).exp() + 1e-4
    weights = phi_q @ phi_k.mT
    weights = weights / weights.sum(-1, keepdim=True)
    torch.testing.assert_close(mixer.reference_matrix(x), weights)


@pytest.mark.parametrize("causal", [False, True])
def test_large_inputs_stay_finite(causal):
    mixer, x = made(causal).float(), inputs(40, 30.0).float().requires_grad_()
    y = mixer(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert y.isfinite().all() and grad.isfinite().all()


def test_no_later_key_moves_the_constant():
    """A key that becomes the largest of all changes no output before it, eps included."""
    mixer, x = made(causal=True, eps=1e-2), inputs(40)
    y = mixer(x)
    x[:, 30] *= 20
    torch.testing.assert_close(mixer(x)[:, :30], y[:, :30], rtol=1e-12, atol=1e-14)


def test_padding_does_not_move_the_constant():
    mixer, x = made(eps=1e-2), inputs(40)
    mask = torch.arange(40)[None] < torch.tensor([[40], [25]])
    y = mixer(x, mask)
    short = mixer(x[1:, :25])
    torch.testing.assert_close(y[1:, :25], short, rtol=1e-12, atol=1e-14)


def test_features_are_redrawn_in_training_only():
    mixer = made(redraw_interval=10)
    first = mixer.projection.clone()
    mixer.on_step(9)
    assert torch.equal(mixer.projection, first)
    mixer.eval().on_step(10)
    assert torch.equal(mixer.projection, first)
    mixer.train().on_step(10)
    assert not torch.equal(mixer.projection, first)
    assert mixer.projection.dtype == torch.float64
    fixed = made(redraw=False, redraw_interval=10)
    fixed.on_step(10)
    assert torch.equal(fixed.projection, first)


def test_features_are_in_the_state_dict_and_follow_the_seed():
    a, b = made(), made()
    assert torch.equal(a.projection, b.projection)
    torch.manual_seed(1)
    b.on_step(1000)
    b.load_state_dict(a.state_dict())
    x = inputs(10)
    torch.testing.assert_close(b(x), a(x))


def test_refusals():
    for knobs, message in (
        ({"kernel": "cosine"}, "kernel must be softmax or relu"),
        ({"nb_features": 0}, "nb_features and redraw_interval must be at least 1"),
        ({"redraw_interval": 0}, "must be at least 1"),
        ({"ortho_scaling": 0.5}, "ortho_scaling must be 0 or 1"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**knobs)
    with pytest.raises(Unsupported):
        made().init_state(2)
