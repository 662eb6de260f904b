"""Linear attention: keys and values summed into a state ``(K, V)`` that the queries read.

Serves the kernel feature maps (Katharopoulos et al. 2020, arXiv 2006.16236; Performer) and, with a
decay, RetNet, Mamba-2, GLA and RWKV-6. Legend: B batch, H heads, N queries, M keys, K/V widths of a
head, F features.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from kernels.dispatch import Op
from kernels.linear_attention.feature_map import FeatureMap, Identity

OP = Op(
    "linear_attention",
    backends=("reference", "eager", "compile", "triton", "fla"),
    auto={"cpu": ("eager",), "cuda": ("triton", "eager")},
)

State = tuple[Float[Tensor, "B H F V"], Float[Tensor, "B H F"] | None]


def linear_attention(
    q: Float[Tensor, "B H N K"],
    k: Float[Tensor, "B H M K"],
    v: Float[Tensor, "B H M V"],
    *,
    causal: bool,
    feature_map: FeatureMap | None = None,
    log_decay: Float[Tensor, "B H M *F"] | None = None,
    key_mask: Bool[Tensor, "B M"] | None = None,
    initial_state: State | None = None,
    normalise: bool = True,
    eps: float = 1e-6,
    backend: str = "auto",
) -> tuple[Float[Tensor, "B H N V"], State]:
    """Attention with weights ``phi(q_i) . phi(k_j)``, in time and memory linear in the length.

    Causal: ``S_t = diag(e^{g_t}) S_{t-1} + phi(k_t) v_t^T``, ``z_t = e^{g_t} z_{t-1} + phi(k_t)``,
    ``y_t = S_t^T phi(q_t) / (z_t . phi(q_t) + eps)`` (eq. 16-20 of the paper, and a decay g). Not
    causal: every query reads the last state. Nothing is scaled by 1 / sqrt K. Where all keys are
    hidden and eps is 0, y is 0.

    With N != M a causal call is aligned at the bottom right: the last query sees all keys, and
    queries before the first key give 0.

    Args:
        q, k, v: queries, keys, values.
        causal: position i sees positions <= i only.
        feature_map: phi, applied here and again in the backward pass; the identity if None. It is
            constant: apply one with learned tensors outside.
        log_decay: g <= 0 at each key's position, per head (B, H, M) or per feature (B, H, M, F);
            acts on the state before the key is added. -inf forgets everything. Causal only.
        key_mask: True where a key is real; others add nothing (time passes: g acts still).
        initial_state: (S, z) to begin with, as returned for the segment before.
        normalise: divide by the sum of the weights plus eps.
        eps: added to the sum of the weights.
        backend: ``auto``, ``reference``, ``eager``, ``compile``, ``triton`` or ``fla``.

    Returns:
        y, and the state after the last key: S in at least fp32, and z (None without normaliser).

    Raises:
        ValueError: shapes, dtypes or devices do not fit; a decay without ``causal``.
    """
    feature_map = feature_map or Identity()
    _check(q, k, v, causal, feature_map, log_decay, key_mask)
    _check_state(k, v, feature_map, initial_state, normalise)
    behind = k.shape[2] - q.shape[2] if causal else 0
    if behind < 0 and initial_state is not None:
        raise ValueError(
            "linear_attention: more queries than keys leave no place for initial_state"
        )
    q = pad(q, (0, 0, behind, 0)) if behind else q
    y, state = OP(
        backend,
        q,
        k,
        v,
        causal=causal,
        feature_map=feature_map,
        log_decay=log_decay,
        key_mask=key_mask,
        initial_state=initial_state,
        normalise=normalise,
        eps=eps,
    )
    if behind > 0:
        y = y[:, :, behind:]
    return (pad(y, (0, 0, -behind, 0)) if behind < 0 else y), state


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    feature_map: FeatureMap,
    log_decay: Tensor | None,
    key_mask: Tensor | None,
) -> None:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if x.ndim != 4 or 0 in x.shape:
            raise ValueError(f"linear_attention: {name} must be (B, H, N, K), got {_shape(x)}")
        if x.dtype != q.dtype:
            raise ValueError(f"linear_attention: {name} is {x.dtype}, q is {q.dtype}")
    batch, heads, _, width = q.shape
    length = k.shape[2]
    _expect("q", q, q, *q.shape)
    _expect("k", k, q, batch, heads, length, width)
    _expect("v", v, q, batch, heads, length, v.shape[3])
    if key_mask is not None:
        _expect("key_mask", key_mask, q, batch, length, boolean=True)
    if any(isinstance(x, Tensor) and x.requires_grad for x in vars(feature_map).values()):
        raise ValueError(
            "linear_attention: feature_map has tensors that require a gradient and would get none: "
            "apply it to q and k before the call and leave feature_map=None"
        )
    if log_decay is not None:
        if not causal:
            raise ValueError("linear_attention: log_decay has a direction, it needs causal=True")
        channels = () if log_decay.ndim == 3 else (feature_map.width(width),)
        _expect("log_decay", log_decay, q, batch, heads, length, *channels)


def _check_state(
    k: Tensor, v: Tensor, feature_map: FeatureMap, state: State | None, normalise: bool
) -> None:
    if state is None:
        return
    s, z = state
    sizes = (*k.shape[:2], feature_map.width(k.shape[3]))
    _expect("initial_state[0]", s, k, *sizes, v.shape[3])
    if z is not None:
        _expect("initial_state[1]", z, k, *sizes)
    elif normalise:
        raise ValueError("linear_attention: initial_state[1] is None, normalise=True needs it")


def _expect(name: str, x: Tensor, like: Tensor, *shape: int, boolean: bool = False) -> None:
    if tuple(x.shape) != shape:
        raise ValueError(f"linear_attention: {name} must be {shape}, got {_shape(x)}")
    if not (x.dtype == torch.bool if boolean else x.is_floating_point()):
        kind = "bool" if boolean else "floating"
        raise ValueError(f"linear_attention: {name} must be {kind} {shape}, got {x.dtype}")
    if x.device != like.device:
        raise ValueError(f"linear_attention: {name} is on {x.device}, not on {like.device}")


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)
