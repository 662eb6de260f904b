"""One attention from several partial ones, through their log-sum-exp; rows sorted into buckets.

``rows`` has the helpers of hashed and clustered attention: sort, gather, scatter, look back.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.dispatch import Op

OP = Op(
    "merge_attention",
    backends=("reference", "eager", "compile", "triton"),
    auto={"cpu": ("eager",), "cuda": ("triton", "eager")},
)


def merge_attention(
    outputs: Float[Tensor, "P B H N V"] | Sequence[Float[Tensor, "B H N V"]],
    lses: Float[Tensor, "P B H N"] | Sequence[Float[Tensor, "B H N"]],
    *,
    backend: str = "auto",
) -> tuple[Float[Tensor, "B H N V"], Float[Tensor, "B H N"]]:
    """The attention over all parts' keys together: what one softmax over them would have given.

        lse = log sum_p exp(lse_p),    output = sum_p exp(lse_p - lse) output_p

    (Milakov and Gimelshein 2018, arXiv 1805.02867; for attention: FlashAttention, arXiv 2205.14135,
    section 3.1.) A key that is in several parts counts as often. A part with the log-sum-exp -inf
    has seen no key: its output is not looked at. Where no part has seen any, the output is 0 and
    the log-sum-exp -inf. Gradients reach both the outputs and the log-sum-exps.

    Args:
        outputs: of the P >= 1 parts, of one dtype and device.
        lses: their log-sum-exps, in any floating dtype.
        backend: ``auto``, ``reference``, ``eager``, ``compile`` or ``triton``.

    Returns:
        Output in the dtype of the outputs, log-sum-exp in that of the log-sum-exps.

    Raises:
        ValueError: names the argument and its shape.
        Unsupported: the backend cannot do this call.
    """
    outputs, lses = tuple(outputs), tuple(lses)
    _check(outputs, lses)
    return OP(backend, outputs[0], *outputs[1:], *lses)


def _check(outputs: tuple[Tensor, ...], lses: tuple[Tensor, ...]) -> None:
    if not outputs or len(outputs) != len(lses):
        raise ValueError(f"as many lses as outputs, and at least 1: {len(lses)}, {len(outputs)}")
    first = outputs[0]
    for name, parts, ndim in (("outputs", outputs, 4), ("lses", lses, 3)):
        for x in parts:
            if x.ndim != ndim or x.shape != first.shape[:ndim] or 0 in x.shape:
                shapes = ", ".join(str(tuple(x.shape)) for x in parts)
                axes = "(B, H, N, V)" if ndim == 4 else f"(B, H, N) = {tuple(first.shape[:3])}"
                raise ValueError(f"{name} must be {axes} each, none 0: {shapes}")
            if (x.dtype, x.device) != (parts[0].dtype, first.device) or not torch.is_floating_point(
                x
            ):
                raise ValueError(
                    f"{name} must be floating, of one dtype and on the device of outputs, "
                    f"got {x.dtype} on {x.device}"
                )
