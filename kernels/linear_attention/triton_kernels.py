"""The Triton kernels of linear attention with their configurations, and what to compile of them."""

from collections.abc import Iterator, Mapping
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


def specialise(
    name: str,
    tuned: Tuned,
    constants: Mapping[str, Any],
    dtype: torch.dtype,
    wide: tuple[str, ...] = WIDE,
) -> Iterator[Variant]:
    """A variant of a kernel for each of its first configurations.

    Args:
        name: of the kernel with what it is specialised for.
        tuned: the kernel.
        constants: its constants, those of the configuration apart.
        dtype: of the caller's tensors.
        wide: names of tensors that are fp32 always.
    """
    long = str(dtype).removeprefix("torch.")
    short = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[long]
    for place, config in enumerate(tuned.configs[:3]):
        every = {**constants, **config.kwargs}
        signature = {}
        for argument in tuned.fn.arg_names:
            if argument in every:
                signature[argument] = "constexpr"
            elif argument in INTEGERS:
                signature[argument] = "i32"
            elif argument in NUMBERS:
                signature[argument] = "fp32"
            elif argument in BYTES:
                signature[argument] = "*i8"
            else:
                signature[argument] = "*fp32" if argument in wide else f"*{short}"
        label = "-".join(f"{key}{value}" for key, value in config.kwargs.items())
        warps = config.num_warps
        yield Variant(
            name, tuned.fn, signature, every, long, f"{label}-w{warps}", warps,
            config.num_stages, place == 0,
        )  # fmt: skip


def variants() -> Iterator[Variant]:
    """Heads of 64, with a mask and a normaliser: the most that a kernel has to do."""
    for decay, dtype in ((1, torch.float32), (1, torch.bfloat16), (2, torch.float32)):
        own: dict[str, Any] = {
            "K": 64, "V": 64, "PHI": 1, "DECAY": decay, "MASKED": True, "SUM": True,
            "C": chunk_length(dtype, decay), "PRECISION": precision(dtype),
        }  # fmt: skip
        within = {**own, "WITHIN": True, "STRICT": False}
        kind = ("none", "scalar", "channel")[decay]
        state = {**own, "REVERSE": False, "WEIGHTED": False, "EACH": True}
        yield from specialise(f"linear_state-{kind}", STATE, state, dtype)
        yield from specialise(f"linear_output-{kind}", OUTPUT, within, dtype)
        yield from specialise(f"linear_query_grad-{kind}", QUERY_GRAD, within, dtype)
        keys = {**within, "PAST": True, "VALUES": True}
        yield from specialise(f"linear_key_grad-{kind}", KEY_GRAD, keys, dtype)
