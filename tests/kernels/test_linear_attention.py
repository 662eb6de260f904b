"""Linear attention: both directions, decays, feature maps, states, masks, memory."""

import inspect
import sys
from contextlib import nullcontext
from functools import partial
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.errors import Unsupported
from kernels.linear_attention import OP, fla_, linear_attention, slices
from kernels.linear_attention import causal as causal_form
from kernels.linear_attention.feature_map import EluPlusOne, Identity, PositiveRandom, Relu
from kernels.tolerance import check, poisoned
from lra.measurement.memory import predict_memory_mib

K, V, M = 6, 5, 9
RAGGED = (1, 2, 63, 100, 257)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def qkv(n, m=None):
    m = m or n
    return drawn(2, 3, n, K), drawn(2, 3, m, K, seed=1), drawn(2, 3, m, V, seed=2)


def holes(m):
    """The first example has no key, the second one in three."""
    mask = drawn(2, m, seed=3) > 0.4
    mask[0] = False
    return mask


def mixed_decay(*shape):
    """Log-decays near 0, moderate, and so strong that everything is forgotten."""
    g = -(drawn(*shape, seed=4).abs() ** 3)
    return torch.where(drawn(*shape, seed=5) > 1.7, -1e4, g)


def positive(eps=1e-4):
    return PositiveRandom(drawn(M, K, seed=6), eps, shift=drawn(2, 3, 1, 1, seed=7))


CASES = {
    "both": dict(causal=False, phi=EluPlusOne()),
    "both-relu": dict(causal=False, phi=Relu(drawn(M, K, seed=6), 1e-3)),
    "both-positive": dict(causal=False, phi=positive(), eps=0.0),
    "both-sums": dict(causal=False, phi=Identity(), normalise=False),
    "causal": dict(causal=True, phi=EluPlusOne()),
    "causal-positive": dict(causal=True, phi=positive(), eps=0.0),
    "scalar": dict(causal=True, phi=EluPlusOne(), decay="scalar"),
    "scalar-sums": dict(causal=True, phi=Identity(), decay="scalar", normalise=False),
    "channel": dict(causal=True, phi=EluPlusOne(), decay="channel"),
    "channel-sums": dict(causal=True, phi=Identity(), decay="channel", normalise=False),
}


def call(backend, q, k, v, log_decay=None, s=None, z=None, **kwargs):
    """The op with a flat tuple of results."""
    state = None if s is None else (s, z)
    y, (s, z) = linear_attention(
        q, k, v, log_decay=log_decay, initial_state=state, backend=backend, **kwargs
    )
    return y, s, z


def arguments(case, n, m=None, *, masked=False, state=False):
    """Tensors and the rest of a case's arguments."""
    case = dict(CASES[case])
    phi, decay = case.pop("phi"), case.pop("decay", None)
    tensors = dict(zip("qkv", qkv(n, m), strict=True))
    m, width = m or n, phi.width(K)
    if decay:
        tensors["log_decay"] = mixed_decay(2, 3, m, *([width] if decay == "channel" else []))
    if state:
        tensors["s"] = drawn(2, 3, width, V, seed=8)
        if case.get("normalise", True):
            tensors["z"] = drawn(2, 3, width, seed=9).abs() + 1
    case |= {"feature_map": phi, "key_mask": holes(m) if masked else None}
    return tensors, case


def results(backend, tensors, rest):
    """Outputs and gradients."""
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    outputs = [x for x in call(backend, **leaves, **rest) if x is not None]
    grads = [drawn(*x.shape, seed=i) for i, x in enumerate(outputs)]
    found = torch.autograd.grad(outputs, list(leaves.values()), grads, allow_unused=True)
    return outputs + [torch.zeros(()) if g is None else g for g in found]


@pytest.fixture
def many_slices(monkeypatch):
    """Slices so short that even these lengths need several."""
    monkeypatch.setattr(slices, "FEATURES", 1500)
    monkeypatch.setattr(slices, "SHORTEST", 1)
    monkeypatch.setattr(causal_form, "CHUNK", 16)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "masked"])
@pytest.mark.parametrize("n", RAGGED)
@pytest.mark.parametrize("case", CASES)
def test_eager_is_the_reference(case, n, masked, many_slices):
    tensors, rest = arguments(case, n, masked=masked, state=n != 63)
    expected = results("reference", tensors, rest)
    size = max(x.abs().max() for x in expected)
    with poisoned():
        actual = results("eager", tensors, rest)
    for x, y in zip(actual, expected, strict=True):
        # a gradient that vanishes is held to rounding on the scale of the others
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11 * size.item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_close_to_the_truth(case, dtype):
    tensors, rest = arguments(case, 100, state=True)
    check(partial(call, "eager"), partial(call, "reference"), tensors, dtype=dtype, **rest)


def test_reference_is_the_matrix_form():
    """e^{G_i - G_j} phi(q_i) . phi(k_j), row-normalised: no recurrence anywhere."""
    tensors, rest = arguments("scalar", 40)
    y, s, z = call("reference", **tensors, **rest)
    sums = tensors["log_decay"].clamp(min=-800).cumsum(-1)
    phi_q, phi_k = (EluPlusOne()(tensors[x], keys=False) for x in "qk")
    weights = (phi_q @ phi_k.mT) * (sums[..., :, None] - sums[..., None, :]).tril().exp().tril()
    expected = weights @ tensors["v"] / (weights.sum(-1, keepdim=True) + 1e-6)
    torch.testing.assert_close(y, expected)
    left = (sums[..., -1:] - sums).exp()[..., None] * phi_k
    torch.testing.assert_close(s, left.mT @ tensors["v"])
    torch.testing.assert_close(z, left.sum(2))


@pytest.mark.parametrize("case", CASES)
def test_gradcheck(case, monkeypatch):
    monkeypatch.setattr(slices, "FEATURES", 100)
    monkeypatch.setattr(slices, "SHORTEST", 1)
    monkeypatch.setattr(causal_form, "CHUNK", 4)
    tensors, rest = arguments(case, 9, state=True)
    if isinstance(rest["feature_map"], PositiveRandom):
        # no gradient goes through the stabiliser, which cancels where eps is 0 only
        rest["feature_map"] = positive(eps=0.0)
    tensors = {name: x[:1, :1].clone().requires_grad_() for name, x in tensors.items()}
    if isinstance(rest["feature_map"], PositiveRandom):
        rest["feature_map"] = PositiveRandom(drawn(M, K, seed=6), 0.0, drawn(1, 1, 1, 1, seed=7))

    def function(*values):
        outputs = call("eager", **dict(zip(tensors, values, strict=True)), **rest)
        normalised = rest.get("normalise", True)
        # states of a stabilised map are relative to the constant of the queries: outputs only
        return outputs if normalised else outputs[:2]

    assert torch.autograd.gradcheck(function, tuple(tensors.values()))


# -- decays ------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", ["scalar", "channel"])
@pytest.mark.parametrize("value", [0.0, -1e-7, -1e-3, -30.0, -1e4, -torch.inf])
def test_constant_decay_is_safe(decay, value):
    n = 200
    tensors, rest = arguments(f"{decay}-sums", n)
    g = torch.full_like(tensors["log_decay"], value)
    fp32 = {name: x.float() for name, x in tensors.items()} | {"log_decay": g.float()}
    expected = results("reference", tensors | {"log_decay": g}, rest)
    for x, y in zip(results("eager", fp32, rest), expected, strict=True):
        scale = max(y.abs().max().item(), 1.0)
        torch.testing.assert_close(x.double(), y, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("decay", ["scalar", "channel"])
@pytest.mark.parametrize("strong", [-1e4, -torch.inf])
def test_weak_decays_after_a_strong_one_are_exact(decay, strong):
    """A difference of two long sums would have lost them."""
    n, at = 120, 37
    tensors, rest = arguments(f"{decay}-sums", n)
    g = torch.full_like(tensors["log_decay"], -1e-3)
    g[:, :, at] = strong
    fp32 = {name: x.float() for name, x in (tensors | {"log_decay": g}).items()}
    y, *_ = call("eager", **fp32, **rest)
    later = {name: x[:, :, at:] for name, x in fp32.items()}
    fresh, *_ = call("eager", **later, **rest)
    atol = 2e-6 * fresh.abs().max().item()
    torch.testing.assert_close(y[:, :, at:], fresh, rtol=0, atol=atol)


@pytest.mark.parametrize("decay", ["scalar", "channel"])
def test_no_positive_exponent(decay):
    class Exponents(TorchDispatchMode):
        largest = -torch.inf

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket in (torch.ops.aten.exp, torch.ops.aten.exp_):
                self.largest = max(self.largest, args[0].max().item())
            return func(*args, **(kwargs or {}))

    tensors, rest = arguments(decay, 300)
    with Exponents() as seen:
        results("eager", tensors, rest)
    assert seen.largest == 0


def test_channel_decay_with_equal_channels_is_scalar_decay():
    tensors, rest = arguments("scalar", 130)
    wide = tensors["log_decay"][..., None].expand(-1, -1, -1, K)
    expected = call("eager", **tensors, **rest)
    for x, y in zip(call("eager", **tensors | {"log_decay": wide}, **rest), expected, strict=True):
        torch.testing.assert_close(x, y)


# -- geometry ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["causal", "scalar", "channel", "both"])
def test_segments_chain(case, many_slices):
    """The state of one segment begins the next; without ``causal`` it adds to the sums."""
    tensors, rest = arguments(case, 100)
    whole = call("eager", **tensors, **rest)
    outputs, state = [], {}
    for start, stop in ((0, 1), (1, 64), (64, 100)):
        part = {name: x[:, :, start:stop] for name, x in tensors.items()}
        y, s, z = call("eager", **part, **state, **rest)
        outputs.append(y)
        state = {"s": s, "z": z}
    torch.testing.assert_close(torch.cat((outputs), 2)[:, :, -1], whole[0][:, :, -1])
    if rest["causal"]:
        torch.testing.assert_close(torch.cat(outputs, 2), whole[0])
    torch.testing.assert_close((s, z), whole[1:])


@pytest.mark.parametrize("n,m", [(7, 100), (70, 100), (1, 2)])
def test_causal_is_aligned_at_the_end(n, m):
    tensors, rest = arguments("scalar", m)
    whole, *state = call("eager", **tensors, **rest)
    tensors["q"] = tensors["q"][:, :, m - n :]
    y, *other = call("eager", **tensors, **rest)
    torch.testing.assert_close(y, whole[:, :, m - n :])
    torch.testing.assert_close(other, state)


def test_queries_before_the_first_key_give_zeros():
    tensors, rest = arguments("causal", 10, 4)
    y, *_ = call("eager", **tensors, **rest)
    assert not y[:, :, :6].any()
    tensors["q"] = tensors["q"][:, :, 6:]
    torch.testing.assert_close(y[:, :, 6:], call("eager", **tensors, **rest)[0])


def test_bidirectional_is_rectangular():
    tensors, rest = arguments("both", 5, 80, masked=True)
    expected = results("reference", tensors, rest)
    for x, y in zip(results("eager", tensors, rest), expected, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("case", ["both-positive", "causal-positive", "scalar", "channel"])
def test_hidden_keys_never_leak(case):
    tensors, rest = arguments(case, 100, masked=True)
    hidden = ~rest["key_mask"]
    clean = results("eager", tensors, rest)
    for name in "kv":
        tensors[name] = tensors[name].masked_fill(hidden[:, None, :, None], torch.nan)
    for x, y in zip(results("eager", tensors, rest), clean, strict=True):
        torch.testing.assert_close(x, y)
    grad_k, grad_v = clean[4:6]
    for grad in (grad_k, grad_v):
        assert not grad.transpose(1, 2)[hidden].any()


def test_no_key_gives_zero():
    tensors, rest = arguments("both", 5)
    rest |= {"key_mask": torch.zeros(2, 5, dtype=torch.bool), "eps": 0.0}
    for causal in (False, True):
        y, *grads = results("eager", tensors, rest | {"causal": causal})
        assert not y.any()
        assert all(g.isfinite().all() for g in grads)


def test_nan_in_a_real_key_shows():
    tensors, rest = arguments("causal", 10)
    tensors["k"][0, 0, 3, 0] = torch.nan
    y, *_ = call("eager", **tensors, **rest)
    assert y[0, 0, 3:].isnan().all() and y[0, 1:].isfinite().all() and y[1].isfinite().all()


def test_inputs_need_not_be_contiguous():
    tensors, rest = arguments("scalar", 70)
    strided = {
        name: torch.stack([x, x], -1).transpose(0, 1).contiguous().transpose(0, 1)[..., 0]
        for name, x in tensors.items()
    }
    assert not strided["q"].is_contiguous()
    for x, y in zip(results("eager", strided, rest), results("eager", tensors, rest), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("case", ["both", "scalar"])
def test_autocast_changes_nothing(case):
    tensors, rest = arguments(case, 70)
    tensors = {name: x.float() for name, x in tensors.items()}
    found = []
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            found.append(results("eager", tensors, rest))
    for x, y in zip(*found, strict=True):
        assert torch.equal(x, y)


# -- feature maps ------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [EluPlusOne(), Identity(), Relu(), Relu(drawn(M, K), 0.1)])
def test_pull_back_is_the_gradient(phi):
    x = drawn(1, 1, 20, K, seed=1).requires_grad_()
    y = phi(x, keys=True)
    grad = drawn(*y.shape, seed=2)
    (expected,) = torch.autograd.grad(y, x, grad)
    torch.testing.assert_close(phi.pull_back(x, y, grad), expected)


def test_elu_keeps_small_features():
    x = torch.full((1, 1, 1, 1), -30.0)
    assert EluPlusOne()(x, keys=True).item() == pytest.approx(9.36e-14, rel=1e-2)


def test_stabiliser_cancels():
    """Without eps any constant of the keys gives the same output."""
    tensors, rest = arguments("both-positive", 50)
    w = drawn(M, K, seed=6)
    found = [
        call("eager", **tensors, **rest | {"feature_map": PositiveRandom(w, 0.0, shift)})[0]
        for shift in (None, torch.full((2, 3, 1, 1), 3.0, dtype=w.dtype))
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_running_stabiliser(eps):
    """Equals the plain sums without eps, sees no later key with it, and never overflows."""
    q, k, v = qkv(90)
    k = 20 * k
    mask = holes(90)
    phi = PositiveRandom(drawn(M, K, seed=6), eps)

    def run(k, running):
        shift, step = phi.running_largest_key(k, mask)
        if not running:
            shift, step = phi.largest_key(k, mask), None
        stable = PositiveRandom(phi.projection, eps, shift)
        return linear_attention(
            q, k, v, causal=True, feature_map=stable, log_decay=step, key_mask=mask, eps=0.0
        )[0]

    y = run(k, True)
    assert y.isfinite().all()
    changed = torch.cat([k[:, :, :60], 5 * k[:, :, 60:]], 2)
    torch.testing.assert_close(run(changed, True)[:, :, :60], y[:, :, :60], rtol=1e-12, atol=1e-12)
    if eps == 0:
        torch.testing.assert_close(run(0.05 * k, True), run(0.05 * k, False))


def test_largest_key_sees_real_keys_only():
    k, mask = qkv(30)[1], holes(30)
    phi = PositiveRandom(drawn(M, K, seed=6))
    exponents = k @ phi.projection.T * K**-0.25
    largest = phi.largest_key(k.masked_fill(~mask[:, None, :, None], 1e3), mask)[..., 0, 0]
    torch.testing.assert_close(largest[1], exponents[1][:, mask[1]].amax((1, 2)))
    assert not largest[0].any()


# -- cost --------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_no_more_live_bytes_than_fused_attention(causal):
    def peak(attend):
        def build(mode):
            inputs = [torch.randn(2, 2, 8192, 64, requires_grad=True) for _ in "qkv"]
            grad = torch.randn(2, 2, 8192, 64)
            return (lambda: attend(*inputs).backward(grad)), [*inputs, grad]

        prediction = predict_memory_mib(build, device="cpu")
        assert prediction.reason is None
        return prediction.mib

    fused = peak(partial(F.scaled_dot_product_attention, is_causal=causal))
    linear = peak(lambda *x: linear_attention(*x, causal=causal, feature_map=EluPlusOne())[0])
    assert linear <= fused


def test_python_work_does_not_grow_with_the_length(monkeypatch):
    monkeypatch.setattr(slices, "FEATURES", 1)

    class Count(TorchDispatchMode):
        ops = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.ops += 1
            return func(*args, **(kwargs or {}))

    counts = []
    for n in (4096, 16384):
        tensors = {name: x[:1, :1].float() for name, x in arguments("scalar", n)[0].items()}
        with Count() as count:
            results("eager", tensors, {"causal": True, "feature_map": EluPlusOne()})
        counts.append(count.ops)
    # four times the length, at most twice the ops: slices are bounded, chunks scan in blocks
    assert counts[1] < 2 * counts[0]


# -- the library -------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [None, "scalar", "channel"])
def test_library_is_called_with_its_layout(decay, monkeypatch):
    """A fake that runs the reference in the library's layout and demands its arguments."""

    def chunk(q, k, v, scale, output_final_state, initial_state, g=None):
        assert scale == 1.0 and output_final_state and q.is_contiguous()
        assert (g is None) == (decay is None)
        q, k, v = (x.transpose(1, 2).double() for x in (q, k, v))
        y, (state, _) = linear_attention(
            q, k, v, causal=True, normalise=False, backend="reference",
            log_decay=None if g is None else g.transpose(1, 2).double(),
            initial_state=(initial_state.double(), None),
        )  # fmt: skip
        return y.transpose(1, 2).float(), state.float()

    name, function = {
        "channel": ("fla.ops.gla", "chunk_gla"),
    }.get(decay, ("fla.ops.simple_gla", "chunk_simple_gla"))
    fake = ModuleType(name)
    setattr(fake, function, chunk)
    for parent in ("fla", "fla.ops"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    monkeypatch.setitem(sys.modules, name, fake)
    case = f"{decay}-sums" if decay else "both-sums"
    tensors, rest = arguments(case, 20, state=True)
    rest |= {"causal": True, "feature_map": EluPlusOne()}
    fp32 = {name: x.float() for name, x in tensors.items()}
    expected = call("eager", **fp32, **rest)
    state = (fp32.pop("s"), None)
    y, (s, z) = fla_.run(**{"log_decay": None} | fp32 | rest, initial_state=state, eps=0.0)
    torch.testing.assert_close(y, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(s, expected[1], rtol=1e-4, atol=1e-5)
    assert z is None


@pytest.mark.parametrize(
    "changes,reason",
    [
        ({"causal": False}, "causal linear attention only"),
        ({"normalise": True}, "its normaliser is another one"),
        ({"key_mask": torch.ones(2, 8, dtype=torch.bool)}, "no key_mask"),
        ({"dtype": torch.float64}, "no fp64"),
        ({}, "on a GPU, q is on cpu"),
    ],
)
def test_library_refuses(changes, reason):
    q = torch.zeros(2, 3, 8, K, dtype=changes.pop("dtype", torch.float32))
    rest = {"causal": True, "normalise": False, "key_mask": None, "feature_map": Identity()}
    assert reason in fla_.supports(q, q, q, **rest | changes)


def test_missing_library_is_named():
    assert OP.why_not_here("fla") in ("fla is not installed (extra `gpu`)", "it needs a GPU")
    tensors, rest = arguments("scalar-sums", 8)
    with pytest.raises(Unsupported, match="fla"):
        call("fla", **tensors, **rest)


# -- bad input ---------------------------------------------------------------------------------


def bad(**changes):
    tensors, rest = arguments("both", 8)
    rest.pop("key_mask")
    return tensors | rest | changes


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"q": torch.zeros(2, 3, 8)}, r"q must be \(B, H, N, K\), got \(2, 3, 8\)"),
        ({"k": torch.zeros(2, 3, 0, K).double()}, r"k must be .*\(2, 3, 0, 6\)"),
        ({"k": torch.zeros(2, 3, 8, 7).double()}, r"k must be \(2, 3, 8, 6\), got \(2, 3, 8, 7\)"),
        ({"v": torch.zeros(2, 3, 9, V).double()}, r"v must be \(2, 3, 8, 5\), got \(2, 3, 9, 5\)"),
        ({"v": torch.zeros(2, 3, 8, V)}, "v is torch.float32, q is torch.float64"),
        ({"key_mask": torch.ones(2, 9, dtype=torch.bool)}, r"key_mask must be \(2, 8\)"),
        ({"log_decay": torch.zeros(2, 3, 8)}, "log_decay has a direction"),
        ({"causal": True, "log_decay": torch.zeros(2, 3, 9)}, r"log_decay must be \(2, 3, 8\)"),
        ({"causal": True, "log_decay": torch.zeros(2, 3, 8, 7)}, r"must be \(2, 3, 8, 6\)"),
        ({"initial_state": (torch.zeros(2, 3, K, 4), None)}, r"initial_state\[0\] must be"),
        ({"initial_state": (torch.zeros(2, 3, K, V), None)}, r"initial_state\[1\] is None"),
        ({"feature_map": Relu(torch.zeros(M, K, requires_grad=True))}, "would get none"),
        ({"backend": "egaer"}, "did you mean 'eager'"),
    ],
)
def test_bad_input(changes, message):
    # past the annotations, which tests check too and which would speak first
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(linear_attention)(**bad(**changes))


def test_more_queries_than_keys_leave_no_place_for_a_state():
    tensors, rest = arguments("causal", 9, 5, state=True)
    with pytest.raises(ValueError, match="initial_state"):
        call("auto", **tensors, **rest)


def test_unknown_backend_is_unsupported():
    with pytest.raises(Unsupported):
        linear_attention(**bad(backend="triton2"))
