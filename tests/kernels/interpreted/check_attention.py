"""Attention in Triton, emulated: against the definition, gradients and log-sum-exps included."""

import functools

import pytest
import torch
import triton
import triton.language as tl

from kernels.attention import attention
from kernels.attention.score import Score
from kernels.attention.triton_tile import rounded
from kernels.errors import Unsupported
from kernels.tolerance import check, poisoned

FLOAT = torch.float32


def draw(n, m=None, *, batch=2, heads=2, key_heads=1, k=16, v=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    m = n if m is None else m
    shapes = {"q": (heads, n, k), "k": (key_heads, m, k), "v": (key_heads, m, v)}
    return {
        name: torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def holes(m, seed=1):
    """A key mask with holes, whose last row is empty."""
    mask = torch.rand(2, m, generator=torch.Generator().manual_seed(seed)) > 0.3
    mask[-1] = False
    return mask


def on(backend, *, score=None, **fixed):
    return functools.partial(attention, backend=backend, score=score, **fixed)


def held(x, dtype=FLOAT, **fixed):
    with poisoned():
        return check(on("triton", **fixed), on("reference", **fixed), x, dtype=dtype)


KINDS = {
    "full": {},
    "causal": {"causal": True, "return_lse": True},
    "window": {"window": (8, 3), "return_lse": True},
    "causal_window": {"window": (70, 3), "causal": True},
    "itself": {"window": (0, 0)},
    "cap": {"score": Score(soft_cap=1.5), "causal": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n,m", [(63, 63), (70, 130), (130, 70), (257, 100)], ids=str)
def test_close_to_the_truth(n, m, kind):
    held(draw(n, m, batch=1), **KINDS[kind])


@pytest.mark.parametrize("kind", ["causal", "window"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_keys(n, kind):
    """Gradients of scores are small differences here: held to rounding of what is subtracted."""
    results = []
    for backend, dtype in (("triton", FLOAT), ("reference", torch.float64)):
        x = {name: t.to(dtype).requires_grad_() for name, t in draw(n).items()}
        y, lse = on(backend, **KINDS[kind])(**x)
        found = torch.autograd.grad((y, lse), list(x.values()), (y.detach(), lse.detach()))
        results.append([t.double() for t in (y, lse, *found)])
    torch.testing.assert_close(*results, rtol=0, atol=5e-6)


@pytest.mark.parametrize("dtype", [FLOAT, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["causal", "window"])
def test_every_dtype_with_a_key_mask(dtype, kind):
    x = {**draw(66, 100, heads=3, key_heads=3), "key_mask": holes(100)}
    held(x, dtype, **KINDS[kind])


@pytest.mark.parametrize("k,v", [(1, 3), (32, 16), (64, 64), (128, 128)], ids=str)
def test_every_width(k, v):
    held(draw(40, 50, batch=1, k=k, v=v), return_lse=True)


@pytest.mark.parametrize("dtype", [FLOAT, torch.float16], ids=str)
@pytest.mark.parametrize("width", [16, 72])
def test_every_configuration(in_other_configurations, width, dtype):
    """Of each row of the table, with tiles that a window cuts and skips."""
    x = draw(20, 70, batch=1, heads=1, k=width, v=width)
    in_other_configurations(lambda: held(x, dtype, **KINDS["window"]))


@triton.jit
def round_kernel(x_ptr, y_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(y_ptr + at, rounded(tl.load(x_ptr + at), tl.bfloat16))


def test_operands_in_bf16_are_the_nearest():
    """As on a GPU, not cut off: ties, infinity and NaN too."""
    some = [1.0, -1.0, 0.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3e38, 1e-40]
    x = torch.tensor([*some, torch.inf, -torch.inf, torch.nan, -torch.nan])
    # NaN with every bit set, as GPUs make it
    x = torch.cat([x, torch.tensor([-1, 2**31 - 1], dtype=torch.int32).view(torch.float32)])
    x = torch.cat([x, torch.randn(256 - len(x), generator=torch.Generator().manual_seed(0))])
    y = torch.empty_like(x)
    round_kernel[(1,)](x, y, N=256)
    torch.testing.assert_close(y, x.bfloat16().float(), rtol=0, atol=0, equal_nan=True)


def test_a_window_skips_tiles():
    held(draw(256, batch=1, heads=1), window=(40, 9))


def test_key_heads_serve_their_own_group():
    held(draw(40, heads=6, key_heads=3), causal=True)


@pytest.mark.parametrize("cap", [None, 0.5, 40.0])
@pytest.mark.parametrize("n,m", [(30, 40), (40, 30)], ids=str)
def test_slopes_and_caps(n, m, cap):
    slopes = torch.rand(2, generator=torch.Generator().manual_seed(3))
    held(draw(n, m), score=Score(alibi=slopes, soft_cap=cap), return_lse=True)


@pytest.mark.parametrize("heads,entries", [(2, 31), (1, 199), (2, 1)], ids=str)
@pytest.mark.parametrize("n,m", [(30, 70), (70, 30)], ids=str)
def test_tables_of_distances(n, m, heads, entries):
    """Shorter than the sequences, longer, and of one entry."""
    table = torch.randn(heads, entries, generator=torch.Generator().manual_seed(3))
    score = Score(relative=table, soft_cap=2.0)
    held(draw(n, m, batch=1), score=score, window=(50, 20), return_lse=True)


@pytest.mark.parametrize("causal", [False, True])
def test_logits_of_ten_thousand(causal):
    x = draw(40, k=4, v=4)
    x = {"q": 1e4 * x["q"], "k": x["k"], "v": x["v"]}
    leaves = {name: t.float().requires_grad_() for name, t in x.items()}
    y, lse = on("triton", causal=causal, return_lse=True)(**leaves)
    with poisoned():
        check(
            on("triton", causal=causal, return_lse=True),
            on("reference", causal=causal, return_lse=True), x, dtype=FLOAT, grads=False,
        )  # fmt: skip
    # differences of equal sums: rounding times keys or queries
    d_q, d_k, d_v = torch.autograd.grad(y.sum() + lse.sum(), list(leaves.values()))
    want = torch.autograd.grad(
        sum(r.sum() for r in on("reference", causal=causal, return_lse=True)(**leaves)),
        list(leaves.values()),
    )
    torch.testing.assert_close(d_v, want[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(d_q, want[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(d_k, want[1], rtol=0, atol=1e-5 * 1e4)


def test_memory_layout_does_not_matter():
    x = {name: t.float() for name, t in draw(33).items()}
    y = attention(**x, backend="triton")
    last = {n: t.transpose(1, 2).contiguous().transpose(1, 2) for n, t in x.items()}
    first = {n: t.transpose(2, 3).contiguous().transpose(2, 3) for n, t in x.items()}
    assert torch.equal(attention(**last, backend="triton"), y)
    assert torch.equal(attention(**first, backend="triton"), y)
    # heads innermost, and rows that have to be filled up
    x = {name: t.float() for name, t in draw(33, key_heads=2, k=6, v=6).items()}
    inner = {n: t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for n, t in x.items()}
    assert torch.equal(attention(**inner, backend="triton"), attention(**x, backend="triton"))


@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_nan_does_not_become_zero(name):
    x = {n: t.float() for n, t in draw(20, key_heads=2).items()}
    x[name][0, 1, 5] = torch.nan
    y = attention(**x, backend="triton")
    assert y[0, 1, 5].isnan().all()
    assert y[1].isfinite().all() and y[0, 0].isfinite().all()


def test_rows_without_keys_are_zero():
    x = {n: t.float().requires_grad_() for n, t in draw(9, 5).items()}
    y, lse = attention(**x, causal=True, return_lse=True, backend="triton")
    assert (y[:, :, :4] == 0).all() and (lse[:, :, :4] == -torch.inf).all()
    # what comes back into such rows is not looked at
    d_y = torch.ones_like(y).index_fill(2, torch.arange(4), torch.nan)
    found = torch.autograd.grad((y, lse), list(x.values()), (d_y, lse.exp()))
    assert all(g.isfinite().all() for g in found)
    assert (found[0][:, :, :4] == 0).all()


def test_only_the_log_sum_exp_is_differentiated():
    x = {n: t.float().requires_grad_() for n, t in draw(20).items()}
    results = []
    for backend in ("triton", "reference"):
        lse = attention(**x, return_lse=True, backend=backend)[1]
        results.append(torch.autograd.grad(lse.sum(), (x["q"], x["k"])))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_refusals():
    x = {n: t.float() for n, t in draw(8).items()}
    slopes = torch.ones(2, requires_grad=True)
    table = torch.ones(2, 3, requires_grad=True)
    for reason, kwargs in {
        "softmax only, not 'relu2'": {"score": Score(activation="relu2")},
        "no dropout": {"dropout_p": 0.1},
        "softmax only, not 'laplace'": {"score": Score(activation="laplace")},
        "no bias": {"score": Score(bias=torch.zeros(1, 1, 8, 8))},
        "no gradient to score.relative": {"score": Score(relative=table)},
        "no gradient to score.alibi": {"score": Score(alibi=slopes)},
    }.items():
        with pytest.raises(Unsupported, match=reason):
            attention(**x, **kwargs, backend="triton")
    with torch.no_grad():
        attention(**x, score=Score(relative=table, alibi=slopes), backend="triton")
    with pytest.raises(Unsupported, match="no fp64"):
        attention(**draw(8), backend="triton")
    with pytest.raises(Unsupported, match="at most 128 wide, not 130"):
        wide = {n: t.float() for n, t in draw(8, k=130).items()}
        attention(**wide, backend="triton")
