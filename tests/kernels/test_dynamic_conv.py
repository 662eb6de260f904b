"""Convolution with weights per token: the band of a matrix, causal and centred."""

import inspect
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from kernels.dynamic_conv import dynamic_conv
from kernels.flops import count_flops
from kernels.short_conv import short_conv
from kernels.tolerance import check, poisoned

B, H, K = 2, 3, 5


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def arguments(n, taps):
    return {"v": drawn(B, H, n, K), "weights": drawn(B, H, n, taps, seed=1)}


def results(backend, tensors, causal=True):
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    y = dynamic_conv(**leaves, causal=causal, backend=backend)
    return [y, *torch.autograd.grad(y, list(leaves.values()), drawn(*y.shape, seed=3))]


@pytest.mark.parametrize(
    "causal,taps", [(True, 1), (True, 4), (True, 31), (False, 1), (False, 7), (False, 33)]
)
@pytest.mark.parametrize("n", [1, 2, 16, 63, 100, 257])
def test_eager_is_the_reference(n, causal, taps):
    tensors = arguments(n, taps)
    expected = results("reference", tensors, causal)
    with poisoned():
        actual = results("eager", tensors, causal)
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal,left", [(True, 4), (False, 2)])
def test_reference_is_the_banded_matrix(causal, left):
    tensors = arguments(12, 5)
    matrix = torch.zeros(B, H, 12, 12, dtype=torch.float64)
    for t in range(12):
        for w in range(5):
            if 0 <= t + w - left < 12:
                matrix[:, :, t, t + w - left] = tensors["weights"][:, :, t, w]
    y = dynamic_conv(**tensors, causal=causal, backend="reference")
    torch.testing.assert_close(y, matrix @ tensors["v"])


def test_weights_that_are_the_same_everywhere_are_a_short_convolution():
    v, taps = drawn(B, H, 40, K), drawn(H, 4, seed=1)
    y = dynamic_conv(v, taps[None, :, None].expand(B, H, 40, 4))
    channels = v.transpose(2, 3).flatten(1, 2)
    expected = short_conv(channels, taps.repeat_interleave(K, 0))
    torch.testing.assert_close(y.transpose(2, 3).flatten(1, 2), expected)


def test_one_tap_of_one_is_the_identity():
    v = drawn(B, H, 20, K)
    assert torch.equal(dynamic_conv(v, torch.ones(B, H, 20, 1, dtype=v.dtype)), v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [True, False])
def test_close_to_the_truth(causal, dtype):
    def run(backend):
        return partial(dynamic_conv, backend=backend, causal=causal)

    tensors = arguments(100, 7)
    tensors["weights"] = F.softmax(tensors["weights"], dim=-1)
    check(run("eager"), run("reference"), tensors, dtype=dtype)


@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck(causal):
    leaves = [x[:1, :1].clone().requires_grad_() for x in arguments(18, 3).values()]
    function = partial(dynamic_conv, causal=causal, backend="eager")
    assert torch.autograd.gradcheck(function, leaves)


def test_strided_inputs_and_autocast():
    tensors = {name: x.float() for name, x in arguments(50, 3).items()}
    strided = {name: x.transpose(1, 2).contiguous().transpose(1, 2) for name, x in tensors.items()}
    assert not strided["v"].is_contiguous()
    found = []
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            found.append(results("eager", strided))
    for x, y, z in zip(*found, results("eager", tensors), strict=True):
        assert torch.equal(x, y)
        torch.testing.assert_close(x, z)


def test_nan_shows_where_it_is_seen():
    tensors = arguments(40, 3)
    tensors["v"][0, 0, 20] = torch.nan
    y = dynamic_conv(**tensors)
    assert y[0, 0, 20:23].isnan().all() and y[0, 1:].isfinite().all() and y[1].isfinite().all()


def test_flops_are_counted():
    tensors = {name: x.float() for name, x in arguments(64, 7).items()}
    found = count_flops(lambda: dynamic_conv(**tensors))
    # the dense blocks around the band are computed too
    assert 2 * B * H * K * 64 * 7 <= found.total_gflop * 1e9 <= 8 * B * H * K * 64 * 7
    assert found.coverage == 1


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"v": torch.zeros(2, 3, 8)}, r"v must be \(B, H, N, K\).*\(2, 3, 8\)"),
        ({"v": torch.zeros(2, 3, 0, 5)}, r"v must be .*\(2, 3, 0, 5\)"),
        ({"weights": torch.zeros(2, 3, 9, 3)}, r"\(B, H, N\) = \(2, 3, 8\), got \(2, 3, 9, 3\)"),
        ({"weights": torch.zeros(2, 3, 8, 0)}, "weights must be"),
        ({"weights": torch.zeros(2, 3, 8, 4), "causal": False}, "4 taps, an even number"),
        (
            {"weights": torch.zeros(2, 3, 8, 3, device="meta")},
            "weights are .* on meta, v is .* on cpu",
        ),
        ({"backend": "egaer"}, "did you mean 'eager'"),
    ],
)
def test_bad_input(changes, message):
    # past the annotations, which tests check too and which would speak first
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(dynamic_conv)(**arguments(8, 3) | changes)
