"""Linformer: keys and values projected along the sequence to a fixed number of slots."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kernels.attention import attention
from models.card import Card, Equals
from models.qkv import QKVMixer

SHARING = ("kv", "headwise", "none")


def _identity(mixer: Any) -> None:
    """Makes every projection the identity, each position its own slot."""
    with torch.no_grad():
        for projection in (mixer.project_keys, mixer.project_values):
            if projection is not None:
                projection.copy_(torch.eye(*projection.shape[1:]).expand_as(projection))


class Linformer(QKVMixer):
    """``softmax(Q (E K)^T / sqrt(K)) (F V)`` with learned E, F of shape (k, max_len).

    A shorter sequence uses the first N columns of E and F.

    Args:
        k: number of slots that keys and values are projected to.
        share: ``kv`` one matrix for keys and values of all heads; ``headwise`` one for keys and
            one for values, for all heads; ``none`` each head its own two.
    """

    card = Card(
        title="Linformer: Self-Attention with Linear Complexity",
        authors="Wang, Li, Khabsa, Fang, Ma",
        year=2020,
        link="https://arxiv.org/abs/2006.04768",
        family="low_rank",
        time="N k d",
        memory="N d + N k",
        causality="no",
        bidirectional=True,
        length_bound=("project_keys",),
        ops=("attention",),
        equals=(Equals("transformer", lambda n: {"k": n}, prepare=_identity, causal=(False,)),),
        padding="invariant",
        padding_reason=(
            "keys and values are zero at padding before they are projected, so it adds nothing; a "
            "slot that gathers padding alone is a key of zeros with a score of 0, the same in the "
            "unpadded example of the same max_len"
        ),
        deviations=(
            "padding is zeroed before the projection, which LRA's code leaves in",
            "one matrix for all layers (layerwise sharing) is not offered",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        max_len: int,
        causal: bool,
        k: int = 256,
        share: str = "kv",
        **standard: Any,
    ):
        super().__init__(dim, heads=heads, max_len=max_len, causal=causal, **standard)
        if k < 1:
            raise ValueError(f"Linformer: k must be at least 1, got {k}")
        if share not in SHARING:
            raise ValueError(f"Linformer: share must be one of {', '.join(SHARING)}, got '{share}'")
        matrices = heads if share == "none" else 1
        bound = max_len**-0.5
        self.k = k
        shape = (matrices, k, max_len)
        self.project_keys = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.project_values: nn.Parameter | None = None
        if share != "kv":
            self.project_values = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H N K"],
        v: Float[Tensor, "B H N V"],
        mask: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N V"]:
        # keys and values are zero at padding already: the projections have no bias
        e = self.project_keys[:, :, : k.shape[2]]
        f = e if self.project_values is None else self.project_values[:, :, : k.shape[2]]
        # one product over all examples, so that the gradient of e is never held for each of them
        keys, values = (torch.einsum("hsn,bhnk->bhsk", p, x) for p, x in ((e, k), (f, v)))
        dropout = self.dropout if self.training else 0.0
        return attention(q, keys, values, dropout_p=dropout)
