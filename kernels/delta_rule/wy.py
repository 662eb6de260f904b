"""The delta rule on one stretch of the sequence, in chunks, and its gradient by hand.

What token i of a chunk adds to the state is ``k_i u_i^T``. With G the sums of log-decays from the
start of the chunk, S the state before it and ``D_ij = e^{G_i - G_j}``,

    u_i = beta_i (v_i - e^{G_i} S^T k_i - sum_{j < i} D_ij (k_i . k_j) u_j)

is a triangular system for all u of the chunk, ``(I + A) u = beta (v - e^G k S)`` (the WY form of
Yang et al. 2024, arXiv 2406.06484, section 3; with decay 2412.06464, section 3.3). It is solved
once for v and once for k, so that u follows from any S by one product. Given u, the rest is causal
linear attention with u for values. Only sums of log-decays, all <= 0, are ever exponentiated.

Chunks follow each other in a Python loop, forward and backward, a few products each: what a chunk
does to the state is a full ``(K, K)`` matrix, and a scan would multiply those with each other,
level after level, which is more work than all the steps.

Legend: X batch times heads, n chunks, C chunk, K/V widths.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import solve_triangular

from kernels.linear_attention.chunked import log_decay_gradient
from kernels.linear_attention.decay import Decay


@dataclass(frozen=True)
class Chunks:
    """Arguments of one stretch."""

    q: Float[Tensor, "X n C K"]
    k: Float[Tensor, "X n C K"]
    v: Float[Tensor, "X n C V"]
    beta: Float[Tensor, "X n C 1"]
    decay: Decay


@dataclass(frozen=True)
class Gradients:
    """Gradients of the same, and in the state before."""

    q: Float[Tensor, "X n C K"]
    k: Float[Tensor, "X n C K"]
    v: Float[Tensor, "X n C V"]
    beta: Float[Tensor, "X n C 1"]
    log_decay: Float[Tensor, "X n C 1"] | None
    state: Float[Tensor, "X K V"]


@dataclass(frozen=True)
class Solved:
    """The chunks' systems, and their solutions for v and for k.

    Attributes:
        overlap: ``D_ij (k_i . k_j)`` for j < i.
        system: ``beta_i`` times the same; the ones on the diagonal are understood.
        reads: W in ``u = u(v) - W S``.
    """

    overlap: Float[Tensor, "X n C C"]
    system: Float[Tensor, "X n C C"]
    reads: Float[Tensor, "X n C K"]
    added: Float[Tensor, "X n C V"]


def forward(
    x: Chunks, state: Float[Tensor, "X K V"]
) -> tuple[Float[Tensor, "X n C V"], Float[Tensor, "X K V"]]:
    """Outputs, and the state after the stretch."""
    solved = _solve(x)
    states, u, state = _advance(x, solved, state)
    y = x.decay.from_start(x.q) @ states
    x.decay.add_within_(y, x.q, x.k, u)
    return y, state


def backward(
    x: Chunks,
    state: Float[Tensor, "X K V"],
    grad: Float[Tensor, "X n C V"],
    grad_state: Float[Tensor, "X K V"],
    *,
    of_decay: bool,
) -> Gradients:
    """Gradients from those of the outputs and of the state after; in log-decays if wanted."""
    solved = _solve(x)
    states, u, _ = _advance(x, solved, state)
    scores = (x.q @ x.k.mT).mul_(x.decay.pairs)
    grad_u, past, grad_state = _retreat(x, solved, scores.mT @ grad, grad, grad_state)
    # gradient in the right-hand side, before and after beta
    right = solve_triangular(solved.system.mT, grad_u, upper=True, unitriangular=True)
    grad_v = right * x.beta
    rest = (x.v - x.decay.from_start(x.k) @ states).sub_(solved.overlap @ u)
    grad_beta = (right * rest).sum(dim=-1, keepdim=True)
    # of the state that q and k read, and of keys in the state after
    grad_q = x.decay.from_start(grad @ states.mT)
    grad_k = x.decay.from_start(grad_v @ states.mT).neg_()
    grad_end = x.decay.to_end(u @ past.mT)
    pairs = _Pairs(grad @ u.mT, (grad_v @ u.mT).neg_())
    grad_decay = None
    if of_decay:
        turn = pairs.turn(scores, solved.overlap)
        through = ((states * past).sum(dim=-1, keepdim=True) * x.decay.total).mT
        from_start = x.q * grad_q + x.k * grad_k
        grad_decay = log_decay_gradient(turn, from_start, x.k * grad_end, through)
    pairs.add_(x, grad_q, grad_k.add_(grad_end))
    return Gradients(grad_q, grad_k, grad_v, grad_beta, grad_decay, grad_state)


@dataclass(frozen=True)
class _Pairs:
    """Gradients in what pairs inside chunks have in common: ``D_ij (q_i . k_j)`` for j <= i, and
    the overlap of keys for j < i. What stands elsewhere does not count."""

    scores: Tensor
    overlap: Tensor

    def turn(self, scores: Tensor, overlap: Tensor) -> Tensor:
        """Gradient in G; the diagonal has no decay."""
        share = (self.scores * scores + self.overlap * overlap).tril_(-1)
        return (share.sum(dim=-1) - share.sum(dim=-2))[..., None]

    def add_(self, x: Chunks, grad_q: Tensor, grad_k: Tensor) -> None:
        """Adds the gradients in q and k."""
        scores = self.scores * x.decay.pairs
        overlap = (self.overlap * x.decay.pairs).tril_(-1)
        grad_q += scores @ x.k
        grad_k += scores.mT @ x.q
        grad_k += (overlap + overlap.mT) @ x.k


def _solve(x: Chunks) -> Solved:
    overlap = (x.k @ x.k.mT).mul_(x.decay.pairs).tril_(-1)
    system = overlap * x.beta
    right = torch.cat([x.decay.from_start(x.k), x.v], dim=-1) * x.beta
    solution = solve_triangular(system, right, upper=False, unitriangular=True)
    reads, added = solution.split([x.k.shape[-1], x.v.shape[-1]], dim=-1)
    return Solved(overlap, system, reads, added)


def _advance(x: Chunks, solved: Solved, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States before the chunks, u, and the state after, chunk by chunk."""
    keys = x.decay.to_end(x.k).mT
    total = x.decay.total.expand(*keys.shape[:2], 1, 1)
    states = state.new_empty(*keys.shape[:3], state.shape[-1])
    u = solved.added.contiguous()
    for i in range(keys.shape[1]):
        states[:, i] = state
        u[:, i].baddbmm_(solved.reads[:, i], state, alpha=-1)
        state = torch.baddbmm(total[:, i] * state, keys[:, i], u[:, i])
    return states, u, state


def _retreat(
    x: Chunks, solved: Solved, grad_u: Tensor, grad: Tensor, grad_state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in u, in the states after the chunks, and in the state before all, backwards."""
    keys = x.decay.to_end(x.k)
    total = x.decay.total.expand(*keys.shape[:2], 1, 1)
    reads = x.decay.from_start(x.q).mT @ grad
    past = torch.empty_like(reads)
    for i in reversed(range(keys.shape[1])):
        past[:, i] = grad_state
        grad_u[:, i].baddbmm_(keys[:, i], grad_state)
        before = reads[:, i] + total[:, i] * grad_state
        grad_state = before.baddbmm_(solved.reads[:, i].mT, grad_u[:, i], alpha=-1)
    return grad_u, past, grad_state
