"""Launches the Triton kernels of linear attention; the delta rule shares them.

Tensors are contiguous, heads and examples in one axis: queries and keys ``(X, N, K)``, values
``(X, N, V)``, log-decays ``(X, N)`` or ``(X, N, K)``, states ``(X, n, K, V)`` in fp32, one for each
of the n chunks. Where a kernel does not read an argument, any tensor stands for it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.linear_attention.chunked import log_decay_gradient
from kernels.linear_attention.decay import FLOOR
from kernels.linear_attention.slices import in_chunks
from kernels.linear_attention.triton_kernels import tuned
from kernels.linear_attention.triton_parts import precision
from kernels.triton_tools import Tuned

# chunks that one program sums where nothing has an order
STEPS = 8


@dataclass(frozen=True)
class Setting:
    """What a call is specialised for.

    Attributes:
        heads: of an example.
        dtype: of the caller's tensors.
        phi, shift: feature map and its constant, as the kernels number them.
        decay: 0 none, 1 a head, 2 a channel.
        total: sums of weights are kept beside those of values.
        causal: chunks have states of their own.
        chunk: their positions.
    """

    heads: int
    dtype: torch.dtype
    phi: int = 0
    shift: float = 0.0
    decay: int = 0
    total: bool = False
    causal: bool = True
    chunk: int = 32

    def chunks(self, n: int) -> int:
        return -(-n // self.chunk)

    def kernel(self, name: str) -> Tuned:
        return tuned(name, self.dtype, self.decay, self.chunk)

    def constants(self, x: Tensor, v: Tensor, mask: Tensor | None) -> dict[str, Any]:
        """Those that all kernels take."""
        return {
            "K": x.shape[-1],
            "V": v.shape[-1],
            "PHI": self.phi,
            "DECAY": self.decay,
            "MASKED": mask is not None,
            "SUM": self.total,
            "C": self.chunk,
            "PRECISION": precision(self.dtype),
        }


def each_state(
    it: Setting,
    x: Tensor,
    values: Tensor,
    g: Tensor | None,
    mask: Tensor | None,
    initial: tuple[Tensor, Tensor],
    *,
    reverse: bool = False,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States before the chunks and after all; reversed, from the end: their gradient."""
    rows, n, width = x.shape
    chunks = it.chunks(n)
    states = initial[0].new_empty(rows, chunks, width, values.shape[-1])
    sums = initial[0].new_zeros(rows, chunks, width)
    last, last_sum = torch.empty_like(initial[0]), torch.zeros_like(initial[1])
    it.kernel("state")[_state_grid(rows, 1)](
        x, values, _or(weights, x), _or(g, x), _or(mask, x), *initial, states, sums, last, last_sum,
        n, it.heads, chunks, chunks, it.shift,
        REVERSE=reverse, WEIGHTED=weights is not None, EACH=True, **it.constants(x, values, mask),
    )  # fmt: skip
    return states, sums, last, last_sum


def one_state(
    it: Setting, x: Tensor, values: Tensor, mask: Tensor | None, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The sums over all positions, in no order; with ``weights`` for ones."""
    rows, n, width = x.shape
    parts = -(-it.chunks(n) // STEPS)
    last = x.new_empty(rows, parts, width, values.shape[-1], dtype=torch.float32)
    last_sum = x.new_zeros(rows, parts, width, dtype=torch.float32)
    it.kernel("state")[_state_grid(rows, parts)](
        x, values, _or(weights, x), x, _or(mask, x), last, last_sum, last, last_sum, last, last_sum,
        n, it.heads, parts * STEPS, STEPS, it.shift,
        REVERSE=False, WEIGHTED=weights is not None, EACH=False, **it.constants(x, values, mask),
    )  # fmt: skip
    return last.sum(dim=1), last_sum.sum(dim=1)


def outputs(
    it: Setting,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None,
    mask: Tensor | None,
    states: tuple[Tensor, Tensor],
    *,
    eps: float = 0.0,
    strict: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Outputs in ``dtype``, and what they were divided by."""
    rows, n, _ = q.shape
    y = v.new_empty(rows, n, v.shape[-1], dtype=dtype or it.dtype)
    normaliser = q.new_empty(rows, n, dtype=torch.float32)
    chunks = it.chunks(n)
    it.kernel("output")[lambda at: (-(-at["V"] // at["BV"]), chunks, rows)](
        q, k, v, _or(g, q), _or(mask, q), *states, y, normaliser,
        n, it.heads, chunks, it.shift, eps,
        WITHIN=it.causal, STRICT=strict, **it.constants(q, v, mask),
    )  # fmt: skip
    return y, normaliser


def query_grad(
    it: Setting,
    qkv: tuple[Tensor, Tensor, Tensor],
    grad: tuple[Tensor, Tensor],
    g: Tensor | None,
    mask: Tensor | None,
    states: tuple[Tensor, Tensor],
    *,
    strict: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Gradient in the queries, and the queries' part of that in the log-decays."""
    q, k, v = qkv
    grad_q = torch.empty_like(q, dtype=dtype)
    of_query = grad_q if g is None else torch.empty_like(g, dtype=torch.float32)
    it.kernel("query_grad")[(it.chunks(q.shape[1]), q.shape[0])](
        q, k, v, *grad, _or(g, q), _or(mask, q), *states, grad_q, of_query,
        q.shape[1], it.heads, it.chunks(q.shape[1]), it.shift,
        WITHIN=it.causal, STRICT=strict, **it.constants(q, v, mask),
    )  # fmt: skip
    return grad_q, of_query


def key_grad(
    it: Setting,
    qkv: tuple[Tensor, Tensor, Tensor],
    grad: tuple[Tensor, Tensor],
    g: Tensor | None,
    mask: Tensor | None,
    past: tuple[Tensor, Tensor] | None,
    *,
    strict: bool = False,
    values: bool = True,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients in keys and values, and the keys' parts of that in the log-decays."""
    q, k, v = qkv
    grad_k = torch.empty_like(k, dtype=dtype)
    grad_v = torch.empty_like(v, dtype=dtype) if values else grad_k
    of_pairs, of_end = (
        grad_k if g is None else torch.empty_like(g, dtype=torch.float32) for _ in "12"
    )
    it.kernel("key_grad")[(it.chunks(k.shape[1]), k.shape[0])](
        q, k, v, *grad, _or(g, k), _or(mask, k), *(past or (k, k)),
        grad_k, grad_v, of_pairs, of_end, k.shape[1], it.heads, it.chunks(k.shape[1]), it.shift,
        WITHIN=it.causal, STRICT=strict, PAST=past is not None, VALUES=values,
        **it.constants(k, v, mask),
    )  # fmt: skip
    return grad_k, grad_v, of_pairs, of_end


def decay_grad(
    it: Setting,
    g: Tensor,
    of_query: Tensor,
    of_pairs: Tensor,
    of_end: Tensor,
    through: Tensor,
) -> Tensor:
    """Gradient in the log-decays from its parts; ``through`` is what states and their gradient
    have in common, ``(X, n, K)``."""
    n, wide = g.shape[1], (g if g.ndim == 3 else g[..., None]).float()

    def chunked(x: Tensor) -> Tensor:
        return in_chunks(x.view(wide.shape)[:, None], it.chunk)

    total = in_chunks(wide.clamp(min=FLOOR)[:, None], it.chunk).sum(dim=2, keepdim=True).exp()
    found = log_decay_gradient(
        chunked(-of_pairs), chunked(of_query), chunked(of_end), through[:, :, None] * total
    )
    return found.flatten(1, 2)[:, :n].view(g.shape)


def _or(x: Tensor | None, other: Tensor) -> Tensor:
    """An argument that the kernel does not read may be any tensor."""
    return other if x is None else x


def _state_grid(rows: int, parts: int) -> Any:
    return lambda at: (-(-at["K"] // at["BK"]) * -(-at["V"] // at["BV"]), rows, parts)
