"""Longformer: a window, and a few tokens that see and are seen by all."""

import copy
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.attention import attention
from kernels.attention.score import Score
from kernels.block_sparse_attention.layout import Layout
from kernels.block_sparse_attention.layouts import band, global_tokens
from models.card import Card, Equals
from models.mixers.sparse.block_sparse import BlockSparseMixer
from models.padding import zero_padding


class Longformer(BlockSparseMixer):
    """``softmax(Q K^T / sqrt(K)) V`` with ``|i - j| <= window / 2`` or j global; global queries
    attend to all, by projections of their own.

    Beltagy et al. 2020, section 3.1. The global tokens are the first ones of the sequence (CLS,
    where the model has one). Causal: only keys j <= i in every row, and no own projections,
    for the first tokens have nothing else to see.

    Args:
        window: keys around a query, half of them on each side.
        dilation: of the window: only every so many-th key.
        global_tokens: how many; 0 leaves the window alone.
        separate_global_proj: global queries, and the keys and values that they see, are projected
            by matrices of their own, which start as copies.
    """

    card = Card(
        title="Longformer: The Long-Document Transformer",
        authors="Beltagy, Peters, Cohan",
        year=2020,
        link="https://arxiv.org/abs/2004.05150",
        family="sparse",
        time="N window d",
        memory="N d",
        causality="masked",
        bidirectional=True,
        ops=("block_sparse_attention", "attention"),
        equals=(Equals("transformer", lambda n: {"window": 2 * n, "separate_global_proj": False}),),
        deviations=(
            "one dilation for all heads of all layers",
            "dropout acts on the mixed features",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        window: int = 512,
        dilation: int = 1,
        global_tokens: int = 1,
        separate_global_proj: bool = True,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if window < 1 or dilation < 1 or global_tokens < 0:
            raise ValueError(
                "Longformer: window and dilation must be at least 1, global_tokens at least 0"
            )
        self.reach, self.dilation, self.tokens = window // 2 * dilation, dilation, global_tokens
        self.own = separate_global_proj and global_tokens > 0 and not self.causal
        if self.own:
            self.global_query, self.global_key, self.global_value = (
                copy.deepcopy(linear) for linear in (self.query, self.key, self.value)
            )

    def dense_at(self, n: int) -> bool:
        return self.dilation == 1 and n <= self.reach + 1

    def layout(self, n: int, mask: Bool[Tensor, "B N"] | None) -> Layout:
        block = max(16, min(64, self.reach))
        seen = band(n, block, self.reach, self.reach, self.dilation)
        if self.tokens:
            seen = seen | global_tokens(n, block, tuple(range(min(self.tokens, n))))
        return seen.causal() if self.causal else seen

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        q, k, v, mask = self.project(x, mask, context, context_mask)
        y = self.attend(q, k, v, mask)
        if self.own:
            rows = self._global_rows(zero_padding(x, mask), mask)
            y = torch.cat([rows, y[:, :, rows.shape[2] :]], dim=2)
        return self.output(y.transpose(1, 2).flatten(2))

    def _global_rows(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "B H G K"]:
        """What the global queries read."""
        some = x[:, : self.tokens]
        q, k, v = (
            self.heads_of(self.global_query(some)),
            *(self.heads_of(f(x)) for f in (self.global_key, self.global_value)),
        )
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        dropout = self.dropout if self.training else 0.0
        score = Score()
        if self.alibi is not None:
            # the first queries, which the op would take for the last
            j = torch.arange(x.shape[1], device=x.device)
            far = (j - j[: some.shape[1], None]).abs()
            score = Score(bias=(-self.alibi[:, None, None] * far).to(q.dtype)[None])
        return attention(q, k, v, key_mask=mask, score=score, dropout_p=dropout)
