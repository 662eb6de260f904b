"""Attention to k learned mixtures of all positions instead of to the positions."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kernels.attention import attention
from models.card import Card, Equals
from models.qkv import QKVMixer

SHARES = ("kv", "headwise", "none")


def _make_identity(mixer: Any) -> None:
    """E = F = I: with k = N nothing is compressed."""
    with torch.no_grad():
        mixer.e.copy_(torch.eye(*mixer.e.shape[-2:]))


class Linformer(QKVMixer):
    """Y = softmax(Q (E K)^T / sqrt(K)) (F V), E and F learned, (k, max_len).

    Wang et al. 2020, eq. 7. Padding is zeroed in keys and values, so that E does not mix it; a
    shorter sequence uses the first columns of E.

    Args:
        k: mixtures.
        share: ``kv``: E = F for all heads (LRA); ``headwise``: E and F, each for all heads;
            ``none``: E and F of each head.
    """

    card = Card(
        title="Linformer: Self-Attention with Linear Complexity",
        authors="Wang, Li, Khabsa, Fang, Ma",
        year=2020,
        link="https://arxiv.org/abs/2006.04768",
        family="low_rank",
        time="N k d",
        memory="N k",
        causality="no",
        bidirectional=True,
        length_bound=("e",),
        ops=("attention",),
        equals=(
            Equals(
                "transformer", knobs=lambda n: {"k": n}, prepare=_make_identity, causal=(False,)
            ),
        ),
        deviations=("E over all layers (the paper's layerwise sharing) is not offered",),
    )

    def __init__(self, dim: int, *, k: int = 256, share: str = "kv", **standard: Any):
        super().__init__(dim, **standard)
        if k < 1:
            raise ValueError(f"Linformer: k must be at least 1, got {k}")
        if share not in SHARES:
            raise ValueError(f"Linformer: share must be one of {', '.join(SHARES)}, got '{share}'")
        self.k = k
        # (E and F, or one for both; heads, or one for all; k; max_len); drawn as a Linear over
        # positions is, which public implementations use
        bound = self.max_len**-0.5
        sizes = (1 if share == "kv" else 2, self.heads if share == "none" else 1)
        self.e = nn.Parameter(torch.empty(*sizes, k, self.max_len).uniform_(-bound, bound))

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H N K"],
        v: Float[Tensor, "B H N V"],
        mask: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N V"]:
        e = self.e[..., : k.shape[2]]
        dropout = self.dropout if self.training else 0.0
        return attention(q, e[0] @ k, e[-1] @ v, dropout_p=dropout)

    def dense_at(self, n: int) -> bool:
        # k >= N mixtures compress nothing
        return self.k >= n
