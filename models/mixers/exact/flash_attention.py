"""FlashAttention: dense attention by a chosen backend, none of which holds the N x N weights."""

from dataclasses import replace
from typing import Any

from kernels.attention import OP
from models.card import Equals
from models.mixers.exact.transformer import Transformer


class FlashAttention(Transformer):
    """``softmax(Q K^T / sqrt(K)) V`` tile by tile: m' = max(m, max s), l' = e^(m - m') l + sum
    e^(s - m'), o' = e^(m - m') o + e^(s - m') V, Y = o / l.

    Dao et al. 2022, algorithm 1. It computes what the Transformer computes.

    Args:
        backend: of the op ``attention``, whatever the run's ``backend`` says: ``auto`` (the fused
            kernel of the device where it can, else ``eager``) | ``eager`` (tiles in plain torch) |
            ``sdpa`` (torch's fused kernel or an error) | ``compile`` | ``reference`` (the N x N
            weights, to compare with).
    """

    card = replace(
        Transformer.card,
        title="FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
        authors="Dao, Fu, Ermon, Rudra, Re",
        year=2022,
        link="https://arxiv.org/abs/2205.14135",
        equals=(Equals("transformer", lambda n: {}),),
        deviations=(
            "the sizes of the tiles are the backend's: they follow from the device, the length and "
            "the width",
            "the eager backend's tile holds every key that its queries see: no running maximum",
        ),
    )

    def __init__(self, dim: int, *, backend: str = "auto", **standard: Any):
        super().__init__(dim, **standard)
        known = ("auto", *OP.backends)
        if backend not in known:
            raise ValueError(
                f"FlashAttention: backend must be one of {', '.join(known)}, got '{backend}'"
            )
        self.backend = backend
