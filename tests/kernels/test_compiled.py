"""``compile`` of every op: what torch traces of ``eager`` gives the same outputs and gradients."""

import pytest
import torch
from torch.utils._pytree import tree_leaves

from kernels.attention.score import Score
from kernels.block_sparse_attention import layouts
from kernels.dispatch import all_ops
from kernels.linear_attention.feature_map import EluPlusOne

N, COMPLEX = 20, torch.complex64


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def heads(*widths):
    """Tensors (2, 2, N, width), each width once."""
    return [drawn(2, 2, N, width, seed=seed) for seed, width in enumerate(widths)]


def decay(*shape):
    return -drawn(*shape, seed=7).abs()


# for each op: its tensors by place, its tensors by name, what is no tensor
CASES = {
    "attention": lambda: (
        heads(4, 4, 6), {},
        dict(causal=True, window=(9, 0), key_mask=None, score=Score(soft_cap=2.0), scale=0.5,
             dropout_p=0.0, return_lse=True),
    ),
    "block_sparse_attention": lambda: (
        heads(4, 4, 6), {},
        dict(layout=layouts.band(N, 8, 5, 5), key_mask=None, scale=0.5, return_lse=True),
    ),
    "cauchy_kernel": lambda: (
        [
            drawn(3, 4, dtype=COMPLEX),
            torch.polar(torch.ones(N), torch.linspace(0.1, 3, N)),
            drawn(3, 4, seed=1, dtype=COMPLEX) - 2,
        ], {}, {},
    ),
    "delta_rule": lambda: (
        [*heads(4, 4, 6), drawn(2, 2, N, seed=4).sigmoid()],
        {"log_decay": decay(2, 2, N), "initial_state": drawn(2, 2, 4, 6)}, {},
    ),
    "diagonal_scan": lambda: (
        [drawn(N, 3).tanh(), drawn(2, N, 3, seed=1)], {"initial": drawn(2, 3)}, {"reverse": True},
    ),
    "dynamic_conv": lambda: (heads(4, 3), {}, {"causal": False}),
    "iterative_pinv": lambda: ([drawn(2, 5, 5).softmax(-1) + torch.eye(5)], {}, {"iterations": 3}),
    "linear_attention": lambda: (
        heads(4, 4, 6), {"log_decay": decay(2, 2, N)},
        dict(causal=True, feature_map=EluPlusOne(), key_mask=None, initial_state=None,
             normalise=True, eps=1e-6),
    ),
    "long_conv": lambda: (
        [drawn(2, 3, N), drawn(3, N, seed=1), drawn(3)], {"kernel_reverse": drawn(3, 9, seed=2)},
        {},
    ),
    "merge_attention": lambda: (
        [*heads(4, 4, 4), *(drawn(2, 2, N, seed=seed) for seed in range(3))], {}, {},
    ),
    "selective_scan": lambda: (
        [
            drawn(2, 6, N), drawn(2, 6, N, seed=1), decay(6, 3), drawn(2, 1, 3, N, seed=2),
            drawn(2, 1, 3, N, seed=3), drawn(6),
        ], {"z": drawn(2, 6, N, seed=4), "delta_bias": drawn(6)}, {"delta_softplus": True},
    ),
    "short_conv": lambda: ([drawn(2, 3, N), drawn(3, 4, seed=1), drawn(3)], {}, {"causal": True}),
    "vandermonde_kernel": lambda: (
        [drawn(3, 4, dtype=COMPLEX), torch.complex(decay(3, 4), drawn(3, 4))], {}, {"length": N},
    ),
    "wkv": lambda: (
        [-decay(3), drawn(3), drawn(2, N, 3, seed=1), drawn(2, N, 3, seed=2)], {},
        {"initial_state": None},
    ),
}  # fmt: skip


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
    # traced and differentiated as for "compile", without minutes of a C++ compiler, and at sizes
    # that are numbers, a tenth of the time of symbols
    compiled = torch.compile(run, backend="aot_eager")
    for got, wanted in zip(*(results(f, *CASES[name]()) for f in (compiled, run)), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
