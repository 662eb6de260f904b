"""Dense softmax attention: what every other mixer is measured against."""

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.attention import attention
from kernels.attention.score import Score
from kernels.errors import Unsupported
from models.cache import KeyValueCache
from models.card import Card
from models.qkv import QKVMixer


class Transformer(QKVMixer):
    """``softmax(Q K^T / sqrt(K)) V`` in each head."""

    card = Card(
        title="Attention Is All You Need",
        authors="Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser, Polosukhin",
        year=2017,
        link="https://arxiv.org/abs/1706.03762",
        family="exact",
        time="N^2 d",
        memory="N d",
        causality="masked",
        bidirectional=True,
        recurrent=True,
        cross=True,
        ops=("attention",),
        deviations=(
            "the N x N weights are computed in tiles and never held, as in FlashAttention",
        ),
    )
    positions: ClassVar[tuple[str, ...]] = ("rope", "alibi")
    # of the op
    backend: str = "auto"

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H M K"],
        v: Float[Tensor, "B H M V"],
        mask: Bool[Tensor, "B M"] | None,
    ) -> Float[Tensor, "B H N V"]:
        dropout = self.dropout if self.training else 0.0
        return attention(
            q, k, v, causal=self.causal, key_mask=mask, score=Score(alibi=self.alibi),
            dropout_p=dropout, backend=self.backend,
        )  # fmt: skip

    def reference_matrix(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H N N"]:
        q, k, _, mask = self.project(x, mask)
        n = x.shape[1]
        visible = torch.ones(n, n, dtype=torch.bool, device=x.device)
        visible = visible.tril() if self.causal else visible
        return softmax_matrix(q, k, visible, mask, alibi=self.alibi)

    def dense_at(self, n: int) -> bool:
        return True

    def attend_state(self, batch: int, like: Tensor) -> KeyValueCache:
        if not self.causal:
            raise Unsupported("Transformer decodes step by step only with causal=true")
        empty = like.new_empty(batch, self.heads, 0, self.head_dim)
        return KeyValueCache(empty, empty)

    def attend_step(
        self,
        q: Float[Tensor, "B H 1 K"],
        k: Float[Tensor, "B H 1 K"],
        v: Float[Tensor, "B H 1 V"],
        state: Any,
    ) -> tuple[Float[Tensor, "B H 1 V"], KeyValueCache]:
        state = state.append(k, v)
        y = attention(
            q, state.keys, state.values, score=Score(alibi=self.alibi), backend=self.backend
        )
        return y, state


def softmax_matrix(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B H M K"],
    visible: Bool[Tensor, "*H N M"],
    mask: Bool[Tensor, "B M"] | None,
    *,
    alibi: Float[Tensor, " H"] | None = None,
) -> Float[Tensor, "B H N M"]:
    """The attention weights themselves; rows without a visible key are zero.

    ``alibi``: slope of each head on the distance, the last query beside the last key.
    """
    if mask is not None:
        visible = visible & mask[:, None, None, :]
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if alibi is not None:
        n, m = scores.shape[-2:]
        j = torch.arange(m, device=q.device)
        scores = scores - alibi[:, None, None] * (j[m - n :, None] - j).abs()
    weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
    return weights.masked_fill(~visible, 0)
