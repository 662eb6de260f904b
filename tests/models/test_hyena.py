"""Hyena: gates and Toeplitz matrices, multiplied out."""

import math

import pytest
import torch

from models.implicit_filter import ImplicitFilter
from models.mixers.conv.hyena import Hyena

DIM = 4


def made(causal=True, **knobs):
    torch.manual_seed(0)
    return Hyena(DIM, heads=1, max_len=32, causal=causal, **{"filter_order": 8} | knobs).double()


def inputs(n):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, n, DIM, generator=generator, dtype=torch.float64)


def toeplitz(kernel, future, d):
    """(N, N) of one channel: taps on the past and the present, on the future, and D."""
    n = len(kernel)
    i = torch.arange(n)
    lag = i[:, None] - i
    matrix = torch.where(lag >= 0, kernel[lag.clamp(min=0)], 0)
    if future is not None:
        matrix = matrix + torch.where(lag < 0, future[(-lag - 1).clamp(min=0)], 0)
    return matrix + d * torch.eye(n)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 13])
def test_equals_the_product_of_diagonal_and_toeplitz_matrices(causal, order, n):
    mixer, x = made(causal, order=order), inputs(n)
    u = mixer.into(x)
    width = mixer.short.shape[1]
    left = width - 1 if causal else width // 2
    padded = torch.nn.functional.pad(u, (0, 0, left, width - 1 - left))
    u = torch.stack([(padded[:, t : t + width] * mixer.short.T).sum(1) for t in range(n)], 1)
    *gates, v = u.chunk(order + 1, -1)
    kernels = mixer.filter(n).unflatten(0, (order, -1, DIM))
    for gate, kernel, d in zip(gates, kernels, mixer.d, strict=True):
        v = gate * torch.stack([
            v[..., c] @ toeplitz(kernel[0, c], None if causal else kernel[1, c], d[c]).T
            for c in range(DIM)
        ], -1)  # fmt: skip
    torch.testing.assert_close(mixer(x), mixer.out(v))


@pytest.mark.parametrize("causal", [True, False])
def test_padding_does_not_come_back(causal):
    mixer, x = made(causal), inputs(13)
    mask = torch.arange(13) < torch.tensor([[13], [7]])
    y = mixer(x.masked_fill(~mask[..., None], torch.nan), mask)
    torch.testing.assert_close(y[1:, :7], mixer(x[1:, :7]))
    torch.testing.assert_close(y[:1], mixer(x[:1]))


def test_the_filter_is_a_network_of_the_position_under_a_window():
    torch.manual_seed(0)
    implicit = ImplicitFilter(3, max_len=11, width=5, emb_dim=5, sin_freq=2.0).double()
    taps = implicit(11)
    for t in (0, 4, 10):
        phase = 2 * math.pi * t / 11
        features = torch.tensor(
            [t / 10, math.cos(1e-4 * phase), math.cos(phase), -math.sin(1e-4 * phase),
             -math.sin(phase)], dtype=torch.float64,
        )  # fmt: skip
        y = features
        for layer in implicit.layers:
            y = torch.sin(2.0 * layer(y))
        window = torch.exp(-implicit.alpha * t / 10)
        torch.testing.assert_close(taps[:, t], implicit.last(y) * window)
    assert len(implicit.layers) == 3
    # the window is at 1 % after 1.5 lengths in the slowest channel, after 0.3 in the fastest
    end = torch.tensor([math.log(100) / 1.5, math.log(100) / 0.3], dtype=torch.float64)
    torch.testing.assert_close(implicit.alpha[[0, -1]], end, rtol=1e-6, atol=0)
    torch.testing.assert_close(implicit(7), taps[:, :7])


def test_filters_learn_at_a_rate_of_their_own():
    """As HyenaFilter of the authors' code: 1e-3, without weight decay."""
    own = {n: p._optim for n, p in made().named_parameters() if hasattr(p, "_optim")}
    assert own == {
        n: {"lr": 1e-3, "weight_decay": 0.0} for n, _ in made().named_parameters() if "filter." in n
    }
    assert all(p._optim == {"weight_decay": 0.0} for p in made(lr_filter=None).filter.parameters())


def test_refusals():
    with pytest.raises(ValueError, match="order and short_filter must be at least 1"):
        made(order=0)
    with pytest.raises(ValueError, match="emb_dim must be odd"):
        made(emb_dim=4)
    with pytest.raises(ValueError, match="centred short_filter is odd"):
        made(False, short_filter=4)
