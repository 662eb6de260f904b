"""Sparse Transformer: a local and a far-reaching pattern, of about sqrt(N) keys each."""

from typing import Any

from jaxtyping import Bool
from torch import Tensor

from kernels.block_sparse_attention.layout import Layout
from kernels.block_sparse_attention.layouts import fixed, strided
from models.card import Card, Equals
from models.mixers.sparse.block_sparse import BlockSparseMixer


class SparseTransformer(BlockSparseMixer):
    """``softmax(Q K^T / sqrt(K)) V`` over A1 and A2 together.

    Child et al. 2019, section 4.3. fixed: A1 is the query's stretch of ``stride`` positions, A2 the
    last ``c`` positions of every stretch. strided: A1 is ``i - j < stride``, A2 is
    ``(i - j) mod stride = 0``. Not causal: the same on both sides.

    Args:
        stride: length of a stretch; the paper takes about sqrt(N).
        c: positions of a stretch that all see (fixed); None: a quarter of the stride.
        mode: ``fixed`` | ``strided``.
    """

    card = Card(
        title="Generating Long Sequences with Sparse Transformers",
        authors="Child, Gray, Radford, Sutskever",
        year=2019,
        link="https://arxiv.org/abs/1904.10509",
        family="sparse",
        time="N^2 d",
        memory="N d",
        causality="masked",
        bidirectional=True,
        ops=("block_sparse_attention",),
        equals=(Equals("transformer", lambda n: {"stride": n}),),
        deviations=(
            "both patterns in every head; the paper also gives them to heads or layers by turns",
            "the time is N sqrt(N) for a stride of sqrt(N) and a fixed c; at a fixed stride it is "
            "quadratic, c / stride of dense attention's",
            "Long Range Arena's code is causal inside an encoder; here only causal tasks are",
            "in Long Range Arena's code all see the first position of every stretch, too",
            "the preset is fixed on images, too, where the paper's is strided",
            "dropout acts on the mixed features",
        ),
    )

    def __init__(
        self,
        dim: int,
        *,
        stride: int = 128,
        c: int | None = None,
        mode: str = "fixed",
        **standard: Any,
    ):
        super().__init__(dim, **standard)
        if mode not in ("fixed", "strided"):
            raise ValueError(f"SparseTransformer: mode must be fixed or strided, got '{mode}'")
        c = max(stride // 4, 1) if c is None else c
        if stride < 1 or not 1 <= c <= stride:
            raise ValueError(
                f"SparseTransformer: need 1 <= c <= stride, got c={c} and stride={stride}"
            )
        self.stride, self.c, self.mode = stride, c, mode

    def layout(self, n: int, mask: Bool[Tensor, "B N"] | None) -> Layout:
        if self.mode == "strided":
            # every block holds a far key: large blocks waste no more than small ones
            return strided(n, 64, self.stride, causal=self.causal)
        block = max(8, min(64, self.c))
        return fixed(n, block, self.stride, self.c, causal=self.causal)

    def dense_at(self, n: int) -> bool:
        all_told = self.stride == (self.c if self.mode == "fixed" else 1)
        return n <= self.stride or all_told
