"""Nystromformer: softmax attention through landmarks, the means of segments of the sequence."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from kernels.attention import attention
from kernels.iterative_pinv import iterative_pinv
from models.card import Card, Equals
from models.padding import true_lengths
from models.qkv import QKVMixer


class Nystromformer(QKVMixer):
    """``F A^+ (B V) + conv(V)`` with softmax matrices F (N x m), A (m x m) and B (m x N).

    F compares queries with landmark keys, A landmark queries with landmark keys, B landmark queries
    with keys. Landmark s is the mean of the positions i with ``floor(i m / n) = s``, where n is the
    example's true length. An example no longer than m has each token as its own landmark: then
    ``F A^+ B`` is the softmax matrix itself, which is computed as such.

    Args:
        num_landmarks: m.
        pinv_iters: iterations of the pseudo-inverse.
        conv_kernel: odd width of the convolution over the values, one filter a head; 0 or None for
            no convolution.
    """

    card = Card(
        title="Nystromformer: A Nystrom-based Algorithm for Approximating Self-Attention",
        authors="Xiong, Zeng, Chakraborty, Tan, Fung, Li, Singh",
        year=2021,
        link="https://arxiv.org/abs/2102.03902",
        family="low_rank",
        time="N num_landmarks d + num_landmarks^3",
        memory="N d + num_landmarks^2",
        causality="no",
        bidirectional=True,
        ops=("attention", "iterative_pinv"),
        equals=(
            Equals(
                "transformer",
                lambda n: {"num_landmarks": n, "conv_kernel": 0},
                causal=(False,),
            ),
        ),
        deviations=(
            "segments come from each example's true length and their means leave padding out",
            "the pseudo-inverse starts from the norms of each matrix alone; the public code takes "
            "the largest of the whole batch",
            "examples of at most num_landmarks tokens get exact attention, not only those of equal",
            "dropout falls on the mixed features",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        heads: int,
        max_len: int,
        causal: bool,
        num_landmarks: int = 128,
        pinv_iters: int = 6,
        conv_kernel: int | None = 35,
        **standard: Any,
    ):
        super().__init__(dim, heads=heads, max_len=max_len, causal=causal, **standard)
        if num_landmarks < 1 or pinv_iters < 0:
            raise ValueError(
                "Nystromformer: num_landmarks must be at least 1 and pinv_iters at least 0, "
                f"got {num_landmarks} and {pinv_iters}"
            )
        if conv_kernel and (conv_kernel < 0 or conv_kernel % 2 == 0):
            raise ValueError(f"Nystromformer: conv_kernel must be odd or 0, got {conv_kernel}")
        self.num_landmarks, self.pinv_iters = num_landmarks, pinv_iters
        self.conv: nn.Conv2d | None = None
        if conv_kernel:
            self.conv = nn.Conv2d(
                heads,
                heads,
                (conv_kernel, 1),
                padding=(conv_kernel // 2, 0),
                groups=heads,
                bias=False,
            )

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H N K"],
        v: Float[Tensor, "B H N V"],
        mask: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N V"]:
        m = self.num_landmarks
        if q.shape[2] <= m:
            y = attention(q, k, v, key_mask=mask)
        else:
            y = self.approximate(q, k, v, mask)
            if mask is not None:
                # all tokens of a short example lie in the first m positions
                short = (true_lengths(mask) <= m)[:, None, None, None]
                exact = attention(q[:, :, :m], k[:, :, :m], v[:, :, :m], key_mask=mask[:, :m])
                y = torch.cat([torch.where(short, exact, y[:, :, :m]), y[:, :, m:]], dim=2)
        if self.conv is not None:
            y = y + self.conv(v)
        return F.dropout(y, self.dropout, self.training)

    def approximate(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """``F A^+ (B V)`` through landmarks."""
        index, count = segments(q, mask, self.num_landmarks)
        landmark_q, landmark_k = (segment_means(x, index, count) for x in (q, k))
        real = count > 0
        scores = landmark_q @ landmark_k.transpose(-1, -2) / math.sqrt(self.head_dim)
        # rows and columns of empty segments are zero: the pseudo-inverse leaves them so
        both = (real[:, :, None] & real[:, None, :])[:, None]
        lowest = torch.finfo(scores.dtype).min
        a = scores.masked_fill(~both, lowest).softmax(dim=-1).masked_fill(~both, 0)
        b_v = attention(landmark_q, k, v, key_mask=mask)
        mixed = (iterative_pinv(a, iterations=self.pinv_iters) @ b_v).to(q.dtype)
        return attention(q, landmark_k, mixed, key_mask=real)

    def dense_at(self, n: int) -> bool:
        return n <= self.num_landmarks


def segments(
    x: Float[Tensor, "B H N K"], mask: Bool[Tensor, "B N"] | None, m: int
) -> tuple[Int[Tensor, "B N"], Float[Tensor, "B m"]]:
    """Segment of each position, and the number of real tokens in each segment."""
    batch, n = x.shape[0], x.shape[2]
    if mask is None:
        mask = torch.ones(batch, n, dtype=torch.bool, device=x.device)
    length = true_lengths(mask).clamp_min(1)[:, None]
    position = torch.arange(n, device=x.device)
    index = (position * m // length).clamp_max(m - 1)
    count = torch.zeros(batch, m, device=x.device)
    return index, count.scatter_add(1, index, mask.to(count.dtype))


def segment_means(
    x: Float[Tensor, "B H N K"], index: Int[Tensor, "B N"], count: Float[Tensor, "B m"]
) -> Float[Tensor, "B H m K"]:
    """Mean of each segment, 0 of an empty one; x is 0 at padding."""
    batch, heads, n, width = x.shape
    m = count.shape[1]
    wide = torch.promote_types(x.dtype, torch.float32)
    rows = (index + m * torch.arange(batch, device=x.device)[:, None]).flatten()
    tokens = x.transpose(1, 2).reshape(batch * n, heads * width).to(wide)
    total = torch.zeros(batch * m, heads * width, dtype=wide, device=x.device)
    total = total.index_add(0, rows, tokens).reshape(batch, m, heads, width).transpose(1, 2)
    return (total / count.to(wide).clamp_min(1)[:, None, :, None]).to(x.dtype)
