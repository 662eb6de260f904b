"""``compile`` of every op: what torch traces of ``eager`` gives the same outputs and gradients."""

from functools import partial

import pytest
import torch
from torch.utils._pytree import tree_leaves

from kernels.diagonal_scan import diagonal_scan
from kernels.dispatch import all_ops
from tests.kernels.op_cases import CASES, COMPLEX, drawn


def test_every_op_that_compiles_has_a_case():
    assert set(CASES) == {name for name, op in all_ops().items() if "compile" in op.backends}


def results(run, placed, named, fixed):
    placed = [x.clone().requires_grad_() for x in placed]
    named = {name: x.clone().requires_grad_() for name, x in named.items()}
    found = [y for y in tree_leaves(run(*placed, **named, **fixed)) if y is not None]
    ends = [drawn(*y.shape, seed=9, dtype=y.dtype) for y in found]
    return [*found, *torch.autograd.grad(found, [*placed, *named.values()], ends)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
def test_compiled_eager_equals_eager(untyped, name):
    run = all_ops()[name].module("eager").run
    # traced and differentiated as for "compile", without minutes of a C++ compiler
    compiled = torch.compile(run, backend="aot_eager", dynamic=False)
    for got, wanted in zip(*(results(f, *CASES[name]()) for f in (compiled, run)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.timeout(300)
def test_the_backend_itself_takes_complex_numbers_of_two_lengths(untyped):
    """As a user has it: torch's own compiler, and chunks, of another number at each length."""
    for n in (14, 20):
        tensors = [0.5 * drawn(n, 3, dtype=COMPLEX), drawn(2, n, 3, seed=1, dtype=COMPLEX)]
        pair = (partial(diagonal_scan, backend=backend) for backend in ("compile", "eager"))
        for got, wanted in zip(*(results(run, tensors, {}, {}) for run in pair), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
