"""Attention: the reference against the definition, every backend against the reference."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from kernels.attention import OP, attention, eager, sdpa
from kernels.attention.score import Score
from kernels.dispatch import prefer, record
from kernels.errors import Unsupported
from kernels.tolerance import check, poisoned

BACKENDS = ("reference", "eager", "sdpa")


def draw(n, m=None, *, batch=2, heads=4, key_heads=2, k=16, v=20, dtype=torch.float64, seed=0):
    """Queries, keys and values of unit size."""
    m = n if m is None else m
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "q": (batch, heads, n, k),
        "k": (batch, key_heads, m, k),
        "v": (batch, key_heads, m, v),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
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


def on(backend, **fixed):
    """attention of one backend, bias and slopes as tensors among its arguments."""

    def call(q, k, v, bias=None, alibi=None, key_mask=None, **kwargs):
        score = Score(bias, alibi, fixed.get("soft_cap"), fixed.get("activation", "softmax"))
        rest = {n: x for n, x in fixed.items() if n not in ("soft_cap", "activation")}
        torch.manual_seed(0)
        return attention(q, k, v, key_mask=key_mask, score=score, backend=backend, **rest, **kwargs)

    return call


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that short sequences need many of them."""
    monkeypatch.setitem(eager.BUDGET, "cpu", 1 << 11)


# -- the reference is the definition ------------------------------------------------------------


def by_hand(q, k, v, causal, window, score):
    """One number at a time, positions aligned at the end."""
    n, m = len(q), len(k)
    out, lse = torch.zeros(n, v.shape[1], dtype=q.dtype), torch.full((n,), -math.inf, dtype=q.dtype)
    for i in range(n):
        at = i + m - n
        seen = [j for j in range(m) if not (causal and j > at)]
        if window is not None:
            seen = [j for j in seen if at - window[0] <= j <= at + window[1]]
        s = {j: float(q[i] @ k[j]) / math.sqrt(q.shape[1]) for j in seen}
        if score.soft_cap:
            s = {j: score.soft_cap * math.tanh(x / score.soft_cap) for j, x in s.items()}
        if score.alibi is not None:
            s = {j: x - float(score.alibi[0]) * abs(j - at) for j, x in s.items()}
        if score.activation == "softmax" and s:
            lse[i] = math.log(sum(math.exp(x) for x in s.values()))
            weights = {j: math.exp(x - float(lse[i])) for j, x in s.items()}
        elif score.activation == "relu2":
            weights = {j: max(x, 0) ** 2 for j, x in s.items()}
        else:
            spread = math.sqrt(1 / (4 * math.pi)) * math.sqrt(2)
            weights = {j: 0.5 * (1 + math.erf((x - math.sqrt(0.5)) / spread)) for j, x in s.items()}
        for j, weight in weights.items():
            out[i] += weight * v[j]
    return out, lse


@pytest.mark.parametrize("n,m", [(5, 5), (3, 7), (7, 3), (1, 4)], ids=str)
@pytest.mark.parametrize(
    "causal,window", [(False, None), (True, None), (False, (2, 1)), (True, (1, 3))]
)
@pytest.mark.parametrize(
    "score",
    [
        Score(),
        Score(soft_cap=0.7, alibi=torch.tensor([0.3], dtype=torch.float64)),
        Score(activation="relu2"),
        Score(activation="laplace"),
    ],
    ids=["softmax", "cap+alibi", "relu2", "laplace"],
)
def test_the_reference_is_the_definition(n, m, causal, window, score):
    x = draw(n, m, batch=1, heads=1, key_heads=1, k=3, v=2)
    out, lse = by_hand(x["q"][0, 0], x["k"][0, 0], x["v"][0, 0], causal, window, score)
    call = functools.partial(attention, **x, causal=causal, window=window, score=score)
    torch.testing.assert_close(call(backend="reference")[0, 0], out, rtol=0, atol=1e-13)
    if score.activation == "softmax":
        torch.testing.assert_close(call(backend="reference", return_lse=True)[1][0, 0], lse)


def test_the_laplace_function_meets_the_squared_relu():
    # value and slope agree at sqrt(1/2): that fixes its two constants
    s = torch.tensor([[[[math.sqrt(0.5)]]]], dtype=torch.float64, requires_grad=True)
    one = torch.ones_like(s)
    values = [
        attention(s, one, one, scale=1.0, score=Score(activation=name), backend="reference")
        for name in ("relu2", "laplace")
    ]
    slopes = [torch.autograd.grad(value.sum(), s)[0] for value in values]
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-12, atol=0)


# -- eager is the reference ---------------------------------------------------------------------

LENGTHS = [(1, 1), (2, 2), (63, 63), (100, 257), (257, 100), (257, 257)]
KINDS = {
    "full": {},
    "causal": {"causal": True, "return_lse": True},
    "window": {"window": (8, 8), "return_lse": True},
    "one_sided": {"window": (20, 3), "soft_cap": 1.5},
    "causal_window": {"window": (20, 3), "causal": True, "dropout_p": 0.3},
    "itself": {"window": (0, 0)},
    "wide": {"window": (200, 100), "activation": "laplace"},
    "relu2": {"window": (9, 0), "activation": "relu2"},
    "drop": {"dropout_p": 0.2, "return_lse": True},
}


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n,m", LENGTHS, ids=lambda n: str(n))
def test_eager_equals_the_reference_in_fp64(small_tiles, n, m, kind, masked):
    x = {name: t.requires_grad_() for name, t in draw(n, m).items()}
    mask = holes(2, m) if masked else None
    results = []
    for backend in ("eager", "reference"):
        with poisoned():
            y = on(backend, **KINDS[kind])(**x, key_mask=mask)
            y = y if isinstance(y, tuple) else (y,)
            results.append((*y, *grads(y, list(x.values()))))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    "shape", [(2, 4, 150, 150), (1, 4, 150, 150), (2, 1, 1, 150), (1, 1, 150, 1)]
)
@pytest.mark.parametrize("kind", ["full", "causal", "one_sided", "wide", "drop"])
def test_bias_and_slopes_and_their_gradients(small_tiles, shape, kind):
    generator = torch.Generator().manual_seed(4)
    bias = torch.randn(shape, generator=generator, dtype=torch.float64)
    if shape[0] == 1:
        # what a bias of -inf hides is hidden, a whole row too
        bias = bias.masked_fill(bias > 1, -torch.inf)
        bias[..., 3, :] = -torch.inf
    slopes = torch.rand(4, generator=generator, dtype=torch.float64)
    x = {**draw(150), "bias": bias, "alibi": slopes}
    x = {name: t.requires_grad_() for name, t in x.items()}
    results = []
    for backend in ("eager", "reference"):
        y = on(backend, **KINDS[kind])(**x)
        y = y if isinstance(y, tuple) else (y,)
        results.append((*y, *grads(y, list(x.values()))))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["causal", "one_sided", "wide", "relu2", "causal_window"])
def test_gradcheck(small_tiles, kind):
    x = draw(6, 7, batch=1, heads=2, key_heads=1, k=3, v=2)
    generator = torch.Generator().manual_seed(5)
    x["bias"] = torch.randn(1, 2, 6, 7, generator=generator, dtype=torch.float64)
    x["alibi"] = torch.rand(2, generator=generator, dtype=torch.float64)
    inputs = tuple(t.requires_grad_() for t in x.values())
    assert torch.autograd.gradcheck(on("eager", **KINDS[kind]), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", ["full", "causal", "window", "drop"])
def test_eager_holds_the_tolerance(small_tiles, dtype, kind):
    x = {**draw(100, 257), "key_mask": holes(2, 257)}
    with poisoned():
        check(on("eager", **KINDS[kind]), on("reference", **KINDS[kind]), x, dtype=dtype)


@pytest.mark.parametrize("n,m", [(1, 1), (2, 2), (63, 63), (100, 257), (257, 100)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sdpa_holds_the_tolerance(n, m, dtype):
    x = draw(n, m, v=16)
    with poisoned():
        for kwargs in ({}, {"key_mask": holes(2, m)}, {"causal": n == m}):
            pair = (
                functools.partial(attention, backend=b, **kwargs) for b in ("sdpa", "reference")
            )
            check(*pair, x, dtype=dtype)


def test_logits_of_ten_thousand():
    x = draw(40, 60, k=4, v=4)
    x = {"q": 100 * x["q"].sign(), "k": 100 * x["k"], "v": x["v"]}
    for backend in ("eager", "sdpa"):
        pair = (functools.partial(attention, backend=b) for b in (backend, "reference"))
        check(*pair, x, dtype=torch.float32, scale=1.0, grads=backend == "eager")


# -- rows without keys, NaN, memory layout ------------------------------------------------------


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


# -- dropout ------------------------------------------------------------------------------------


def test_dropout_drops_its_share_and_keeps_the_mean():
    ones = torch.ones(4, 4, 200, 1)
    y = on("eager", dropout_p=0.3)(ones, ones, ones)
    kept = y * (1 - 0.3)
    # each row averages 200 weights: 16 x 200 rows, standard error of the mean 0.0006
    assert abs(kept.mean() - 0.7) < 0.003
    assert abs(kept.std() - math.sqrt(0.3 * 0.7 / 200)) < 0.002
    torch.manual_seed(1)
    assert not torch.equal(attention(ones, ones, ones, dropout_p=0.3, backend="eager"), y)


# -- which backend, and what is refused ---------------------------------------------------------


def test_auto_prefers_the_fused_kernel_where_it_can():
    x = draw(8, v=16)
    mask = torch.ones(2, 8, dtype=torch.bool)
    fused = ({}, {"key_mask": mask}, {"causal": True})
    tiled = {
        "log-sum-exp": {"return_lse": True},
        "window": {"window": (1, 1)},
        "N x M": {"score": Score(alibi=torch.ones(4))},
        "soft cap": {"score": Score(soft_cap=1.0)},
        "not both": {"causal": True, "key_mask": mask},
        "dropout": {"dropout_p": 0.1},
    }
    for kwargs in fused:
        with record() as log:
            attention(**x, **kwargs)
        assert log["attention"].backend == "sdpa"
    for reason, kwargs in tiled.items():
        with record() as log:
            attention(**x, **kwargs)
        assert log["attention"].backend == "eager"
        assert reason in log["attention"].rejected["sdpa"]
        with pytest.raises(Unsupported, match=reason):
            attention(**x, **kwargs, backend="sdpa")
    with pytest.raises(Unsupported, match="top-left"):
        attention(**draw(3, 8, v=16), causal=True, backend="sdpa")
    # one query sees every key: the mask that sdpa cannot align is not needed
    one = draw(1, 8, v=16)
    torch.testing.assert_close(
        attention(**one, causal=True, backend="sdpa"), attention(**one, backend="reference")
    )


def test_the_cpu_kernel_is_the_fused_one():
    q, k, v = draw(64, v=16, key_heads=4, dtype=torch.float32).values()
    mask = holes(2, 64)[:, None, None, :]
    assert torch._fused_sdp_choice(q, k, v) == 1
    assert torch._fused_sdp_choice(q.requires_grad_(), k, v, mask) == 1
    # what a GPU would be asked about; on a CPU the answer is no
    assert not sdpa.has_cuda_kernel(q, k, v, mask[:, 0, 0], 0.1, False)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"q": torch.zeros(2, 4, 8)}, r"q must be .*\(2, 4, 8\)"),
        ({"k": torch.zeros(2, 4, 0, 16)}, r"k must be .*\(2, 4, 0, 16\)"),
        ({"k": torch.zeros(2, 4, 7, 16)}, r"k and v must agree .*\(2, 4, 7, 16\)"),
        ({"q": torch.zeros(3, 4, 8, 16)}, r"q and k must agree .*\(3, 4, 8, 16\)"),
        ({"q": torch.zeros(2, 3, 8, 16)}, r"multiple .*\(2, 3, 8, 16\)"),
        ({"v": torch.zeros(2, 4, 8, 16, dtype=torch.float64)}, "v is torch.float64 on cpu"),
        ({"k": torch.zeros(2, 4, 8, 16, device="meta")}, "k is torch.float32 on meta"),
        ({"window": (-1, 3)}, r"window must .*\(-1, 3\)"),
        ({"key_mask": torch.ones(2, 9, dtype=torch.bool)}, r"key_mask .*\(2, 8\).*\(2, 9\)"),
        ({"key_mask": torch.ones(2, 8)}, r"key_mask must be bool.*float32"),
        ({"dropout_p": 1.0}, "dropout_p"),
        ({"score": Score(bias=torch.zeros(2, 4, 8, 7))}, r"score.bias .*\(2, 4, 8, 7\)"),
        ({"score": Score(alibi=torch.zeros(3))}, r"score.alibi .*\(3,\)"),
        ({"score": Score(soft_cap=0.0)}, "score.soft_cap"),
        ({"score": Score(activation="relu2"), "return_lse": True}, "return_lse"),
        ({"backend": "tritn"}, "no backend 'tritn'"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_bad_input_is_named(untyped, change, message):
    good = {name: torch.zeros(2, 4, 8, 16) for name in ("q", "k", "v")}
    with pytest.raises(ValueError, match=message):
        attention(**{**good, **change})


def test_prefer_reaches_the_op():
    x = draw(5, v=16)
    with prefer({"attention": "reference"}), record() as log:
        attention(**x)
    assert log["attention"].backend == "reference"


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


def test_agrees_with_torch():
    x = draw(33, 40, v=16, key_heads=4)
    wanted = F.scaled_dot_product_attention(x["q"], x["k"], x["v"])
    for backend in BACKENDS:
        torch.testing.assert_close(attention(**x, backend=backend), wanted, rtol=1e-12, atol=1e-12)


def test_ops_table():
    assert OP.name == "attention" and OP.auto["cpu"] == ("sdpa", "eager")
