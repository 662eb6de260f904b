"""The Transformer's dense softmax attention: the baseline of every table."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.attention import attention
from models.card import Card
from models.qkv import KeyValueCache, QKVMixer


class Transformer(QKVMixer):
    """Y = softmax(Q K^T / sqrt(K)) V in each head (Vaswani et al. 2017, eq. 1)."""

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
        deviations=("projections have no bias, as in LRA's code",),
    )

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H M K"],
        v: Float[Tensor, "B H M V"],
        mask: Bool[Tensor, "B M"] | None,
    ) -> Float[Tensor, "B H N V"]:
        dropout = self.dropout if self.training else 0.0
        return attention(q, k, v, causal=self.causal, key_mask=mask, dropout_p=dropout)

    def dense_at(self, n: int) -> bool:
        return True

    def reference_matrix(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H N N"]:
        q, k, _, _ = self.project(x, mask)
        scores = q @ k.mT / self.head_dim**0.5
        hidden = torch.zeros_like(scores, dtype=torch.bool)
        if mask is not None:
            hidden = hidden | ~mask[:, None, None, :]
        if self.causal:
            hidden = hidden | hidden.new_ones(scores.shape[-2:]).triu(1)
        # a row that sees nothing mixes nothing
        return scores.masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num(0.0)

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
        cache: KeyValueCache = state.append(k, v)
        return attention(q, cache.keys, cache.values), cache
