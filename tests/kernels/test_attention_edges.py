"""Attention at its edges: rows without keys, NaN, strides, tiles, memory, dropout, autocast."""

import math

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from kernels.attention import attention, eager
from tests.kernels.attention_inputs import draw, grads, on

BACKENDS = ("reference", "eager", "sdpa")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_without_keys_is_zero(backend):
    x = {name: t.requires_grad_() for name, t in draw(9, v=16, dtype=torch.float32).items()}
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1] = False
    y = attention(**x, key_mask=mask, backend=backend)
    assert torch.equal(y[1], torch.zeros_like(y[1]))
    assert y[0].abs().sum(-1).min() > 0
    for grad in grads((y,), list(x.values())):
        assert grad.isfinite().all() and torch.equal(grad[1], torch.zeros_like(grad[1]))


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_queries_before_all_keys_see_nothing(backend):
    x = {name: t.requires_grad_() for name, t in draw(7, 3).items()}
    y, lse = attention(**x, causal=True, return_lse=True, backend=backend)
    assert (y[:, :, :4] == 0).all() and (lse[:, :, :4] == -torch.inf).all()
    assert lse[:, :, 4:].isfinite().all()
    assert all(grad.isfinite().all() for grad in grads((y, lse), list(x.values())))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_nan_does_not_become_zero(backend, name):
    x = draw(70, v=16, key_heads=4, dtype=torch.float32)
    x[name][0, 1, 5] = torch.nan
    y = attention(**x, backend=backend)
    assert y[0, 1, 5].isnan().all()
    assert y[1].isfinite().all() and y[0, 0].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_layout_does_not_matter(backend):
    x = draw(65, v=16)
    y = attention(**x, backend=backend)
    heads_last = {n: t.transpose(1, 2).contiguous().transpose(1, 2) for n, t in x.items()}
    width_first = {n: t.transpose(2, 3).contiguous().transpose(2, 3) for n, t in x.items()}
    for other in (heads_last, width_first):
        assert not any(t.is_contiguous() for t in other.values())
        torch.testing.assert_close(attention(**other, backend=backend), y, rtol=1e-12, atol=1e-12)


def test_tiles_do_not_show(monkeypatch):
    x = draw(300)
    for kwargs in ({"window": (9, 9)}, {"causal": True}, {"dropout_p": 0.5, "window": (9, 9)}):
        results = []
        for budget in (1, 1 << 12, 1 << 30):
            monkeypatch.setitem(eager.BUDGET, "cpu", budget)
            results.append(on("eager", **kwargs)(**x))
        for y in results[1:]:
            torch.testing.assert_close(y, results[0], rtol=1e-12, atol=1e-12)


def test_memory_is_linear_and_a_window_needs_no_more_than_fused_attention():
    def peak(n, **kwargs):
        with MemTracker() as tracker:
            q, k, v = (torch.randn(2, 2, n, 64, requires_grad=True) for _ in range(3))
            attention(q, k, v, **kwargs).square().sum().backward()
        return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]

    with FakeTensorMode():
        fused = peak(8192, backend="sdpa")
    assert peak(8192, window=(64, 64), backend="eager") <= fused
    assert peak(2048, backend="eager") < 2.2 * peak(1024, backend="eager")


def test_dropout_drops_its_share_and_keeps_the_mean():
    ones = torch.ones(4, 4, 200, 1)
    y = on("eager", dropout_p=0.3)(ones, ones, ones)
    kept = y * (1 - 0.3)
    # each row averages 200 weights: 16 x 200 rows, standard error of the mean 0.0006
    assert abs(kept.mean() - 0.7) < 0.003
    assert abs(kept.std() - math.sqrt(0.3 * 0.7 / 200)) < 0.002
    torch.manual_seed(1)
    assert not torch.equal(attention(ones, ones, ones, dropout_p=0.3, backend="eager"), y)


@pytest.mark.timeout(300)
def test_compiled_eager_equals_eager(untyped):
    x = draw(20, key_heads=4, k=4, v=4, dtype=torch.float32)
    x = {name: t.requires_grad_() for name, t in x.items()}
    results = []
    for backend in ("compile", "eager"):
        y = attention(**x, backend=backend)
        results.append((y, *grads((y,), list(x.values()))))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_autocast_does_not_reach_inside():
    x = {n: t.requires_grad_() for n, t in draw(70, dtype=torch.float32).items()}
    y = attention(**x, window=(3, 3), backend="eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = attention(**x, window=(3, 3), backend="eager")
    assert torch.equal(inside, y)
    for a, b in zip(grads((inside,), list(x.values())), grads((y,), list(x.values())), strict=True):
        assert torch.equal(a, b)
