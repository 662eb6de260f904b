"""The Vandermonde kernel: against powers by a loop, at long lengths, at the edge of stability."""

import inspect
import math

import pytest
import torch

from kernels.tolerance import assert_close_to_truth, check, poisoned
from kernels.vandermonde_kernel import vandermonde_kernel


def drawn(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.complex128)


def states(*shape):
    """Decays from slow to fast, phases up to pi."""
    z = drawn(*shape, seed=1)
    return torch.complex(-z.real.abs(), z.imag.clamp(-math.pi, math.pi))


def results(backend, c, log_a, length):
    leaves = [c.clone().requires_grad_(), log_a.clone().requires_grad_()]
    kernel = vandermonde_kernel(*leaves, length, backend=backend)
    grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(2)).to(kernel)
    return [kernel, *torch.autograd.grad(kernel, leaves, grad)]


def test_reference_is_the_loop_over_powers():
    c, log_a = drawn(3, 4, seed=0), states(3, 4)
    a, power = log_a.exp(), torch.ones_like(log_a)
    taps = []
    for _ in range(20):
        taps.append(2 * (c * power).sum(-1).real)
        power = power * a
    kernel = vandermonde_kernel(c, log_a, 20, backend="reference")
    torch.testing.assert_close(kernel, torch.stack(taps, -1))


@pytest.mark.parametrize("length", [1, 2, 3, 63, 100, 257])
@pytest.mark.parametrize(
    "shape,shape_a", [((3, 4), (3, 4)), ((2, 3, 4), (3, 4)), ((3, 4), (1, 4)), ((4,), (4,))]
)
def test_eager_is_the_reference(length, shape, shape_a):
    c, log_a = drawn(*shape, seed=0), states(*shape_a)
    expected = results("reference", c, log_a, length)
    assert expected[0].shape[-1] == length
    with poisoned():
        actual = results("eager", c, log_a, length)
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-11 * y.abs().max().item())


def test_close_to_the_truth():
    def run(backend):
        return lambda c, log_a: vandermonde_kernel(c, log_a, 200, backend=backend)

    inputs = {"c": drawn(3, 8, seed=0), "log_a": states(3, 8)}
    with poisoned():
        check(run("eager"), run("reference"), inputs, dtype=torch.float32)


def test_long_kernels_near_the_unit_circle():
    """fp32 powers would be wrong by 1e-2 here; gradients too."""
    length = 16384
    log_a = torch.complex(torch.full((1, 8), -1e-6), torch.linspace(0.5, 9.5, 8)[None])
    c = drawn(1, 8, seed=0).to(torch.complex64)
    wide = (c.to(torch.complex128), log_a.to(torch.complex128))
    for name, x, y in zip(
        ("kernel", "grad c", "grad log_a"),
        results("eager", c, log_a, length),
        results("reference", *wide, length),
        strict=True,
    ):
        # the rule, with a reference that has no error but rounding a handful of times
        parts = [torch.view_as_real(t) if t.is_complex() else t for t in (x, y)]
        low = parts[1] + 1e-6 * parts[1].abs().max()
        assert_close_to_truth(name, parts[0], parts[1], low.float())


def test_gradcheck():
    leaves = [drawn(2, 3, seed=0).requires_grad_(), states(2, 3).requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda c, log_a: vandermonde_kernel(c, log_a, 7, backend="eager"), leaves
    )


def test_zero_and_negative_transitions():
    """a = 0 (its logarithm is -inf), and a < 0 (phase pi)."""
    log_a = torch.tensor([[complex(-math.inf, 0), complex(math.log(0.5), math.pi)]])
    c = torch.ones(1, 2, dtype=torch.complex64)
    expected = 2 * torch.tensor([[2.0, -0.5, 0.25, -0.125, 0.0625]])
    for backend in ("reference", "eager"):
        torch.testing.assert_close(vandermonde_kernel(c, log_a, 5, backend=backend), expected)
    leaf = log_a.requires_grad_()
    (grad,) = torch.autograd.grad(vandermonde_kernel(c, leaf, 5, backend="eager").sum(), leaf)
    assert torch.view_as_real(grad).isfinite().all()


def test_inputs_need_not_be_contiguous():
    c, log_a = drawn(3, 4, seed=0), states(3, 4)
    strided = (c.mT.contiguous().mT, log_a.mT.contiguous().mT)
    assert not strided[0].is_contiguous()
    for x, y in zip(results("eager", *strided, 20), results("eager", c, log_a, 20), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("name", ["c", "log_a"])
@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_nan_shows(backend, name):
    x = {"c": drawn(3, 4, seed=0), "log_a": states(3, 4)}
    x[name][1, 2] = torch.nan
    kernel = vandermonde_kernel(**x, length=20, backend=backend)
    # whatever a is, a^0 is 1
    assert kernel[1, 1:].isnan().all() and kernel[[0, 2]].isfinite().all()


def test_autocast_changes_nothing():
    c, log_a = drawn(3, 4, seed=0).to(torch.complex64), states(3, 4).to(torch.complex64)
    expected = vandermonde_kernel(c, log_a, 50, backend="eager")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vandermonde_kernel(c, log_a, 50, backend="eager"), expected)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"c": torch.zeros(3, 4)}, r"c must be complex \(..., n\), got torch.float32"),
        ({"log_a": torch.zeros(3, 0, dtype=torch.cfloat)}, r"log_a must be complex"),
        ({"log_a": torch.zeros(3, 5, dtype=torch.cfloat)}, "do not broadcast"),
        ({"log_a": torch.zeros(2, 4, dtype=torch.cfloat)}, "do not broadcast"),
        ({"c": torch.zeros(3, 4, dtype=torch.cdouble)}, "c is torch.complex128"),
        (
            {"log_a": torch.zeros(3, 4, dtype=torch.cfloat, device="meta")},
            "c is torch.complex64 on cpu, log_a torch.complex64 on meta",
        ),
        ({"backend": "eagre"}, "did you mean 'eager'"),
    ],
)
def test_bad_input(changes, message):
    zeros = torch.zeros(3, 4, dtype=torch.cfloat)
    # past the annotations, which tests check too and which would speak first
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(vandermonde_kernel)(**{"c": zeros, "log_a": zeros, "length": 8} | changes)
