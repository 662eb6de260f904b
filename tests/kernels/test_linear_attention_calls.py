"""Calls of linear attention that a library takes, and those that are refused."""

import inspect
import sys
from types import ModuleType

import pytest
import torch

from kernels.errors import Unsupported
from kernels.linear_attention import OP, fla_, linear_attention
from kernels.linear_attention.feature_map import EluPlusOne, Identity, Relu
from tests.kernels.linear_attention_cases import K, M, V, arguments, call


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


META = {"device": "meta", "dtype": torch.float64}


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
        ({"k": torch.zeros(2, 3, 8, K, **META)}, "k is on meta, not on cpu"),
        ({"v": torch.zeros(2, 3, 8, V, **META)}, "v is on meta, not on cpu"),
        (
            {"key_mask": torch.ones(2, 8, dtype=torch.bool, device="meta")},
            "key_mask is on meta, not on cpu",
        ),
        (
            {"causal": True, "log_decay": torch.zeros(2, 3, 8, device="meta")},
            "log_decay is on meta",
        ),
        ({"initial_state": (torch.zeros(2, 3, K, V, **META), None)}, r"initial_state\[0\] is on"),
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
