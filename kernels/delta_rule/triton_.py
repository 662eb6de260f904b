"""The delta rule in Triton, forward and backward; compiled and emulated so far.

Kernels of its own invert the chunks' triangular systems and carry the state from chunk to chunk;
the rest, given u, is linear attention with u for values, and shares its kernels. Everything is
computed in fp32 (products of fp16 and bf16 tensors in TF32). Only the arguments are kept. Inputs
that are not contiguous are copied. It can be differentiated once.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.delta_rule.triton_kernels import (
    APPLY,
    CHUNK,
    INVERSE,
    STATE,
    STATE_GRAD,
    widest,
)
from kernels.linear_attention import triton_launch as launch
from kernels.linear_attention.triton_parts import precision
from kernels.triton_tools import available as available
from kernels.triton_tools import supports_device


def supports(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, **rest: Any) -> str | None:
    """Why this call cannot run here, or None."""
    if q.shape[-1] > widest(q.dtype):
        return f"its keys in {q.dtype} are {widest(q.dtype)} wide at most, not {q.shape[-1]}"
    every = (q, k, v, beta, *rest.values())
    return next(filter(None, (supports_device(x) for x in every if x is not None)), None)


def run(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B H N K"],
    v: Float[Tensor, "B H N V"],
    beta: Float[Tensor, "B H N"],
    *,
    log_decay: Float[Tensor, "B H N"] | None,
    initial_state: Float[Tensor, "B H K V"] | None,
) -> tuple[Float[Tensor, "B H N V"], Float[Tensor, "B H K V"]]:
    if initial_state is None:
        initial_state = k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3], dtype=torch.float32)
    return _Delta.apply(q, k, v, beta, log_decay, initial_state.float())


class _Forward(NamedTuple):
    """What the backward pass makes again."""

    inverse: Tensor
    reads: Tensor
    states: Tensor
    u: Tensor
    last: Tensor


class _Delta(torch.autograd.Function):
    """Keeps its arguments only."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        log_decay: Tensor | None,
        state: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k, v, beta, log_decay, state)
        it = _setting(q, log_decay)
        queries, keys, g = _flat(q), _flat(k), _flat(log_decay)
        made = _forward(it, keys, _flat(v), _flat(beta), g, _flat(state))
        y, _ = launch.outputs(it, queries, keys, made.u, g, None, (made.states, made.states))
        return y.view(v.shape), made.last.view(state.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, beta, log_decay, state = ctx.saved_tensors
        it = _setting(q, log_decay)
        queries, keys, values, rate, g = (_flat(x) for x in (q, k, v, beta, log_decay))
        made = _forward(it, keys, values, rate, g, _flat(state))
        grad = _flat(grad_y).float()
        past, grad_u, first = _retreat(it, queries, keys, made, grad, g, _flat(grad_state).float())
        right = _apply(it, made.inverse, grad_u, None, None)
        grad_v = right * rate[..., None].float()
        states, ends = (made.states, made.states), (past, past)
        found, _ = launch.outputs(
            it, keys, keys, made.u, g, None, states, strict=True, dtype=torch.float32
        )
        grad_beta = (right * (values - found)).sum(dim=-1)
        # u as the values that queries read, and as those that keys find, with the sign turned
        read, overlap = (queries, keys, made.u), (keys, keys, made.u)
        there, back = (grad, grad), (-grad_v, grad_v)
        grad_q, of_query = launch.query_grad(it, read, there, g, None, states)
        grad_k, _, of_pairs, of_end = launch.key_grad(it, read, there, g, None, ends, values=False)
        more, of_query_2 = launch.query_grad(it, overlap, back, g, None, states, strict=True)
        most, _, of_pairs_2, _ = launch.key_grad(
            it, overlap, back, g, None, None, strict=True, values=False
        )
        grad_g = None
        if g is not None:
            through = torch.einsum("xnkv,xnkv->xnk", made.states, past)
            grad_g = launch.decay_grad(
                it, g, of_query + of_query_2, of_pairs + of_pairs_2, of_end, through
            )
            grad_g = grad_g.view(log_decay.shape).to(log_decay.dtype)
        return (
            grad_q.view(q.shape).to(q.dtype),
            (grad_k + more + most).view(k.shape).to(k.dtype),
            grad_v.view(v.shape).to(v.dtype),
            grad_beta.view(beta.shape).to(beta.dtype),
            grad_g,
            first.view(state.shape),
        )


def _setting(q: Tensor, log_decay: Tensor | None) -> launch.Setting:
    return launch.Setting(q.shape[1], q.dtype, decay=int(log_decay is not None), chunk=CHUNK)


def _constants(it: launch.Setting) -> dict[str, Any]:
    return {"DECAY": it.decay == 1, "C": it.chunk, "PRECISION": precision(it.dtype)}


def _forward(
    it: launch.Setting, k: Tensor, v: Tensor, beta: Tensor, g: Tensor | None, state: Tensor
) -> _Forward:
    rows, n, width = k.shape
    chunks = it.chunks(n)
    inverse = k.new_empty(rows, chunks, it.chunk, it.chunk, dtype=torch.float32)
    INVERSE[(chunks, rows)](
        k, beta, k if g is None else g, inverse, n, chunks, K=width, **_constants(it)
    )
    reads = _apply(it, inverse, k, beta, g)
    added = _apply(it, inverse, v, beta, None)
    states = state.new_empty(rows, chunks, *state.shape[1:])
    u, last = torch.empty_like(added), torch.empty_like(state)
    STATE[_blocks(v, rows)](
        k, reads, added, k if g is None else g, state, states, u, last, n, chunks,
        K=width, V=v.shape[-1], BK=_power(width), **_constants(it),
    )  # fmt: skip
    return _Forward(inverse, reads, states, u, last)


def _apply(
    it: launch.Setting, inverse: Tensor, x: Tensor, beta: Tensor | None, g: Tensor | None
) -> Tensor:
    """``T (beta e^G x)``; without beta ``T^T x``."""
    rows, n, width = x.shape
    chunks = it.chunks(n)
    out = torch.empty_like(x, dtype=torch.float32)
    constants = {**_constants(it), "DECAY": g is not None, "SCALED": beta is not None}
    APPLY[lambda at: (-(-width // at["BK"]), chunks, rows)](
        inverse, x, x if beta is None else beta, x if g is None else g, out, n, chunks,
        V=width, **constants,
    )  # fmt: skip
    return out


def _retreat(
    it: launch.Setting,
    q: Tensor,
    k: Tensor,
    made: _Forward,
    grad: Tensor,
    g: Tensor | None,
    final: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in the states after the chunks, in u, and in the state before all."""
    rows, n, width = k.shape
    past, grad_u, first = (torch.empty_like(x) for x in (made.states, made.u, final))
    STATE_GRAD[_blocks(grad, rows)](
        q, k, made.reads, grad, k if g is None else g, final, past, grad_u, first, n, it.chunks(n),
        K=width, V=grad.shape[-1], BK=_power(width), **_constants(it),
    )  # fmt: skip
    return past, grad_u, first


def _blocks(v: Tensor, rows: int) -> Any:
    width = v.shape[-1]
    return lambda at: (-(-width // at["BV"]), rows)


def _power(width: int) -> int:
    """The power of 2 from width on; products want 16."""
    return max(16, 1 << (width - 1).bit_length())


def _flat(x: Any) -> Any:
    """Heads and examples in one axis, contiguous; None stays None."""
    return None if x is None else x.contiguous().flatten(0, 1)
