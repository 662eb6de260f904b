"""The Triton kernels of linear attention with their configurations, and what to compile of them."""

from collections.abc import Iterator
from typing import Any

import torch
import triton

from kernels.linear_attention.triton_backward import (
    linear_key_grad_kernel,
    linear_query_grad_kernel,
)
from kernels.linear_attention.triton_forward import linear_output_kernel, linear_state_kernel
from kernels.linear_attention.triton_parts import chunk_length, precision
from kernels.triton_tools import Tuned, Variant

# names of arguments that are not tensors of the caller's type
INTEGERS = ("n", "heads", "chunks", "steps")
NUMBERS = ("shift", "eps")
BYTES = ("mask",)
WIDE = (
    "initial", "initial_sum", "states", "sums", "last", "last_sum", "past", "past_sum", "weights",
    "normaliser", "g", "grad", "grad_sum", "of_query", "of_pairs", "of_end",
)  # fmt: skip


def _config(keys: int, values: int, warps: int) -> Any:
    return triton.Config({"BK": keys, "BV": values}, num_warps=warps, num_stages=1)


# the first of each spills no register on any target
KEY = ("K", "V", "DECAY", "WITHIN")
STATE = Tuned(
    linear_state_kernel, (_config(64, 16, 8), _config(32, 32, 8)), ("K", "V", "DECAY", "EACH")
)
OUTPUT = Tuned(linear_output_kernel, (_config(32, 16, 8), _config(32, 32, 4)), KEY)
QUERY_GRAD = Tuned(linear_query_grad_kernel, (_config(32, 16, 4), _config(32, 32, 8)), KEY)
KEY_GRAD = Tuned(linear_key_grad_kernel, (_config(32, 16, 4), _config(32, 32, 8)), KEY)


def kind_of(argument: str, wide: tuple[str, ...] = WIDE) -> str:
    """Triton's type of an argument; the tensors of ``wide`` are fp32 always."""
    if argument in INTEGERS:
        return "i32"
    if argument in NUMBERS:
        return "fp32"
    if argument in BYTES:
        return "*i8"
    return "*fp32" if argument in wide else "*"


def variants() -> Iterator[Variant]:
    """Heads of 64, with a mask and a normaliser: the most that a kernel has to do."""
    for decay, dtype in ((1, torch.float32), (1, torch.bfloat16), (2, torch.float32)):
        name = str(dtype).removeprefix("torch.")
        own: dict[str, Any] = {
            "K": 64, "V": 64, "PHI": 1, "DECAY": decay, "MASKED": True, "SUM": True,
            "C": chunk_length(dtype, decay), "PRECISION": precision(dtype),
        }  # fmt: skip
        within = {**own, "WITHIN": True, "STRICT": False}
        kind = ("none", "scalar", "channel")[decay]
        state = {**own, "REVERSE": False, "WEIGHTED": False, "EACH": True}
        yield from STATE.variants(name, state, kind_of, name=f"linear_state-{kind}")
        yield from OUTPUT.variants(name, within, kind_of, name=f"linear_output-{kind}")
        yield from QUERY_GRAD.variants(name, within, kind_of, name=f"linear_query_grad-{kind}")
        keys = {**within, "PAST": True, "VALUES": True}
        yield from KEY_GRAD.variants(name, keys, kind_of, name=f"linear_key_grad-{kind}")
