"""Feature maps of linear attention: gradients, small features, the constants that stabilise."""

import pytest
import torch

from kernels.linear_attention import linear_attention
from kernels.linear_attention.feature_map import EluPlusOne, Identity, PositiveRandom, Relu
from tests.kernels.linear_attention_cases import K, M, arguments, call, drawn, holes, qkv


@pytest.mark.parametrize("phi", [EluPlusOne(), Identity(), Relu(), Relu(drawn(M, K), 0.1)])
def test_pull_back_is_the_gradient(phi):
    x = drawn(1, 1, 20, K, seed=1).requires_grad_()
    y = phi(x, keys=True)
    grad = drawn(*y.shape, seed=2)
    (expected,) = torch.autograd.grad(y, x, grad)
    torch.testing.assert_close(phi.pull_back(x, y, grad), expected)


def test_elu_keeps_small_features():
    x = torch.full((1, 1, 1, 1), -30.0)
    assert EluPlusOne()(x, keys=True).item() == pytest.approx(9.36e-14, rel=1e-2)


def test_stabiliser_cancels():
    """Without eps any constant of the keys gives the same output."""
    tensors, rest = arguments("both-positive", 50)
    w = drawn(M, K, seed=6)
    found = [
        call("eager", **tensors, **rest | {"feature_map": PositiveRandom(w, 0.0, shift)})[0]
        for shift in (None, torch.full((2, 3, 1, 1), 3.0, dtype=w.dtype))
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_running_stabiliser(eps):
    """Equals the plain sums without eps, sees no later key with it, and never overflows."""
    q, k, v = qkv(90)
    k = 20 * k
    mask = holes(90)
    phi = PositiveRandom(drawn(M, K, seed=6), eps)

    def run(k, running):
        shift, step = phi.running_largest_key(k, mask)
        if not running:
            shift, step = phi.largest_key(k, mask), None
        stable = PositiveRandom(phi.projection, eps, shift)
        return linear_attention(
            q, k, v, causal=True, feature_map=stable, log_decay=step, key_mask=mask, eps=0.0
        )[0]

    y = run(k, True)
    assert y.isfinite().all()
    changed = torch.cat([k[:, :, :60], 5 * k[:, :, 60:]], 2)
    torch.testing.assert_close(run(changed, True)[:, :, :60], y[:, :, :60], rtol=1e-12, atol=1e-12)
    if eps == 0:
        torch.testing.assert_close(run(0.05 * k, True), run(0.05 * k, False))


def test_largest_key_sees_real_keys_only():
    k, mask = qkv(30)[1], holes(30)
    phi = PositiveRandom(drawn(M, K, seed=6))
    exponents = k @ phi.projection.T * K**-0.25
    largest = phi.largest_key(k.masked_fill(~mask[:, None, :, None], 1e3), mask)[..., 0, 0]
    torch.testing.assert_close(largest[1], exponents[1][:, mask[1]].amax((1, 2)))
    assert not largest[0].any()
