"""Attention that sees listed blocks of keys: every static sparse pattern, in time of its blocks."""

import math
from typing import Literal, overload

from jaxtyping import Bool, Float
from torch import Tensor

from kernels.attention import LogSumExp, Output, check_tensors
from kernels.block_sparse_attention.layout import Layout
from kernels.dispatch import Op

OP = Op(
    "block_sparse_attention",
    backends=("reference", "eager", "compile", "triton"),
    auto={"cpu": ("eager",), "cuda": ("triton", "eager")},
)


@overload
def block_sparse_attention(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B J M K"],
    v: Float[Tensor, "B J M V"],
    layout: Layout,
    *,
    key_mask: Bool[Tensor, "B M"] | None = ...,
    alibi: Float[Tensor, " H"] | None = ...,
    scale: float | None = ...,
    return_lse: Literal[False] = ...,
    backend: str = ...,
) -> Output: ...


@overload
def block_sparse_attention(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B J M K"],
    v: Float[Tensor, "B J M V"],
    layout: Layout,
    *,
    key_mask: Bool[Tensor, "B M"] | None = ...,
    alibi: Float[Tensor, " H"] | None = ...,
    scale: float | None = ...,
    return_lse: Literal[True],
    backend: str = ...,
) -> tuple[Output, LogSumExp]: ...


def block_sparse_attention(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B J M K"],
    v: Float[Tensor, "B J M V"],
    layout: Layout,
    *,
    key_mask: Bool[Tensor, "B M"] | None = None,
    alibi: Float[Tensor, " H"] | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    backend: str = "auto",
) -> Output | tuple[Output, LogSumExp]:
    """``softmax(scale q k^T) v`` over the pairs of a layout (Child et al. 2019, arXiv 1904.10509).

    Rows that see no key give zeros, and -inf in the log-sum-exp. Keys that share a block with a
    visible one, and their values, must be finite (their weight is 0, and 0 x NaN is NaN).

    Args:
        q, k, v: queries, keys and values of one dtype and device, N, M >= 1. H is a multiple of J:
            each key head serves H / J successive query heads.
        layout: of N queries and M keys, for one, H or B H heads (``layouts`` makes them, ``Layout``
            says what it holds). It is moved to the device of q once.
        key_mask: False hides a key from every query.
        alibi: slope of each head on the distance |i - j| (arXiv 2108.12409), the last query beside
            the last key; a constant.
        scale: of the dot products; 1 / sqrt(K) if None.
        return_lse: also return the log of the softmax denominator, differentiable, in fp32 or
            wider.
        backend: ``auto``, ``reference``, ``eager``, ``compile`` or ``triton``.

    Returns:
        The output, or (output, log-sum-exp).

    Raises:
        ValueError: names the argument and its shape; a layout that does not cover N and M.
        Unsupported: the backend cannot do this call.
    """
    check_tensors(q, k, v, key_mask)
    _check_layout(q, k, layout)
    _check_alibi(q, alibi)
    return OP(
        backend,
        q,
        k,
        v,
        layout=layout.to(q.device),
        key_mask=key_mask,
        alibi=alibi,
        scale=1 / math.sqrt(q.shape[-1]) if scale is None else scale,
        return_lse=return_lse,
    )


def _check_layout(q: Tensor, k: Tensor, layout: Layout) -> None:
    covered, wanted = (layout.n_queries, layout.n_keys), (q.shape[2], k.shape[2])
    if covered != wanted:
        raise ValueError(
            f"layout covers {covered[0]} queries and {covered[1]} keys, "
            f"not the {wanted[0]} of q {tuple(q.shape)} and {wanted[1]} of k {tuple(k.shape)}"
        )
    batch, heads = q.shape[:2]
    if layout.heads not in (1, heads, batch * heads):
        raise ValueError(
            f"layout has lists for {layout.heads} heads: it needs 1, H = {heads} or "
            f"B H = {batch * heads} for q {tuple(q.shape)}"
        )


def _check_alibi(q: Tensor, alibi: Tensor | None) -> None:
    if alibi is None:
        return
    if alibi.shape != q.shape[1:2]:
        raise ValueError(
            f"alibi must be one slope a head ({q.shape[1]},), got {tuple(alibi.shape)}"
        )
    if alibi.device != q.device:
        raise ValueError(f"alibi is on {alibi.device}, q on {q.device}")
    if alibi.requires_grad:
        raise ValueError("alibi is a constant here: it must not require a gradient")
