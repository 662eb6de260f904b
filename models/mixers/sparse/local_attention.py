"""Local attention of the Long Range Arena: softmax inside blocks that do not see each other."""

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.attention import attention
from kernels.attention.score import Score
from kernels.errors import Unsupported
from models.cache import KeyValueCache
from models.card import Card, Equals
from models.chunks import into_chunks, mask_of_chunks, out_of_chunks
from models.mixers.exact.transformer import softmax_matrix
from models.qkv import QKVMixer


class LocalAttention(QKVMixer):
    """``softmax(Q K^T / sqrt(K)) V`` with ``floor(i / block_size) = floor(j / block_size)``.

    Several layers still mix nothing across blocks: only what pools the sequence sees all of it.

    Args:
        block_size: positions of a block, counted from position 0; the last one may be shorter.
    """

    card = Card(
        title="Long Range Arena: A Benchmark for Efficient Transformers",
        authors="Tay, Dehghani, Abnar, Shen, Bahri, Pham, Rao, Yang, Ruder, Metzler",
        year=2020,
        link="https://arxiv.org/abs/2011.04006",
        family="sparse",
        time="N block_size d",
        memory="N d",
        causality="masked",
        bidirectional=True,
        recurrent=True,
        ops=("attention",),
        equals=(Equals("transformer", lambda n: {"block_size": n}),),
        deviations=(
            "blocks are of neighbours, as the paper says; the benchmark's code reshapes so that "
            "each has every (N / block_size)-th position",
        ),
    )
    positions: ClassVar[tuple[str, ...]] = ("rope", "alibi")

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        max_len: int,
        causal: bool,
        block_size: int = 20,
        **standard: Any,
    ):
        super().__init__(dim, heads=heads, max_len=max_len, causal=causal, **standard)
        if block_size < 1:
            raise ValueError(f"LocalAttention: block_size must be at least 1, got {block_size}")
        self.block_size = block_size

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H N K"],
        v: Float[Tensor, "B H N V"],
        mask: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N V"]:
        batch, _, n, _ = q.shape
        block = min(self.block_size, n)
        mask = mask_of_chunks(mask, batch, n, block, q.device)
        q, k, v = (into_chunks(x, block) for x in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        y = attention(
            q, k, v, causal=self.causal, key_mask=mask, score=Score(alibi=self.alibi),
            dropout_p=dropout,
        )  # fmt: skip
        return out_of_chunks(y, batch, n)

    def reference_matrix(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H N N"]:
        q, k, _, mask = self.project(x, mask)
        block = torch.arange(x.shape[1], device=x.device) // self.block_size
        visible = block[:, None] == block
        visible = visible.tril() if self.causal else visible
        return softmax_matrix(q, k, visible, mask, alibi=self.alibi)

    def dense_at(self, n: int) -> bool:
        return n <= self.block_size

    def attend_state(self, batch: int, like: Tensor) -> KeyValueCache:
        if not self.causal:
            raise Unsupported("LocalAttention decodes step by step only with causal=true")
        empty = like.new_empty(batch, self.heads, 0, self.head_dim)
        return KeyValueCache(empty, empty)

    def attend_step(
        self,
        q: Float[Tensor, "B H 1 K"],
        k: Float[Tensor, "B H 1 K"],
        v: Float[Tensor, "B H 1 V"],
        state: Any,
    ) -> tuple[Float[Tensor, "B H 1 V"], KeyValueCache]:
        # a full block is over: the next token starts its own
        full = state.keys.shape[2] == self.block_size
        state = KeyValueCache(k, v) if full else state.append(k, v)
        score = Score(alibi=self.alibi)
        return attention(q, state.keys, state.values, score=score), state
