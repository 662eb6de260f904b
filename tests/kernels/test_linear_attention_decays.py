"""Decays of linear attention: safe at any strength, exact behind a strong one."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.kernels.linear_attention_cases import K, arguments, call, results


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
