"""The Triton convolution with a few taps, emulated: against the reference, gradients included."""

from functools import partial

import pytest
import torch

from kernels.short_conv import short_conv
from kernels.tolerance import check, poisoned

B, D = 2, 3


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def arguments(n, taps, bias=True):
    tensors = {"u": drawn(B, D, n), "weight": drawn(D, taps, seed=1)}
    return tensors | ({"bias": drawn(D, seed=2)} if bias else {})


def run(backend, causal):
    return partial(short_conv, backend=backend, causal=causal)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal,taps", [(True, 4), (False, 7)])
@pytest.mark.parametrize("n", [1, 2, 63, 100, 257])
def test_triton_is_close_to_the_truth(n, causal, taps, dtype):
    tensors = arguments(n, taps, bias=n != 63)
    with poisoned():
        check(run("triton", causal), run("reference", causal), tensors, dtype=dtype)


def test_every_configuration(in_other_configurations):
    def convolved():
        with poisoned():
            check(run("triton", True), run("reference", True), tensors, dtype=torch.float32)

    # more than one block of the smallest
    tensors = arguments(300, 3)
    in_other_configurations(convolved)


def test_strided_weights():
    tensors, results = arguments(30, 4), []
    strided = {
        "u": tensors["u"],
        "weight": tensors["weight"].mT.contiguous().mT,
        "bias": tensors["bias"].repeat_interleave(2)[::2],
    }
    for inputs in (tensors, strided):
        leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
        y = short_conv(**leaves, backend="triton")
        results.append((y, *torch.autograd.grad((y * y).sum(), list(leaves.values()))))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_channels_last():
    tensors = arguments(30, 4)
    expected = short_conv(**tensors, backend="reference")
    tensors["u"] = tensors["u"].mT.contiguous().mT
    torch.testing.assert_close(short_conv(**tensors, backend="triton"), expected)


def test_segments_chain():
    tensors = arguments(20, 4)
    whole = short_conv(**tensors, backend="triton")
    u = tensors.pop("u")
    second = short_conv(u[..., 8:], **tensors, initial=u[..., 5:8], backend="triton")
    torch.testing.assert_close(second, whole[..., 8:])


def test_nan_shows_where_it_is_seen():
    tensors = arguments(20, 3)
    tensors["u"][0, 0, 5] = torch.nan
    y = short_conv(**tensors, backend="triton")
    assert y[0, 0, 5:8].isnan().all() and int(y.isnan().sum()) == 3
