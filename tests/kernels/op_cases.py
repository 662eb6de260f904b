"""A small case of every op, for what all backends promise: the arguments of their ``run``."""

import torch

from kernels.attention.score import Score
from kernels.block_sparse_attention import layouts
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
        dict(
            layout=layouts.band(N, 8, 5, 5), key_mask=None, alibi=None, scale=0.5, return_lse=True
        ),
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
