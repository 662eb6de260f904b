"""Attention: the reference against the definition, every backend against the reference."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from kernels.attention import attention
from kernels.attention.score import Score
from kernels.tolerance import check, poisoned
from tests.kernels.attention_inputs import draw, grads, holes, on

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
        if score.relative is not None:
            far = score.relative.shape[1] // 2
            table = score.relative[0]
            s = {j: x + float(table[far + max(-far, min(far, j - at))]) for j, x in s.items()}
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
        Score(soft_cap=0.7, relative=torch.tensor([[0.1, 2.0, 0.5, -1.0, 0.3]]).double()),
        Score(activation="relu2"),
        Score(activation="laplace"),
    ],
    ids=["softmax", "cap+alibi", "cap+relative", "relu2", "laplace"],
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
def test_biases_and_slopes_and_their_gradients(small_tiles, shape, kind):
    generator = torch.Generator().manual_seed(4)
    bias = torch.randn(shape, generator=generator, dtype=torch.float64)
    if shape[0] == 1:
        # what a bias of -inf hides is hidden, a whole row too
        bias = bias.masked_fill(bias > 1, -torch.inf)
        bias[..., 3, :] = -torch.inf
    slopes = torch.rand(4, generator=generator, dtype=torch.float64)
    table = torch.randn(4, 99, generator=generator, dtype=torch.float64)
    x = {**draw(150), "bias": bias, "relative": table, "alibi": slopes}
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
    x["relative"] = torch.randn(2, 5, generator=generator, dtype=torch.float64)
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
    calls = [{}, {"key_mask": holes(2, m)}, *([{"causal": True}] if n == m else [])]
    with poisoned():
        for kwargs in calls:
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


@pytest.mark.parametrize("backend", ["reference", "eager", "sdpa"])
def test_agrees_with_torch(backend):
    x = draw(33, 40, v=16, key_heads=4)
    wanted = F.scaled_dot_product_attention(x["q"], x["k"], x["v"])
    torch.testing.assert_close(attention(**x, backend=backend), wanted, rtol=1e-12, atol=1e-12)
