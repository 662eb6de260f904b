"""Long convolution: causal, bidirectional, ragged, short and long kernels."""

import inspect
from contextlib import nullcontext

import pytest
import torch

from kernels.long_conv import long_conv
from kernels.long_conv.eager import fast_size
from kernels.long_conv.monarch import factors, monarch_fft, monarch_ifft
from kernels.tolerance import check, poisoned

B, D = 2, 3


def drawn(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def arguments(n, taps, reverse_taps):
    tensors = {"u": drawn(B, D, n, seed=0), "kernel": drawn(D, taps, seed=1)}
    if reverse_taps:
        tensors |= {"skip": drawn(D, seed=2), "kernel_reverse": drawn(D, reverse_taps, seed=3)}
    return tensors


def results(backend, tensors):
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    y = long_conv(**leaves, backend=backend)
    found = torch.autograd.grad(y, list(leaves.values()), drawn(*y.shape, seed=4, dtype=y.dtype))
    return [y, *found]


def taps_of(n):
    """Causal and bidirectional; shorter than the sequence, as long, longer."""
    short = max(n // 3, 1)
    return [(n, 0), (short, 0), (n + 9, 0), (n, n), (short, n + 9), (n + 9, short), (1, 1)]


CASES = [(n, *taps) for n in (1, 2, 63, 100, 257) for taps in taps_of(n)]


FORMS = pytest.mark.parametrize("backend", ["eager", "monarch"])


@FORMS
@pytest.mark.parametrize("n,taps,reverse_taps", CASES)
def test_is_the_toeplitz_product(n, taps, reverse_taps, backend):
    tensors = arguments(n, taps, reverse_taps)
    with poisoned():
        actual = results(backend, tensors)
    for x, y in zip(actual, results("reference", tensors), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11 * max(n, 1))


def test_reference_is_the_sum():
    n = 12
    u, kernel, skip, future = arguments(n, 5, 4).values()
    expected = torch.zeros_like(u)
    for t in range(n):
        for s in range(n):
            lag = t - s
            if 0 <= lag < 5:
                expected[:, :, t] += kernel[:, lag] * u[:, :, s]
            if 0 <= -lag - 1 < 4:
                expected[:, :, t] += future[:, -lag - 1] * u[:, :, s]
    expected += skip[:, None] * u
    y = long_conv(u, kernel, skip, kernel_reverse=future, backend="reference")
    torch.testing.assert_close(y, expected)


@FORMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_close_to_the_truth(dtype, backend):
    def run(name):
        return lambda **x: long_conv(**x, backend=name)

    check(run(backend), run("reference"), arguments(257, 257, 257), dtype=dtype)


@FORMS
@pytest.mark.parametrize("reverse_taps", [0, 4])
def test_gradcheck(reverse_taps, backend):
    tensors = arguments(7, 5, reverse_taps)
    leaves = [x.clone().requires_grad_() for x in tensors.values()]

    def function(*values):
        return long_conv(**dict(zip(tensors, values, strict=True)), backend=backend)

    assert torch.autograd.gradcheck(function, leaves)


def test_causal_sees_no_future_and_wraps_nothing_around():
    u = torch.zeros(1, 1, 100, dtype=torch.float64)
    u[..., 40] = 1
    kernel = torch.ones(1, 100, dtype=torch.float64)
    y = long_conv(u, kernel, backend="eager")[0, 0]
    torch.testing.assert_close(y, (torch.arange(100) >= 40).double())
    y = long_conv(u, 0 * kernel, kernel_reverse=kernel, backend="eager")[0, 0]
    torch.testing.assert_close(y, (torch.arange(100) < 40).double())


def test_fast_sizes():
    for least in range(1, 2000):
        size = fast_size(least)
        assert size >= least and size % 2 == 0
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        assert rest == 1
    # not simply the next power of two
    assert fast_size(2 * 257 - 1) == 540


@pytest.mark.parametrize("size", [2, 6, 12, 100, 540, 1024])
def test_monarch_fft_is_the_fft(size):
    """Both Fourier matrices and the twiddles between them, at every frequency."""
    x = drawn(B, D, size, seed=0)
    p, q = factors(size)
    spectrum = monarch_fft(x)
    # row k, column l holds frequency k + P l
    torch.testing.assert_close(spectrum.mT.flatten(-2), torch.fft.fft(x), rtol=1e-11, atol=1e-11)
    assert spectrum.shape == (B, D, p, q) and p <= q and p * q == size
    torch.testing.assert_close(monarch_ifft(spectrum), x, rtol=1e-11, atol=1e-12)


def test_inputs_need_not_be_contiguous():
    tensors = arguments(63, 63, 63)
    strided = tensors | {"u": tensors["u"].mT.contiguous().mT}
    for x, y in zip(results("eager", strided), results("eager", tensors), strict=True):
        torch.testing.assert_close(x, y)


def test_autocast_changes_nothing():
    tensors = {name: x.float() for name, x in arguments(63, 63, 63).items()}
    found = []
    for context in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            found.append(results("eager", tensors))
    for x, y in zip(*found, strict=True):
        assert torch.equal(x, y)


def test_nan_shows():
    tensors = arguments(20, 20, 0)
    tensors["u"][0, 1, 5] = torch.nan
    y = long_conv(**tensors, backend="eager")
    assert y[0, 1, 5:].isnan().all() and y[1].isfinite().all()


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"u": torch.zeros(B, D)}, r"u must be \(B, D, N\)"),
        ({"u": torch.zeros(B, D, 0)}, r"u must be .*\(2, 3, 0\)"),
        ({"kernel": torch.zeros(4, 8)}, r"kernel must be \(D, L\) with D = 3, got \(4, 8\)"),
        ({"kernel_reverse": torch.zeros(D, 0)}, r"kernel_reverse must be .*\(3, 0\)"),
        ({"skip": torch.zeros(D, 1)}, r"skip must be \(D,\) = \(3,\), got \(3, 1\)"),
        ({"skip": torch.zeros(D, device="meta")}, "skip is on meta, u on cpu"),
        ({"backend": "fft"}, "long_conv has no backend 'fft'"),
    ],
)
def test_bad_input(changes, message):
    # past the annotations, which tests check too and which would speak first
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(long_conv)(
            **{"u": torch.zeros(B, D, 8), "kernel": torch.zeros(D, 8)} | changes
        )
