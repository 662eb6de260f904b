"""A band around the diagonal, of the width that the papers mean."""

import pytest
import torch

from kernels.errors import Unsupported
from models.mixers.exact.transformer import Transformer
from models.mixers.sparse.sliding_window_attention import SlidingWindowAttention


def build(causal=False, kind=SlidingWindowAttention, **knobs):
    torch.manual_seed(0)
    return kind(12, heads=3, max_len=64, causal=causal, **knobs).double().eval()


@pytest.mark.parametrize("n", [1, 2, 5, 6, 23])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 4, 5])
def test_equals_its_matrix(causal, n, window):
    mixer, x = build(causal, window=window), torch.randn(2, n, 12, dtype=torch.float64)
    for mask in (None, torch.rand(2, n) > 0.4):
        matrix = mixer.reference_matrix(x, mask)
        v = mixer.project(x, mask)[2]
        wanted = mixer.output((matrix @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixer(x, mask), wanted, rtol=1e-12, atol=1e-12)
    i = torch.arange(n)
    seen = {
        False: (i[:, None] - i).abs() <= window / 2,
        True: (i <= i[:, None]) & (i > i[:, None] - window),
    }[causal]
    assert torch.equal(mixer.reference_matrix(x) > 0, seen.expand(2, 3, n, n))


@pytest.mark.parametrize(("causal", "window"), [(False, 34), (False, 32), (True, 17)])
def test_a_window_as_long_as_the_sequence_is_dense(causal, window):
    banded, dense = build(causal, window=window), build(causal, Transformer)
    dense.load_state_dict(banded.state_dict())
    x, mask = torch.randn(2, 17, 12, dtype=torch.float64), torch.rand(2, 17) > 0.3
    torch.testing.assert_close(banded(x, mask), dense(x, mask), rtol=1e-12, atol=1e-12)
    assert banded.dense_at(17)
    assert not build(causal, window=window).dense_at(18 if causal else window // 2 + 2)


def test_a_causal_window_of_one_returns_the_values():
    mixer, x = build(True, window=1), torch.randn(2, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), mixer.output(mixer.value(x)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_reach_as_far_as_the_paper_says(layers):
    window, n = 4, 20
    x = torch.randn(1, n, 12, dtype=torch.float64, requires_grad=True)
    y = x
    for _ in range(layers):
        y = build(True, window=window)(y)
    y[0, -1].sum().backward()
    felt = (x.grad[0].abs().sum(-1) > 0).nonzero().min().item()
    assert n - felt == layers * (window - 1) + 1


@pytest.mark.parametrize("rotary", [False, True])
def test_a_rolling_cache_decodes_like_the_parallel_form(rotary):
    mixer, x = build(True, window=5), torch.randn(2, 13, 12, dtype=torch.float64)
    if rotary:
        mixer.use_rotary()
        mixer.double()
    state, outputs = mixer.init_state(2), []
    for t in range(13):
        y, state = mixer.step(x[:, t], state)
        outputs.append(y)
        assert state.inner.keys.shape[2] == min(t + 1, 5)
    tolerance = 1e-6 if rotary else 1e-12  # angles are fp32
    torch.testing.assert_close(torch.stack(outputs, 1), mixer(x), rtol=tolerance, atol=tolerance)
    with pytest.raises(Unsupported, match="only with causal"):
        build(False).init_state(2)


def test_bad_window():
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        build(window=0)
