"""The iteration finds the pseudo-inverse, each matrix alone, and eager is the reference."""

import pytest
import torch

from kernels.iterative_pinv import iterative_pinv
from kernels.tolerance import check


def softmax_matrices(*batch, m=8, seed=0):
    scores = torch.randn(*batch, m, m, generator=torch.Generator().manual_seed(seed))
    # landmarks that mostly see themselves: well conditioned
    return (scores + 3 * torch.eye(m)).double().softmax(-1)


def test_equals_the_pseudo_inverse():
    a = softmax_matrices(2, 3)
    found = iterative_pinv(a, iterations=14)
    torch.testing.assert_close(found, torch.linalg.pinv(a), atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
@pytest.mark.parametrize("m", [1, 2, 17])
def test_eager_is_the_reference(batch, m):
    a = softmax_matrices(*batch, m=m)
    torch.testing.assert_close(
        iterative_pinv(a, backend="eager"), iterative_pinv(a, backend="reference")
    )


def test_output_and_gradient_hold_the_tolerance():
    check(
        lambda a: iterative_pinv(a, backend="eager"),
        lambda a: iterative_pinv(a, backend="reference"),
        {"a": softmax_matrices(2, 2)}, dtype=torch.float32,
    )  # fmt: skip


def test_no_matrix_changes_another():
    a = softmax_matrices(2)
    beside = torch.stack([a[0], 50 * a[1]])
    torch.testing.assert_close(iterative_pinv(beside)[0], iterative_pinv(a[:1])[0])


def test_a_masked_row_and_column_touch_no_other():
    a = softmax_matrices(m=6)
    padded = torch.eye(8, dtype=a.dtype)
    padded[:6, :6] = a
    found = iterative_pinv(padded, iterations=14)
    torch.testing.assert_close(found[:6, :6], torch.linalg.inv(a), atol=1e-9, rtol=1e-7)
    assert (found[:6, 6:] == 0).all() and (found[6:, :6] == 0).all()


def test_gradcheck():
    # rows of different sums: the norms have no gradient where two tie
    a = (softmax_matrices(2, m=4) * torch.linspace(0.7, 1.3, 4)[:, None]).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: iterative_pinv(x, backend="eager"), (a,))


@pytest.mark.parametrize(
    ("a", "iterations", "message"),
    [
        (torch.ones(3), 6, r"a must be .*\(3,\)"),
        (torch.ones(3, 3), -1, "iterations must be at least 0"),
    ],
)
def test_what_is_wrong_is_said(a, iterations, message, untyped):
    with pytest.raises(ValueError, match=message):
        iterative_pinv(a, iterations=iterations)
