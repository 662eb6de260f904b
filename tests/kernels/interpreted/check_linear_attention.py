"""Linear attention in Triton, emulated: both directions, decays, feature maps, states, masks."""

from functools import partial

import pytest
import torch

from kernels.linear_attention import linear_attention
from kernels.linear_attention.feature_map import EluPlusOne, Identity, PositiveRandom, Relu
from kernels.tolerance import check, poisoned

B, K, V, M = 2, 6, 5, 9


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def holes(m):
    """The first example has no key, the second one in three."""
    mask = drawn(B, m, seed=3) > 0.4
    mask[0] = False
    return mask


def mixed_decay(*shape):
    """Log-decays near 0, moderate, and so strong that everything is forgotten."""
    g = -(drawn(*shape, seed=4).abs() ** 3)
    return torch.where(drawn(*shape, seed=5) > 1.7, -1e4, g)


CASES = {
    "both": dict(causal=False, feature_map=EluPlusOne()),
    "both-relu": dict(causal=False, feature_map=Relu(drawn(M, K, seed=6), 1e-3)),
    "both-sums": dict(causal=False, feature_map=Identity(), normalise=False),
    "causal": dict(causal=True, feature_map=EluPlusOne()),
    "causal-relu": dict(causal=True, feature_map=Relu(None, 1e-2)),
    "causal-positive": dict(
        causal=True, eps=0.0, feature_map=PositiveRandom(drawn(M, K, seed=6), 1e-4)
    ),
    "scalar": dict(causal=True, feature_map=EluPlusOne(), decay="scalar"),
    "scalar-sums": dict(causal=True, feature_map=Identity(), decay="scalar", normalise=False),
    "channel": dict(causal=True, feature_map=EluPlusOne(), decay="channel"),
    "channel-sums": dict(causal=True, feature_map=Identity(), decay="channel", normalise=False),
}


def call(backend, q, k, v, log_decay=None, s=None, z=None, **kwargs):
    """The op with a flat tuple of results."""
    state = None if s is None else (s, z)
    y, (s, z) = linear_attention(
        q, k, v, log_decay=log_decay, initial_state=state, backend=backend, **kwargs
    )
    return y, s, z


def arguments(case, n, m=None, *, heads=1, masked=False, state=False):
    """Two examples where one is masked, else one: every example is emulated again."""
    case, m, batch = dict(CASES[case]), m or n, B if masked else 1
    decay, width = case.pop("decay", None), case["feature_map"].width(K)
    tensors = {
        "q": drawn(batch, heads, n, K),
        "k": drawn(batch, heads, m, K, seed=1),
        "v": drawn(batch, heads, m, V, seed=2),
    }
    if decay:
        widths = [width] if decay == "channel" else []
        tensors["log_decay"] = mixed_decay(batch, heads, m, *widths)
    if state:
        tensors["s"] = drawn(batch, heads, width, V, seed=8)
        if case.get("normalise", True):
            tensors["z"] = drawn(batch, heads, width, seed=9).abs() + 1
    return tensors, case | {"key_mask": holes(m) if masked else None}


def held(case, n, m=None, dtype=torch.float32, **kwargs):
    tensors, rest = arguments(case, n, m, **kwargs)
    with poisoned():
        check(partial(call, "triton"), partial(call, "reference"), tensors, dtype=dtype, **rest)


@pytest.mark.parametrize("case", CASES)
def test_ragged_and_masked(case):
    # per channel there are seven products for one: one head will do where another case has two
    held(case, 70, heads=1 if case == "channel-sums" else 2, masked=True, state=True)


@pytest.mark.parametrize(
    ("case", "n"),
    [(case, n) for case in ("both", "scalar") for n in (1, 2, 63, 257)]
    + [("channel-sums", n) for n in (1, 63)],
)
def test_any_length(n, case):
    held(case, n, state=n == 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["both", "scalar", "causal-positive"])
def test_half_precision(case, dtype):
    held(case, 70, dtype=dtype)


@pytest.mark.parametrize("case", ["both", "causal-relu", "scalar", "channel-sums"])
def test_inputs_of_ten_thousand(case):
    tensors, rest = arguments(case, 40)
    tensors |= {name: 1e4 * tensors[name] for name in "qkv"}
    with poisoned():
        check(
            partial(call, "triton"),
            partial(call, "reference"),
            tensors,
            dtype=torch.float32,
            **rest,
        )


@pytest.mark.parametrize("case,n,m", [("both", 5, 80), ("scalar", 30, 100), ("causal", 9, 4)])
def test_queries_and_keys_of_two_lengths(case, n, m):
    held(case, n, m)


@pytest.mark.parametrize("case", ["causal"])
def test_heads_wider_than_a_block(case, monkeypatch):
    monkeypatch.setitem(globals(), "K", 40)
    monkeypatch.setitem(globals(), "V", 70)
    held(case, 70)


@pytest.mark.parametrize(
    "case,dtype", [("both", torch.float32), ("scalar", torch.float16), ("channel", torch.float32)]
)
def test_every_configuration(in_other_configurations, case, dtype, monkeypatch):
    monkeypatch.setitem(globals(), "K", 40)
    monkeypatch.setitem(globals(), "V", 40)
    tensors, rest = arguments(case, 40, state=True)
    pair = (partial(call, "triton"), partial(call, "reference"))

    def attended():
        with poisoned():
            check(*pair, tensors, dtype=dtype, **rest)

    in_other_configurations(attended)


@pytest.mark.parametrize("case", ["both", "channel"])
def test_inputs_need_not_be_contiguous(case):
    tensors, rest = arguments(case, 20, heads=2, masked=True, state=True)
    mask, results = holes(20), []
    tensors = {name: x.float() for name, x in tensors.items()}
    strided = {name: x.mT.contiguous().mT for name, x in tensors.items()}
    for inputs, key_mask in ((tensors, mask), (strided, mask.mT.contiguous().mT)):
        leaves = {name: x.requires_grad_() for name, x in inputs.items()}
        found = call("triton", **leaves, **rest | {"key_mask": key_mask})
        # what comes back is not contiguous either: one number, everywhere
        back = torch.autograd.grad(sum(x.sum() for x in found), list(leaves.values()))
        results.append((*found, *back))
    assert not any(x.is_contiguous() for x in (*leaves.values(), key_mask))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("decay", ["scalar", "channel"])
@pytest.mark.parametrize("value", [0.0, -1e-7, -30.0, -torch.inf])
def test_constant_decay_is_safe(decay, value):
    tensors, rest = arguments(f"{decay}-sums", 70)
    tensors["log_decay"] = torch.full_like(tensors["log_decay"], value)
    expected = call("reference", **tensors, **rest)
    fp32 = {name: x.float().requires_grad_() for name, x in tensors.items()}
    actual = call("triton", **fp32, **rest)
    for x, y in zip(actual[:2], expected[:2], strict=True):
        scale = max(y.abs().max().item(), 1.0)
        torch.testing.assert_close(x.double(), y, rtol=0, atol=1e-5 * scale)
    grads = torch.autograd.grad(actual[0].sum(), list(fp32.values()))
    assert all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("decay", ["scalar", "channel"])
def test_weak_decays_after_a_strong_one_are_exact(decay):
    """A difference of two long sums would have lost them."""
    n, at = 70, 7
    tensors, rest = arguments(f"{decay}-sums", n)
    g = torch.full_like(tensors["log_decay"], -1e-3)
    g[:, :, at] = -1e4
    fp32 = {name: x.float() for name, x in (tensors | {"log_decay": g}).items()}
    y, *_ = call("triton", **fp32, **rest)
    later = {name: x[:, :, at:].double() for name, x in fp32.items()}
    fresh, *_ = call("reference", **later, **rest)
    atol = 2e-6 * fresh.abs().max().item()
    torch.testing.assert_close(y[:, :, at:].double(), fresh, rtol=0, atol=atol)


@pytest.mark.parametrize("case", ["both", "scalar"])
def test_hidden_keys_never_leak(case):
    tensors, rest = arguments(case, 70, masked=True)
    tensors = {name: x.float() for name, x in tensors.items()}
    clean = call("triton", **tensors, **rest)
    for name in "kv":
        hidden = ~rest["key_mask"][:, None, :, None]
        tensors[name] = tensors[name].masked_fill(hidden, torch.nan)
    for x, y in zip(call("triton", **tensors, **rest), clean, strict=True):
        torch.testing.assert_close(x, y)


def test_nan_in_a_real_key_shows():
    tensors, rest = arguments("causal", 10, heads=2)
    tensors["k"][0, 0, 3, 0] = torch.nan
    y, *_ = call("triton", **{name: x.float() for name, x in tensors.items()}, **rest)
    assert y[0, 0, 3:].isnan().all() and y[0, 0, :3].isfinite().all() and y[0, 1].isfinite().all()
