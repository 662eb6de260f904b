"""Block-sparse attention: layouts against their definitions, backends against the reference."""

import functools
import math

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from kernels.attention import attention
from kernels.block_sparse_attention import OP, block_sparse_attention, eager, layouts, tiles
from kernels.block_sparse_attention.layout import Layout, build
from kernels.dispatch import record
from kernels.tolerance import check, poisoned


def draw(n, m=None, *, batch=2, heads=4, key_heads=2, k=16, v=20, dtype=torch.float64, seed=0):
    """Queries, keys and values of unit size."""
    m = n if m is None else m
    generator = torch.Generator().manual_seed(seed)
    shapes = {"q": (heads, n, k), "k": (key_heads, m, k), "v": (key_heads, m, v)}
    return {
        name: torch.randn((batch, *shape), generator=generator, dtype=torch.float64).to(dtype)
        for name, shape in shapes.items()
    }


def holes(batch, m, seed=1):
    """A key mask with holes, whose last row is empty."""
    mask = torch.rand(batch, m, generator=torch.Generator().manual_seed(seed)) > 0.3
    mask[-1] = False
    return mask


def grads(outputs, inputs):
    generator = torch.Generator().manual_seed(2)
    cotangents = [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]
    return torch.autograd.grad(outputs, inputs, cotangents)


def random_layout(n, m, block, heads=1, seed=3):
    """Some blocks, and in them some pairs; some lists and rows are empty."""
    generator = torch.Generator().manual_seed(seed)
    count = (-(-n // block), -(-m // block))
    blocks = torch.rand(heads, *count, generator=generator) < 0.4
    blocks[:, count[0] // 2] = False
    seen = torch.rand(heads, count[0] * block, count[1] * block, generator=generator) < 0.5
    seen[:, 1] = False
    return build(n, m, block, blocks, lambda h, i, j: seen[h, i, j] | (h + i // block) % 2 == 1)


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that short sequences need many of them."""
    monkeypatch.setitem(eager.BUDGET, "cpu", 1 << 11)


# -- layouts are their definitions --------------------------------------------------------------


def log_distance(d, local=1):
    return d < local or (d - local + 1).bit_count() == 1


# name -> (layout of n in blocks, whether query i of head h sees key j)
PATTERNS = {
    "band": (lambda n, b: layouts.band(n, b, 9, 4), lambda n, b, h, i, j: -9 <= j - i <= 4),
    "dilated window": (
        lambda n, b: layouts.band(n, b, 12, 12, dilation=3),
        lambda n, b, h, i, j: abs(i - j) <= 12 and (i - j) % 3 == 0,
    ),
    "strided": (
        lambda n, b: layouts.strided(n, b, 11),
        lambda n, b, h, i, j: 0 <= i - j < 11 or (j <= i and (i - j) % 11 == 0),
    ),
    "strided both ways": (
        lambda n, b: layouts.strided(n, b, 11, causal=False, local=False),
        lambda n, b, h, i, j: (i - j) % 11 == 0,
    ),
    "fixed": (
        lambda n, b: layouts.fixed(n, b, 10, 2),
        lambda n, b, h, i, j: j <= i and (i // 10 == j // 10 or j % 10 in (8, 9)),
    ),
    "fixed both ways": (
        lambda n, b: layouts.fixed(n, b, 10, 1, causal=False, local=False),
        lambda n, b, h, i, j: j % 10 == 9,
    ),
    "axial": (
        lambda n, b: layouts.axial(n, b, 9),
        lambda n, b, h, i, j: i // 9 == j // 9 or i % 9 == j % 9,
    ),
    "axial column": (
        lambda n, b: layouts.axial(n, b, 9, row=False),
        lambda n, b, h, i, j: i % 9 == j % 9,
    ),
    "axial causal": (
        lambda n, b: layouts.axial(n, b, 9, column=False).causal(),
        lambda n, b, h, i, j: j <= i and i // 9 == j // 9,
    ),
    "star": (
        lambda n, b: layouts.star(n, b, relays=2, reach=3),
        lambda n, b, h, i, j: abs(i - j) <= 3 or min(i, j) < 2,
    ),
    "global tokens": (
        lambda n, b: layouts.global_tokens(n, b, (0, n // 2)),
        lambda n, b, h, i, j: i == j or i in (0, n // 2) or j in (0, n // 2),
    ),
    "log sparse": (
        lambda n, b: layouts.log_sparse(n, b),
        lambda n, b, h, i, j: j <= i and log_distance(i - j),
    ),
    "log sparse with restarts": (
        lambda n, b: layouts.log_sparse(n, b, causal=False, local=3, restart=20, dense=5),
        lambda n, b, h, i, j: i < 5 or log_distance(abs(i - j) % 20, 3),
    ),
    "dilated segments": (
        lambda n, b: layouts.dilated(n, b, 14, 3, heads=4),
        lambda n, b, h, i, j: i // 14 == j // 14 and i % 14 % 3 == j % 14 % 3 == h % 3,
    ),
    "bigbird without luck": (
        lambda n, b: layouts.bigbird(n, b, random_blocks=0),
        lambda n, b, h, i, j: (
            abs(i // b - j // b) <= 1 or not {i // b, j // b}.isdisjoint({0, (n - 1) // b})
        ),
    ),
}


@pytest.mark.parametrize("n,block", [(1, 4), (2, 1), (63, 8), (100, 16), (40, 64)], ids=str)
@pytest.mark.parametrize("name", PATTERNS)
def test_a_layout_is_its_definition(name, n, block):
    make, rule = PATTERNS[name]
    layout = make(n, block)
    matrix = layout.matrix()
    wanted = [
        [[rule(n, block, h, i, j) for j in range(n)] for i in range(n)] for h in range(layout.heads)
    ]
    assert torch.equal(matrix, torch.tensor(wanted))
    assert torch.equal(layout.causal().matrix(), matrix.tril())
    # a stored block shows something
    count = -(-n // block)
    padded = torch.zeros(layout.heads, count * block, count * block, dtype=torch.bool)
    padded[:, :n, :n] = matrix
    used = padded.view(-1, count, block, count, block).any(4).any(2)
    assert layout.density == pytest.approx(used.double().mean().item())


def test_bigbird_draws_blocks_that_it_would_not_see_otherwise():
    block, count, heads = 4, 12, 3
    plain = layouts.bigbird(count * block, block, random_blocks=0)
    layout = layouts.bigbird(count * block, block, random_blocks=2, heads=heads, seed=5)
    seen = layout.matrix()[:, ::block, ::block]
    extra = seen & ~plain.matrix()[:, ::block, ::block]
    assert (extra[:, 1:-1].sum(-1) == 2).all()
    assert not torch.equal(extra[0], extra[1])
    assert torch.equal((seen & ~extra)[0], plain.matrix()[0, ::block, ::block])
    # the second row sees 4 blocks and the random ones: 4 + r blocks are all of them
    assert layouts.bigbird(6 * block, block, random_blocks=2).matrix().all()
    assert layouts.bigbird(48, 4, seed=5) is layouts.bigbird(48, 4, seed=5)
    assert not torch.equal(
        layouts.bigbird(48, 4, seed=5).matrix(), layouts.bigbird(48, 4, seed=6).matrix()
    )


def test_masks_are_stored_once():
    # the diagonals of a band look the same in every row
    layout = layouts.band(1024, 16, 20, 20)
    assert len(layout.masks) <= 6
    assert layout.density < 0.09


@pytest.mark.parametrize("heads", [(1, 1), (1, 3), (3, 1), (3, 3)], ids=str)
def test_union_and_transposition(heads):
    a, b = (random_layout(50, 70, 8, h, seed) for h, seed in zip(heads, (1, 2), strict=True))
    union = a | b
    assert torch.equal(union.matrix(), a.matrix() | b.matrix())
    offsets, rows, mask_ids = union.transposed()
    seen = torch.zeros(union.heads, 56, 72, dtype=torch.bool)
    for h in range(union.heads):
        for c in range(union.columns):
            for e in range(int(offsets[h, c]), int(offsets[h, c + 1])):
                r = int(rows[e]) * 8
                seen[h, r : r + 8, 8 * c : 8 * c + 8] = union.masks[int(mask_ids[e])]
    assert torch.equal(seen[:, :50, :70], union.matrix())
    corner = a.causal().matrix()
    assert torch.equal(corner, a.matrix().tril(70 - 50))


@pytest.mark.parametrize(
    "change,message",
    [
        ({"offsets": torch.tensor([[0, 1, 2]])}, "offsets of 3"),
        ({"offsets": torch.tensor([[0, 2, 1, 2]])}, "rise from 0"),
        ({"offsets": torch.tensor([[0, 1, 2, 3]])}, "rise from 0"),
        ({"offsets": torch.tensor([[0, 2, 2, 2]]), "indices": torch.tensor([1, 1])}, "twice"),
        ({"indices": torch.tensor([0, 3])}, "key blocks 0 .. 2"),
        ({"mask_ids": torch.tensor([0, 1])}, "mask_ids"),
        ({"masks": torch.ones(1, 3, 3, dtype=torch.bool)}, r"\(1, 3, 3\)"),
        ({"n_keys": 0}, "at least 1"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_wrong_layout_is_refused(change, message):
    good = {
        "block": 2,
        "n_queries": 5,
        "n_keys": 6,
        "offsets": torch.tensor([[0, 1, 2, 2]]),
        "indices": torch.tensor([0, 2]),
        "mask_ids": torch.tensor([0, 0]),
        "masks": torch.ones(1, 2, 2, dtype=torch.bool),
    }
    parts = {
        name: x.int() if isinstance(x, torch.Tensor) and x.dtype == torch.int64 else x
        for name, x in (good | change).items()
    }
    Layout(**{name: x.int() if name in ("offsets", "indices", "mask_ids") else x
              for name, x in good.items()})  # fmt: skip
    with pytest.raises(ValueError, match=message):
        Layout(**parts)


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda: layouts.band(8, 4, -1, 0), "left must be at least 0, got -1"),
        (lambda: layouts.strided(8, 4, 0), "stride must be at least 1"),
        (lambda: layouts.bigbird(8, 4, window_blocks=2), "window_blocks must be odd"),
        (lambda: layouts.axial(8, 4, 2, row=False, column=False), "row, column or both"),
        (lambda: layouts.global_tokens(8, 4, (8,)), "positions 0 .. 7"),
        (lambda: layouts.band(8, 4, 1, 1) | layouts.band(8, 2, 1, 1), "can be united"),
        (lambda: build(8, 8, 4, torch.ones(1, 2, 3, dtype=torch.bool)), r"\(L, 2, 2\).*\(1, 2, 3"),
    ],
)
def test_a_wrong_pattern_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- the backends -------------------------------------------------------------------------------


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
    def peak(n, **kwargs):
        layout = layouts.bigbird(n, 64)
        with MemTracker() as tracker:
            q, k, v = (torch.randn(2, 2, n, 64, requires_grad=True) for _ in range(3))
            if kwargs:
                attention(q, k, v, **kwargs).square().sum().backward()
            else:
                block_sparse_attention(q, k, v, layout).square().sum().backward()
        return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]

    assert peak(4096) < 2.2 * peak(2048)


def test_ops_table():
    assert OP.auto["cpu"] == ("eager",)
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
        ({"backend": "tritn"}, "no backend 'tritn'"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_input_is_named(untyped, change, message):
    good = {name: torch.zeros(2, 4, 8, 16) for name in ("q", "k", "v")}
    with pytest.raises(ValueError, match=message):
        block_sparse_attention(**{**good, "layout": layouts.band(8, 4, 1, 1), **change})
