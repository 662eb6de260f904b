"""The Cauchy kernel: against the fractions, in tiles, near poles, and as a transfer function."""

import inspect
import math

import pytest
import torch

from kernels.cauchy_kernel import cauchy_kernel, eager
from kernels.tolerance import check, poisoned


def drawn(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.complex128)


def poles(*shape):
    """Stable, with imaginary parts up to 40 (as HiPPO's at 64 states)."""
    w = drawn(*shape, seed=1)
    return torch.complex(-0.1 - w.real.abs(), 20 * w.imag)


def nodes(length):
    """On the imaginary axis: where bilinear S4 evaluates, all but the point at infinity."""
    return 1j * torch.linspace(-50, 50, length, dtype=torch.float64)


def results(backend, v, z, w):
    leaves = [x.clone().requires_grad_() for x in (v, z, w)]
    kernel = cauchy_kernel(*leaves, backend=backend)
    grad = torch.randn(
        kernel.shape, generator=torch.Generator().manual_seed(2), dtype=torch.complex128
    )
    return [kernel, *torch.autograd.grad(kernel, leaves, grad.to(kernel))]


@pytest.fixture(params=[False, True], ids=["one_tile", "tiles"])
def tiles(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(eager, "FRACTIONS", 100)
        monkeypatch.setattr(eager, "NODES", 30)


SHAPES = [
    ((3, 4), (3, 4)), ((2, 3, 4), (3, 4)), ((2, 3, 4), (1, 4)), ((3, 4), (2, 3, 4)),
    ((4,), (4,)), ((5, 1, 4), (3, 4)), ((4,), (3, 4)), ((3, 4), (4,)),
]  # fmt: skip


@pytest.mark.parametrize("length", [1, 2, 63, 100, 257])
@pytest.mark.parametrize("shape_v,shape_w", SHAPES, ids=str)
def test_eager_is_the_reference(length, shape_v, shape_w, tiles):
    arguments = drawn(*shape_v, seed=0), nodes(length), poles(*shape_w)
    expected = results("reference", *arguments)
    assert expected[0].shape[-1] == length
    with poisoned():
        actual = results("eager", *arguments)
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-12 * y.abs().max().item())


def test_one_state_many_states():
    length = 20
    arguments = drawn(2, 1, seed=0), nodes(length), poles(2, 1)
    for x, y in zip(results("eager", *arguments), results("reference", *arguments), strict=True):
        torch.testing.assert_close(x, y)


def test_close_to_the_truth(tiles):
    def run(backend):
        return lambda v, z, w: cauchy_kernel(v, z, w, backend=backend)

    inputs = {"v": drawn(4, 3, 8, seed=0), "z": nodes(257), "w": poles(3, 8)}
    check(run("eager"), run("reference"), inputs, dtype=torch.float32)


def test_gradcheck():
    leaves = [drawn(2, 3, seed=0), nodes(7) + 0.1, poles(2, 3)]
    leaves = [x.requires_grad_() for x in leaves]
    assert torch.autograd.gradcheck(lambda v, z, w: cauchy_kernel(v, z, w, backend="eager"), leaves)


def test_gradients_only_where_wanted():
    v, z, w = drawn(3, 4, seed=0), nodes(20), poles(3, 4)
    every = results("eager", v, z, w)[1:]
    grad = torch.randn(3, 20, generator=torch.Generator().manual_seed(2), dtype=torch.complex128)
    for i, expected in enumerate(every):
        leaves = [v, z, w]
        leaves[i] = leaves[i].clone().requires_grad_()
        kernel = cauchy_kernel(*leaves, backend="eager")
        (found,) = torch.autograd.grad(kernel, leaves[i], grad)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_is_the_transform_of_a_diagonal_recurrence(backend):
    """sum_l (2 Re sum_j c_j a_j^l) x^l, over all l, is a Cauchy sum in 1 / x."""
    c, a = drawn(4, seed=0), 0.6 * torch.exp(1j * torch.linspace(0.3, 3, 4, dtype=torch.float64))
    x = torch.exp(2j * math.pi * torch.arange(16, dtype=torch.float64) / 16)
    taps = 2 * (c[:, None] * a[:, None] ** torch.arange(120)).sum(0).real
    expected = (taps * x[:, None] ** torch.arange(120)).sum(1)
    # c / (1 - a x) = (c / x) / (1 / x - a)
    kernel = cauchy_kernel(c, 1 / x, a, backend=backend) / x
    torch.testing.assert_close(kernel, expected)


def test_close_to_poles_near_the_axis():
    """fp32 near slowly decaying poles: no cancellation of squares."""
    w = torch.complex(torch.full((1, 16), -1e-2), torch.linspace(1, 60, 16)).cdouble()
    v, z = drawn(1, 16, seed=0), nodes(2000)
    # the same numbers in both precisions
    v, z, w = (x.to(torch.complex64) for x in (v, z, w))
    expected = results("reference", *(x.to(torch.complex128) for x in (v, z, w)))
    for x, y in zip(results("eager", v, z, w), expected, strict=True):
        torch.testing.assert_close(
            x.to(torch.complex128), y, rtol=0, atol=2e-5 * y.abs().max().item()
        )


def test_far_nodes_vanish():
    z = torch.tensor([1e25, 1e30j], dtype=torch.complex64)
    v, w = drawn(3, seed=0).to(torch.complex64), poles(3).to(torch.complex64)
    found = results("eager", v, z, w)
    assert all(torch.view_as_real(x).isfinite().all() for x in found)
    assert not found[0].any()


def test_inputs_need_not_be_contiguous():
    v, z, w = drawn(5, 3, 4, seed=0), nodes(60), poles(3, 4)
    expected = results("eager", v, z[::2].clone(), w)
    strided = (v.mT.contiguous().mT, z[::2], w.mT.contiguous().mT)
    for x, y in zip(results("eager", *strided), expected, strict=True):
        torch.testing.assert_close(x, y)


def test_autocast_changes_nothing():
    v, z, w = (x.to(torch.complex64) for x in (drawn(3, 4, seed=0), nodes(50), poles(3, 4)))
    expected = results("eager", v, z, w)
    with torch.autocast("cpu", torch.bfloat16):
        found = results("eager", v, z, w)
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x, y)


def test_nan_shows():
    v, z, w = drawn(2, 4, seed=0), nodes(20), poles(2, 4)
    v[0, 1] = torch.nan
    kernel = cauchy_kernel(v, z, w, backend="eager")
    assert kernel[0].isnan().all() and torch.view_as_real(kernel[1]).isfinite().all()


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"z": torch.zeros(0, dtype=torch.cfloat)}, r"z must be complex \(L,\)"),
        ({"z": torch.zeros(2, 8, dtype=torch.cfloat)}, r"z must be complex .*\(2, 8\)"),
        ({"z": torch.zeros(8)}, "z must be complex .*torch.float32"),
        ({"v": torch.zeros(3, 4)}, r"v must be complex \(..., J\), got torch.float32"),
        ({"w": torch.zeros(3, 0, dtype=torch.cfloat)}, "w must be complex"),
        ({"w": torch.zeros(3, 5, dtype=torch.cfloat)}, "do not broadcast"),
        ({"w": torch.zeros(2, 4, dtype=torch.cfloat)}, "do not broadcast"),
        ({"v": torch.zeros(3, 4, dtype=torch.cdouble)}, "z is torch.complex64 on cpu, v is torch"),
        (
            {"z": torch.ones(8, dtype=torch.cfloat, device="meta")},
            "z is torch.complex64 on meta, v is torch.complex64 on cpu",
        ),
        (
            {"w": torch.zeros(3, 4, dtype=torch.cfloat, device="meta")},
            "w is torch.complex64 on meta, v is torch.complex64 on cpu",
        ),
        ({"backend": "eagre"}, "did you mean 'eager'"),
    ],
)
def test_bad_input(changes, message):
    zeros = torch.zeros(3, 4, dtype=torch.cfloat)
    defaults = {"v": zeros, "z": torch.ones(8, dtype=torch.cfloat), "w": zeros}
    # past the annotations, which tests check too and which would speak first
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(cauchy_kernel)(**defaults | changes)
