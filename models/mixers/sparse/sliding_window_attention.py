"""Sliding-window attention: every position sees its neighbours."""

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.attention import attention
from kernels.attention.score import Score
from kernels.errors import Unsupported
from models.cache import KeyValueCache
from models.card import Card, Equals
from models.mixers.exact.transformer import softmax_matrix
from models.qkv import QKVMixer


class SlidingWindowAttention(QKVMixer):
    """``softmax(Q K^T / sqrt(K)) V`` with ``i - window < j <= i``, or ``|i - j| <= window / 2``.

    Causal (Jiang et al. 2023, Mistral 7B, section 2): ``window`` keys, the query's own among them;
    L layers reach ``L (window - 1) + 1`` positions. Both ways, the second (Beltagy et al. 2020,
    section 3.1).

    Args:
        window: positions that a query sees (both ways one more, where it is even).
    """

    card = Card(
        title="Longformer: The Long-Document Transformer; Mistral 7B",
        authors="Beltagy, Peters, Cohan; Jiang, Sablayrolles, Mensch, et al.",
        year=2020,
        link="https://arxiv.org/abs/2004.05150",
        family="sparse",
        time="N window d",
        memory="N d",
        causality="masked",
        bidirectional=True,
        recurrent=True,
        ops=("attention",),
        equals=(Equals("transformer", lambda n: {"window": 2 * n}),),
        deviations=(
            "every head has keys and values of its own; in Mistral four heads share them",
            "no global tokens and no dilation, which longformer has",
        ),
    )
    positions: ClassVar[tuple[str, ...]] = ("rope", "alibi")

    def __init__(self, dim: int, *, window: int = 256, **standard: Any):
        super().__init__(dim, **standard)
        if window < 1:
            raise ValueError(f"SlidingWindowAttention: window must be at least 1, got {window}")
        self.window = window

    @property
    def reach(self) -> tuple[int, int]:
        """Positions that a query sees to its left and to its right."""
        return (self.window - 1, 0) if self.causal else (self.window // 2, self.window // 2)

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H N K"],
        v: Float[Tensor, "B H N V"],
        mask: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N V"]:
        window = None if self.dense_at(q.shape[2]) else self.reach
        dropout = self.dropout if self.training else 0.0
        return attention(
            q, k, v, causal=self.causal, window=window, key_mask=mask,
            score=Score(alibi=self.alibi), dropout_p=dropout,
        )  # fmt: skip

    def reference_matrix(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H N N"]:
        q, k, _, mask = self.project(x, mask)
        i = torch.arange(x.shape[1], device=x.device)
        behind, (left, right) = i[:, None] - i, self.reach
        visible = (behind <= left) & (behind >= -right)
        return softmax_matrix(q, k, visible, mask, alibi=self.alibi)

    def dense_at(self, n: int) -> bool:
        return n <= self.reach[0] + 1

    def attend_state(self, batch: int, like: Tensor) -> KeyValueCache:
        if not self.causal:
            raise Unsupported("SlidingWindowAttention decodes step by step only with causal=true")
        empty = like.new_empty(batch, self.heads, 0, self.head_dim)
        return KeyValueCache(empty, empty, limit=self.window)

    def attend_step(
        self,
        q: Float[Tensor, "B H 1 K"],
        k: Float[Tensor, "B H 1 K"],
        v: Float[Tensor, "B H 1 V"],
        state: Any,
    ) -> tuple[Float[Tensor, "B H 1 V"], KeyValueCache]:
        state = state.append(k, v)
        bias = None
        if self.alibi is not None:
            # the ring is not in the order of positions
            bias = (-self.alibi[:, None, None] * state.ages()).to(q.dtype)[None]
        return attention(q, state.keys, state.values, score=Score(bias=bias)), state
