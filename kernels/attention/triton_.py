"""Attention in Triton, forward and backward, dense or along lists of key blocks; compiled and
emulated so far.

Products take operands of the caller's type and add up in fp32: as in FlashAttention, weights and
gradients of scores are rounded to fp16 or bf16 before they are multiplied. fp32 keeps its bits in
three TF32 products. The arguments, the output and the log-sum-exp are kept. Inputs that are not
contiguous, or heads of a width that kernels do not take, are copied. It can be differentiated once.

It refuses, for ``eager`` to do: activations other than the softmax (squared ReLU, Laplace), a bias
for each pair, gradients of the table of a relative bias and of ALiBi's slopes, dropout, and heads
wider than ``WIDEST``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from kernels.attention import triton_kernels as kernels
from kernels.attention.score import Score
from kernels.triton_tools import available as available
from kernels.triton_tools import supports_device

# wider heads would not fit into the registers
WIDEST = kernels.WIDTHS[-1]


class Lists(NamedTuple):
    """Blocks of ``block`` keys for each block of queries, and the other way round.

    Offsets, indices and mask ids as in ``block_sparse_attention.layout.Layout``; ``tuned`` gives a
    kernel with its configurations.
    """

    block: int
    heads: int
    of_queries: tuple[Tensor, Tensor, Tensor]
    of_keys: tuple[Tensor, Tensor, Tensor]
    masks: Tensor
    tuned: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Plan:
    """What a call holds beside queries, keys and values; nothing of it gets a gradient."""

    scale: float
    left: int | None = None
    right: int | None = None
    key_mask: Tensor | None = None
    relative: Tensor | None = None
    alibi: Tensor | None = None
    soft_cap: float | None = None
    lists: Lists | None = None


def supports(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    window: tuple[int, int] | None,
    key_mask: Tensor | None,
    score: Score,
    scale: float,
    dropout_p: float,
    return_lse: bool,
) -> str | None:
    """Why the kernels cannot do this call, or None."""
    if score.activation != "softmax":
        return f"it has the softmax only, not '{score.activation}'"
    if dropout_p:
        return "it has no dropout"
    if score.bias is not None:
        return "it has no bias for each pair, only score.relative and score.alibi"
    for name in ("relative", "alibi"):
        x = getattr(score, name)
        if x is not None and x.requires_grad and torch.is_grad_enabled():
            return f"it gives no gradient to score.{name}"
    return supports_tensors(q, v)


def supports_tensors(q: Tensor, v: Tensor) -> str | None:
    """Why queries and values do not suit the kernels, or None."""
    widest = max(q.shape[-1], v.shape[-1])
    if widest > WIDEST:
        return f"its heads are at most {WIDEST} wide, not {widest}"
    return supports_device(q)


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    window: tuple[int, int] | None,
    key_mask: Tensor | None,
    score: Score,
    scale: float,
    dropout_p: float,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    left, right = window or (None, None)
    right = 0 if causal else right
    relative = None if score.relative is None else _single(score.relative.expand(q.shape[1], -1))
    alibi = None if score.alibi is None else _single(score.alibi)
    plan = Plan(scale, left, right, key_mask, relative, alibi, score.soft_cap)
    out, lse = FlashAttention.apply(q, k, v, plan)
    return (out, lse) if return_lse else out


class FlashAttention(torch.autograd.Function):
    """Output and log-sum-exp of queries, keys, values and a plan."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        inputs = tuple(_aligned(x) for x in (q, k, v))
        out = q.new_empty(*q.shape[:3], inputs[2].shape[-1])
        lse = q.new_empty(q.shape[:3], dtype=torch.float32)
        _launch("forward", plan, inputs, (out, lse))
        out = out[..., : v.shape[-1]].contiguous()
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan = plan
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor | None, d_lse: Tensor | None) -> tuple[Any, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        d_out = torch.zeros_like(out) if d_out is None else d_out.contiguous()
        delta = _delta(out, d_out, lse, d_lse)
        inputs, d_out = tuple(_aligned(x) for x in (q, k, v)), _aligned(d_out)
        d_q, d_k, d_v = (torch.empty_like(x) for x in inputs)
        _launch("query_grad", ctx.plan, inputs, (d_out, lse, delta, d_q))
        _launch("key_grad", ctx.plan, inputs, (d_out, lse, delta, d_k, d_v))
        found = zip((d_q, d_k, d_v), (q, k, v), strict=True)
        return *(grad[..., : x.shape[-1]] for grad, x in found), None


def _single(x: Tensor) -> Tensor:
    """As kernels read a table: contiguous, in fp32, without a gradient."""
    return x.detach().float().contiguous()


def _aligned(x: Tensor) -> Tensor:
    """Contiguous, rows filled up with zeros, which no score notices."""
    missing = kernels.filled(x.shape[-1], x.dtype) - x.shape[-1]
    # filling up keeps the order of dimensions in memory
    return (pad(x, (0, missing)) if missing else x).contiguous()


def _delta(out: Tensor, d_out: Tensor, lse: Tensor, d_lse: Tensor | None) -> Tensor:
    """``d_out . out - d_lse`` of every row."""
    delta, rows = torch.empty_like(lse), lse.numel()
    given = lse if d_lse is None else d_lse.contiguous()
    kernels.DELTA[lambda at: (-(-rows // at["BM"]),)](
        out, d_out, lse, given, delta, rows,
        V=out.shape[-1], PADDED_V=kernels.padded(out.shape[-1]), D_LSE=d_lse is not None,
    )  # fmt: skip
    return delta


def _launch(name: str, plan: Plan, inputs: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> None:
    """Runs a kernel on queries, keys and values and its other tensors, results among them."""
    q, k, v = inputs
    (batch, heads, n), (key_heads, m) = q.shape[:3], k.shape[1:3]
    width, value_width = kernels.padded(q.shape[-1]), kernels.padded(v.shape[-1])
    lists, block = plan.lists, 0
    # what is absent is never read
    listed = (q, q, q, q)
    if lists is not None:
        listed = (*(lists.of_keys if name == "key_grad" else lists.of_queries), lists.masks)
        block = lists.block
    key_mask = q if plan.key_mask is None else plan.key_mask.contiguous().view(torch.uint8)

    def grid(at: dict[str, int]) -> tuple[int]:
        if name == "key_grad":
            return (-(-m // at["BN"]) * batch * key_heads,)
        return (-(-n // at["BM"]) * batch * heads,)

    tuned = lists.tuned if lists else kernels.tuned
    tuned(name, q.dtype, max(width, value_width), block)[grid](
        *inputs, *others, key_mask, q if plan.relative is None else plan.relative,
        q if plan.alibi is None else plan.alibi, *listed,
        heads, heads // key_heads, lists.heads if lists else 1, n, m, plan.left or 0,
        plan.right or 0, 0 if plan.relative is None else plan.relative.shape[1] // 2, plan.scale,
        plan.soft_cap or 1.0,
        K=q.shape[-1], V=v.shape[-1], PADDED_K=width, PADDED_V=value_width, BLOCK=block,
        LEFT=plan.left is not None, RIGHT=plan.right is not None,
        MASKED=plan.key_mask is not None, RELATIVE=plan.relative is not None,
        ALIBI=plan.alibi is not None, CAP=plan.soft_cap is not None,
        **kernels.arithmetic(q.dtype),
    )  # fmt: skip
