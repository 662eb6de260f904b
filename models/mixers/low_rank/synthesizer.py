"""Synthesizer: attention weights from positions, or from each token alone, without comparing."""

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kernels.attention import attention
from kernels.attention.score import Score
from models.card import Card
from models.mixer import Mixer
from models.mixers.exact.transformer import softmax_matrix
from models.padding import zero_padding

MODES = ("random", "factorized_random", "dense", "factorized_dense")


class Synthesizer(Mixer):
    """``softmax(B) V`` with scores B ``(N, N)`` that compare no two tokens.

    Tay et al. 2021, section 3. random: B is a parameter (eq. 5). factorized_random: B = R1 R2^T
    with R1, R2 ``(N, k)`` (eq. 8). dense: B_i = W2 relu(W1 x_i + b1) + b2 (eq. 2-3).
    factorized_dense: B_ij = A(x_i)_(j mod a) C(x_i)_(j div a), a b >= N (eq. 6-7). ``dot_product``
    adds Q K^T / sqrt(K), the mixture of section 3.1.5.

    The scores of a shorter sequence are the upper left corner of those of ``max_len``.

    Args:
        mode: ``random`` | ``factorized_random`` | ``dense`` | ``factorized_dense``.
        k: rank of the factorised random scores.
        trainable: False keeps random scores as they were drawn.
        dot_product: add the Transformer's scores.
    """

    card = Card(
        title="Synthesizer: Rethinking Self-Attention for Transformer Models",
        authors="Tay, Bahri, Metzler, Juan, Zhao, Zheng",
        year=2021,
        link="https://arxiv.org/abs/2005.00743",
        family="low_rank",
        time="N^2 d",
        memory="N d + N k",
        causality="masked",
        bidirectional=True,
        length_bound=("r1", "r2"),
        ops=("attention",),
        deviations=(
            "padded keys are hidden in every mode; the code of Long Range Arena hides them only "
            "where the dot product is on",
            "the N x N weights of the two default modes are computed in tiles and never held",
            "a mixture is one synthetic kind with the dot product, added without learned weights; "
            "the paper mixes several kinds by them",
        ),
    )
    positions: ClassVar[tuple[str, ...]] = ("alibi",)

    def __init__(
        self,
        dim: int,
        *,
        mode: str = "factorized_random",
        k: int = 32,
        trainable: bool = True,
        dot_product: bool = False,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if mode not in MODES:
            raise ValueError(f"Synthesizer: mode must be one of {', '.join(MODES)}, got '{mode}'")
        if k < 1:
            raise ValueError(f"Synthesizer: k must be at least 1, got {k}")
        self.mode, self.dot_product = mode, dot_product
        self.head_dim = self.qkv_dim // self.heads
        self.value = nn.Linear(dim, self.qkv_dim, bias=False)
        self.output = nn.Linear(self.qkv_dim, dim, bias=False)
        linears = [self.value, self.output]
        if dot_product:
            self.query = nn.Linear(dim, self.qkv_dim, bias=False)
            self.key = nn.Linear(dim, self.qkv_dim, bias=False)
            linears += [self.query, self.key]
        for linear in linears:
            nn.init.xavier_uniform_(linear.weight)
        n, h = self.max_len, self.heads
        if mode == "random":
            self.r1 = nn.Parameter(torch.randn(h, n, n), requires_grad=trainable)
        elif mode == "factorized_random":
            # products of unit variance
            self.r1 = nn.Parameter(torch.randn(h, n, k) * k**-0.25, requires_grad=trainable)
            self.r2 = nn.Parameter(torch.randn(h, n, k) * k**-0.25, requires_grad=trainable)
        elif mode == "dense":
            self.hidden = nn.Linear(dim, self.qkv_dim)
            self.r2 = nn.Parameter(torch.randn(h, n, self.head_dim) * self.head_dim**-0.5)
            self.bias = nn.Parameter(torch.zeros(h, n, 1))
        else:
            self.inner = math.isqrt(n - 1) + 1
            self.factors = nn.Linear(dim, 2 * h * self.inner)

    def scores(
        self, x: Float[Tensor, "B N D"]
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
        """The scores as products of pairs ``(B, H, N, m)``, and what is added to them."""
        n, pairs, bias = x.shape[1], [], None
        if self.mode == "random":
            bias = self.r1[None, :, :n, :n]
        elif self.mode == "factorized_random":
            pairs.append((self.r1[None, :, :n], self.r2[None, :, :n]))
        elif self.mode == "dense":
            hidden = self._heads(self.hidden(x)).relu()
            with_bias = torch.cat([hidden, torch.ones_like(hidden[..., :1])], dim=-1)
            keys = torch.cat([self.r2, self.bias], dim=-1)
            pairs.append((with_bias, keys[None, :, :n]))
        else:
            a, c = self._heads(self.factors(x)).chunk(2, dim=-1)
            j = torch.arange(n, device=x.device)
            bias = a[..., j % self.inner] * c[..., j // self.inner]
        if self.dot_product:
            q, k = self._heads(self.query(x)), self._heads(self.key(x))
            pairs.append((q * self.head_dim**-0.5, k))
        return pairs, bias

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        self.check(x, mask, context)
        x = zero_padding(x, mask)
        v = self._heads(self.value(x))
        q, k, score = self._joined(x)
        y = attention(
            q.to(v.dtype), k.to(v.dtype), v, causal=self.causal, key_mask=mask, scale=1.0,
            score=score, dropout_p=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return self.output(y.transpose(1, 2).flatten(2))

    def _joined(self, x: Tensor) -> tuple[Tensor, Tensor, Score]:
        """Queries and keys whose products are the scores, and the bias that is added."""
        pairs, bias = self.scores(x)
        full = (len(x), self.heads, x.shape[1], -1)
        if not pairs:
            nothing = x.new_zeros(1, 1, 1, 1)
            pairs = [(nothing, nothing)]
        q, k = (
            torch.cat([part.expand(full).to(x.dtype) for part in parts], dim=-1)
            for parts in zip(*pairs, strict=True)
        )
        return q, k, Score(bias=bias, alibi=self.alibi)

    def _heads(self, x: Float[Tensor, "B N Q"]) -> Float[Tensor, "B H N K"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def reference_matrix(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H N N"]:
        q, k, score = self._joined(zero_padding(x, mask))
        n = x.shape[1]
        scores = q @ k.mT + (0 if score.bias is None else score.bias)
        visible = torch.ones(n, n, dtype=torch.bool, device=x.device)
        # as scores of queries and keys: Q = scores sqrt(N), K = 1
        eye = torch.eye(n, dtype=x.dtype, device=x.device).expand_as(scores)
        visible = visible.tril() if self.causal else visible
        return softmax_matrix(scores * n**0.5, eye, visible, mask, alibi=self.alibi)
