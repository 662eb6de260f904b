"""Inputs of attention over listed blocks, and of merging partial attentions."""

from kernels.block_sparse_attention import layouts
from kernels.block_sparse_attention.layout import Layout
from lra.errors import nearest
from lra.kernel_bench.draw import Draw, Inputs

PATTERNS = ("band", "strided", "bigbird")


def block_sparse_attention(draw: Draw, *, pattern: str, block: int = 64) -> Inputs:
    """``pattern``: a band of two blocks to either side; the blocks of BigBird; the causal stride of
    the Sparse Transformer, two blocks long."""
    if pattern not in PATTERNS:
        raise nearest(str(pattern), PATTERNS, kind="pattern in op.variants")
    length = draw.case.length
    if pattern == "band":
        layout: Layout = layouts.band(length, block, 2 * block, 2 * block)
    elif pattern == "strided":
        layout = layouts.strided(length, block, 2 * block)
    else:
        layout = layouts.bigbird(length, block, heads=draw.case.heads)
    return Inputs(
        tensors={name: draw.normal(*draw.heads_first) for name in "qkv"},
        options={"layout": layout.to(draw.device)}, causal=pattern == "strided",
    )  # fmt: skip


def merge_attention(draw: Draw, *, parts: int = 4) -> Inputs:
    """As many partial attentions as ``parts``; log-sum-exps in fp32."""
    shape = (parts, *draw.heads_first)
    return Inputs(
        tensors={"outputs": draw.normal(*shape), "lses": draw.normal(*shape[:4], wide=True)}
    )
