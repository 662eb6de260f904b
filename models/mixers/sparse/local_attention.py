"""Dense attention inside blocks that do not overlap: the Long Range Arena's "local attention"."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from kernels.attention import attention
from models.card import Card, Equals
from models.qkv import KeyValueCache, QKVMixer


class LocalAttention(QKVMixer):
    """Y = softmax(Q K^T / sqrt(K)) V inside each of N / b blocks; nothing crosses a block.

    Tay et al. 2020 (LRA), appendix; blocks count from position 0, so padding moves none. However
    many layers, only the pooled head sees more than a block: ``sliding_window_attention`` is the
    overlapping kind.

    Args:
        block_size: positions b of a block.
    """

    card = Card(
        title="Long Range Arena: A Benchmark for Efficient Transformers (local attention)",
        authors="Tay, Dehghani, Abnar, Shen, Bahri, Pham, Rao, Yang, Ruder, Metzler",
        year=2020,
        link="https://arxiv.org/abs/2011.04006",
        family="sparse",
        time="N b d",
        memory="N d",
        causality="masked",
        bidirectional=True,
        recurrent=True,
        ops=("attention",),
        equals=(Equals("transformer", knobs=lambda n: {"block_size": n}),),
    )

    def __init__(self, dim: int, *, block_size: int = 20, **standard: Any):
        super().__init__(dim, **standard)
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
        batch, n = q.shape[0], q.shape[2]
        size = min(self.block_size, n)
        missing = -n % size
        if missing and mask is None and not self.causal:
            # a causal block needs no mask: real queries see no later key
            mask = torch.ones(batch, n, dtype=torch.bool, device=q.device)
        q, k, v = (self._fold(x, size, missing) for x in (q, k, v))
        if mask is not None:
            mask = F.pad(mask, (0, missing)).reshape(-1, size)
        dropout = self.dropout if self.training else 0.0
        y = attention(q, k, v, causal=self.causal, key_mask=mask, dropout_p=dropout)
        y = y.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)
        return y[:, :, :n]

    @staticmethod
    def _fold(x: Tensor, size: int, missing: int) -> Tensor:
        """(B, H, N, K) to (B N/b, H, b, K)."""
        blocks = F.pad(x, (0, 0, 0, missing)).unflatten(2, (-1, size))
        return blocks.transpose(1, 2).flatten(0, 1)

    def dense_at(self, n: int) -> bool:
        return self.block_size >= n

    def reference_matrix(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H N N"]:
        q, k, _, _ = self.project(x, mask)
        block = torch.arange(x.shape[1], device=x.device) // self.block_size
        hidden = (block[:, None] != block).expand(len(x), 1, -1, -1)
        if mask is not None:
            hidden = hidden | ~mask[:, None, None, :]
        if self.causal:
            hidden = hidden | torch.ones_like(hidden).triu(1)
        scores = (q @ k.mT / self.head_dim**0.5).masked_fill(hidden, -torch.inf)
        return scores.softmax(-1).nan_to_num(0.0)

    def attend_state(self, batch: int, like: Tensor) -> KeyValueCache:
        empty = like.new_zeros(batch, self.heads, 0, self.head_dim)
        return KeyValueCache(empty, empty)

    def attend_step(
        self,
        q: Float[Tensor, "B H 1 K"],
        k: Float[Tensor, "B H 1 K"],
        v: Float[Tensor, "B H 1 V"],
        state: Any,
    ) -> tuple[Float[Tensor, "B H 1 V"], KeyValueCache]:
        full = state.keys.shape[2] == self.block_size
        cache = KeyValueCache(k, v) if full else state.append(k, v)
        return attention(q, cache.keys, cache.values), cache
