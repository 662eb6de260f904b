"""Ring attention: dense attention of a sequence that is spread over processes."""

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from kernels.errors import Unsupported
from models.card import Equals
from models.mixers.exact.ring import Ring, ring_attention
from models.mixers.exact.transformer import Transformer
from models.qkv import Decoding

BALANCES = ("none", "striped")


class RingAttention(Transformer):
    """``softmax(Q K^T / sqrt(K)) V``; process r of P has 1/P of the rows of Q, and in step t the
    keys and values of process r - t.

    Liu et al. 2023, section 3 and algorithm 1. It computes what the Transformer computes. Alone it
    is the Transformer; after ``use_ring(group)`` its inputs are the process's slice of the sequence
    (``shard`` cuts it) and so are its outputs. Each process's gradients of the parameters are those
    of its own rows: sum them over the processes.

    Args:
        causal_balance: ``none`` (slices follow each other: the last process has most to do) |
            ``striped`` (position p with process p mod P; Brandon et al. 2023, arXiv 2311.09431);
            causal only.
    """

    card = replace(
        Transformer.card,
        title="Ring Attention with Blockwise Transformers for Near-Infinite Context",
        authors="Liu, Zaharia, Abbeel",
        year=2023,
        link="https://arxiv.org/abs/2310.01889",
        equals=(Equals("transformer", lambda n: {}),),
        deviations=(
            "time and memory are those of one process; of P, each has 1 / P of them",
            "the backward pass computes each part of the forward pass once more",
            "the feed-forward network is the block's, which acts on each position anyway",
            "zigzag order is not offered",
        ),
    )

    def __init__(self, dim: int, *, causal_balance: str = "none", **standard: Any):
        super().__init__(dim, **standard)
        if causal_balance not in BALANCES:
            raise ValueError(
                f"RingAttention: causal_balance must be one of {', '.join(BALANCES)}, "
                f"got '{causal_balance}'"
            )
        self.striped = self.causal and causal_balance == "striped"
        self.ring: Ring | None = None

    def use_ring(self, group: dist.ProcessGroup) -> None:
        """Spreads the sequence over the processes of a group, in the order of their ranks."""
        self.ring = Ring(group, self.causal, self.striped, backend=self.backend)

    def shard(self, x: Shaped[Tensor, "B N *D"]) -> Shaped[Tensor, "B n *D"]:
        """This process's rows of a whole sequence, or of its mask.

        Raises:
            ValueError: the number of processes does not divide N.
        """
        if self.ring is None:
            return x
        size, rank, n = self.ring.size, self.ring.rank, x.shape[1]
        if n % size:
            raise ValueError(
                f"RingAttention: {size} processes do not divide N={n}: pad it to "
                f"{n + -n % size} and mask the rest"
            )
        return x[:, rank::size] if self.striped else x.chunk(size, dim=1)[rank]

    def project(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        if self.ring is not None and context is not None:
            raise Unsupported("RingAttention takes no context from another sequence in a ring")
        return super().project(x, mask, context, context_mask)

    def rotated(
        self, q: Float[Tensor, "B H N K"], k: Float[Tensor, "B H M K"]
    ) -> tuple[Float[Tensor, "B H N K"], Float[Tensor, "B H M K"]]:
        if self.ring is None or self.rotary is None:
            return super().rotated(q, k)
        start, step = self.ring.positions(q.shape[2])
        return self.rotary(q, start, step), self.rotary(k, start, step)

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H M K"],
        v: Float[Tensor, "B H M V"],
        mask: Bool[Tensor, "B M"] | None,
    ) -> Float[Tensor, "B H N V"]:
        if self.ring is None:
            return super().attend(q, k, v, mask)
        ring = self.ring
        if self.training and self.dropout:
            # processes with one random state must not drop alike
            seed = int(torch.randint(1 << 40, ())) + ring.rank * ring.size
            ring = replace(ring, dropout_p=self.dropout, seed=seed)
        return ring_attention(q, k, v, mask, self.alibi, ring)

    def init_state(self, batch: int) -> Decoding:
        if self.ring is not None:
            raise Unsupported("RingAttention decodes in one process, without use_ring")
        return super().init_state(batch)
