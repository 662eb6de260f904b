"""Causal linear attention of one stretch of the sequence, in chunks, and its gradient by hand.

Inside a chunk a triangular matrix, between chunks the state ``S (K, V)``. Decays stay in log space
and only sums of log-decays, all <= 0, are ever exponentiated:

    y_i = sum_{j <= i} (q_i . e^{G_i - G_j} k_j) v_j + (e^{G_i} q_i) S        G_i = g_1 + ... + g_i

Legend: X batch times heads, n chunks, C chunk, K/V widths. No normaliser here: it is one more
column of v.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.diagonal_scan.eager import scan_
from kernels.linear_attention.decay import Decay, after, before


@dataclass(frozen=True)
class Chunks:
    """Features, values and decay of one stretch."""

    q: Float[Tensor, "X n C K"]
    k: Float[Tensor, "X n C K"]
    v: Float[Tensor, "X n C V"]
    decay: Decay


@dataclass(frozen=True)
class Gradients:
    """Gradients of the same, and in the state before."""

    q: Float[Tensor, "X n C K"]
    k: Float[Tensor, "X n C K"]
    v: Float[Tensor, "X n C V"]
    log_decay: Float[Tensor, "X n C _"] | None
    state: Float[Tensor, "X K V"]


def forward(
    x: Chunks, state: Float[Tensor, "X K V"]
) -> tuple[Float[Tensor, "X n C V"], Float[Tensor, "X K V"]]:
    """Outputs, and the state after the stretch."""
    added = x.decay.to_end(x.k).mT @ x.v
    states = _states_before(x, state, added)
    y = x.decay.from_start(x.q) @ states
    x.decay.add_within_(y, x.q, x.k, x.v)
    return y, added[:, -1] + x.decay.total[:, -1] * states[:, -1]


def backward(
    x: Chunks,
    state: Float[Tensor, "X K V"],
    grad: Float[Tensor, "X n C V"],
    grad_state: Float[Tensor, "X K V"],
    *,
    of_decay: bool,
) -> Gradients:
    """Gradients from those of the outputs and of the state after; in log-decays if wanted."""
    grad_q, grad_k, grad_v, through, grad_state = _between_backward(
        x, state, grad, grad_state, of_decay
    )
    # before the pairs inside chunks are added
    from_q, from_k = (x.q * grad_q, x.k * grad_k) if of_decay else (grad_q, grad_k)
    turn = x.decay.within_backward_(x.q, x.k, x.v, grad, (grad_q, grad_k, grad_v), of_decay)
    grad_decay = None
    if turn is not None and through is not None:
        grad_decay = log_decay_gradient(turn, from_q, from_k, through)
    return Gradients(grad_q, grad_k, grad_v, grad_decay, grad_state)


def _between_backward(
    x: Chunks, state: Tensor, grad: Tensor, grad_state: Tensor, of_decay: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor]:
    """What states carry between chunks: gradients in q, k and v, what passes through each chunk
    (for that in its log-decays, if wanted), and the gradient in the state before."""
    total = x.decay.total
    decayed_k = x.decay.to_end(x.k)
    states = _states_before(x, state, decayed_k.mT @ x.v)
    reads = x.decay.from_start(x.q).mT @ grad
    # the gradient in the state after each chunk: what later chunks read of it, decayed
    past = torch.cat([reads[:, 1:], grad_state[:, None]], dim=1)
    scan_(past, total.roll(-1, dims=1), reverse=True)
    through = ((states * past).sum(dim=-1, keepdim=True) * total).mT if of_decay else None
    grad_state = reads[:, 0] + total[:, 0] * past[:, 0]
    del reads  # as large as what follows: live bytes must not exceed fused attention's
    grad_q = x.decay.from_start(grad @ states.mT)
    grad_k = x.decay.to_end(x.v @ past.mT)
    return grad_q, grad_k, decayed_k @ past, through, grad_state


def _states_before(x: Chunks, state: Tensor, added: Tensor) -> Tensor:
    """State before each chunk, from the one before all and what each chunk adds."""
    states = torch.cat([state[:, None], added[:, :-1]], dim=1)
    return scan_(states, x.decay.total.roll(1, dims=1))


def log_decay_gradient(turn: Tensor, from_q: Tensor, from_k: Tensor, through: Tensor) -> Tensor:
    """Gradient in g_t: of all that reaches from before t to t or later.

    Pairs inside the chunk, the state before read at i >= t, keys j < t that end in the state after,
    and the state before passed through.
    """
    if turn.shape[-1] == 1:
        from_q, from_k, through = (
            part.sum(dim=-1, keepdim=True) for part in (from_q, from_k, through)
        )
    later = turn + from_q
    return later + after(later) + before(from_k) + through
