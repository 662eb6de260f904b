"""The delta rule: with and without decay, in chunks, in segments, beside padding."""

import inspect
import sys
from contextlib import nullcontext
from functools import partial
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from kernels.delta_rule import OP, delta_rule, fla_
from kernels.errors import Unsupported
from kernels.flops import count_flops
from kernels.linear_attention import causal, linear_attention, slices
from kernels.tolerance import check, poisoned
from lra.measurement.memory import predict_memory_mib

B, H, K, V = 2, 3, 6, 5
KINDS = ["plain", "gated"]


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def arguments(n, kind="plain", *, state=True):
    """Unit keys, beta up to 2, decays from nearly none to all."""
    tensors = {
        "q": drawn(B, H, n, K),
        "k": F.normalize(drawn(B, H, n, K, seed=1), dim=-1),
        "v": drawn(B, H, n, V, seed=2),
        "beta": 2 * drawn(B, H, n, seed=3).sigmoid(),
    }
    if kind == "gated":
        g = -(drawn(B, H, n, seed=4).abs() ** 3)
        tensors["log_decay"] = torch.where(drawn(B, H, n, seed=5) > 1.7, -1e4, g)
    if state:
        tensors["initial_state"] = drawn(B, H, K, V, seed=6)
    return tensors


def results(backend, tensors, **rest):
    """Outputs and gradients, of the final state's too."""
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    outputs = delta_rule(**leaves, backend=backend, **rest)
    grads = [drawn(*x.shape, seed=i) for i, x in enumerate(outputs)]
    return [*outputs, *torch.autograd.grad(outputs, list(leaves.values()), grads)]


@pytest.fixture
def many_slices(monkeypatch):
    """Slices and chunks so short that even these lengths need several."""
    monkeypatch.setattr(slices, "FEATURES", 1500)
    monkeypatch.setattr(slices, "SHORTEST", 1)
    monkeypatch.setattr(causal, "CHUNK", 16)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 63, 100, 257])
def test_eager_is_the_reference(n, kind, many_slices):
    tensors = arguments(n, kind, state=n != 63)
    expected = results("reference", tensors)
    with poisoned():
        actual = results("eager", tensors)
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_chunk_length_does_not_matter(kind, monkeypatch):
    tensors = arguments(64, kind)
    expected = results("eager", tensors)
    monkeypatch.setattr(causal, "CHUNK", 8)
    for x, y in zip(results("eager", tensors), expected, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_close_to_the_truth(kind, dtype):
    def run(backend):
        return partial(delta_rule, backend=backend)

    check(run("eager"), run("reference"), arguments(100, kind), dtype=dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind, monkeypatch):
    monkeypatch.setattr(slices, "FEATURES", 40)
    monkeypatch.setattr(slices, "SHORTEST", 1)
    monkeypatch.setattr(causal, "CHUNK", 4)
    tensors = {name: x[:1, :1].clone().requires_grad_() for name, x in arguments(9, kind).items()}
    if kind == "gated":
        with torch.no_grad():
            tensors["log_decay"].clamp_(min=-3)

    def function(*values):
        return delta_rule(**dict(zip(tensors, values, strict=True)), backend="eager")

    assert torch.autograd.gradcheck(function, tuple(tensors.values()))


# -- what the rule does --------------------------------------------------------------------------


def test_orthonormal_keys_are_recalled_exactly_and_rewritten_alone():
    """With beta = 1 the last value of each key is what it finds; no other key is touched."""
    keys = torch.linalg.qr(drawn(K, K)).Q
    order = torch.tensor([0, 1, 2, 3, 4, 5, 1])
    k = keys[order][None, None]
    v = drawn(1, 1, 7, V, seed=1)
    _, state = delta_rule(k, k, v, torch.ones(1, 1, 7, dtype=k.dtype))
    found = keys @ state[0, 0]
    last = v[0, 0, [0, 6, 2, 3, 4, 5]]
    torch.testing.assert_close(found, last)


def test_orthogonal_keys_make_it_linear_attention():
    """Where no key overlaps another nothing is taken back: beta only scales the values."""
    k = torch.linalg.qr(drawn(K, K)).Q[None, None]
    q, v, beta = drawn(1, 1, K, K), drawn(1, 1, K, V, seed=1), torch.rand(1, 1, K).double()
    g = -drawn(1, 1, K, seed=2).abs()
    y, state = delta_rule(q, k, v, beta, log_decay=g)
    expected, (s, _) = linear_attention(
        q, k, beta[..., None] * v, causal=True, log_decay=g, normalise=False
    )
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(state, s)


def test_no_decay_is_a_decay_of_zero():
    tensors = arguments(100)
    expected = delta_rule(**tensors)
    for x, y in zip(delta_rule(**tensors, log_decay=torch.zeros(B, H, 100)), expected, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("value", [-1e-7, -30.0, -1e4, -torch.inf])
def test_constant_decay_is_safe(value):
    tensors = arguments(200)
    tensors["log_decay"] = torch.full((B, H, 200), value, dtype=torch.float64)
    expected = results("reference", tensors)
    fp32 = {name: x.float() for name, x in tensors.items()}
    for x, y in zip(results("eager", fp32), expected, strict=True):
        scale = max(y.abs().max().item(), 1.0)
        torch.testing.assert_close(x.double(), y, rtol=0, atol=2e-5 * scale)


def test_a_state_that_beta_in_two_keeps_does_not_grow():
    """beta = 2 and unit keys are reflections: 4,096 of them keep the norm in fp32."""
    n = 4096
    k = F.normalize(drawn(1, 1, n, K, dtype=torch.float32), dim=-1)
    state = drawn(1, 1, K, V, dtype=torch.float32)
    _, last = delta_rule(
        k, k, torch.zeros(1, 1, n, V), torch.full((1, 1, n), 2.0), initial_state=state
    )
    assert last.norm().item() == pytest.approx(state.norm().item(), rel=1e-4)


# -- geometry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_segments_chain(kind):
    tensors = arguments(100, kind)
    whole = delta_rule(**tensors)
    state, outputs = tensors.pop("initial_state"), []
    for start, stop in ((0, 1), (1, 64), (64, 100)):
        part = {name: x[:, :, start:stop] for name, x in tensors.items()}
        y, state = delta_rule(**part, initial_state=state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 2), whole[0])
    torch.testing.assert_close(state, whole[1])


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_tokens_change_nothing(kind):
    """Also in the middle, whatever they hold: as if they were not there."""
    tensors = arguments(90, kind)
    state = tensors.pop("initial_state")
    mask = drawn(B, 90, seed=7) > -0.5
    mask[1] = mask[0]
    kept = {name: x[:, :, mask[0]] for name, x in tensors.items()}
    expected = delta_rule(**kept, initial_state=state)
    hidden = ~mask[:, None]
    for name in ("k", "v", "beta", "log_decay"):
        if name in tensors:
            x = tensors[name]
            tensors[name] = x.masked_fill(hidden if x.ndim == 3 else hidden[..., None], torch.nan)
    y, last = delta_rule(**tensors, initial_state=state, key_mask=mask)
    torch.testing.assert_close(y[:, :, mask[0]], expected[0])
    torch.testing.assert_close(last, expected[1])
    found = results("eager", tensors, key_mask=mask)
    assert all(x.isfinite().all() for x in found)


def test_a_token_without_beta_changes_nothing():
    tensors = arguments(50, "gated")
    tensors["beta"][:, :, 20:] = 0
    tensors["log_decay"][:, :, 20:] = 0
    _, state = delta_rule(**tensors)
    short = {name: x if name == "initial_state" else x[:, :, :20] for name, x in tensors.items()}
    torch.testing.assert_close(state, delta_rule(**short)[1])


def test_nan_in_a_token_shows_from_there_on():
    tensors = arguments(10)
    tensors["v"][0, 0, 3] = torch.nan
    y, _ = delta_rule(**tensors)
    assert y[0, 0, 3:].isnan().all() and y[0, 1:].isfinite().all() and y[1].isfinite().all()


def test_strided_inputs_and_autocast():
    tensors = {name: x.float() for name, x in arguments(70, "gated").items()}
    strided = {name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in tensors.items()}
    assert not strided["q"].is_contiguous()
    found = []
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            found.append(results("eager", strided))
    for x, y, z in zip(*found, results("eager", tensors), strict=True):
        assert torch.equal(x, y)
        torch.testing.assert_close(x, z)


# -- cost ----------------------------------------------------------------------------------------


def test_memory_is_linear_and_small():
    """Forward and backward hold less than three times their arguments, at any length."""

    def peak(n):
        def build(mode):
            tensors = [torch.randn(1, 2, n, 64, requires_grad=True) for _ in "qkv"]
            beta = torch.rand(1, 2, n)

            def step():
                delta_rule(*tensors, beta, log_decay=-beta)[0].sum().backward()

            return step, [*tensors, beta]

        prediction = predict_memory_mib(build, device="cpu")
        assert prediction.reason is None
        return prediction.mib

    for n in (8192, 32768):
        arguments_mib = 3 * 2 * n * 64 * 4 / 2**20
        assert arguments_mib < peak(n) < 3 * arguments_mib


def test_flops_are_counted():
    tensors = {name: x.float() for name, x in arguments(64, "gated").items()}
    found = count_flops(lambda: results("eager", tensors))
    # at least reading and rewriting the state, forward
    assert found.total_gflop * 1e9 > 4 * B * H * 64 * K * V
    assert found.coverage > 0.99


# -- the library ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_library_is_called_with_its_layout(kind, monkeypatch):
    """A fake that runs the reference in the library's layout and demands its arguments."""

    def chunk(q, k, v, beta, scale, initial_state, output_final_state, g=None):
        assert scale == 1.0 and output_final_state and q.is_contiguous()
        assert (g is not None) == (kind == "gated")
        q, k, v, beta = (x.transpose(1, 2) for x in (q, k, v, beta))
        y, state = delta_rule(
            q.double(), k.double(), v.double(), beta.double(),
            log_decay=None if g is None else g.transpose(1, 2).double(),
            initial_state=initial_state.double(), backend="reference",
        )  # fmt: skip
        return y.transpose(1, 2).to(q.dtype), state.float()

    name, function = {
        "plain": ("fla.ops.delta_rule", "chunk_delta_rule"),
        "gated": ("fla.ops.gated_delta_rule", "chunk_gated_delta_rule"),
    }[kind]
    fake = ModuleType(name)
    setattr(fake, function, chunk)
    monkeypatch.setitem(sys.modules, "fla", ModuleType("fla"))
    monkeypatch.setitem(sys.modules, "fla.ops", ModuleType("fla.ops"))
    monkeypatch.setitem(sys.modules, name, fake)
    tensors = {name: x.bfloat16() for name, x in arguments(20, kind).items()}
    expected = delta_rule(**tensors)
    y, state = fla_.run(**{"log_decay": None} | tensors)
    torch.testing.assert_close(y, expected[0])
    torch.testing.assert_close(state, expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "width,dtype,reason",
    [
        (6, torch.bfloat16, "on a GPU, q is on cpu"),
        (6, torch.float32, "fp16 and bf16, not torch.float32"),
        (300, torch.bfloat16, "256 wide at most, not 300"),
    ],
)
def test_library_refuses(width, dtype, reason):
    q = torch.zeros(1, 1, 4, width, dtype=dtype)
    found = fla_.supports(q, q, q, q[..., 0], log_decay=None, initial_state=None)
    assert reason in found


def test_missing_library_is_named():
    assert OP.why_not_here("fla") in ("fla is not installed (extra `gpu`)", "it needs a GPU")
    with pytest.raises(Unsupported, match="fla"):
        delta_rule(**arguments(9), backend="fla")


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"q": torch.zeros(2, 3, 8)}, r"q must be \(B, H, N, K\).*\(2, 3, 8\)"),
        ({"v": torch.zeros(2, 3, 0, V).double()}, r"v must be .*\(2, 3, 0, 5\)"),
        ({"k": torch.zeros(2, 3, 8, 7).double()}, r"k must be \(2, 3, 8, 6\), got \(2, 3, 8, 7\)"),
        ({"v": torch.zeros(2, 3, 8, V)}, "v is torch.float32, q is torch.float64"),
        ({"beta": torch.zeros(2, 3, 9)}, r"beta must be \(2, 3, 8\), got \(2, 3, 9\)"),
        ({"log_decay": torch.zeros(2, 3, 8, 6)}, r"log_decay must be \(2, 3, 8\)"),
        ({"initial_state": torch.zeros(2, 3, V, K)}, r"initial_state must be \(2, 3, 6, 5\)"),
        ({"key_mask": torch.ones(2, 9, dtype=torch.bool)}, r"key_mask must be \(2, 8\)"),
        ({"beta": torch.zeros(2, 3, 8, device="meta")}, "beta is on meta, not on cpu"),
        ({"backend": "egaer"}, "did you mean 'eager'"),
    ],
)
def test_bad_input(changes, message):
    # past the annotations, which tests check too and which would speak first
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(delta_rule)(**arguments(8) | changes)
