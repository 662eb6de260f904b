"""Ops that need no FLOP formula: those that move data, and those that are free by convention."""

import functools
from collections.abc import Iterator
from typing import Any

import torch

# copies, permutations, fills, random numbers, sorting
MOVES = frozenset(
    """
    cat stack clone copy _to_copy _unsafe_view lift_fresh_copy unsafe_split unsafe_split_with_sizes
    constant_pad_nd reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d
    gather scatter index _unsafe_index index_put _index_put_impl _unsafe_index_put index_select
    index_copy index_fill embedding masked_select masked_scatter take put flip roll rot90 repeat
    repeat_interleave tril triu diag_embed block_diag slice select diagonal unfold slice_scatter
    select_scatter diagonal_scatter as_strided_scatter im2col pixel_shuffle pixel_unshuffle
    channel_shuffle sort topk kthvalue searchsorted bucketize nonzero nonzero_static _unique2
    unique_dim unique_consecutive fill zero resize set rand randn randint randperm bernoulli normal
    uniform exponential geometric cauchy log_normal random multinomial poisson
    """.split()  # noqa: SIM905
)
# pointwise, reductions and norms that carry no tag
FREE = frozenset(
    """
    _softmax _log_softmax _safe_softmax _masked_softmax native_layer_norm native_group_norm
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    _batch_norm_with_update batch_norm cudnn_batch_norm _fused_rms_norm _weight_norm_interface
    nll_loss nll_loss2d mse_loss smooth_l1_loss huber_loss binary_cross_entropy
    binary_cross_entropy_with_logits native_dropout _fused_dropout _masked_scale glu complex polar
    scatter_add scatter_reduce index_add index_reduce segment_reduce embedding_dense col2im
    _adaptive_avg_pool2d max_pool2d_with_indices adaptive_max_pool2d cummax cummin _cummax_helper
    _cummin_helper median mode trace dist histc bincount allclose equal isin log_sigmoid hardswish
    floor_divide _prelu_kernel _thnn_fused_lstm_cell _thnn_fused_gru_cell _fused_adam _fused_adamw
    _fused_sgd
    """.split()  # noqa: SIM905
)


@functools.cache
def moves_data(op: Any) -> bool:
    """Whether an op only makes, moves or orders values."""
    if not isinstance(op, torch._ops.OpOverload) or op.namespace not in ("aten", "prim"):
        return False
    tags = (torch.Tag.view_copy, torch.Tag.inplace_view)
    if op.is_view or any(tag in op.tags for tag in tags):
        return True
    name = op._schema.name.split("::")[1]
    made = not any("Tensor" in str(argument.type) for argument in op._schema.arguments)
    like = name.endswith("_like") or name.startswith("new_")
    return made or like or any(base in MOVES for base in _bases(name))


@functools.cache
def is_free(op: Any) -> bool:
    """Whether an op is pointwise, a reduction or a norm: 0 FLOP by convention."""
    if not isinstance(op, torch._ops.OpOverload) or op.namespace not in ("aten", "prims"):
        return False
    return any(base in FREE or _tagged(base) for base in _bases(op._schema.name.split("::")[1]))


def _bases(name: str) -> Iterator[str]:
    """The name, and what is left of it without its marks of in-place, list and backward forms."""
    yield name
    name = name.rstrip("_").removeprefix("_foreach_")
    yield name
    for suffix in ("_backward_data", "_backward", "_forward"):
        yield name.removesuffix(suffix)


def _tagged(name: str) -> bool:
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return False
    free = (torch.Tag.pointwise, torch.Tag.reduction)
    return any(tag in getattr(packet, o).tags for o in packet.overloads() for tag in free)
