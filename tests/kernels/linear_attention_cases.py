"""Cases of linear attention: both directions, feature maps, decays, states, masks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels.linear_attention import linear_attention
from kernels.linear_attention.feature_map import EluPlusOne, Identity, PositiveRandom, Relu

K, V, M = 6, 5, 9


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal values in fp64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def qkv(n: int, m: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of two examples and three heads."""
    m = m or n
    return drawn(2, 3, n, K), drawn(2, 3, m, K, seed=1), drawn(2, 3, m, V, seed=2)


def holes(m: int) -> Tensor:
    """The first example has no key, the second one in three."""
    mask = drawn(2, m, seed=3) > 0.4
    mask[0] = False
    return mask


def mixed_decay(*shape: int) -> Tensor:
    """Log-decays near 0, moderate, and so strong that everything is forgotten."""
    g = -(drawn(*shape, seed=4).abs() ** 3)
    return torch.where(drawn(*shape, seed=5) > 1.7, -1e4, g)


POSITIVE = PositiveRandom(drawn(M, K, seed=6), 1e-4, shift=drawn(2, 3, 1, 1, seed=7))
CASES: dict[str, dict[str, Any]] = {
    "both": dict(causal=False, phi=EluPlusOne()),
    "both-relu": dict(causal=False, phi=Relu(drawn(M, K, seed=6), 1e-3)),
    "both-positive": dict(causal=False, phi=POSITIVE, eps=0.0),
    "both-sums": dict(causal=False, phi=Identity(), normalise=False),
    "causal": dict(causal=True, phi=EluPlusOne()),
    "causal-positive": dict(causal=True, phi=POSITIVE, eps=0.0),
    "scalar": dict(causal=True, phi=EluPlusOne(), decay="scalar"),
    "scalar-sums": dict(causal=True, phi=Identity(), decay="scalar", normalise=False),
    "channel": dict(causal=True, phi=EluPlusOne(), decay="channel"),
    "channel-sums": dict(causal=True, phi=Identity(), decay="channel", normalise=False),
}


def call(backend, q, k, v, log_decay=None, s=None, z=None, **kwargs):
    """The op with a flat tuple of results."""
    state = None if s is None else (s, z)
    y, (s, z) = linear_attention(
        q, k, v, log_decay=log_decay, initial_state=state, backend=backend, **kwargs
    )
    return y, s, z


def arguments(
    name: str, n: int, m: int | None = None, *, masked: bool = False, state: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and the rest of a case's arguments."""
    case = dict(CASES[name])
    phi, decay = case.pop("phi"), case.pop("decay", None)
    tensors = dict(zip("qkv", qkv(n, m), strict=True))
    m, width = m or n, phi.width(K)
    if decay:
        tensors["log_decay"] = mixed_decay(2, 3, m, *([width] if decay == "channel" else []))
    if state:
        tensors["s"] = drawn(2, 3, width, V, seed=8)
        if case.get("normalise", True):
            tensors["z"] = drawn(2, 3, width, seed=9).abs() + 1
    case |= {"feature_map": phi, "key_mask": holes(m) if masked else None}
    return tensors, case


def results(backend: str, tensors: dict[str, Tensor], rest: dict[str, Any]) -> Sequence[Tensor]:
    """Outputs and gradients."""
    leaves = {name: x.clone().requires_grad_() for name, x in tensors.items()}
    outputs = [x for x in call(backend, **leaves, **rest) if x is not None]
    grads = [drawn(*x.shape, seed=i) for i, x in enumerate(outputs)]
    found = torch.autograd.grad(outputs, list(leaves.values()), grads, allow_unused=True)
    return outputs + [torch.zeros(()) if g is None else g for g in found]
