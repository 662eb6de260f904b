"""Long-Short Transformer: a window, and a summary of the sequence that its content decides."""

from typing import Any

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

    Args:
        window: positions of a block.
        num_landmarks: r; 0 leaves the window alone.
        dual_ln: normalise both kinds of keys and values.
    """

    card = Card(
        title="Long-Short Transformer: Efficient Transformers for Language and Vision",
        authors="Zhu, Ping, Xiao, Shoeybi, Goldstein, Anandkumar, Catanzaro",
        year=2021,
        link="https://arxiv.org/abs/2107.02192",
        family="sparse",
        time="N window d + N num_landmarks d",
        memory="N d",
        causality="no",
        bidirectional=True,
        ops=("attention", "merge_attention"),
        equals=(
            Equals(
                "transformer", lambda n: {"window": n, "num_landmarks": 0, "dual_ln": False},
                causal=(False,),
            ),
        ),
        deviations=(
            "the causal form, with projections of earlier segments, is not offered",
            "no convolution over the values, as in the scripts for Long Range Arena",
        ),
    )  # fmt: skip

    def __init__(
        self,
        dim: int,
        *,
        window: int = 8,
        num_landmarks: int = 32,
        dual_ln: bool = True,
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if window < 1 or num_landmarks < 0:
            raise ValueError(
                "TransformerLS: window must be at least 1 and num_landmarks at least 0"
            )
        self.window, self.landmarks = window, num_landmarks
        self.project_to: nn.Linear | None = None
        if num_landmarks:
            self.project_to = nn.Linear(dim, self.heads * num_landmarks)
        self.near_norm: nn.LayerNorm | None = None
        self.far_norm: nn.LayerNorm | None = None
        if dual_ln:
            self.near_norm = nn.LayerNorm(self.qkv_dim)
            self.far_norm = nn.LayerNorm(self.qkv_dim) if num_landmarks else None

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
        if self.project_to is not None:
            far = self._summary(zero_padding(x, mask), k, v, mask)
            far = [self._normed(y, self.far_norm) for y in far]
            parts.append(attention(q, far[0], far[1], return_lse=True))
        outputs, lses = zip(*parts, strict=True)
        y, _ = merge_attention(outputs, lses)
        y = F.dropout(y, self.dropout, self.training)
        return self.output(y.transpose(1, 2).flatten(2))

    def dense_at(self, n: int) -> bool:
        return n <= self.window and not self.landmarks and self.near_norm is None

    def _normed(self, x: Float[Tensor, "B H N K"], norm: nn.LayerNorm | None) -> Tensor:
        if norm is None:
            return x
        y = norm(x.transpose(1, 2).flatten(2))
        return self.heads_of(y).to(x.dtype)

    def _window(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Float[Tensor, "B H N V"], Float[Tensor, "B H N"]]:
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
