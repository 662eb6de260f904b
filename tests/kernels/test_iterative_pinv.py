"""The pseudo-inverse by products: right, of each matrix alone, differentiable."""

import functools

import pytest
import torch

from kernels.iterative_pinv import iterative_pinv
from kernels.tolerance import check, poisoned

BACKENDS = ("reference", "eager")


def softmax_matrix(m, batch=(2, 3), sharpness=3.0, seed=0):
    """Row-stochastic and well conditioned: the diagonal is favoured."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(*batch, m, m, generator=generator, dtype=torch.float64)
    return (scores + sharpness * torch.eye(m, dtype=torch.float64)).softmax(-1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("m", [1, 2, 5, 17])
def test_equals_the_pseudo_inverse(backend, m):
    a = softmax_matrix(m)
    z = iterative_pinv(a, iterations=30, backend=backend)
    torch.testing.assert_close(z, torch.linalg.pinv(a), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_six_iterations_are_enough_for_a_dominant_diagonal(backend):
    a = softmax_matrix(16, sharpness=4.0)
    assert torch.linalg.svdvals(a).min() > 0.1
    error = iterative_pinv(a, backend=backend) - torch.linalg.pinv(a)
    assert error.abs().max() < 1e-3
    worse = iterative_pinv(a, iterations=2, backend=backend) - torch.linalg.pinv(a)
    assert worse.abs().max() > 1e-2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_matrices_that_are_not_square(backend, shape):
    a = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = iterative_pinv(a, iterations=40, backend=backend)
    torch.testing.assert_close(z, torch.linalg.pinv(a), rtol=1e-8, atol=1e-8)


def test_one_iteration_is_the_formula():
    a = softmax_matrix(4)
    eye = torch.eye(4, dtype=torch.float64)
    for i in range(2):
        for j in range(3):
            x = a[i, j]
            z = x.T / (torch.linalg.norm(x, 1) * torch.linalg.norm(x, torch.inf))
            z = 0.25 * z @ (13 * eye - x @ z @ (15 * eye - x @ z @ (7 * eye - x @ z)))
            for backend in BACKENDS:
                torch.testing.assert_close(
                    iterative_pinv(a, iterations=1, backend=backend)[i, j], z
                )


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_matrices_of_a_batch_do_not_influence_each_other(backend):
    a = softmax_matrix(5)
    together = iterative_pinv(torch.cat([a, 100 * a]), iterations=3, backend=backend)
    torch.testing.assert_close(together[:2], iterative_pinv(a, iterations=3, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_and_columns_of_zeros_stay_zero_and_change_nothing(backend):
    a = torch.zeros(2, 9, 9, dtype=torch.float64)
    a[0, 2:7, 2:7] = softmax_matrix(5)[0, 0]
    a.requires_grad_()
    z = iterative_pinv(a, backend=backend)
    inside = iterative_pinv(a[0, 2:7, 2:7], backend=backend)
    torch.testing.assert_close(z[0, 2:7, 2:7], inside)
    assert (z[0].abs().sum() - inside.abs().sum()).abs() < 1e-9
    # a matrix of zeros has an inverse of zeros
    assert torch.equal(z[1], torch.zeros_like(z[1]))
    (grad,) = torch.autograd.grad(z.square().sum(), a)
    assert grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("m", [1, 2, 63, 100, 257])
def test_eager_holds_the_tolerance(m, dtype):
    pair = (functools.partial(iterative_pinv, backend=b) for b in ("eager", "reference"))
    with poisoned():
        check(*pair, {"a": softmax_matrix(m)}, dtype=dtype)


def test_gradcheck():
    a = softmax_matrix(4, batch=(2,)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: iterative_pinv(a, backend="eager"), a)


def test_eager_equals_the_reference_and_takes_any_layout():
    a = softmax_matrix(6).transpose(-1, -2)
    assert not a.is_contiguous()
    wanted = iterative_pinv(a, backend="reference")
    torch.testing.assert_close(iterative_pinv(a, backend="eager"), wanted, rtol=1e-12, atol=1e-12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = iterative_pinv(a, backend="eager")
    torch.testing.assert_close(inside, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_does_not_become_zero(backend):
    a = softmax_matrix(4)
    a[0, 0, 1, 2] = torch.nan
    z = iterative_pinv(a, backend=backend)
    assert z[0, 0].isnan().any() and z[1].isfinite().all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"a must be .*\(3, 0, 4\)"):
        iterative_pinv(torch.zeros(3, 0, 4))
    with pytest.raises(ValueError, match="iterations must be at least 0, got -1"):
        iterative_pinv(torch.eye(3), iterations=-1)
