"""A NaN in any input of any op shows in its output: no backend makes a number of it."""

import math

import pytest
import torch
from torch.utils._pytree import tree_leaves

from kernels.dispatch import all_ops
from kernels.linear_attention.feature_map import PositiveRandom, Relu
from tests.kernels.op_cases import CASES, COMPLEX, N, decay, drawn


def changed(name, **changes):
    """An op's case with other arguments by name."""
    placed, named, fixed = CASES[name]()
    every = named | fixed | changes
    named = {key: x for key, x in every.items() if isinstance(x, torch.Tensor)}
    return placed, named, {key: x for key, x in every.items() if key not in named}


def linear(**changes):
    return changed("linear_attention", **{"log_decay": None} | changes)


# other ways through an op, which could lose NaN in places of their own
MORE = {
    "delta_rule": {
        "plain": lambda: changed("delta_rule", log_decay=None, initial_state=None),
    },
    "diagonal_scan": {
        "complex": lambda: (
            [0.5 * drawn(N, 3, dtype=COMPLEX), drawn(2, N, 3, seed=1, dtype=COMPLEX)],
            {"initial": drawn(2, 3, dtype=COMPLEX)}, {},
        ),
    },
    "dynamic_conv": {"causal": lambda: changed("dynamic_conv", causal=True)},
    "linear_attention": {
        "both ways": lambda: linear(causal=False),
        "no decay": linear,
        "decay of each channel": lambda: linear(log_decay=decay(2, 2, N, 4)),
        "relu": lambda: linear(feature_map=Relu(None, 1e-3)),
        "random features": lambda: linear(feature_map=PositiveRandom(drawn(5, 4), 1e-4)),
    },
    "selective_scan": {
        "from a state": lambda: changed("selective_scan", initial_state=drawn(2, 6, 3)),
    },
    "wkv": {"from a state": lambda: changed("wkv", initial_state=drawn(2, 3, 3, seed=3))},
}  # fmt: skip
# what else runs on a CPU; attention's ``sdpa`` takes no such case
OTHERS = {"long_conv": ("monarch",)}
RUNS = [
    (name, way, backend)
    for name in CASES
    for way in ("", *MORE.get(name, ()))
    for backend in ("reference", "eager", *OTHERS.get(name, ()))
]


@pytest.mark.parametrize("name,way,backend", RUNS)
def test_nan_shows(name, way, backend):
    run = all_ops()[name].module(backend).run
    placed, named, fixed = (MORE[name][way] if way else CASES[name])()
    for label, x in (*enumerate(placed), *named.items()):
        entries = x.view(-1)
        for place in (0, len(entries) // 2, len(entries) - 1):
            kept = entries[place].clone()
            entries[place] = math.nan
            y = tree_leaves(run(*placed, **named, **fixed))[0]
            assert y.isnan().any(), f"input {label}, entry {place}"
            entries[place] = kept
