"""Long-Short Transformer: a window, and a summary of the sequence that its content decides."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from kernels.attention import attention
from kernels.merge_attention import merge_attention
from models.card import Card, Equals
from models.chunks import into_chunks, mask_of_chunks, out_of_chunks
from models.padding import zero_padding
from models.qkv import QKVMixer


class TransformerLS(QKVMixer):
    """One softmax over the keys of a window and r projected ones, Kbar = P^T K with
    P = softmax over positions of X W_P.

    Zhu et al. 2021, section 3: a block of ``window`` queries sees its own keys and half a block on
    each side. With ``dual_ln`` keys and values pass one normalisation near, another one projected.

    Causal (section 3.2 and the authors' code): a query sees the last ``window`` keys, its own among
    them, and ``chunk_rank`` projected keys of every chunk before its own, P by softmax within the
    chunk.

    Args:
        window: positions of a block.
        num_landmarks: r; 0 leaves the window alone. Not causal only.
        chunk_size: positions that are projected together. Causal only.
        chunk_rank: projected keys of a chunk; 0 leaves the window alone. Causal only.
        dual_ln: normalise both kinds of keys and values.
    """

    card = Card(
        title="Long-Short Transformer: Efficient Transformers for Language and Vision",
        authors="Zhu, Ping, Xiao, Shoeybi, Goldstein, Anandkumar, Catanzaro",
        year=2021,
        link="https://arxiv.org/abs/2107.02192",
        family="sparse",
        time="N window d + N num_landmarks d",
        causal_time="N window d + N^2 chunk_rank d",
        memory="N d",
        causality="masked",
        bidirectional=True,
        ops=("attention", "merge_attention"),
        equals=(
            Equals(
                "transformer",
                lambda n: {"window": n, "num_landmarks": 0, "chunk_rank": 0, "dual_ln": False},
            ),
        ),
        deviations=(
            "the causal form has no relative positions of its own, and no memory",
            "no convolution over the values, as in the scripts for Long Range Arena",
            "a CLS vector is a token like others; in the authors' code all see it, and it sees all",
        ),
    )  # fmt: skip

    def __init__(
        self,
        dim: int,
        *,
        window: int = 8,
        num_landmarks: int = 32,
        chunk_size: int = 16,
        chunk_rank: int = 1,
        dual_ln: bool = True,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if min(window, chunk_size) < 1 or min(num_landmarks, chunk_rank) < 0:
            raise ValueError(
                "TransformerLS: window and chunk_size must be at least 1, num_landmarks and "
                "chunk_rank at least 0"
            )
        self.window, self.chunk_size = window, chunk_size
        # of the whole sequence, or of a chunk
        self.landmarks = chunk_rank if self.causal else num_landmarks
        self.project_to: nn.Linear | None = None
        if self.landmarks:
            # a softmax over positions would not feel a bias
            self.project_to = nn.Linear(dim, self.heads * self.landmarks, bias=False)
        self.near_norm: nn.LayerNorm | None = None
        self.far_norm: nn.LayerNorm | None = None
        if dual_ln:
            self.near_norm = nn.LayerNorm(self.qkv_dim)
            self.far_norm = nn.LayerNorm(self.qkv_dim) if self.landmarks else None

    def forward(
        self,
        x: Float[Tensor, "B N D"],
        mask: Bool[Tensor, "B N"] | None = None,
        *,
        context: Float[Tensor, "B M D"] | None = None,
        context_mask: Bool[Tensor, "B M"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        q, k, v, mask = self.project(x, mask, context, context_mask)
        near = [self._normed(y, self.near_norm) for y in (k, v)]
        parts = [self._window(q, near[0], near[1], mask)]
        x = zero_padding(x, mask)
        if self.project_to is not None and self.causal:
            parts += self._chunks_before(q, *self._chunks(x, k, v, mask))
        elif self.project_to is not None:
            far = self._summary(x, k, v, mask)
            far = [self._normed(y, self.far_norm) for y in far]
            parts.append(attention(q, far[0], far[1], return_lse=True))
        outputs, lses = zip(*parts, strict=True)
        y, _ = merge_attention(outputs, lses)
        y = F.dropout(y, self.dropout, self.training)
        return self.output(y.transpose(1, 2).flatten(2))

    def dense_window(self, n: int) -> bool:
        """Whether a window sees all there is."""
        return n <= self.window

    def dense_at(self, n: int) -> bool:
        return self.dense_window(n) and not self.landmarks and self.near_norm is None

    def _normed(self, x: Float[Tensor, "B H N K"], norm: nn.LayerNorm | None) -> Tensor:
        if norm is None:
            return x
        y = norm(x.transpose(1, 2).flatten(2))
        return self.heads_of(y).to(x.dtype)

    def _window(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Float[Tensor, "B H N V"], Float[Tensor, "B H N"]]:
        if self.causal:
            # one wider than the sequence is none
            band = None if self.dense_window(q.shape[2]) else (self.window - 1, 0)
            return attention(q, k, v, causal=True, window=band, key_mask=mask, return_lse=True)
        batch, _, n, _ = q.shape
        block = min(self.window, n)
        side = 0 if block == n else -(-block // 2)
        real = mask_of_chunks(mask, batch, n, block, q.device)
        if side and real is None:
            real = q.new_ones(batch * (n // block), block).bool()
        fill = -n % block
        k, v = (
            F.pad(y, (0, 0, side, side + fill)).unfold(2, block + 2 * side, block).mT
            for y in (k, v)
        )
        k, v = (y.transpose(1, 2).flatten(0, 1) for y in (k, v))
        if real is not None:
            flat = F.pad(real.view(batch, -1), (side, side))
            real = flat.unfold(1, block + 2 * side, block).flatten(0, 1)
        y, lse = attention(into_chunks(q, block), k, v, key_mask=real, return_lse=True)
        return out_of_chunks(y, batch, n), out_of_chunks(lse[..., None], batch, n)[..., 0]

    def _summary(
        self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> list[Float[Tensor, "B H R K"]]:
        """Kbar and Vbar: weighted means over all real positions."""
        assert self.project_to is not None
        scores = self.project_to(x).unflatten(-1, (self.heads, -1)).permute(0, 2, 3, 1)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -1e30)
        weights = scores.softmax(dim=-1).to(k.dtype)
        return [weights @ k, weights @ v]

    def _chunks(
        self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Float[Tensor, "B H R C K"], Float[Tensor, "B H R C K"], Bool[Tensor, "B C"]]:
        """Kbar and Vbar of every chunk but the last, and whether a chunk has a real position."""
        assert self.project_to is not None
        count = -(-x.shape[1] // self.chunk_size) - 1
        whole = count * self.chunk_size
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        real = mask[:, :whole].unflatten(1, (count, self.chunk_size))
        scores = self.project_to(x[:, :whole]).unflatten(-1, (self.heads, -1))
        scores = scores.unflatten(1, (count, self.chunk_size)).permute(0, 3, 4, 1, 2)
        weights = scores.masked_fill(~real[:, None, None], -1e30).softmax(dim=-1).to(k.dtype)
        far = []
        for y in (k, v):
            chunks = y[:, :, :whole].unflatten(2, (count, self.chunk_size))
            summed = torch.einsum("bhrcl,bhclk->bhrck", weights, chunks)
            y = self._normed(summed.flatten(2, 3), self.far_norm)
            far.append(y.unflatten(2, (self.landmarks, count)))
        return far[0], far[1], real.any(-1)

    def _chunks_before(
        self, q: Tensor, k: Tensor, v: Tensor, real: Tensor
    ) -> list[tuple[Float[Tensor, "B H N V"], Float[Tensor, "B H N"]]]:
        """What every query reads of the chunks before its own, one projected key of each a part."""
        batch, _, n, _ = q.shape
        size, count = self.chunk_size, k.shape[3]
        if not count:
            return []
        # the l-th queries of all chunks are a head: to them the chunks are a causal sequence
        late = F.pad(q[:, :, size:], (0, 0, 0, -n % size)).unflatten(2, (count, size))
        late, parts = late.transpose(2, 3).flatten(1, 2), []
        for r in range(self.landmarks):
            y, lse = attention(
                late, k[:, :, r], v[:, :, r], causal=True, key_mask=real, return_lse=True
            )
            y, lse = (
                t.unflatten(1, (-1, size)).transpose(2, 3).flatten(2, 3)[:, :, : n - size]
                for t in (y, lse)
            )
            parts.append((F.pad(y, (0, 0, size, 0)), F.pad(lse, (size, 0), value=-torch.inf)))
        return parts
