"""Block-sparse attention: backends against the reference, and that against dense attention."""

import functools
import math

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from kernels.attention import attention
from kernels.attention.score import Score
from kernels.block_sparse_attention import block_sparse_attention, eager, layouts, tiles
from kernels.block_sparse_attention.layout import build
from kernels.dispatch import record
from kernels.tolerance import check, poisoned
from tests.kernels.attention_inputs import draw, grads, holes, random_layout


def test_the_reference_is_dense_attention_with_the_matrix():
    x = draw(30, 40)
    layout = random_layout(30, 40, 8, heads=4)
    y = block_sparse_attention(**x, layout=layout, backend="reference")
    s = x["q"] @ x["k"].repeat_interleave(2, 1).transpose(2, 3) / math.sqrt(16)
    p = torch.softmax(s.masked_fill(~layout.matrix(), -torch.inf), -1).nan_to_num(0)
    torch.testing.assert_close(y, p @ x["v"].repeat_interleave(2, 1), rtol=1e-12, atol=1e-12)
    assert (y[:, 0, 1] == 0).all()


LENGTHS = [(1, 1), (2, 2), (63, 63), (100, 257), (257, 100)]
CASES = {
    "band": lambda n, m: build_band(n, m, 8, 20, 3),
    "heads": lambda n, m: random_layout(n, m, 16, heads=4),
    "examples": lambda n, m: random_layout(n, m, 7, heads=8),
    "shared": lambda n, m: random_layout(n, m, 32),
}


def build_band(n, m, block, left, right):
    blocks = torch.ones(1, -(-n // block), -(-m // block), dtype=torch.bool)
    return build(
        n, m, block, blocks, lambda h, i, j: (j - i - (m - n) >= -left) & (j - i - (m - n) <= right)
    )


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n,m", LENGTHS, ids=lambda n: str(n))
def test_eager_equals_the_reference_in_fp64(small_tiles, n, m, case, masked):
    x = {name: t.requires_grad_() for name, t in draw(n, m).items()}
    layout, mask = CASES[case](n, m), holes(2, m) if masked else None
    results = []
    for backend in ("eager", "reference"):
        with poisoned():
            y = block_sparse_attention(
                **x, layout=layout, key_mask=mask, return_lse=True, scale=0.3, backend=backend
            )
            results.append((*y, *grads(y, list(x.values()))))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n,m", LENGTHS, ids=lambda n: str(n))
def test_alibi_falls_with_the_distance(small_tiles, n, m, case):
    x, slopes = draw(n, m), torch.tensor([0.5, 0.0, 0.125, 2.0], dtype=torch.float64)
    leaves, layout = {name: t.requires_grad_() for name, t in x.items()}, CASES[case](n, m)
    distance = (torch.arange(n)[:, None] + m - n - torch.arange(m)).abs()
    seen = layout.matrix()
    seen = seen.unflatten(0, (-1, 4)) if len(seen) == 8 else seen[None]
    bias = (-slopes[:, None, None] * distance)[None].masked_fill(~seen, -torch.inf)
    results = []
    for backend in ("eager", "reference"):
        y = block_sparse_attention(**leaves, layout=layout, alibi=slopes, backend=backend)
        results.append((y, *grads((y,), list(leaves.values()))))
    y = attention(**leaves, score=Score(bias=bias), backend="reference")
    results.append((y, *grads((y,), list(leaves.values()))))
    for other in results[1:]:
        for got, wanted in zip(results[0], other, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_eager_holds_the_tolerance(small_tiles, dtype, case):
    x = {**draw(100, 257), "key_mask": holes(2, 257)}
    pair = (
        functools.partial(
            block_sparse_attention, layout=CASES[case](100, 257), return_lse=True, backend=b
        )
        for b in ("eager", "reference")
    )
    with poisoned():
        check(*pair, x, dtype=dtype)


def test_gradcheck(small_tiles):
    x = draw(7, 9, batch=1, heads=2, key_heads=1, k=3, v=2)
    layout = random_layout(7, 9, 4, heads=2)
    call = functools.partial(
        block_sparse_attention, layout=layout, return_lse=True, backend="eager"
    )
    mask = torch.arange(9)[None] != 3

    def finite(q, k, v):
        y, lse = call(q, k, v, key_mask=mask)
        return y, lse.masked_fill(lse == -torch.inf, 0)

    assert torch.autograd.gradcheck(finite, tuple(t.requires_grad_() for t in x.values()))


def test_a_band_is_window_attention():
    x = draw(130)
    y = block_sparse_attention(**x, layout=layouts.band(130, 16, 20, 9))
    wanted = attention(**x, window=(20, 9), backend="reference")
    torch.testing.assert_close(y, wanted, rtol=1e-11, atol=1e-12)


def test_everything_is_dense_attention():
    x = draw(50, 90)
    layout = build(50, 90, 64, torch.ones(1, 1, 2, dtype=torch.bool))
    y, lse = block_sparse_attention(**x, layout=layout, return_lse=True)
    wanted = attention(**x, return_lse=True, backend="reference")
    torch.testing.assert_close((y, lse), wanted, rtol=1e-11, atol=1e-12)


def test_logits_of_ten_thousand():
    x = draw(40, 60, k=4, v=4)
    x = {"q": 100 * x["q"].sign(), "k": 100 * x["k"], "v": x["v"]}
    layout = random_layout(40, 60, 8)
    pair = (
        functools.partial(block_sparse_attention, layout=layout, backend=b, scale=1.0)
        for b in ("eager", "reference")
    )
    check(*pair, x, dtype=torch.float32)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_rows_without_keys_are_zero(backend):
    x = {name: t.requires_grad_() for name, t in draw(24, dtype=torch.float32).items()}
    layout = layouts.dilated(24, 8, 12, 2, heads=4)
    mask = torch.ones(2, 24, dtype=torch.bool)
    mask[1] = False
    y, lse = block_sparse_attention(
        **x, layout=layout, key_mask=mask, return_lse=True, backend=backend
    )
    assert (y[1] == 0).all() and (lse[1] == -torch.inf).all()
    assert (y[0, 0, 1::2] == 0).all() and (lse[0, 0, 1::2] == -torch.inf).all()
    assert lse[0, 0, ::2].isfinite().all() and y[0, 0, ::2].abs().sum(-1).min() > 0
    for grad in grads((y, lse), list(x.values())):
        assert grad.isfinite().all() and (grad[1] == 0).all()


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_nan_does_not_become_zero(backend, name):
    x = draw(70, key_heads=4, dtype=torch.float32)
    x[name][0, 1, 5] = torch.nan
    y = block_sparse_attention(**x, layout=layouts.band(70, 16, 8, 8), backend=backend)
    assert y[0, 1, 5].isnan().all()
    assert y[1].isfinite().all() and y[0, 0].isfinite().all()
    if backend == "eager":
        assert y[0, 1, 60:].isfinite().all()


def test_memory_layout_and_autocast_do_not_matter():
    x = draw(65, dtype=torch.float32)
    layout = layouts.bigbird(65, 16, random_blocks=1, heads=4)
    y = block_sparse_attention(**x, layout=layout)
    last = {n: t.transpose(1, 2).contiguous().transpose(1, 2) for n, t in x.items()}
    assert torch.equal(block_sparse_attention(**last, layout=layout), y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(block_sparse_attention(**x, layout=layout), y)


def test_tiles_do_not_show(monkeypatch):
    x, layout = draw(300), layouts.fixed(300, 16, 40, 4)
    results = []
    for budget in (1, 1 << 12, 1 << 30):
        monkeypatch.setitem(eager.BUDGET, "cpu", budget)
        results.append(block_sparse_attention(**x, layout=layout))
        lists = torch.cat([t.lists for t in tiles.tiles(layout, 8, budget)])
        assert torch.equal(lists.sort().values, torch.arange(19))
    for y in results[1:]:
        torch.testing.assert_close(y, results[0], rtol=1e-12, atol=1e-12)


def test_memory_is_linear_where_the_pattern_is():
    def peak(n):
        layout = layouts.bigbird(n, 64)
        with MemTracker() as tracker:
            q, k, v = (torch.randn(2, 2, n, 64, requires_grad=True) for _ in range(3))
            block_sparse_attention(q, k, v, layout).square().sum().backward()
        return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]

    assert peak(4096) < 2.2 * peak(2048)


def test_auto_is_eager_on_a_cpu():
    x = draw(16, dtype=torch.float32)
    with record() as log:
        block_sparse_attention(**x, layout=layouts.band(16, 16, 1, 1))
    assert log["block_sparse_attention"].backend == "eager"


@pytest.mark.parametrize(
    "change,message",
    [
        ({"layout": layouts.band(9, 4, 1, 1)}, r"layout covers 9 queries and 9 keys.*8 of q"),
        ({"layout": layouts.dilated(8, 4, 4, 2, heads=3)}, "3 heads: it needs 1, H = 4 or B H = 8"),
        ({"q": torch.zeros(2, 4, 0, 16)}, r"q must be .*\(2, 4, 0, 16\)"),
        ({"v": torch.zeros(2, 4, 8, 16, dtype=torch.float64)}, "v is torch.float64 on cpu"),
        ({"key_mask": torch.ones(2, 9, dtype=torch.bool)}, r"key_mask .*\(2, 8\).*\(2, 9\)"),
        ({"alibi": torch.zeros(3)}, r"alibi must be one slope a head \(4,\), got \(3,\)"),
        ({"alibi": torch.zeros(4, requires_grad=True)}, "alibi is a constant"),
        ({"backend": "tritn"}, "no backend 'tritn'"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_input_is_named(untyped, change, message):
    good = {name: torch.zeros(2, 4, 8, 16) for name in ("q", "k", "v")}
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(**{**good, "layout": layouts.band(8, 4, 1, 1), **change})
