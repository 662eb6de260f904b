"""Depthwise convolution with a few taps: causal, centred, in segments, position by position."""

import inspect
import sys
from contextlib import nullcontext
from functools import partial
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from kernels.errors import Unsupported
from kernels.flops import count_flops
from kernels.short_conv import OP, causal_conv1d_, short_conv, short_conv_step
from kernels.tolerance import check, poisoned

B, D = 2, 5


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def arguments(n, taps, bias=True):
    tensors = {"u": drawn(B, D, n), "weight": drawn(D, taps, seed=1)}
    return tensors | ({"bias": drawn(D, seed=2)} if bias else {})


def results(backend, tensors, **rest):
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    y = short_conv(**leaves, backend=backend, **rest)
    return [y, *torch.autograd.grad(y, list(leaves.values()), drawn(*y.shape, seed=3))]


@pytest.mark.parametrize("causal,taps", [(True, 1), (True, 4), (True, 8), (False, 1), (False, 7)])
@pytest.mark.parametrize("n", [1, 2, 63, 100, 257])
def test_eager_is_the_reference(n, causal, taps):
    tensors = arguments(n, taps, bias=n != 63)
    expected = results("reference", tensors, causal=causal)
    with poisoned():
        actual = results("eager", tensors, causal=causal)
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def test_reference_is_the_sum():
    tensors = arguments(9, 3)
    u, weight, bias = tensors.values()
    for causal, left in ((True, 2), (False, 1)):
        y = short_conv(**tensors, causal=causal, backend="reference")
        for t in range(9):
            total = bias.clone()
            for w in range(3):
                if 0 <= t + w - left < 9:
                    total = total + weight[:, w] * u[..., t + w - left]
            torch.testing.assert_close(y[..., t], total.expand(B, D))


def test_it_is_the_convolution_of_torch():
    tensors = arguments(30, 5)
    u, weight, bias = tensors.values()
    y = F.conv1d(u, weight[:, None], bias, padding=2, groups=D)
    torch.testing.assert_close(short_conv(**tensors, causal=False), y)
    y = F.conv1d(u, weight[:, None], bias, padding=4, groups=D)[..., :30]
    torch.testing.assert_close(short_conv(**tensors), y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [True, False])
def test_close_to_the_truth(causal, dtype):
    def run(backend):
        return partial(short_conv, backend=backend, causal=causal)

    check(run("eager"), run("reference"), arguments(100, 3), dtype=dtype)


@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck(causal):
    leaves = [x.requires_grad_() for x in arguments(7, 3).values()]
    function = partial(short_conv, causal=causal, backend="eager")
    assert torch.autograd.gradcheck(function, leaves)


def test_causal_sees_no_later_input():
    tensors = arguments(20, 4)
    y = short_conv(**tensors)
    tensors["u"][..., 11:] = torch.nan
    changed = short_conv(**tensors)
    torch.testing.assert_close(changed[..., :11], y[..., :11])
    assert changed[..., 11:].isnan().all()


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_segments_chain(backend):
    """The last W - 1 inputs of one segment come before the next, gradients included."""
    tensors = arguments(20, 4)
    whole = short_conv(**tensors, backend=backend)
    u = tensors.pop("u").requires_grad_()
    first = short_conv(u[..., :8], **tensors, backend=backend)
    second = short_conv(u[..., 8:], **tensors, initial=u[..., 5:8], backend=backend)
    torch.testing.assert_close(torch.cat([first, second], 2), whole)
    (grad,) = torch.autograd.grad(second.sum(), u)
    assert grad[..., 5:].all() and not grad[..., :5].any()


@pytest.mark.parametrize("taps", [1, 4])
def test_steps_are_the_whole(taps):
    tensors = arguments(12, taps)
    expected = short_conv(**tensors)
    u = tensors.pop("u")
    window = u.new_zeros(B, D, taps - 1)
    for t in range(12):
        y, window = short_conv_step(u[..., t], window, **tensors)
        torch.testing.assert_close(y, expected[..., t])
        assert window.shape == (B, D, taps - 1)


def test_channels_last_and_autocast():
    """A transposed (B, N, D) is the usual input; precision does not follow autocast."""
    tensors = {name: x.float() for name, x in arguments(50, 4).items()}
    strided = tensors | {"u": tensors["u"].mT.contiguous().mT}
    assert not strided["u"].is_contiguous()
    found = []
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            found.append(results("eager", strided))
    for x, y, z in zip(*found, results("eager", tensors), strict=True):
        assert torch.equal(x, y)
        torch.testing.assert_close(x, z)


def test_weights_keep_their_precision_beside_half_inputs():
    tensors = {name: x.float().requires_grad_() for name, x in arguments(30, 4).items()}
    y = short_conv(tensors.pop("u").bfloat16(), **tensors)
    assert y.dtype == torch.bfloat16
    assert torch.autograd.grad(y.sum(), tensors["weight"])[0].dtype == torch.float32


def test_flops_are_counted():
    tensors = {name: x.float() for name, x in arguments(100, 4).items()}
    found = count_flops(lambda: short_conv(**tensors))
    assert found.total_gflop * 1e9 == pytest.approx(2 * B * D * 100 * 4, rel=0.05)
    assert found.coverage == 1


# -- the library -------------------------------------------------------------------------------


def test_library_is_called_with_its_layout(monkeypatch):
    seen = {}

    def convolve(x, weight, bias):
        seen["contiguous"] = x.is_contiguous()
        return F.conv1d(F.pad(x, (3, 0)), weight[:, None], bias, groups=D)

    fake = ModuleType("causal_conv1d")
    fake.causal_conv1d_fn = convolve
    monkeypatch.setitem(sys.modules, "causal_conv1d", fake)
    tensors = arguments(20, 4)
    tensors["u"] = tensors["u"].mT.contiguous().mT
    expected = short_conv(**tensors)
    torch.testing.assert_close(causal_conv1d_.run(**tensors), expected)
    assert seen["contiguous"]


@pytest.mark.parametrize(
    "taps,dtype,causal,reason",
    [
        (3, torch.float32, False, "causal"),
        (5, torch.float32, True, "2 to 4 taps, not 5"),
        (1, torch.float32, True, "2 to 4 taps, not 1"),
        (4, torch.float64, True, "fp64"),
        (4, torch.float32, True, "on a GPU"),
    ],
)
def test_library_refuses(taps, dtype, causal, reason):
    u, weight = torch.zeros(1, 2, 8, dtype=dtype), torch.zeros(2, taps)
    assert reason in causal_conv1d_.supports(u, weight, causal=causal)


def test_missing_library_is_named():
    reason = OP.why_not_here("causal_conv1d")
    assert reason in ("causal_conv1d is not installed (extra `gpu`)", "it needs a GPU")
    with pytest.raises(Unsupported, match="causal_conv1d"):
        short_conv(**arguments(9, 4), backend="causal_conv1d")


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"u": torch.zeros(2, 5)}, r"u must be \(B, D, N\).*\(2, 5\)"),
        ({"u": torch.zeros(2, 5, 0)}, r"u must be .*\(2, 5, 0\)"),
        ({"weight": torch.zeros(4, 3)}, r"weight must be \(D, W\) with D = 5, got \(4, 3\)"),
        ({"weight": torch.zeros(5, 0)}, r"weight must be"),
        ({"weight": torch.zeros(5, 4), "causal": False}, "4 taps, an even number"),
        ({"bias": torch.zeros(4)}, r"bias must be \(D,\) = \(5,\), got \(4,\)"),
        ({"initial": torch.zeros(2, 5, 3)}, r"initial must be .*\(2, 5, 2\), got \(2, 5, 3\)"),
        ({"initial": torch.zeros(2, 5, 2), "causal": False}, "needs causal=True"),
        ({"bias": torch.zeros(5, device="meta")}, "bias is on meta, u on cpu"),
        ({"backend": "egaer"}, "did you mean 'eager'"),
    ],
)
def test_bad_input(changes, message):
    # past the annotations, which tests check too and which would speak first
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(short_conv)(**arguments(8, 3) | changes)
