"""Softmax attention through landmarks: the Nystrom method."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.attention import attention
from kernels.iterative_pinv import iterative_pinv
from models.card import Card, Equals
from models.padding import true_lengths
from models.qkv import QKVMixer


class Nystromformer(QKVMixer):
    """Y = F A^+ (B V) + DWConv(V), F = s(Q K~^T), A = s(Q~ K~^T), B = s(Q~ K^T), s a softmax.

    Xiong et al. 2021, eq. 13 and section 3.2. Landmarks Q~, K~ are means over m segments of each
    example's true length. An example of at most m tokens has a landmark a token and is computed as
    what the formula then is, exact attention.

    Args:
        num_landmarks: m.
        pinv_iters: iterations of the pseudo-inverse.
        conv_kernel: taps of the depthwise convolution over V, odd; 0 for none.
    """

    card = Card(
        title="Nystromformer: A Nystrom-Based Algorithm for Approximating Self-Attention",
        authors="Xiong, Zeng, Chakraborty, Tan, Fung, Li, Singh",
        year=2021,
        link="https://arxiv.org/abs/2102.03902",
        family="low_rank",
        time="N m d + m^3",
        memory="N m",
        causality="no",
        bidirectional=True,
        ops=("attention", "iterative_pinv"),
        equals=(
            Equals(
                "transformer",
                knobs=lambda n: {"num_landmarks": n, "conv_kernel": 0},
                causal=(False,),
            ),
        ),
        deviations=(
            "the pseudo-inverse starts from each matrix's own norms, not from the batch's",
            "dropout acts on the mixed features: the N x N weights are never formed",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        num_landmarks: int = 128,
        pinv_iters: int = 6,
        conv_kernel: int = 35,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if num_landmarks < 1 or pinv_iters < 1:
            raise ValueError("Nystromformer: num_landmarks and pinv_iters must be at least 1")
        if conv_kernel and (conv_kernel < 0 or conv_kernel % 2 == 0):
            raise ValueError(f"Nystromformer: conv_kernel must be odd or 0, got {conv_kernel}")
        self.num_landmarks, self.pinv_iters = num_landmarks, pinv_iters
        self.conv: nn.Conv2d | None = None
        if conv_kernel:
            # one set of taps a head, along the sequence
            self.conv = nn.Conv2d(
                self.heads, self.heads, (conv_kernel, 1), padding=(conv_kernel // 2, 0),
                groups=self.heads, bias=False,
            )  # fmt: skip

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H N K"],
        v: Float[Tensor, "B H N V"],
        mask: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N V"]:
        n, m = q.shape[2], self.num_landmarks
        head = None if mask is None else mask[:, :m]
        y = attention(q[:, :, :m], k[:, :, :m], v[:, :, :m], key_mask=head)
        if n > m:
            few = F.pad(y, (0, 0, 0, n - m))
            y = self._through_landmarks(q, k, v, mask)
            if mask is not None:
                y = torch.where((true_lengths(mask) <= m)[:, None, None, None], few, y)
        y = F.dropout(y, self.dropout, self.training)
        return y if self.conv is None else y + self.conv(v)

    def _through_landmarks(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        means = self.segment_means(q, mask)
        there = None if mask is None else means.any(-1)
        near_q, near_k = means[:, None] @ q, means[:, None] @ k
        scores = near_q @ near_k.mT / self.head_dim**0.5
        if there is None:
            a = scores.softmax(-1)
        else:
            # an empty landmark is a row and a column of the identity: it touches no other
            eye = torch.eye(scores.shape[-1], dtype=torch.bool, device=q.device)
            real = there[:, None, :, None] & there[:, None, None, :]
            a = scores.masked_fill(~real & ~eye, -torch.inf).softmax(-1)
        inner = attention(near_q, k, v, key_mask=mask)
        inner = iterative_pinv(a, iterations=self.pinv_iters) @ inner
        return attention(q, near_k, inner, key_mask=there)

    def segment_means(
        self, x: Float[Tensor, "B H N K"], mask: Bool[Tensor, "B N"] | None
    ) -> Float[Tensor, "_ M N"]:
        """Averaging weights: position i is in segment floor(i m / length); holes weigh nothing."""
        n, m = x.shape[2], self.num_landmarks
        position = torch.arange(n, device=x.device)
        if mask is None:
            mask = torch.ones(1, n, dtype=torch.bool, device=x.device)
        length = true_lengths(mask).clamp(min=1)[:, None]
        segment = position * m // length
        member = (segment[:, None, :] == torch.arange(m, device=x.device)[:, None]) & mask[:, None]
        return member.to(x.dtype) / member.sum(-1, keepdim=True).clamp(min=1)

    def dense_at(self, n: int) -> bool:
        return self.num_landmarks >= n
