"""HyperAttention: exact where hashes agree, sampled elsewhere."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kernels.attention import attention
from kernels.merge_attention import merge_attention
from kernels.merge_attention.rows import permute_rows, sort_by_bucket, take_rows
from models.card import Card, Equals
from models.chunks import into_chunks, out_of_chunks
from models.mixers.hashed.causal_halves import causal_by_halves
from models.padding import true_lengths
from models.qkv import QKVMixer


class HyperAttention(QKVMixer):
    """softmax(Q K^T / sqrt(K)) V, estimated: blocks of queries and keys sorted by a hash exactly,
    the rest by ``sample_size`` keys drawn evenly, each standing for N / sample_size.

    Han et al. 2023, algorithms 1-3: the hash is the sign of ``lsh_num_projs`` projections, its
    values in Gray-code order, so that neighbours differ in one sign. Both parts are merged by
    their log-sum-exps; a drawn key of a query's own block is left out, for it is counted already.
    Sequences of at most ``min_seq_len`` tokens get exact attention.

    Causal (algorithm 4): exact inside leaves; the second of two leaves sees the first by the same
    estimate, the second of two pairs of leaves the first pair, and so on. A query's block is where
    its own code lies among the sorted keys.

    Args:
        lsh_num_projs: projections of the hash.
        block_size: tokens of a block.
        sample_size: keys drawn for the rest; all of them where there are no more.
        min_seq_len: longest sequence that is done exactly; causal: the length of a leaf, made
            longer where ``block_size`` or ``sample_size`` would show all of another leaf.
    """

    card = Card(
        title="HyperAttention: Long-context Attention in Near-Linear Time",
        authors="Han, Jayaram, Karbasi, Mirrokni, Woodruff, Zandieh",
        year=2023,
        link="https://arxiv.org/abs/2310.05869",
        family="hashed",
        time="N block_size d + N sample_size d + N d^2",
        causal_time="N min_seq_len d + N log N block_size d + N log N sample_size d + N d^2",
        memory="N d",
        causality="masked",
        bidirectional=True,
        randomised=True,
        ops=("attention", "merge_attention"),
        equals=(
            Equals("transformer", lambda n: {"block_size": n}),
            Equals("transformer", lambda n: {"sample_size": n}),
            Equals("transformer", lambda n: {"min_seq_len": n}),
        ),
        deviations=(
            "causal: a query's block is found by its own hash, not by its rank among the queries, "
            "which would show it later ones",
            "causal: halves are counted from the first position, so that a prefix is cut as it is "
            "alone",
            "one draw of keys serves all examples and heads, and all halves of one length",
            "dropout acts on the mixed features",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        lsh_num_projs: int = 7,
        block_size: int = 256,
        sample_size: int = 256,
        min_seq_len: int = 4096,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if min(lsh_num_projs, block_size, sample_size) < 1 or min_seq_len < 0:
            raise ValueError(
                "HyperAttention: lsh_num_projs, block_size and sample_size must be at least 1, "
                "min_seq_len at least 0"
            )
        if lsh_num_projs > 62:
            raise ValueError(
                f"HyperAttention: lsh_num_projs must be at most 62, got {lsh_num_projs}"
            )
        self.block_size, self.sample_size = block_size, sample_size
        self.min_seq_len = min_seq_len
        self.exact = self._leaf() if self.causal else min_seq_len
        self.projections: Tensor
        self.register_buffer("projections", torch.randn(self.head_dim, lsh_num_projs))
        self.luck: Tensor
        self.register_buffer("luck", torch.rand(sample_size))

    def dense_at(self, n: int) -> bool:
        return n <= max(self.exact, self.block_size, self.sample_size)

    def _leaf(self) -> int:
        """Positions of a leaf of the causal form: halves that a query would see whole are not
        estimated."""
        leaf = max(self.min_seq_len, self.block_size)
        while leaf <= max(self.block_size, self.sample_size):
            leaf *= 2
        return leaf

    @torch.no_grad()
    def hash(self, x: Float[Tensor, "B H N K"]) -> Int64[Tensor, "B H N"]:
        """Place of each row's signs in the Gray-code order."""
        signs = (x @ self.projections.to(x.dtype) > 0).long()
        bits = torch.arange(signs.shape[-1], device=x.device)
        code = (signs << bits).sum(-1)
        shift = 1
        while shift < signs.shape[-1]:
            code, shift = code ^ (code >> shift), 2 * shift
        return code

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H N K"],
        v: Float[Tensor, "B H N V"],
        mask: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N V"]:
        n, most = q.shape[2], self.exact
        if n <= most:
            y = attention(q, k, v, causal=self.causal, key_mask=mask)
        elif self.causal:
            y = causal_by_halves(
                q, k, v, torch.stack([self.hash(q), self.hash(k)], dim=-1),
                q.new_ones(len(q), n, dtype=torch.bool) if mask is None else mask,
                leaf=most, block=self.block_size, draw=self._draw,
            )  # fmt: skip
        elif mask is None:
            y = self._estimate(q, k, v, None, torch.full((len(q),), n, device=q.device))
        else:
            y = self._estimate(q, k, v, mask, mask.sum(1))
            if most:
                # short examples are done exactly, inside a longer batch as alone
                first = [x[:, :, :most] for x in (q, k, v)]
                exact = F.pad(attention(*first, key_mask=mask[:, :most]), (0, 0, 0, n - most))
                short = true_lengths(mask) <= most
                y = torch.where(short[:, None, None, None], exact, y)
        return F.dropout(y, self.dropout, self.training)

    def _estimate(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, held: Tensor
    ) -> Float[Tensor, "B H N V"]:
        batch, _, n, _ = q.shape
        block = min(self.block_size, n)
        query_order, query_inverse = sort_by_bucket(self.hash(q), mask)
        order, inverse = sort_by_bucket(self.hash(k), mask)
        q = into_chunks(permute_rows(q, query_order, query_inverse), block)
        k, v = (permute_rows(x, order, inverse) for x in (k, v))
        at = torch.arange(-(-n // block) * block, device=q.device)
        real = (at < held[:, None]).unflatten(1, (-1, block))
        near = attention(
            q, into_chunks(k, block), into_chunks(v, block), key_mask=real.flatten(0, 1),
            return_lse=True,
        )  # fmt: skip
        drawn, used, weight = self._draw(held)
        blocks = torch.arange(real.shape[1], device=q.device)[:, None]
        elsewhere = used[:, None] & (drawn[:, None] // block != blocks)
        chosen = drawn[:, None].expand(-1, k.shape[1], -1)
        far_k, far_v = (
            take_rows(x, chosen).repeat_interleave(real.shape[1], dim=0) for x in (k, v)
        )
        y, lse = attention(q, far_k, far_v, key_mask=elsewhere.flatten(0, 1), return_lse=True)
        lse = lse + weight.repeat_interleave(real.shape[1])[:, None, None].to(lse.dtype)
        y, _ = merge_attention([near[0], y], [near[1], lse])
        return permute_rows(out_of_chunks(y, batch, n), query_inverse, query_order)

    def _draw(
        self, held: Int64[Tensor, " B"]
    ) -> tuple[Int64[Tensor, "B S"], Bool[Tensor, "B S"], Float[Tensor, " B"]]:
        """Sorted places of the drawn keys, which of them count, and the log of what each stands
        for."""
        luck = torch.rand_like(self.luck) if self.training else self.luck
        most = (held - 1).clamp(min=0)[:, None]
        random = (luck.double() * held[:, None]).long().minimum(most)
        every = torch.arange(self.sample_size, device=held.device).expand_as(random)
        few = (held <= self.sample_size)[:, None]
        drawn = torch.where(few, every.minimum(most), random)
        weight = (held.double() / self.sample_size).clamp(min=1).log()
        return drawn, ~few | (every < held[:, None]), weight
