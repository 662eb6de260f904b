"""Exact attention over processes that hold a slice of the sequence each: keys and values travel.

In step t process r holds the keys and values of process r - t (mod P), passes them on to r + 1 and
attends to them meanwhile; the partial results meet through their log-sum-exps (Liu et al. 2023,
arXiv 2310.01889, section 3). Backward they travel once more, their gradients with them, P steps and
so back home. Of the other processes' tensors one slice is held at a time, and the next one.

Legend: B batch, H heads, n positions of a slice, K/V head widths, P processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.attention import attention
from kernels.attention.score import Score
from kernels.merge_attention import merge_attention


@dataclass(frozen=True)
class Ring:
    """One call's place among the processes, and all of it that is no tensor.

    Attributes:
        group: the processes, in the order of the ring.
        causal: a query sees no later position.
        striped: position p lies with process p mod P, so that a causal ring has the same work
            everywhere (Brandon et al. 2023, arXiv 2311.09431); else slices follow each other.
        dropout_p: of the weights.
        seed: of what is dropped; another one in each process.
        backend: of the op ``attention``.
    """

    group: dist.ProcessGroup
    causal: bool
    striped: bool = False
    dropout_p: float = 0.0
    seed: int = 0
    backend: str = "auto"

    @property
    def size(self) -> int:
        return self.group.size()

    @property
    def rank(self) -> int:
        return self.group.rank()

    def positions(self, n: int) -> tuple[int, int]:
        """The first position of this process's slice, and the step between two."""
        return (self.rank, self.size) if self.striped else (self.rank * n, 1)


def ring_attention(
    q: Float[Tensor, "B H n K"],
    k: Float[Tensor, "B H n K"],
    v: Float[Tensor, "B H n V"],
    mask: Bool[Tensor, "B n"] | None,
    alibi: Float[Tensor, " H"] | None,
    ring: Ring,
) -> Float[Tensor, "B H n V"]:
    """Attention of this process's queries to the keys of all; every process calls it, and every
    process runs its backward pass.

    ``mask`` is of this process's keys; ``alibi`` has no gradient.

    Raises:
        ValueError: the processes' slices differ in shape.
    """
    mask = _agreed(q, v, mask, ring)
    return _Ring.apply(q, k, v, mask, alibi, ring)


def _agreed(q: Tensor, v: Tensor, mask: Tensor | None, ring: Ring) -> Tensor | None:
    """The mask, one of ones where only others have one; shapes compared, lest a process waits for
    what never comes."""
    mine = torch.tensor([*q.shape, v.shape[-1], int(mask is not None)], device=q.device)
    every = [torch.empty_like(mine) for _ in range(ring.size)]
    dist.all_gather(every, mine, group=ring.group)
    shapes = [each[:-1].tolist() for each in every]
    if any(shape != shapes[0] for shape in shapes):
        lengths = ", ".join(str(shape[2]) for shape in shapes)
        raise ValueError(
            f"every process of the ring needs a slice of one shape, got N = {lengths} and "
            f"(B, H, N, K, V) = {', '.join(map(str, shapes))}: pad the sequence and mask the rest"
        )
    if mask is None and any(each[-1] for each in every):
        mask = torch.ones(q.shape[0], q.shape[2], dtype=torch.bool, device=q.device)
    return mask


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, alibi: Any, ring: Ring
    ) -> Tensor:
        wide = torch.promote_types(q.dtype, torch.float32)
        total: tuple[Tensor, Tensor] | None = None
        held = _held(k, v, mask)
        for step in range(ring.size):
            coming, wait = pass_on(held, ring, last=step == ring.size - 1)
            part = partial(q, held, alibi, ring, step)
            if part is not None:
                out, lse = part[0].to(wide), part[1]
                total = merge_attention([total[0], out], [total[1], lse]) if total else (out, lse)
            finish(wait)
            held = coming
        assert total is not None, "a process sees its own keys"
        out, lse = total
        ctx.save_for_backward(q, k, v, mask, alibi, out, lse)
        ctx.ring = ring
        return out.to(v.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask, alibi, out, lse = ctx.saved_tensors
        ring, d_out = ctx.ring, d_out.to(out.dtype)
        d_q = torch.zeros_like(q, dtype=out.dtype)
        # of the keys and values that are here just now
        grads = [torch.zeros_like(x, dtype=out.dtype).contiguous() for x in (k, v)]
        held = _held(k, v, mask)
        for step in range(ring.size):
            coming, wait = pass_on(held, ring, last=step == ring.size - 1)
            found = _partial_grads(q, held, alibi, ring, step, (out, lse, d_out))
            if found is not None:
                for total, grad in zip((d_q, *grads), found, strict=True):
                    total += grad
            finish(wait)
            grads, wait = pass_on(grads, ring)
            finish(wait)
            held = coming
        return d_q.to(q.dtype), grads[0].to(k.dtype), grads[1].to(v.dtype), None, None, None


def _held(k: Tensor, v: Tensor, mask: Tensor | None) -> list[Tensor]:
    return [x.contiguous() for x in ((k, v) if mask is None else (k, v, mask))]


def pass_on(
    tensors: Sequence[Tensor], ring: Ring, *, last: bool = False
) -> tuple[list[Tensor], list[Any]]:
    """Starts to send to the next process and to receive the same from the one before.

    Returns:
        What will be there when the second, for ``finish``, is done; on the ``last`` step, and where
        there is nobody else, what was there.
    """
    if last or ring.size == 1:
        return list(tensors), []
    coming = [torch.empty_like(x) for x in tensors]
    after, before = ((ring.rank + way) % ring.size for way in (1, -1))
    ops = [
        dist.P2POp(act, x, group=ring.group, group_peer=peer)
        for act, parts, peer in ((dist.isend, tensors, after), (dist.irecv, coming, before))
        for x in parts
    ]
    return coming, dist.batch_isend_irecv(ops)


def finish(works: Sequence[Any]) -> None:
    for work in works:
        work.wait()


def partial(
    q: Tensor, held: Sequence[Any], alibi: Tensor | None, ring: Ring, step: int
) -> tuple[Tensor, Tensor] | None:
    """Attention to the keys held in a step, and its log-sum-exp ``(B, H, n)``; None where all of
    them are in the future."""
    k, v, *rest = held
    mask, source, n = rest[0] if rest else None, (ring.rank - step) % ring.size, q.shape[2]
    later = source > ring.rank
    if ring.causal and later and (not ring.striped or n == 1):
        return None
    # striped: query i sees the keys j < i of a later process, j <= i of an earlier one
    skip = int(ring.causal and later)
    diagonal = ring.causal and (ring.striped or step == 0)
    score, shift = Score(), None
    if alibi is not None:
        score, shift = _distances(alibi, n, ring, source)
    with torch.random.fork_rng(enabled=ring.dropout_p > 0, devices=_devices(q)):
        if ring.dropout_p:
            torch.manual_seed(ring.seed + step)
        out, lse = attention(
            q[:, :, skip:], k[:, :, : n - skip], v[:, :, : n - skip], causal=diagonal,
            key_mask=None if mask is None else mask[:, : n - skip], score=score,
            dropout_p=ring.dropout_p, return_lse=True, backend=ring.backend,
        )  # fmt: skip
    if shift is not None:
        lse = lse + shift.to(lse.dtype)
    if skip:
        out, lse = F.pad(out, (0, 0, 1, 0)), F.pad(lse, (1, 0), value=-torch.inf)
    return out, lse


def _devices(x: Tensor) -> list[torch.device]:
    return [] if x.device.type == "cpu" else [x.device]


def _distances(alibi: Tensor, n: int, ring: Ring, source: int) -> tuple[Score, Tensor | None]:
    """ALiBi between this process's queries and the keys of another: a score, and ``(H, 1 or n)``
    what is the same for all keys of a query, which only the log-sum-exp feels."""
    if ring.striped and ring.causal:
        # P (i - j) + r - s, where the op sees i - j, or i - 1 - j where the first query is left out
        least = ring.rank - source + (ring.size if source > ring.rank else 0)
        return Score(alibi=alibi * ring.size), -alibi[:, None] * least
    if source == ring.rank:
        return Score(alibi=alibi), None
    # all keys lie on one side: the distance is that to the nearest key and from there on
    at = torch.arange(n, device=alibi.device).to(alibi.dtype)
    further, nearest = n - 1 - at, at + (ring.rank - source - 1) * n + 1
    if source > ring.rank:
        further, nearest = at, n - 1 - at + (source - ring.rank - 1) * n + 1
    bias = -alibi[:, None] * further
    return Score(bias=bias[None, :, None]), -alibi[:, None] * nearest


def _partial_grads(
    q: Tensor, held: Sequence[Tensor], alibi: Any, ring: Ring, step: int, whole: Sequence[Tensor]
) -> tuple[Tensor, ...] | None:
    """Gradients of queries, keys and values through one step's part. With w = exp(lse_t - lse):
    d out_t = w d out, d lse_t = w d out . (out_t - out)."""
    out, lse, d_out = whole
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (q, *held[:2])]
        part = partial(leaves[0], [*leaves[1:], *held[2:]], alibi, ring, step)
    if part is None:
        return None
    out_t, lse_t = part
    unseen = lse_t == -torch.inf
    weight = (lse_t.detach() - lse).exp().masked_fill(unseen, 0)[..., None]
    d_lse = (weight * d_out * (out_t.detach().to(out.dtype) - out)).sum(-1)
    d_part = ((weight * d_out).to(out_t.dtype), d_lse.to(lse_t.dtype))
    return torch.autograd.grad((out_t, lse_t), leaves, d_part)
