"""Exact attention: rectangular, causal, windowed, with any score, and its log-sum-exp."""

import math
from typing import Literal, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.attention.score import ACTIVATIONS, Score
from kernels.dispatch import Op

OP = Op(
    "attention",
    backends=(
        "reference",
        "eager",
        "compile",
        "sdpa",
        "triton",
        "flex",
        "flash_attn",
        "xformers",
    ),  # fmt: skip
    auto={"cpu": ("sdpa", "eager"), "cuda": ("flash_attn", "sdpa", "triton", "eager")},
)

Output = Float[Tensor, "B H N V"]
LogSumExp = Float[Tensor, "B H N"]


@overload
def attention(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B J M K"],
    v: Float[Tensor, "B J M V"],
    *,
    causal: bool = ...,
    window: tuple[int, int] | None = ...,
    key_mask: Bool[Tensor, "B M"] | None = ...,
    score: Score | None = ...,
    scale: float | None = ...,
    dropout_p: float = ...,
    return_lse: Literal[False] = ...,
    backend: str = ...,
) -> Output: ...


@overload
def attention(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B J M K"],
    v: Float[Tensor, "B J M V"],
    *,
    causal: bool = ...,
    window: tuple[int, int] | None = ...,
    key_mask: Bool[Tensor, "B M"] | None = ...,
    score: Score | None = ...,
    scale: float | None = ...,
    dropout_p: float = ...,
    return_lse: Literal[True],
    backend: str = ...,
) -> tuple[Output, LogSumExp]: ...


def attention(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B J M K"],
    v: Float[Tensor, "B J M V"],
    *,
    causal: bool = False,
    window: tuple[int, int] | None = None,
    key_mask: Bool[Tensor, "B M"] | None = None,
    score: Score | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    backend: str = "auto",
) -> Output | tuple[Output, LogSumExp]:
    """Mixes values: ``softmax(scale q k^T) v`` (Vaswani 2017, arXiv 1706.03762, eq. 1).

    Positions are aligned at the end: the last query sits beside the last key, so that query i has
    position i + M - N among the keys. Rows that see no key give zeros, and -inf in the log-sum-exp.
    Hidden keys and their values must be finite (their weight is 0, and 0 x NaN is NaN).

    Args:
        q, k, v: queries, keys and values of one dtype and device, N, M >= 1. H is a multiple of J:
            each key head serves H / J successive query heads.
        causal: a query sees no key behind its own position.
        window: (left, right): a query at position p sees keys p - left .. p + right, inclusive.
        key_mask: False hides a key from every query.
        score: soft cap, biases and activation of the scores; the plain softmax if None.
        scale: of the dot products; 1 / sqrt(K) if None.
        dropout_p: probability that a weight is dropped (the rest grows by 1 / (1 - p)).
        return_lse: also return the log of the softmax denominator, before dropout, differentiable,
            in fp32 or wider.
        backend: ``auto`` or one of ``OP.backends``.

    Returns:
        The output, or (output, log-sum-exp).

    Raises:
        ValueError: names the argument and its shape.
        Unsupported: the backend cannot do this call.
    """
    score = score or Score()
    check_tensors(q, k, v, key_mask)
    _check_score(q, k, score, return_lse)
    if window is not None and not _is_window(window):
        raise ValueError(f"window must be (left, right) with both integers >= 0, got {window}")
    if not 0 <= dropout_p < 1:
        raise ValueError(f"dropout_p must be in [0, 1), got {dropout_p}")
    return OP(
        backend,
        q,
        k,
        v,
        causal=causal,
        window=window,
        key_mask=key_mask,
        score=score,
        scale=1 / math.sqrt(q.shape[-1]) if scale is None else scale,
        dropout_p=dropout_p,
        return_lse=return_lse,
    )


def check_tensors(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> None:
    """Raises ValueError unless queries, keys, values and key mask belong together."""
    named = {"q": q, "k": k, "v": v}
    shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in named.items())
    for name, x in named.items():
        if x.ndim != 4 or 0 in x.shape:
            raise ValueError(f"{name} must be (batch, heads, length, width), none 0: {shapes}")
        if (x.dtype, x.device) != (q.dtype, q.device) or not x.is_floating_point():
            raise ValueError(
                f"q, k, v must be floating, of one dtype and device: q is {q.dtype} on {q.device}, "
                f"{name} is {x.dtype} on {x.device}"
            )
    if k.shape[:3] != v.shape[:3]:
        raise ValueError(f"k and v must agree in batch, heads and length: {shapes}")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q and k must agree in batch and width: {shapes}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"the heads of q must be a multiple of those of k: {shapes}")
    if key_mask is not None:
        wanted = (k.shape[0], k.shape[2])
        if key_mask.shape != wanted or key_mask.dtype != torch.bool:
            raise ValueError(
                f"key_mask must be bool (B, M) = {wanted}, "
                f"got {key_mask.dtype} {tuple(key_mask.shape)}"
            )
        if key_mask.device != q.device:
            raise ValueError(f"key_mask must be on {q.device}, got {key_mask.device}")


def _is_window(window: object) -> bool:
    if not isinstance(window, tuple | list) or len(window) != 2:
        return False
    return all(isinstance(side, int) and side >= 0 for side in window)


def _check_score(q: Tensor, k: Tensor, score: Score, return_lse: bool) -> None:
    full = (*q.shape[:3], k.shape[2])
    if score.bias is not None:
        sizes = tuple(score.bias.shape)
        if len(sizes) != 4 or any(n not in (1, m) for n, m in zip(sizes, full, strict=True)):
            raise ValueError(f"score.bias must broadcast to (B, H, N, M) = {full}, got {sizes}")
    if score.relative is not None:
        sizes = tuple(score.relative.shape)
        if len(sizes) != 2 or sizes[0] not in (1, q.shape[1]) or sizes[1] % 2 == 0:
            raise ValueError(
                f"score.relative must be (H, R) with H 1 or {q.shape[1]}, R odd, got {sizes}"
            )
    if score.alibi is not None and score.alibi.shape != q.shape[1:2]:
        got = tuple(score.alibi.shape)
        raise ValueError(f"score.alibi must be one slope a head ({q.shape[1]},), got {got}")
    for name in ("bias", "relative", "alibi"):
        x = getattr(score, name)
        if x is not None and (x.device != q.device or not x.is_floating_point()):
            raise ValueError(
                f"score.{name} must be floating and on {q.device}, got {x.dtype} on {x.device}"
            )
    if score.soft_cap is not None and score.soft_cap <= 0:
        raise ValueError(f"score.soft_cap must be above 0, got {score.soft_cap}")
    if score.activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ValueError(f"score.activation must be one of {known}, got '{score.activation}'")
    if return_lse and score.activation != "softmax":
        raise ValueError(f"return_lse needs the softmax: '{score.activation}' has no denominator")
