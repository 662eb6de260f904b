"""The delta rule: a fast-weight matrix that every key rewrites, with or without decay.

Schlag et al. 2021 (arXiv 2102.11174), Yang et al. 2024 (arXiv 2406.06484, DeltaNet), Yang et al.
2024 (arXiv 2412.06464, Gated DeltaNet). Legend: B batch, H heads, N length, K/V widths of a head.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.dispatch import Op

OP = Op(
    "delta_rule",
    backends=("reference", "eager", "compile", "triton", "fla"),
    auto={"cpu": ("eager",), "cuda": ("triton", "eager")},
)


def delta_rule(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B H N K"],
    v: Float[Tensor, "B H N V"],
    beta: Float[Tensor, "B H N"],
    *,
    log_decay: Float[Tensor, "B H N"] | None = None,
    key_mask: Bool[Tensor, "B N"] | None = None,
    initial_state: Float[Tensor, "B H K V"] | None = None,
    backend: str = "auto",
) -> tuple[Float[Tensor, "B H N V"], Float[Tensor, "B H K V"]]:
    """Reads and rewrites a state: what the key finds there is replaced by its value, by beta.

    ``S_t = e^{g_t} (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T``, ``y_t = S_t^T q_t``, the
    transpose of eq. 3 of arXiv 2406.06484 and eq. 10 of 2412.06464. Nothing is scaled by 1 / sqrt K
    and no key is normalised here: with beta in [0, 2] and |k| <= 1 the state cannot grow.

    A token with ``beta = 0`` and ``g = 0`` changes nothing: so padding is written. ``key_mask``
    does that for hidden tokens, whatever they hold in k, v, beta and g.

    Args:
        q, k, v: queries, keys, values.
        beta: how much of what the key finds is replaced.
        log_decay: g <= 0; acts on the state before it is read and rewritten. -inf forgets all.
        key_mask: True where a token is real.
        initial_state: S to begin with, as returned for the segment before; zeros if None.
        backend: ``auto``, ``reference``, ``eager``, ``compile``, ``triton`` or ``fla``.

    Returns:
        y, and the state after the last token in at least fp32.

    Raises:
        ValueError: shapes, dtypes or devices do not fit.
    """
    _check(q, k, v)
    batch, heads, n, width = q.shape
    _expect("beta", beta, q, batch, heads, n)
    if log_decay is not None:
        _expect("log_decay", log_decay, q, batch, heads, n)
    if initial_state is not None:
        _expect("initial_state", initial_state, q, batch, heads, width, v.shape[3])
    if key_mask is not None:
        _expect("key_mask", key_mask, q, batch, n, boolean=True)
        hidden = ~key_mask[:, None]
        k, v = (x.masked_fill(hidden[..., None], 0) for x in (k, v))
        beta = beta.masked_fill(hidden, 0)
        log_decay = None if log_decay is None else log_decay.masked_fill(hidden, 0)
    return OP(backend, q, k, v, beta, log_decay=log_decay, initial_state=initial_state)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4 or 0 in x.shape:
            raise ValueError(
                f"delta_rule: {name} must be (B, H, N, K), none of them 0, got {tuple(x.shape)}"
            )
        if x.dtype != q.dtype:
            raise ValueError(f"delta_rule: {name} is {x.dtype}, q is {q.dtype}")
    _expect("q", q, q, *q.shape)
    _expect("k", k, q, *q.shape)
    _expect("v", v, q, *q.shape[:3], v.shape[3])


def _expect(name: str, x: Tensor, like: Tensor, *shape: int, boolean: bool = False) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"delta_rule: {name} must be {shape}, got {tuple(x.shape)}")
    if not (x.dtype == torch.bool if boolean else x.is_floating_point()):
        kind = "bool" if boolean else "floating"
        raise ValueError(f"delta_rule: {name} must be {kind} {shape}, got {x.dtype}")
    if x.device != like.device:
        raise ValueError(f"delta_rule: {name} is on {x.device}, not on {like.device}")
