"""Transformer-XL's attention: scores of contents and of distances."""

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kernels.attention import attention
from kernels.attention.score import Score
from models.card import Card
from models.embedding import sinusoids
from models.mixers.exact.transformer import softmax_matrix
from models.qkv import QKVMixer


class RelativeAttention(QKVMixer):
    """softmax(((q_i + u) . k_j + (q_i + v) . R_(i-j)) / sqrt(K)) V, R a linear map of sinusoids.

    Dai et al. 2019, section 3.3. With a ``context`` of M positions query i stands at i + M - N,
    so that a memory lies before the queries. u and v are learned, one of each in a head.
    """

    card = Card(
        title="Transformer-XL: Attentive Language Models beyond a Fixed-Length Context",
        authors="Dai, Yang, Yang, Carbonell, Le, Salakhutdinov",
        year=2019,
        link="https://arxiv.org/abs/1901.02860",
        family="exact",
        time="N^2 d",
        memory="N^2",
        causality="masked",
        bidirectional=True,
        cross=True,
        ops=("attention",),
        deviations=(
            "u and v are the layer's own, except where the backbone is Transformer-XL",
            "distances ahead, which the paper does not have, are negative",
            "the recipe's positions are added to the embedding besides",
        ),
    )
    # it has relative positions of its own
    positions: ClassVar[tuple[str, ...]] = ()

    def __init__(self, dim: int, *, heads: int, max_len: int, causal: bool, **standard: Any):
        super().__init__(dim, heads=heads, max_len=max_len, causal=causal, **standard)
        self.distance = nn.Linear(dim, self.qkv_dim, bias=False)
        nn.init.xavier_uniform_(self.distance.weight)
        self.content_bias = nn.Parameter(torch.zeros(heads, 1, self.head_dim))
        self.distance_bias = nn.Parameter(torch.zeros(heads, 1, self.head_dim))

    def distances(self, q: Float[Tensor, "B H N K"], keys: int) -> Float[Tensor, "B H N M"]:
        """(q_i + v) . R_(i-j), scaled, of every query and key."""
        n, device = q.shape[2], q.device
        far = sinusoids(max(keys, n), self.dim).to(q)
        # distances -(n - 1) .. keys - 1: a sine is odd, a cosine even
        near = far[1:n].flip(0) * (1 - 2 * (torch.arange(self.dim, device=device) % 2 == 0).to(q))
        table = self.heads_of(self.distance(torch.cat([near, far[:keys]]))[None])
        scores = (q + self.distance_bias) @ table.mT / math.sqrt(self.head_dim)
        i = torch.arange(keys - n, keys, device=device)[:, None]
        index = i - torch.arange(keys, device=device) + n - 1
        return scores.gather(-1, index.expand(*scores.shape[:2], -1, -1))

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H M K"],
        v: Float[Tensor, "B H M V"],
        mask: Bool[Tensor, "B M"] | None,
    ) -> Float[Tensor, "B H N V"]:
        return attention(
            (q + self.content_bias).to(v.dtype), k, v, causal=self.causal, key_mask=mask,
            score=Score(bias=self.distances(q, k.shape[2]).to(v.dtype)),
            dropout_p=self.dropout if self.training else 0.0,
        )  # fmt: skip

    def reference_matrix(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H N N"]:
        q, k, _, mask = self.project(x, mask)
        n = x.shape[1]
        content = (q + self.content_bias) @ k.mT / math.sqrt(self.head_dim)
        scores = content + self.distances(q, n)
        visible = torch.ones(n, n, dtype=torch.bool, device=x.device)
        eye = torch.eye(n, dtype=x.dtype, device=x.device).expand_as(scores)
        return softmax_matrix(
            scores * n**0.5, eye, visible.tril() if self.causal else visible, mask
        )

    def dense_at(self, n: int) -> bool:
        return True
