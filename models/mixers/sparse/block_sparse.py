"""What mixers with a fixed sparse pattern share: they say the pattern, the op does the rest."""

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.block_sparse_attention import block_sparse_attention
from kernels.block_sparse_attention.layout import Layout
from models.mixers.exact.transformer import softmax_matrix
from models.qkv import QKVMixer


class BlockSparseMixer(QKVMixer):
    """Softmax attention over the pairs of ``layout``. Dropout acts on the mixed features."""

    positions: ClassVar[tuple[str, ...]] = ("rope", "alibi")

    def layout(self, n: int, mask: Bool[Tensor, "B N"] | None) -> Layout:
        """Which query sees which key in sequences padded to n. The pattern of an example may depend
        on its true length, never on n."""
        raise NotImplementedError

    def attend(
        self,
        q: Float[Tensor, "B H N K"],
        k: Float[Tensor, "B H N K"],
        v: Float[Tensor, "B H N V"],
        mask: Bool[Tensor, "B N"] | None,
    ) -> Float[Tensor, "B H N V"]:
        y = block_sparse_attention(
            q, k, v, self.layout(q.shape[2], mask), key_mask=mask, alibi=self.alibi
        )
        return F.dropout(y, self.dropout, self.training)

    def reference_matrix(
        self, x: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"] | None = None
    ) -> Float[Tensor, "B H N N"]:
        q, k, _, mask = self.project(x, mask)
        visible = self.layout(x.shape[1], mask).matrix().to(x.device)
        if len(visible) not in (1, self.heads):
            visible = visible.unflatten(0, (len(x), self.heads))
        return softmax_matrix(q, k, visible, mask, alibi=self.alibi)
