"""WKV: against the double sum and the loop, with extreme keys, hidden tokens and segments."""

import inspect
from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.tolerance import check, poisoned
from kernels.wkv import wkv
from kernels.wkv.eager import running_exponent

B, D = 2, 5


def drawn(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def arguments(n, *, initial=True, size=1.0):
    tensors = {
        "w": drawn(D, seed=0).exp(),
        "u": drawn(D, seed=1),
        "k": size * drawn(B, n, D, seed=2),
        "v": drawn(B, n, D, seed=3),
    }
    # forgets nothing, forgets at once
    tensors["w"][0], tensors["w"][1] = 0, 300.0
    if initial:
        state = drawn(B, 3, D, seed=4)
        state[:, 1] = state[:, 1].abs() + 0.1
        tensors["initial_state"] = state
    return tensors


def results(backend, tensors):
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    ends = wkv(**leaves, backend=backend)
    grads = [drawn(*x.shape, seed=5, dtype=x.dtype) for x in ends]
    return [*ends, *torch.autograd.grad(ends, list(leaves.values()), grads)]


def by_double_sum(w, u, k, v):
    n = k.shape[1]
    age = torch.arange(n)[:, None] - torch.arange(n) - 1
    # (B, N, N, D)
    exponents = k[:, None] - age[..., None].clamp(min=0) * w
    weights = exponents.exp() * (age >= 0)[..., None]
    weights = weights + torch.eye(n)[..., None] * (u + k).exp()[:, None]
    return (weights * v[:, None]).sum(2) / weights.sum(2)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_is_the_double_sum(backend):
    tensors = arguments(30, initial=False)
    leaves = [x.clone().requires_grad_() for x in tensors.values()]
    y = wkv(*leaves, backend=backend)[0]
    expected = by_double_sum(*leaves)
    torch.testing.assert_close(y, expected)
    grad = drawn(*y.shape, seed=5)
    for x, z in zip(
        torch.autograd.grad(y, leaves, grad), torch.autograd.grad(expected, leaves, grad),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(x, z, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("initial", [False, True], ids=["from_nothing", "from_a_state"])
@pytest.mark.parametrize("n", [1, 2, 13, 63, 100, 257])
def test_eager_is_the_loop(n, initial):
    tensors = arguments(n, initial=initial)
    expected = results("reference", tensors)
    with poisoned():
        actual = results("eager", tensors)
    for x, y in zip(actual, expected, strict=True):
        # of one token y is v, and some gradients are 0
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10 * max(1, y.abs().max().item()))


def test_state_is_the_sums():
    w, u, k, v = arguments(40, initial=False).values()
    a, b, p = wkv(w, u, k, v, backend="eager")[1].unbind(1)
    exponents = k - torch.arange(39, -1, -1)[:, None] * w
    torch.testing.assert_close(p, exponents.amax(1))
    torch.testing.assert_close(a * p.exp(), (exponents.exp() * v).sum(1))
    torch.testing.assert_close(b * p.exp(), exponents.exp().sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_close_to_the_truth(dtype, size):
    def run(backend):
        return lambda **x: wkv(**x, backend=backend)

    check(run("eager"), run("reference"), arguments(257, size=size), dtype=dtype)


@pytest.mark.parametrize("initial", [False, True])
def test_gradcheck(initial):
    tensors = arguments(6, initial=initial)
    # a rate that can be moved to both sides
    tensors["w"][0] = 0.01
    leaves = [x.clone().requires_grad_() for x in tensors.values()]

    def function(*values):
        named = dict(zip(tensors, values, strict=True))
        y, state = wkv(**named, backend="eager")
        # the sums themselves: their scale counts as constant
        return y, state[:, :2] * state[:, 2:].detach().exp()

    assert torch.autograd.gradcheck(function, leaves)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_extreme_keys(size):
    """Softmax over keys that far apart picks one; nothing overflows, forward or backward."""
    tensors = {name: x.float() for name, x in arguments(300, size=size).items()}
    found = results("eager", tensors)
    assert all(x.isfinite().all() for x in found)
    expected = results("reference", {name: x.double() for name, x in tensors.items()})
    torch.testing.assert_close(found[0].double(), expected[0], rtol=1e-2, atol=1e-2)


def test_small_rates_beside_large_keys_still_decay():
    """In fp32, 1e4 - 1e-4 is 1e4, 30,000 times over: the weights must decay all the same."""
    n = 30_000
    k = torch.full((1, n, 1), -1e4)
    k[0, 0] = 1e4
    w, u = torch.full((1,), 1e-4), torch.full((1,), 2e4)
    v = torch.zeros(1, n, 1)
    v[0, 0] = 1
    y = wkv(w, u, k, v, backend="eager")[0]
    expected = 1 / (1 + (torch.arange(n - 1) * 1e-4).exp())
    torch.testing.assert_close(y[0, 1:, 0], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_hidden_tokens(backend):
    """A key of -inf hides its token; where nothing is visible, y and its gradients are 0."""
    tensors = arguments(40, initial=False)
    tensors["k"][0, :7] = tensors["k"][1, 20:] = -torch.inf
    tensors["k"][1, 4] = -torch.inf
    found = results(backend, tensors)
    assert all(x.isfinite().all() for x in found)
    assert not found[0][0, :7].any()
    grad_k, grad_v = found[4:]
    hidden = tensors["k"] == -torch.inf
    assert not grad_k[hidden].any() and not grad_v[hidden].any()
    # as if it were not there, but for the time that passes
    alone = wkv(*(x[:1, 7:] if x.ndim == 3 else x for x in tensors.values()), backend=backend)
    torch.testing.assert_close(found[0][:1, 7:], alone[0])
    torch.testing.assert_close(found[1][:1], alone[1])


def test_nothing_seen_at_all():
    tensors = arguments(20, initial=False)
    tensors["k"].fill_(-torch.inf)
    y, state = wkv(**tensors, backend="eager")
    assert not y.any() and not state[:, :2].any() and (state[:, 2] == -torch.inf).all()
    # a segment after it begins as at the start
    later = arguments(20, initial=False)
    chained = wkv(**later, initial_state=state, backend="eager")
    torch.testing.assert_close(chained, wkv(**later, backend="eager"))


def test_segments_chain_with_gradients():
    w, u, k, v = (x.requires_grad_() for x in arguments(100, initial=False).values())
    whole, end = wkv(w, u, k, v, backend="eager")
    state, outputs = None, []
    for part in (slice(0, 37), slice(37, 38), slice(38, None)):
        y, state = wkv(w, u, k[:, part], v[:, part], initial_state=state, backend="eager")
        outputs.append(y)
    outputs = torch.cat(outputs, dim=1)
    torch.testing.assert_close(outputs, whole)
    torch.testing.assert_close(state, end)
    grad = drawn(*whole.shape, seed=5)
    for x, y in zip(
        torch.autograd.grad(outputs, (w, u, k, v), grad),
        torch.autograd.grad(whole, (w, u, k, v), grad),
        strict=True,
    ):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("n", [1, 12, 13, 64, 500, 5000])
def test_running_exponent(n):
    k, w = drawn(1, n, 2, seed=0), torch.tensor([0.0, 0.01], dtype=torch.float64)
    shift = torch.arange(n)[:, None] * w
    torch.testing.assert_close(running_exponent(k, w), (k + shift).cummax(1).values - shift)


def test_inputs_stay_as_they_were_and_need_not_be_contiguous():
    tensors = arguments(70)
    strided = {name: x.mT.contiguous().mT if x.ndim > 1 else x for name, x in tensors.items()}
    for x, y in zip(results("eager", strided), results("eager", tensors), strict=True):
        torch.testing.assert_close(x, y)
    for name, x in strided.items():
        assert torch.equal(x, tensors[name])


def test_autocast_changes_nothing():
    tensors = {name: x.float() for name, x in arguments(63).items()}
    found = []
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            found.append(results("eager", tensors))
    for x, y in zip(*found, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("name", ["k", "v"])
def test_nan_shows(name):
    tensors = arguments(70)
    tensors[name][0, 20, 2] = torch.nan
    y, state = wkv(**tensors, backend="eager")
    assert y[0, 20:, 2].isnan().all() and state[0, 0, 2].isnan()
    assert y[0, :20].isfinite().all() and y[1].isfinite().all()


def test_no_loop_over_the_length():
    class Count(TorchDispatchMode):
        ops = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.ops += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for n in (4096, 65536):
        k, v = torch.randn(1, n, 1, requires_grad=True), torch.randn(1, n, 1)
        with Count() as count:
            wkv(torch.ones(1), torch.ones(1), k, v, backend="eager")[0].sum().backward()
        counts.append(count.ops)
    # another level of chunks, not 16 times the steps
    assert counts[1] < 2 * counts[0] and counts[0] < 4096


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"k": torch.zeros(2, 8)}, r"k must be \(B, N, D\)"),
        ({"k": torch.zeros(2, 0, D)}, r"k must be .*\(2, 0, 5\)"),
        ({"v": torch.zeros(2, 7, D)}, r"v must be \(2, 8, 5\), got \(2, 7, 5\)"),
        ({"w": torch.zeros(4)}, r"w must be \(5,\), got \(4,\)"),
        ({"u": torch.zeros(1, D)}, "u must be"),
        ({"initial_state": torch.zeros(2, D, 3)}, r"initial_state must be \(2, 3, 5\)"),
        ({"v": torch.zeros(2, 8, D, dtype=torch.int64)}, "v must be real, got torch.int64"),
        ({"w": torch.zeros(D, device="meta")}, "w is on meta, k on cpu"),
        ({"backend": "eagre"}, "did you mean 'eager'"),
    ],
)
def test_bad_input(changes, message):
    zeros = {"w": torch.zeros(D), "u": torch.zeros(D)}
    zeros |= {"k": torch.zeros(2, 8, D), "v": torch.zeros(2, 8, D)}
    # past the annotations, which tests check too and which would speak first
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(wkv)(**zeros | changes)
