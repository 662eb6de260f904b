"""Sparse Sinkhorn attention: each block sees its own keys and those of a block sorted to it."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kernels.attention import attention
from models.card import Card, Equals
from models.chunks import into_chunks, mask_of_chunks, out_of_chunks
from models.padding import zero_padding
from models.qkv import QKVMixer


class SinkhornTransformer(QKVMixer):
    """softmax(Q_i [K'_i ; K_i]^T / sqrt(K)) [V'_i ; V_i] in block i, K' = S K of the blocks,
    S = sinkhorn((R + gumbel) / temperature), R linear in the mean of each block.

    Tay et al. 2020, section 3: rows and columns of S are normalised by turns, in logs. Causal: S
    has earlier blocks only, R of block i comes from the blocks before it, and only rows are
    normalised, for columns would show the future.

    Args:
        block_size: positions of a block.
        sinkhorn_iters: times that rows and columns are normalised.
        temperature: of S; towards 0 a permutation.
        sort_activation: ``sinkhorn`` | ``softmax`` (rows only, the default of Long Range Arena's
            code).
    """

    card = Card(
        title="Sparse Sinkhorn Attention",
        authors="Tay, Bahri, Yang, Metzler, Juan",
        year=2020,
        link="https://arxiv.org/abs/2002.11296",
        family="sparse",
        time="N block_size d + N^2 d",
        memory="N^2",
        causality="masked",
        bidirectional=True,
        randomised=True,
        length_bound=("sort",),
        ops=("attention",),
        equals=(Equals("transformer", lambda n: {"block_size": n}),),
        deviations=(
            "blocks are summed up by the mean of their tokens",
            "causal: rows are normalised only",
            "SortCut, which reads the first sorted blocks alone, is not offered",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        block_size: int = 50,
        sinkhorn_iters: int = 5,
        temperature: float = 0.7,
        sort_activation: str = "sinkhorn",
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if block_size < 1 or sinkhorn_iters < 1 or not temperature > 0:
            raise ValueError(
                "SinkhornTransformer: block_size and sinkhorn_iters must be at least 1, "
                "temperature more than 0"
            )
        if sort_activation not in ("sinkhorn", "softmax"):
            raise ValueError(
                "SinkhornTransformer: sort_activation must be sinkhorn or softmax, "
                f"got '{sort_activation}'"
            )
        self.block_size, self.iters, self.temperature = block_size, sinkhorn_iters, temperature
        self.both = sort_activation == "sinkhorn" and not self.causal
        self.blocks = -(-self.max_len // block_size)
        self.sort = nn.Linear(dim, self.heads * self.blocks, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        q, k, v, mask = self.project(x, mask, context, context_mask)
        batch, _, n, _ = q.shape
        block = min(self.block_size, n)
        real = mask_of_chunks(mask, batch, n, block, q.device)
        if real is None:
            real = torch.ones(batch * (n // block), block, dtype=torch.bool, device=q.device)
        q, k, v = (into_chunks(y, block) for y in (q, k, v))
        own = real.unflatten(0, (batch, -1))
        s = self.sorting(zero_padding(x, mask), own)
        k, v = (torch.cat([self._sorted(s, y, batch), y], dim=2) for y in (k, v))
        # a place is real where some block that is sorted to it has a token there
        seen = torch.einsum("bhij,bjc->bic", s.detach(), own.to(s.dtype)) > 0
        real = torch.cat([seen.flatten(0, 1), real], dim=1)
        # causal: the last query sits beside the last key, so that all of the sorted block is seen
        y = out_of_chunks(attention(q, k, v, causal=self.causal, key_mask=real), batch, n)
        return self.output(F.dropout(y, self.dropout, self.training).transpose(1, 2).flatten(2))

    def dense_at(self, n: int) -> bool:
        return n <= self.block_size

    def sorting(
        self, x: Float[Tensor, "B N D"], real: Bool[Tensor, "B C c"]
    ) -> Float[Tensor, "B H C C"]:
        """S; rows and columns of blocks without tokens are 0."""
        batch, count, block = real.shape
        tokens = F.pad(x, (0, 0, 0, count * block - x.shape[1])).unflatten(1, (count, block))
        total, held = tokens.sum(2), real.sum(2)[..., None].to(x.dtype)
        if self.causal:
            total, held = (F.pad(y.cumsum(1)[:, :-1], (0, 0, 1, 0)) for y in (total, held))
        # only the places that there are
        weight = self.sort.weight.unflatten(0, (self.heads, -1))[:, :count].flatten(0, 1)
        scores = F.linear(total / held.clamp(min=1), weight)
        scores = scores.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if self.training:
            scores = scores - (-torch.rand_like(scores).clamp(1e-9, 1 - 1e-7).log()).log()
        present = real.any(2)
        allowed = present[:, None, :, None] & present[:, None, None, :]
        if self.causal:
            allowed = allowed.tril(-1)
        log_s = (scores / self.temperature).masked_fill(~allowed, -1e30)
        for _ in range(self.iters if self.both else 1):
            for axis in (-1, -2) if self.both else (-1,):
                log_s = log_s - log_s.logsumexp(axis, keepdim=True)
                # rows and columns without blocks stay without weight
                log_s = log_s.masked_fill(~allowed, -1e30)
        return log_s.exp()

    def _sorted(self, s: Tensor, x: Tensor, batch: int) -> Float[Tensor, "C H c K"]:
        """The blocks of x, mixed by S."""
        x = x.unflatten(0, (batch, -1))
        return torch.einsum("bhij,bjhck->bihck", s.to(x.dtype), x).flatten(0, 1)
